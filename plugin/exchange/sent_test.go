package exchange

import (
	"bytes"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// TestSent: over every transport it is known afterwards when a query went, from
// where, and with which octets, and so are the octets of a reply that is kept.
func TestSent(t *testing.T) {
	server, client := certs(t, "dns.test")
	echo := udpServer(t, func(c *net.UDPConn, b []byte, from netip.AddrPort) { _, _ = c.WriteToUDPAddrPort(answer(b), from) })
	for _, tt := range []struct {
		transport string
		addr      netip.AddrPort
		opt       Options
		proto     Proto
	}{
		{"dns", echo, Options{}, UDP},
		{"dns", echo, Options{NoEDNS: true}, UDP},
		{"dns", streamServer(t, nil, 0), Options{TCP: true}, TCP},
		{"dns", streamServer(t, nil, 0), Options{TCP: true, NoEDNS: true}, TCP},
		{"tls", streamServer(t, server, 0), Options{}, TLS},
		{"https", dohServer(t, server, true, nil), Options{}, HTTPS},
		{"https", dohServer(t, server, false, nil), Options{NoEDNS: true}, HTTPS},
		{"quic", doqServer(t, server, answer), Options{}, QUIC},
	} {
		t.Run(tt.proto.String(), func(t *testing.T) {
			cfg, _ := testConfig(tt.transport, tt.addr)
			cfg.TLS = client
			x := mustNew(t, cfg)
			defer x.Close()
			for _, keep := range []bool{false, true} {
				q := query("www.example.org")
				q.Keep = keep
				sink, begin := newSink(), time.Now()
				h := x.Start(q, tt.opt, sink)
				r := sink.wait(t)
				wantKind(t, r, outcome.OK)
				sent, ok := h.Sent()
				if !ok || sent.Local == nil || sent.Local.String() != r.Local.String() || r.Proto != tt.proto {
					t.Fatalf("%v, %+v; the reply says %v", ok, sent, r.Local)
				}
				if now := time.Now(); sent.At.Before(begin) || sent.At.Add(r.RTT).After(now) {
					t.Errorf("sent %v after the start, and %v before the reply; all took %v", sent.At.Sub(begin), r.RTT, now.Sub(begin))
				}
				wire := q.AppendTo(nil, sent.ID, tt.opt.NoEDNS)
				if !keep {
					if r.Wire != nil {
						t.Error("octets were kept though nobody asked")
					}
				} else if want := answer(wire); !bytes.Equal(r.Wire, want) || len(want) != r.Size {
					t.Errorf("the reply was %d octets\n%x\nwant the one to\n%x:\n%x", r.Size, r.Wire, wire, want)
				}
			}
		})
	}
}

// TestSentMalformed: what cannot be parsed is kept too.
func TestSentMalformed(t *testing.T) {
	inMemory(t, func(t *testing.T, x *udpPool, n *memNet, _ *counts) {
		q, sink := query("www.example.org"), newSink()
		q.Keep = true
		h := x.Start(q, Options{}, sink)
		far := <-n.far
		cut := answer(far.next(t))
		cut = cut[:len(cut)-3]
		far.Write(cut)
		r := sink.wait(t)
		wantKind(t, r, outcome.Malformed)
		if sent, ok := h.Sent(); !ok || !bytes.Equal(r.Wire, cut) || sent.ID != messageID(cut) {
			t.Errorf("kept %x of %x; sent %+v", r.Wire, cut, sent)
		}
	})
}

// TestSentUDP: an exchange that was cancelled was sent, one that could not be
// written was not, nor was one for which there is no socket.
func TestSentUDP(t *testing.T) {
	inMemory(t, func(t *testing.T, x *udpPool, n *memNet, _ *counts) {
		h := x.Start(query("www.example.org"), Options{}, newSink())
		far := <-n.far
		wire := far.next(t)
		time.Sleep(time.Second)
		h.Cancel()
		if sent, ok := h.Sent(); !ok || sent.ID != messageID(wire) || time.Since(sent.At) != time.Second {
			t.Errorf("cancelled: %v, ID %d of %d, %v ago", ok, sent.ID, messageID(wire), time.Since(sent.At))
		}
		for _, errno := range []syscall.Errno{syscall.EPERM, syscall.ECONNREFUSED} {
			err := error(&net.OpError{Op: "write", Net: "udp", Err: errno})
			far.peer.writeErr.Store(&err)
			sink := newSink()
			h = x.Start(query("www.example.org"), Options{}, sink)
			if _, ok := h.Sent(); ok {
				t.Errorf("%v: sent", errno)
			}
			sink.wait(t)
		}
		n.fail = func() error { return syscall.EMFILE }
		h = x.Start(query("www.example.org"), Options{}, newSink())
		if _, ok := h.Sent(); ok {
			t.Error("without a socket: sent")
		}
	})
}

// TestSentTCP: nothing has been sent while a connection is made.
func TestSentTCP(t *testing.T) {
	inPipes(t, func(_ *Config, n *pipeNet) { n.hang = true }, func(t *testing.T, x *streamPool, _ *pipeNet, _ *counts) {
		sink := newSink()
		h := x.Start(query("www.example.org"), Options{}, sink)
		synctest.Wait()
		if _, ok := h.Sent(); ok {
			t.Error("sent before there was a connection")
		}
		sink.wait(t)
		if _, ok := h.Sent(); ok {
			t.Error("sent though there never was a connection")
		}
	})
	inPipes(t, nil, func(t *testing.T, x *streamPool, n *pipeNet, _ *counts) {
		h := x.Start(query("www.example.org"), Options{}, newSink())
		wire := (<-n.far).next(t)
		h.Cancel()
		if sent, ok := h.Sent(); !ok || sent.ID != messageID(wire) {
			t.Errorf("cancelled: %v, %+v, ID %d", ok, sent, messageID(wire))
		}
	})
}
