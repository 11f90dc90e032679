package dnsguard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/pkg/proxy"
	"github.com/coredns/coredns/request"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
	"github.com/dnsguard/dnsguard/plugin/forwarder"
	"github.com/dnsguard/dnsguard/plugin/metrics"
	"github.com/dnsguard/dnsguard/plugin/observe"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/selector"
)

// Mode observe. The queries take forward's way (observing_relay.go) over
// CoreDNS's own proxies (observing_hop.go), and a model of the guard looks on
// (plugin/observe).

// observing is a pool in mode observe.
type observing struct {
	cfg     *Config
	members []*member
	opts    proxy.Options
	draw    func(n int) int
	turn    atomic.Uint32 // of policy round_robin
	empty   func() string // why there is no upstream

	model   *observe.Model
	summary *observe.Summary
	nobody  func(v observe.Verdict)          // counts a verdict that is about no upstream
	warnf   func(format string, args ...any) // to the log
	once    sync.Once                        // of a warning about ourselves
}

// newObserving returns the traffic of a pool, and the model that learns in the
// place of its forwarder. It sends nothing yet.
func (g *Guard) newObserving(p *pool) (*observing, error) {
	cfg := &g.cfg
	policy, err := selector.New(cfg.Policy)
	if err != nil {
		return nil, err
	}
	logf := cfg.stateLogf(g.env.Logf)
	return &observing{
		cfg: cfg, members: p.members, draw: g.env.draw, empty: g.follower.empty,
		opts: proxy.Options{
			ForceTCP: cfg.ForceTCP, PreferUDP: cfg.PreferUDP,
			HCRecursionDesired: !cfg.HealthNoRec, HCDomain: cfg.HealthDomain,
		},
		model: observe.New(observe.Config{
			Upstreams: p.upstreams, ReadTimeout: cfg.ReadTimeout, Policy: policy, Hedge: cfg.Hedge, Forced: forwarder.LongAfter, Trust: cfg.NXDomainTrust,
			Table: p.forwarder.Table(), Survey: p.forwarder.Survey,
		}),
		summary: observe.NewSummary(func(line string) { logf(LevelInfo, "%s", line) }, g.env.recoverer),
		nobody:  g.env.Metrics.Observed,
		warnf:   func(format string, args ...any) { logf(LevelWarning, format, args...) },
	}, nil
}

// stateLogf returns where changes of state are told: in mode observe with a
// word that nothing comes of them.
func (c *Config) stateLogf(logf func(Level, string, ...any)) func(Level, string, ...any) {
	if c.Mode != ModeObserve {
		return logf
	}
	return func(level Level, format string, args ...any) { logf(level, "observed: "+format, args...) }
}

// forwardTimeout is how long forward makes attempts for one query. The last one may outlast it.
const forwardTimeout = 5 * time.Second

// longest is how long a query may take.
func (c *Config) longest() time.Duration {
	if c.Mode == ModeObserve {
		return forwardTimeout + c.ReadTimeout
	}
	return c.Timeout
}

// start begins what the proxies do beside queries.
func (o *observing) start() {
	for _, m := range o.members {
		m.hop.start(o.cfg.HealthInterval)
	}
}

// serveObserved is ServeDNS in mode observe: what it returns and writes is
// what forward would.
func (g *Guard) serveObserved(ctx context.Context, state request.Request) (int, error) {
	w, r := state.W, state.Req
	if !g.matches(state.Name()) {
		return plugin.NextOrFailure(g.Name(), g.Next, ctx, w, r)
	}
	if over := g.enter(); over {
		g.env.Metrics.Query(metrics.Rejected)
		return dns.RcodeRefused, fmt.Errorf("concurrent queries exceeded maximum %d", g.cfg.MaxConcurrent)
	}
	defer g.inFlight.Add(-1)

	reply, err := g.relayed(ctx, state)
	switch {
	case errors.Is(err, proxy.ErrInvalidRequest):
		g.env.Metrics.Query(metrics.Unsupported)
		return dns.RcodeFormatError, err
	case errors.Is(err, proxy.ErrUnsupportedRequest):
		g.env.Metrics.Query(metrics.Unsupported)
		return dns.RcodeNotImplemented, err
	case err != nil && ctx.Err() != nil:
		g.env.Metrics.Query(metrics.Cancelled)
		return dns.RcodeServerFailure, err
	case err != nil:
		g.env.Metrics.Query(metrics.Unanswered)
		return dns.RcodeServerFailure, err
	case !state.Match(reply):
		g.env.Metrics.Query(metrics.Unanswered)
		reply = new(dns.Msg).SetRcode(r, dns.RcodeFormatError)
	case g.passOn(forwarder.Answer{Msg: reply}):
		g.env.Metrics.Query(metrics.PassedOn)
		return plugin.NextOrFailure(g.Name(), g.Next, ctx, w, r)
	default:
		g.env.Metrics.Query(resultOf(forwarder.Answer{Msg: reply, Kind: outcome.Classify(reply, state.Proto() == "udp")}))
	}
	return g.write(w, reply)
}

// relayed returns an upstream's reply, which may be to another question, or
// why there is none; and has the verdict counted.
func (g *Guard) relayed(ctx context.Context, state request.Request) (*dns.Msg, error) {
	p := g.use()
	defer p.users.Add(-1)
	r := p.observing.relay(ctx, state)
	r.taps = g.taps
	defer r.judge(ctx)
	return r.run(ctx)
}

// observe looks on. What goes wrong there must not concern the query: it is
// not observed any further.
func (r *relay) observe(look func()) {
	defer func() {
		if p := recover(); p != nil {
			r.query = nil
			r.once.Do(func() { r.warnf("a query could not be observed, which is a bug: %v", p) })
		}
	}()
	look()
}

// judge counts what the guard would have made of the query.
func (r *relay) judge(ctx context.Context) {
	f := observe.Finding{Verdict: observe.NotForwarded, By: r.asked}
	if r.query != nil {
		r.observe(func() { f = r.query.End(ctx.Err() != nil) })
	}
	if r.query == nil && !r.own {
		return
	}
	showVerdict(ctx, f.Verdict.String())
	if f.By < 0 {
		r.nobody(f.Verdict)
		r.summary.Add(f, "none")
		return
	}
	m := r.members[f.By]
	m.hop.counts.Observed(f.Verdict)
	r.summary.Add(f, m.up.To())
}

// question is what the model is asked; false: the guard would not have
// forwarded the query.
func (o *observing) question(state request.Request) (observe.Question, bool) {
	if _, unsupported := dnsmsg.Unsupported(state.Req); unsupported {
		return observe.Question{}, false
	}
	key := dnsmsg.KeyOf(state.Req, state.Proto() != "udp", state.Size(), "")
	return observe.Question{Name: key.Name, Type: key.Type, TCP: byTCP(state, o.opts)}, true
}

// byTCP reports whether a plain DNS upstream is asked by TCP.
func byTCP(state request.Request, opts proxy.Options) bool {
	return opts.ForceTCP || (!opts.PreferUDP && state.Proto() == "tcp")
}
