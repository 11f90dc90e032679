// Package probe asks upstreams that do not answer, or have never been asked,
// for NS of a name (the root by default), to see whether they are there.
//
// A probe shows that an upstream is reachable, no more: whether it answers
// queries is learned from queries. Healthy upstreams are not probed.
//
// A Prober has one goroutine, and sends at most PerSecond probes a second.
package probe

import (
	"context"
	"fmt"
	"time"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/recovery"
	"github.com/dnsguard/dnsguard/plugin/upstream"

	"github.com/miekg/dns"
)

// PerSecond bounds the probes of a pool.
const PerSecond = 10

// mostShift is how often the interval doubles at the most.
const mostShift = 2

// Config is what a Prober needs to know.
type Config struct {
	// Upstreams are those to be probed.
	Upstreams []*upstream.Upstream
	// Interval is between probes of one upstream. It grows to four times this while they get no reply, and while an upstream that replies is not asked anything.
	Interval time.Duration
	// Domain is the name asked for.
	Domain string
	// NoRec clears RD.
	NoRec bool
	// TCP probes plain DNS upstreams by TCP.
	TCP bool
	// Recoverer recovers rounds; nil: a panic ends the process.
	Recoverer *recovery.Recoverer
}

// Prober probes. Make it with New, and run it.
type Prober struct {
	cfg    Config
	query  exchange.Query
	wake   chan struct{}
	last   []time.Time
	tries  []int // since the upstream was last well
	missed []int // those of them, in a row, since which nothing has been heard
	spent  int
	first  int // upstream to begin with
	from   time.Time
}

// New returns a prober.
func New(cfg Config) (*Prober, error) {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(cfg.Domain), dns.TypeNS)
	m.Id, m.RecursionDesired = 0, !cfg.NoRec
	wire, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("probe for %q: %w", cfg.Domain, err)
	}
	return &Prober{
		cfg: cfg, query: exchange.Query{Wire: wire, QuestionEnd: len(wire)}, wake: make(chan struct{}, 1),
		last: make([]time.Time, len(cfg.Upstreams)), tries: make([]int, len(cfg.Upstreams)), missed: make([]int, len(cfg.Upstreams)),
	}, nil
}

// Wake says that an upstream may want a probe. It may be called concurrently
// and does not block.
func (p *Prober) Wake() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run probes until ctx ends.
func (p *Prober) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-timer.C:
		}
		if next := p.safeRound(time.Now()); next > 0 {
			timer.Reset(next)
		} else {
			timer.Stop()
		}
	}
}

// safeRound is round; after one that panics it is time for the next in an interval.
func (p *Prober) safeRound(now time.Time) (next time.Duration) {
	defer p.cfg.Recoverer.Recover("a round of probes", func() { next = p.cfg.Interval })
	return p.round(now)
}

// round sends what is due, and returns when to look again; 0: when woken.
func (p *Prober) round(now time.Time) time.Duration {
	if now.Sub(p.from) >= time.Second {
		p.from, p.spent = now, 0
	}
	next := time.Duration(0)
	soonest := func(d time.Duration) {
		if d = max(d, time.Millisecond); next == 0 || d < next {
			next = d
		}
	}
	n := len(p.cfg.Upstreams)
	for k := range n { // beginning where the last round ran out
		i := (p.first + k) % n
		u := p.cfg.Upstreams[i]
		if !u.WantsProbe(now) {
			p.tries[i] = 0
			continue
		}
		if u.Heard(p.last[i]) {
			p.missed[i] = 0
		}
		if wait := p.every(now, i, u) - now.Sub(p.last[i]); wait > 0 {
			soonest(wait)
			continue
		}
		if p.spent >= PerSecond {
			soonest(p.from.Add(time.Second).Sub(now))
			p.first = i
			break
		}
		p.spent++
		p.last[i] = now
		p.tries[i]++
		p.missed[i]++
		u.Probed()
		u.Send(now, &p.query, &upstream.Attempt{Index: i, Probe: true, Options: exchange.Options{TCP: p.cfg.TCP || u.ProbeByTCP(now, p.tries[i]), NoEDNS: true}}, nil)
		soonest(min(p.every(now, i, u), p.cfg.Interval)) // it may have been heard by then
	}
	return next
}

// every is the interval for an upstream now.
func (p *Prober) every(now time.Time, i int, u *upstream.Upstream) time.Duration {
	missed, alive := p.missed[i], u.State() == upstream.HalfOpen || u.State() == upstream.Healthy
	if u.TCPAlone(now) || alive && u.UDPLeftOut(now) { // replies by the one say nothing of the other
		missed = p.tries[i]
	}
	switch {
	case u.Wanted():
		return p.cfg.Interval / 5
	case missed == 0 && p.tries[i] > 0 && alive: // the rest is up to queries
		return p.cfg.Interval << mostShift
	}
	return p.cfg.Interval << min(max(missed-4, 0)/4, mostShift)
}
