package fakedns

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// parrot says a datagram again after 1 ms, then that the port is closed; it connects the first time only.
type parrot struct{ connected int }

func (p *parrot) Datagram(_ netip.AddrPort, wire []byte) []Packet {
	return []Packet{{After: time.Millisecond, Wire: wire}, {After: 2 * time.Millisecond, Errno: syscall.ECONNREFUSED}}
}

func (p *parrot) Connect() (time.Duration, syscall.Errno) {
	if p.connected++; p.connected > 1 {
		return time.Second, syscall.EHOSTUNREACH
	}
	return time.Millisecond, 0
}

func (p *parrot) Stream(c net.Conn) (reset bool) {
	_, _ = io.CopyN(c, c, 5)
	time.Sleep(time.Millisecond) // a reset overtakes what has not been read
	return true
}

func TestPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNet()
		n.AddPeer(where, new(parrot))
		buf := make([]byte, 10)
		for _, network := range []string{"udp", "tcp"} {
			c, err := n.Dial(t.Context(), network, where)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Error(err)
			}
			if k, err := c.Read(buf); string(buf[:k]) != "hello" {
				t.Errorf("%s: %q, %v", network, buf[:k], err)
			}
			want := map[string]error{"udp": syscall.ECONNREFUSED, "tcp": syscall.ECONNRESET}[network]
			if k, err := c.Read(buf); !errors.Is(err, want) {
				t.Errorf("%s: then %q, %v; want %v", network, buf[:k], err, want)
			}
			c.Close()
		}
		before := time.Now()
		if _, err := n.Dial(t.Context(), "tcp", where); !errors.Is(err, syscall.EHOSTUNREACH) || time.Since(before) != time.Second {
			t.Errorf("second connection: %v after %v", err, time.Since(before))
		}
		if open := n.Open(); len(open) > 0 {
			t.Errorf("open: %v", open)
		}
	})
}
