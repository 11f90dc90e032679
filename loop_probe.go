package dnsguard

import (
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dnsguard/dnsguard/plugin/forwarder"
	"github.com/dnsguard/dnsguard/plugin/loopguard"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/upstream"
	"github.com/dnsguard/dnsguard/plugin/zones"
)

// loopProber probes the upstreams of a pool: it asks them for names that nobody
// but the group can answer (loop_question.go). One goroutine sends; replies are
// judged where they come in.
type loopProber struct {
	l       *loops
	members []*member
	marks   atomic.Pointer[marks]
	waiting atomic.Int32 // queries that wait for a verdict
	wake    chan struct{}

	mu     sync.Mutex
	open   map[loopguard.Nonce]*loopQuestion
	rounds map[*loopRound]struct{} // those without a verdict
	turned chan struct{}           // closed at the next verdict
	over   bool
}

// loopSigns are what is known of one upstream's loops.
type loopSigns struct {
	watch    *loopguard.Watch          // nil where nothing is done about loops
	probing  atomic.Bool               // a probe is being sent
	doubted  atomic.Bool               // there was a reason for a probe since the last one
	wider    atomic.Bool               // a wide probe is due
	returned atomic.Pointer[time.Time] // when a probe came back though the upstream stays in; nil: never
	spared   atomic.Int32              // how often in a row it stayed in so
	asked    atomic.Pointer[string]    // the name of the last query that came back, until a probe has asked below it
	half     atomic.Pointer[division]  // that some questions of a probe came back, and others did not; nil: never
	partial  atomic.Pointer[zoneLoop]  // a name below which queries come back, while others do not; nil: none is known
}

// newLoopProber returns a prober that has sent nothing; nil where nothing is
// done about loops.
func (g *Guard) newLoopProber(members []*member, endpoints []Endpoint) *loopProber {
	if g.loops == nil {
		return nil
	}
	p := &loopProber{
		l: g.loops, members: members, wake: make(chan struct{}, 1),
		open: make(map[loopguard.Nonce]*loopQuestion), rounds: make(map[*loopRound]struct{}), turned: make(chan struct{}),
	}
	p.marks.Store(g.loops.marksOf(endpoints))
	return p
}

// stamps are what queries carry.
func (p *loopProber) stamps() forwarder.Stamps {
	var to zones.Set
	for i, m := range p.members {
		if m.stamped() {
			to |= zones.Of(i)
		}
	}
	return forwarder.Stamps{To: to, Append: func(buf []byte, s loopguard.Stamp, question []byte) []byte {
		marks := p.marks.Load()
		return marks.key.Append(buf, s.Next(marks.group), question)
	}, Again: p.twice}
}

// twice has upstreams probed, one a second and then more seldom, that were asked
// a question which came in again before they replied. Mostly it is clients that
// ask the same; but where stamps are dropped on the way, it is the first sign.
func (p *loopProber) twice(to zones.Set) {
	now := time.Now()
	for i, m := range p.members {
		if to.Has(i) {
			p.suspect(now, m, loopguard.Coincidence)
		}
	}
}

// returned has the upstreams probed soon whose queries carry stamps: one for a
// name has come back.
func (p *loopProber) returned(now time.Time, name string) {
	current := p.l.g.pool.Load()
	if current.loops != p {
		return // the upstreams are others by now
	}
	may := current.forwarder.Allowed(name)
	for i, m := range p.members {
		if m.stamped() && may.Has(i) {
			m.asked.Store(&name)
			p.suspect(now, m, loopguard.Returned)
		}
	}
}

// mate has the upstreams probed soon whose queries carry stamps: what another
// server of the group has sent to one has come here.
func (p *loopProber) mate(now time.Time) {
	for _, m := range p.members {
		if m.stamped() {
			p.suspect(now, m, loopguard.Mate)
		}
	}
}

// again has all upstreams probed: the configuration is another one, or who is in
// the group.
func (p *loopProber) again(now time.Time) {
	for _, m := range p.members {
		p.suspect(now, m, loopguard.Changed)
	}
}

// suspect has an upstream probed soon.
func (p *loopProber) suspect(now time.Time, m *member, why loopguard.Reason) {
	if why != loopguard.Changed {
		m.doubted.Store(true)
	}
	if !m.watch.Suspect(now, why) {
		return
	}
	m.link.counts.LoopSuspected(why)
	p.nudge()
}

func (p *loopProber) nudge() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run probes until ctx ends.
func (p *loopProber) run(ctx context.Context) {
	defer p.end()
	p.again(time.Now())
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-timer.C:
		}
		timer.Stop()
		if wait := p.round(time.Now()); wait > 0 {
			timer.Reset(wait)
		}
	}
}

