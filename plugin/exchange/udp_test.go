package exchange

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// inMemory runs a test with a pool over a network in memory, in a bubble.
func inMemory(t *testing.T, f func(t *testing.T, x *udpPool, n *memNet, ev *counts)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newMemNet()
		cfg, ev := testConfig("dns", netip.MustParseAddrPort("192.0.2.53:53"))
		cfg.Dial = n.dial
		x := newUDPPool(&cfg)
		f(t, x, n, ev)
		x.Close()
		synctest.Wait()
		if got := ev.sockets[UDP].Load(); got != 0 {
			t.Errorf("%d sockets after Close", got)
		}
	})
}

func TestUDPReply(t *testing.T) {
	tests := []struct {
		name       string
		change     func(b []byte)
		cut        int // octets to leave of the reply; 0: all
		want       outcome.Kind
		mismatched int64
	}{
		{name: "answer", want: outcome.OK},
		{name: "name in other case", change: func(b []byte) { b[13] = 'W' }, want: outcome.OK},
		{name: "header says two answers", change: func(b []byte) { b[7] = 2 }, want: outcome.Malformed},
		{name: "record cut off", cut: 40, want: outcome.Malformed},
		{name: "record cut off, TC", change: func(b []byte) { b[2] |= 2 }, cut: 40, want: outcome.Truncated},
		{name: "TC", change: func(b []byte) { b[2] |= 2 }, want: outcome.Truncated},
		{name: "SERVFAIL without question", change: func(b []byte) { b[3], b[5], b[7] = b[3]&0xf0|2, 0, 0 }, cut: 12, want: outcome.ServFail},
		{name: "REFUSED, header alone", change: func(b []byte) { b[3] = b[3]&0xf0 | 5 }, cut: 12, want: outcome.Refused},
		{name: "NXDOMAIN without question", change: func(b []byte) { b[3], b[5] = b[3]&0xf0|3, 0 }, cut: 12, mismatched: 1},
		{name: "other ID", change: func(b []byte) { b[0]++ }, mismatched: 1},
		{name: "other name", change: func(b []byte) { b[14] = 'x' }, mismatched: 1},
		{name: "other type", change: func(b []byte) { b[12+17+1] = 28 }, mismatched: 1},
		{name: "other class", change: func(b []byte) { b[12+17+3] = 3 }, mismatched: 1},
		{name: "no QR", change: func(b []byte) { b[2] &= 0x7f }, mismatched: 1},
		{name: "opcode", change: func(b []byte) { b[2] |= 0x28 }, mismatched: 1},
		{name: "two questions", change: func(b []byte) { b[5] = 2 }, mismatched: 1},
		{name: "short", cut: 11, mismatched: 1},
		{name: "one octet", cut: 1, mismatched: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, x *udpPool, n *memNet, ev *counts) {
				sink := newSink()
				x.Start(query("www.example.org"), Options{}, sink)
				far := <-n.far
				good := answer(far.next(t))
				b := append([]byte(nil), good...)
				if tt.change != nil {
					tt.change(b)
				}
				if tt.cut > 0 {
					b = b[:tt.cut]
				}
				time.Sleep(20 * time.Millisecond) // simulated
				far.Write(b)
				synctest.Wait()
				if got := ev.mismatched.Load(); got != tt.mismatched {
					t.Errorf("%d mismatched, want %d", got, tt.mismatched)
				}
				if tt.want == outcome.Unknown {
					sink.none(t)
					far.Write(good)
					wantKind(t, sink.wait(t), outcome.OK)
					return
				}
				r := sink.wait(t)
				wantKind(t, r, tt.want)
				if r.Size != len(b) || r.Proto != UDP || r.RTT != 20*time.Millisecond || r.Local == nil {
					t.Errorf("reply %+v", r)
				}
				if (r.Msg == nil) != (tt.want == outcome.Malformed) || (r.Err == nil) != (r.Msg != nil) {
					t.Errorf("message %v, error %v", r.Msg, r.Err)
				}
			})
		})
	}
}

func TestUDPZeroLength(t *testing.T) {
	inMemory(t, func(t *testing.T, x *udpPool, n *memNet, ev *counts) {
		sink := newSink()
		x.Start(query("www.example.org"), Options{}, sink)
		far := <-n.far
		good := answer(far.next(t))
		far.Write(nil)
		far.Write(make([]byte, readSize+1)) // no reply either
		synctest.Wait()
		sink.none(t)
		if got := ev.mismatched.Load(); got != 2 {
			t.Errorf("%d mismatched, want 2", got)
		}
		far.Write(append(good, make([]byte, readSize)...)) // fills the buffer
		wantKind(t, sink.wait(t), outcome.Malformed)
	})
}

func TestUDPNoEDNS(t *testing.T) {
	inMemory(t, func(t *testing.T, x *udpPool, n *memNet, _ *counts) {
		q := query("www.example.org")
		sink := newSink()
		h := x.Start(q, Options{NoEDNS: true}, sink)
		b := (<-n.far).next(t)
		if len(b) != q.QuestionEnd || b[11] != 0 {
			t.Errorf("sent % x", b)
		}
		if !h.Cancel() || h.Cancel() {
			t.Error("want one Cancel in time, and one too late")
		}
	})
}

