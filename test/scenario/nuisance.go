package scenario

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/loopguard"
	"github.com/dnsguard/dnsguard/test/fakedns"
)

// What clients, and others who see queries, do that may look like a loop.

// asked returns who a client asks.
func (w *world) asked(c *client) guard {
	if c.asks != "" {
		return w.tiers[c.asks]
	}
	return w.guard()
}

// resend has a query sent again and again until stop is called.
func (w *world) resend(ctx context.Context, c *client, q *dns.Msg, n int) (stop func()) {
	if c.resend == 0 {
		return func() {}
	}
	done := make(chan struct{})
	w.others.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(c.resend):
				w.others.Go(func() { w.sendAlso(ctx, c, q.Copy(), n) })
			}
		}
	})
	return func() { close(done) }
}

// sendAlso sends a query whose reply nobody looks at.
func (w *world) sendAlso(ctx context.Context, c *client, q *dns.Msg, n int) {
	_, _ = w.asked(c).ServeDNS(context.WithoutCancel(ctx), request.NewScrubWriter(q, &recorder{tcp: c.tcp, n: n}), q)
}

// replay sends the question with the stamps again that an upstream was sent it
// with, and the newest probe that it was sent.
func (w *world) replay(ctx context.Context, c *client, q *dns.Msg, n int) {
	server := w.servers[c.replay]
	if server == nil {
		return
	}
	want := q.Question[0]
	for _, is := range []func(r *fakedns.Record) bool{
		func(r *fakedns.Record) bool {
			return strings.EqualFold(r.Question.Name, want.Name) && r.Question.Qtype == want.Qtype && slices.Contains(r.Options, loopguard.OptionCode)
		},
		func(r *fakedns.Record) bool {
			return r.LoopProbe() && strings.HasSuffix(r.Question.Name, ".internal.")
		},
		func(r *fakedns.Record) bool { return r.LoopProbe() && strings.HasSuffix(r.Question.Name, ".arpa.") },
	} {
		seen, ok := server.Latest(is)
		if m := new(dns.Msg); ok && m.Unpack(seen.Wire) == nil {
			w.others.Go(func() { w.sendAlso(ctx, c, m, n) })
		}
	}
}

// addOptions adds options at random, also such as have the code of stamps, and their form.
func (w *world) addOptions(q *dns.Msg, n int) {
	chance := rand.New(rand.NewPCG(w.scenario.Seed, uint64(n)))
	bytes := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(chance.Uint32())
		}
		return b
	}
	if q.IsEdns0() == nil {
		q.SetEdns0(dns.MinMsgSize, false)
	}
	opt := q.IsEdns0()
	for range 1 + chance.IntN(5) {
		o := &dns.EDNS0_LOCAL{Code: loopguard.OptionCode, Data: bytes(chance.IntN(40))}
		switch chance.IntN(4) {
		case 0: // a stamp but for its MAC
			o.Data = append([]byte{1, byte(1 + chance.IntN(loopguard.MaxHops))}, bytes(4*(1+chance.IntN(3))+8)...)
		case 1:
			o.Code = dns.EDNS0LOCALSTART + uint16(chance.IntN(dns.EDNS0LOCALEND-dns.EDNS0LOCALSTART))
		case 2:
			const unassigned = 100
			o.Code = unassigned + uint16(chance.IntN(dns.EDNS0LOCALSTART-unassigned))
		}
		opt.Option = append(opt.Option, o)
	}
}
