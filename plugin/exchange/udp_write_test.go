//go:build unix

package exchange

import (
	"context"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// TestUDPWriteDoesNotWait fills the buffer of a real socket, whose far end
// reads nothing: the query that does not fit ends soon, with a fault of this
// host, and is followed by others when there is room again.
func TestUDPWriteDoesNotWait(t *testing.T) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := make([]net.Conn, len(fds))
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	defer ends[1].Close()
	if err := ends[0].(*net.UnixConn).SetWriteBuffer(1); err != nil { // the kernel's least is some packets
		t.Fatal(err)
	}
	cfg, counted := testConfig("dns", netip.MustParseAddrPort("192.0.2.53:53"))
	cfg.Dial = func(context.Context, string, netip.AddrPort) (net.Conn, error) { return ends[0], nil }
	x := newUDPPool(&cfg)
	defer x.Close()

	full := newSink()
	var others []chanSink
	for len(others) < growAt && len(full) == 0 {
		sink := newSink()
		x.Start(query("www.example.org"), Options{}, sink)
		if len(sink) > 0 {
			full = sink
		} else {
			others = append(others, sink)
		}
	}
	wantKind(t, full.wait(t), outcome.Local)
	if n := counted.faults[outcome.FaultBuffers].Load(); n != 1 {
		t.Errorf("%d faults for want of buffers, want 1", n)
	}
	buf := make([]byte, 512)
	for _, sink := range others {
		n, err := ends[1].Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = ends[1].Write(answer(buf[:n]))
		wantKind(t, sink.wait(t), outcome.OK)
	}
	x.Start(query("www.example.org"), Options{}, full)
	n, err := ends[1].Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = ends[1].Write(answer(buf[:n]))
	wantKind(t, full.wait(t), outcome.OK)
}