// TestUDPLateAndDuplicate: neither is a forgery, nor the answer to anything.
func TestUDPLateAndDuplicate(t *testing.T) {
	inMemory(t, func(t *testing.T, x *udpPool, n *memNet, ev *counts) {
		q := query("www.example.org")
		gone, sink := newSink(), newSink()
		h := x.Start(q, Options{}, gone)
		far := <-n.far
		first := answer(far.next(t))
		time.Sleep(time.Second)
		if !h.Cancel() {
			t.Fatal("Cancel was not in time")
		}
		x.Start(q, Options{}, sink)
		second := answer(far.next(t))
		time.Sleep(time.Second)
		for range maxForged { // one is late, the others are duplicates
			far.Write(first)
		}
		synctest.Wait()
		if ev.late.Load() != 1 || ev.lateRTT.Load() != int64(2*time.Second) {
			t.Errorf("%d late replies, the last after %v", ev.late.Load(), time.Duration(ev.lateRTT.Load()))
		}
		sink.none(t)
		far.Write(second)
		wantKind(t, sink.wait(t), outcome.OK)
		for range maxForged {
			far.Write(second)
		}
		synctest.Wait()
		if got := ev.mismatched.Load(); got != 0 {
			t.Errorf("%d mismatched, want 0", got)
		}
		gone.none(t)
		if got := n.dials.Load(); got != 1 {
			t.Errorf("%d sockets, want 1", got)
		}
	})
}

// TestUDPForged: a socket under fire is given up, and all who wait know why.
func TestUDPForged(t *testing.T) {
	inMemory(t, func(t *testing.T, x *udpPool, n *memNet, ev *counts) {
		a, b := newSink(), newSink()
		x.Start(query("a.example.org"), Options{}, a)
		x.Start(query("b.example.org"), Options{}, b)
		far := <-n.far
		good := answer(far.next(t))
		for range maxForged {
			far.Write(with(good, func(b []byte) { b[14] = 'x' }))
		}
		wantKind(t, a.wait(t), outcome.Mismatched)
		wantKind(t, b.wait(t), outcome.Mismatched)
		synctest.Wait()
		if ev.mismatched.Load() != maxForged || !far.peer.closed() {
			t.Errorf("%d mismatched, socket closed: %v", ev.mismatched.Load(), far.peer.closed())
		}
		x.Start(query("c.example.org"), Options{}, a)
		far = <-n.far
		far.Write(answer(far.next(t)))
		wantKind(t, a.wait(t), outcome.OK)
	})
}

func TestUDPSpray(t *testing.T) {
	for range 20 {
		inMemory(t, func(t *testing.T, x *udpPool, n *memNet, _ *counts) {
			sink := newSink()
			x.Start(query("www.example.org"), Options{}, sink)
			far := <-n.far
			forged := answer(far.next(t))
			for id := range 1 << 16 {
				setID(uint16(id))(forged)
				far.Write(forged)
				if id%1000 == 0 {
					synctest.Wait()
				}
			}
			wantKind(t, sink.wait(t), outcome.Mismatched)
		})
	}
}

func TestUDPErrors(t *testing.T) {
	tests := []struct {
		name   string
		err    error
		want   outcome.Kind
		others bool // the other exchanges of the socket end too
	}{
		{"closed port", syscall.ECONNREFUSED, outcome.ConnRefused, true},
		{"no route", syscall.EHOSTUNREACH, outcome.Unreachable, true},
		{"no buffer", syscall.ENOBUFS, outcome.Local, false},
		{"conntrack full", syscall.EPERM, outcome.Local, false},
		{"too large", syscall.EMSGSIZE, outcome.Local, false},
	}
	for _, tt := range tests {
		err := error(&net.OpError{Op: "write", Net: "udp", Err: tt.err})
		t.Run("write "+tt.name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, x *udpPool, n *memNet, _ *counts) {
				other, sink := newSink(), newSink()
				h := x.Start(query("other.example.org"), Options{}, other)
				far := <-n.far
				far.peer.writeErr.Store(&err)
				x.Start(query("www.example.org"), Options{}, sink)
				r := sink.wait(t)
				wantKind(t, r, tt.want)
				if r.Err == nil || !strings.Contains(r.Err.Error(), "udp 192.0.2.53:53") {
					t.Errorf("error %v, want transport and address in it", r.Err)
				}
				if tt.others {
					wantKind(t, other.wait(t), tt.want)
				} else if other.none(t); !h.Cancel() {
					t.Error("the other exchange has ended")
				}
				if got := far.peer.closed(); got != tt.others {
					t.Errorf("socket closed: %v", got)
				}
			})
		})
	}
	t.Run("read", func(t *testing.T) {
		inMemory(t, func(t *testing.T, x *udpPool, n *memNet, _ *counts) {
			a, b := newSink(), newSink()
			x.Start(query("a.example.org"), Options{}, a)
			x.Start(query("b.example.org"), Options{}, b)
			far := <-n.far
			far.peer.errs <- &net.OpError{Op: "read", Net: "udp", Err: syscall.ECONNREFUSED}
			wantKind(t, a.wait(t), outcome.ConnRefused)
			wantKind(t, b.wait(t), outcome.ConnRefused)
			x.Start(query("c.example.org"), Options{}, a)
			far = <-n.far
			far.Write(answer(far.next(t)))
			wantKind(t, a.wait(t), outcome.OK)
		})
	})
}

func TestUDPClose(t *testing.T) {
	inMemory(t, func(t *testing.T, x *udpPool, _ *memNet, _ *counts) {
		a, b := newSink(), newSink()
		h := x.Start(query("a.example.org"), Options{}, a)
		x.Close()
		r := a.wait(t)
		wantKind(t, r, outcome.Cancelled)
		if !errors.Is(r.Err, errClosed) || h.Cancel() {
			t.Errorf("error %v, or Cancel in time", r.Err)
		}
		x.Start(query("b.example.org"), Options{}, b)
		wantKind(t, b.wait(t), outcome.Cancelled)
	})
}
