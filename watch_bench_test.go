package dnsguard

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"

	"github.com/miekg/dns"
)

// echoing answers every query with an empty NOERROR, and allocates nothing for it.
func echoing(tb testing.TB) string {
	tb.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		tb.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			buf[2] |= 0x80
			_, _ = c.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	tb.Cleanup(func() { c.Close(); <-done })
	return c.LocalAddr().String()
}

// sink is a client that takes the reply and forgets it.
type sink struct {
	dns.ResponseWriter
	local, remote net.Addr
	rcode         int
}

func (s *sink) LocalAddr() net.Addr  { return s.local }
func (s *sink) RemoteAddr() net.Addr { return s.remote }

func (s *sink) WriteMsg(m *dns.Msg) error {
	s.rcode = m.Rcode
	return nil
}

// aloneGuard returns a Guard that sends to one that answers, and what a query to it
// takes: the context is as deep as CoreDNS makes it.
func aloneGuard(tb testing.TB, options ...string) (g *Guard, ctx context.Context, w *sink, q *dns.Msg) {
	tb.Helper()
	configs, err := Parse(caddy.NewTestController("dns", "dnsguard . "+echoing(tb)+" {\n max_fails 0\n"+strings.Join(options, "\n")+"\n}"))
	if err != nil {
		tb.Fatal(err)
	}
	if g, err = New(configs[0], Env{}); err != nil {
		tb.Fatal(err)
	}
	g.Start()
	tb.Cleanup(g.Stop)
	ctx = context.WithValue(context.Background(), dnsserver.Key{}, &dnsserver.Server{})
	ctx = context.WithValue(ctx, dnsserver.LoopKey{}, 0)
	addr := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 53}
	q = new(dns.Msg)
	q.SetQuestion("www.example.org.", dns.TypeA)
	return g, ctx, &sink{local: addr, remote: addr}, q
}

// BenchmarkUnobserved is what a query costs that nobody looks at.
func BenchmarkUnobserved(b *testing.B) {
	for _, loop := range []string{"on", "off"} {
		b.Run("loop "+loop, func(b *testing.B) {
			g, ctx, w, q := aloneGuard(b, "loop "+loop)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := g.ServeDNS(ctx, w, q); err != nil || w.rcode != dns.RcodeSuccess {
					b.Fatal(w.rcode, err)
				}
			}
		})
	}
}
