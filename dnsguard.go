// Package dnsguard is a CoreDNS plugin that forwards queries to upstreams, and
// keeps answering right and fast while some of them fail.
//
// The way of a query: ServeDNS (this file) matches the zone, bounds what is in
// flight and answers what is not to be forwarded; plugin/forwarder walks it
// through the pool; the reply goes back here to the client.
//
// config.go is what the Corefile can say, setup.go parses into it and hooks
// the life cycle, health.go starts, stops and shows the pool, explain.go answers
// those who ask about it by DNS.
package dnsguard

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/request"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
	"github.com/dnsguard/dnsguard/plugin/explain"
	"github.com/dnsguard/dnsguard/plugin/forwarder"
	"github.com/dnsguard/dnsguard/plugin/metrics"
	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// pluginName is the directive's name.
const pluginName = "dnsguard"

// errCancelled ends a query whose client is gone.
var errCancelled = errors.New("query cancelled")

// Guard is one dnsguard directive at work. Make it with New.
type Guard struct {
	// Next is the next plugin; it may be nil.
	Next plugin.Handler

	cfg      Config
	env      Env
	log      *stateLog
	passing  func(code uint16) bool // EDNS options that upstreams may see; nil: none
	follower *follower
	taps     *taps // of the server block; nil: none. Set before Start.

	loops    *loops            // nil where nothing is done about loops
	siblings []*Guard          // the directives of the server block, this one among them, in their order
	audience *explain.Audience // whom this one's upstreams are explained to; nil: nobody

	running *running

	pool     atomic.Pointer[pool]
	inFlight atomic.Int64
}

// Name implements plugin.Handler.
func (g *Guard) Name() string { return pluginName }

// ServeDNS implements plugin.Handler. It writes the reply itself, failures
// included, but for queries that are another plugin's.
func (g *Guard) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	state := request.Request{W: w, Req: r}
	if g.explains(r) {
		return g.explain(&state)
	}
	if g.cfg.Mode == ModeObserve {
		return g.serveObserved(ctx, state)
	}
	if len(r.Question) == 1 && !g.matches(state.Name()) {
		return plugin.NextOrFailure(g.Name(), g.Next, ctx, w, r)
	}
	if rcode, unsupported := dnsmsg.Unsupported(r); unsupported {
		g.env.Metrics.Query(metrics.Unsupported)
		return g.write(w, dnsmsg.Failure(r, rcode, dnsmsg.EDE{Code: dns.ExtendedErrorCodeNotSupported, Text: "not forwarded"}))
	}
	var req forwarder.Request
	if m, mine := g.loops.receive(ctx, r, &state, &req); mine {
		return g.turnBack(ctx, w, m)
	}
	if over := g.enter(); over {
		g.env.Metrics.Query(metrics.Rejected)
		return g.write(w, dnsmsg.Failure(r, dns.RcodeRefused, dnsmsg.EDE{
			Code: dns.ExtendedErrorCodeProhibited, Text: "too many queries in flight",
		}))
	}
	defer g.inFlight.Add(-1)

	req.Name = r.Question[0].Name
	options := ""
	if g.passing != nil {
		options = dnsmsg.PassedOptions(r, g.passing)
	}
	req.Key = dnsmsg.KeyOf(r, state.Proto() != "udp", state.Size(), options)
	req.Key.Path = req.Stamp.Path()
	a, seen := g.watched(ctx, w, r, &req)
	if g.passOn(a) {
		g.env.Metrics.Query(metrics.PassedOn)
		return plugin.NextOrFailure(g.Name(), g.Next, ctx, w, r)
	}
	g.loops.tell(ctx, &a)
	seen.answered(&a)
	if a.Msg == nil && (ctx.Err() != nil || a.Kind == outcome.Cancelled) {
		// Nobody waits. To write a failure would leave it in the cache for others.
		g.env.Metrics.Query(metrics.Cancelled)
		return dns.RcodeServerFailure, errCancelled
	}
	g.env.Metrics.Query(resultOf(a))
	if a.Kind == outcome.Loop {
		return g.writeUncached(w, g.reply(a, r))
	}
	return g.write(w, g.reply(a, r))
}

// forward asks the upstreams.
func (g *Guard) forward(ctx context.Context, r *forwarder.Request) forwarder.Answer {
	p := g.use()
	defer p.users.Add(-1)
	return p.forwarder.Forward(ctx, r)
}

// use returns the pool, with one more user.
func (g *Guard) use() *pool {
	p := g.pool.Load()
	for p.users.Add(1); g.pool.Load() != p; p.users.Add(1) { // replaced, and maybe given up, before we were counted
		p.users.Add(-1)
		p = g.pool.Load()
	}
	return p
}

// resultOf returns what an answer is counted as.
func resultOf(a forwarder.Answer) metrics.QueryResult {
	switch {
	case a.Malformed:
		return metrics.Unsupported
	case a.Withheld:
		return metrics.Answered
	case a.Msg == nil:
		return metrics.Unanswered
	case a.Kind == outcome.OK || a.Kind == outcome.Truncated || a.Kind.Denied():
		return metrics.Answered
	default:
		return metrics.Failed
	}
}

// enter counts a query in, and reports whether it is one too many.
func (g *Guard) enter() (over bool) {
	n := g.inFlight.Add(1)
	if g.cfg.MaxConcurrent > 0 && n > int64(g.cfg.MaxConcurrent) {
		g.inFlight.Add(-1)
		return true
	}
	return false
}

// matches reports whether queries for name are this directive's.
func (g *Guard) matches(name string) bool {
	return dnsmsg.Within(name, g.cfg.From) && g.excepted(name) == ""
}

// excepted returns the zone of the option except that name is in; "": none.
func (g *Guard) excepted(name string) string {
	if name == g.cfg.From {
		return ""
	}
	for _, zone := range g.cfg.Except {
		if dnsmsg.Within(name, zone) {
			return zone
		}
	}
	return ""
}

// passOn reports whether the next forwarding plugin is to be asked instead.
func (g *Guard) passOn(a forwarder.Answer) bool {
	if a.Msg == nil || g.Next == nil || (g.Next.Name() != pluginName && g.Next.Name() != "forward") {
		return false
	}
	return slices.Contains(g.cfg.Next, a.Msg.Rcode) ||
		(g.cfg.NextOnNodata && a.Msg.Rcode == dns.RcodeSuccess && len(a.Msg.Answer) == 0)
}

// reply returns what the client is told.
func (g *Guard) reply(a forwarder.Answer, r *dns.Msg) *dns.Msg {
	if a.Msg != nil {
		m := a.Msg
		dnsmsg.Finish(m, r, g.passing)
		if a.EDE.Text != "" {
			dnsmsg.AddEDE(m, r, a.EDE)
		}
		return m
	}
	rcode := dns.RcodeServerFailure
	switch {
	case a.Malformed:
		rcode = dns.RcodeFormatError
	case a.Withheld:
		rcode = dns.RcodeNameError
	}
	return dnsmsg.Failure(r, rcode, a.EDE)
}

// write sends the reply. It has been written then, so what goes back to the
// server says that there is nothing left to do. A client that is gone is no
// error of ours.
func (g *Guard) write(w dns.ResponseWriter, m *dns.Msg) (int, error) {
	_ = w.WriteMsg(m)
	return dns.RcodeSuccess, nil
}
