package forwarder

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/selector"
	"github.com/dnsguard/dnsguard/plugin/upstream"
)

// instant is an exchange.Exchanger that ends exchanges before Start returns.
type instant struct {
	kind  outcome.Kind
	msg   *dns.Msg
	local net.Addr
}

type answeredCall struct{}

func (answeredCall) Cancel() bool                { return false }
func (answeredCall) Begun() time.Time            { return time.Time{} }
func (answeredCall) Sent() (exchange.Sent, bool) { return exchange.Sent{}, true }

func (s *instant) Start(_ *exchange.Query, _ exchange.Options, sink exchange.Sink) exchange.Handle {
	sink.Done(exchange.Reply{Kind: s.kind, Msg: s.msg, Size: 60, Local: s.local, RTT: time.Millisecond})
	return answeredCall{}
}

func (*instant) Close() {}

// instantly returns a forwarder with n upstreams that answer at once.
func instantly(tb testing.TB, n int) *Forwarder {
	tb.Helper()
	policy, err := selector.New("adaptive")
	if err != nil {
		tb.Fatal(err)
	}
	m := new(dns.Msg)
	m.SetQuestion("www.example.org.", dns.TypeA)
	m.Response = true
	m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "www.example.org.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 1)}}
	cfg := Config{Policy: policy, Timeout: 4500 * ms, Hedge: 0.05, Eject: true, Draw: func(n int) int { return n - 1 }, Observer: new(rig)}
	for i := range n {
		addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 53)
		cfg.Upstreams = append(cfg.Upstreams, upstream.New(upstream.Config{
			To: addr.String(), Addr: addr, Transport: "dns", Exchanger: &instant{outcome.OK, m, &net.UDPAddr{}}, ReadTimeout: 2 * time.Second, Observer: nobody{},
			Eject: upstream.Eject{Failures: 5, Share: 0.5, Base: time.Second, Max: 30 * time.Second},
		}, time.Now()))
	}
	f := New(cfg)
	tb.Cleanup(func() {
		f.Close()
		for _, u := range cfg.Upstreams {
			u.Close()
		}
	})
	return f
}

func BenchmarkForward(b *testing.B) {
	f := instantly(b, 3)
	r := request("www.example.org.")
	b.ReportAllocs()
	for b.Loop() {
		if a := f.Forward(b.Context(), r); a.Kind != outcome.OK {
			b.Fatal(a.Kind)
		}
	}
}
