package scenario

import (
	"context"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/test/fakedns"
)

// relay has a query that a server hands on answered: by a replica, in turn, as behind a virtual address, or by the directive of the Corefile of
// that name.
func (w *world) relay(to string, proto fakedns.Proto, q *dns.Msg, reply func(*dns.Msg)) {
	g := w.tiers[to]
	if g == nil {
		g = w.guard()
	}
	writer := &recorder{tcp: proto != fakedns.UDP, n: int(w.turns.Load())}
	go func() {
		rcode, _ := g.ServeDNS(context.Background(), request.NewScrubWriter(q, writer), q)
		m := new(dns.Msg)
		switch {
		case writer.replies > 0 && m.Unpack(writer.wire) == nil:
		case plugin.ClientWrite(rcode):
			m = nil
		default:
			m.SetRcode(q, rcode)
		}
		reply(m)
	}()
}