// round sends what is due, and returns when to look again; 0: when woken.
func (p *loopProber) round(now time.Time) (wait time.Duration) {
	defer p.l.g.env.recoverer.Recover("the prober for loops", func() { wait = loopguard.Soon })
	var next time.Time
	for _, m := range p.members {
		if m.wider.Load() {
			p.send(now, m, true)
			m.wider.Store(false) // only now: somebody may wait for the verdict
		}
		if m.loopDue(now) {
			p.take(now, m)
		}
		if due := m.watch.Due(); !due.IsZero() && (next.IsZero() || due.Before(next)) {
			next = due
		}
	}
	if next.IsZero() {
		return 0
	}
	return max(next.Sub(now), time.Millisecond)
}

// take sends the probe that is due. Before it is due no more it is said to be
// sent: somebody may wait for the verdict.
func (p *loopProber) take(now time.Time, m *member) {
	m.probing.Store(true)
	defer m.probing.Store(false)
	if m.watch.Take(now, share()) {
		p.probe(now, m)
	}
}

// loopDue reports whether a probe for loops is due.
func (m *member) loopDue(now time.Time) bool {
	due := m.watch.Due()
	return !due.IsZero() && !due.After(now)
}

// end gives up what is under way: the sockets may be closed next.
func (p *loopProber) end() {
	for _, q := range p.takeAll() {
		q.round.timer.Stop()
		q.cancel()
	}
}

// takeAll returns the questions under way, after which there are no more.
func (p *loopProber) takeAll() map[loopguard.Nonce]*loopQuestion {
	p.mu.Lock()
	defer p.mu.Unlock()
	questions := p.open
	p.over, p.open = true, nil
	for r := range p.rounds {
		r.timer.Stop()
	}
	clear(p.rounds)
	p.turnLocked()
	return questions
}

// share is a random number from 0 to 1.
func share() float64 {
	var b [1]byte
	_, _ = rand.Read(b[:]) // never fails
	return float64(b[0]) / 256
}

// settle waits until the probes of an upstream ("": of all) that are due or have
// just been sent have had their verdict, at most for d.
func (p *loopProber) settle(ctx context.Context, d time.Duration, of string) {
	begin := time.Now()
	var timer *time.Timer
	for {
		turned, busy := p.busy(begin, d, of)
		if !busy {
			return
		}
		if timer == nil {
			timer = time.NewTimer(d)
			defer timer.Stop()
		}
		select {
		case <-turned:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// busy reports whether the verdict of a probe of an upstream may come within d of now.
func (p *loopProber) busy(now time.Time, d time.Duration, of string) (turned <-chan struct{}, busy bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for r := range p.rounds {
		busy = busy || now.Sub(r.at) < d && (of == "" || of == r.m.up.To())
	}
	for _, m := range p.members {
		if of == "" || of == m.up.To() {
			busy = busy || m.loopDue(now) || m.probing.Load() || m.wider.Load() // in this order
		}
	}
	return p.turned, busy && !p.over
}

// via names the upstreams by which a query may have come round.
func (p *loopProber) via() string {
	var certain, possible, all []string
	for _, m := range p.members {
		all = append(all, m.up.To())
		if m.up.State() == upstream.Looping {
			certain = append(certain, m.up.To())
		} else if m.stamped() {
			possible = append(possible, m.up.To())
		}
	}
	for _, to := range [][]string{certain, possible, all} {
		if len(to) > 0 {
			return strings.Join(to, " or ")
		}
	}
	return "no upstream" // it came with a stamp of its own group, and nobody is left
}

// stamped reports whether queries to the upstream carry a stamp: they go over no
// public network.
func (m *member) stamped() bool { return !publicAddr(m.endpoint.Addr.Addr()) }

// watchLoops begins to watch an upstream for loops, or goes on with what old,
// another directive's member for the same server, has found.
func (g *Guard) watchLoops(m, old *member) {
	now := time.Now()
	if g.loops == nil || len(g.loops.suffixes) == 0 {
		m.up.LoopEnded(now) // nobody else would ever say so
	}
	if g.loops == nil {
		return
	}
	every := g.cfg.Loop.Interval
	if !m.stamped() {
		every = 0
	}
	if old != nil && old.watch != nil {
		m.watch = old.watch
		m.watch.Every(every)
		return
	}
	m.watch = loopguard.NewWatch(now, every)
}

// doubt takes notice that an upstream has failed in a way that may be a loop.
func (g *Guard) doubt(m *member, k outcome.Kind) {
	p := g.pool.Load()
	if p == nil || p.loops == nil {
		return
	}
	switch {
	case k == outcome.Timeout:
		p.loops.suspect(time.Now(), m, loopguard.Silence)
	case m.stamped():
		p.loops.suspect(time.Now(), m, loopguard.Failure)
	}
}
