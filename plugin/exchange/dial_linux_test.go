package exchange

import (
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// option reads a socket option.
func option(t *testing.T, conn net.Conn, level, opt int) (value int) {
	t.Helper()
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if ctl := raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), level, opt) }); ctl != nil || err != nil {
		t.Fatal(ctl, err)
	}
	return value
}

// TestReceiveErrors holds that UDP sockets, and no others, are told of unreachable networks and hosts.
func TestReceiveErrors(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, tc := range []struct {
		network, source, to string
		level, opt, want    int
	}{
		{"udp", "", "127.0.0.1:53", unix.SOL_IP, unix.IP_RECVERR, 1},
		{"udp", "127.0.0.1", "127.0.0.1:53", unix.SOL_IP, unix.IP_RECVERR, 1},
		{"udp", "", "[::1]:53", unix.SOL_IPV6, unix.IPV6_RECVERR, 1},
		{"tcp", "", listener.Addr().String(), unix.SOL_IP, unix.IP_RECVERR, 0},
	} {
		source := netip.Addr{}
		if tc.source != "" {
			source = netip.MustParseAddr(tc.source)
		}
		conn, err := NetDial(source)(t.Context(), tc.network, netip.MustParseAddrPort(tc.to))
		if err != nil && tc.level == unix.SOL_IPV6 {
			t.Logf("no IPv6: %v", err)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := option(t, conn, tc.level, tc.opt); got != tc.want {
			t.Errorf("%s to %s from %q: %d, want %d", tc.network, tc.to, tc.source, got, tc.want)
		}
		conn.Close()
	}
}
