package dnsguard

import (
	"context"
	"time"

	"github.com/dnsguard/dnsguard/plugin/loopguard"
	"github.com/dnsguard/dnsguard/plugin/upstream"
)

// loopSilence is how long an upstream must have answered nothing of use where a
// hint is to count.
const loopSilence = 5 * time.Second

// judgeLocked draws the conclusion from a round, of which q is the newest: what
// is to be done without the lock; nil: nothing yet, or any more.
func (p *loopProber) judgeLocked(r *loopRound, q *loopQuestion) (act func()) {
	if r.left == 0 {
		r.timer.Stop()
	}
	if _, open := p.rounds[r]; !open {
		return nil
	}
	if q.back {
		r.back = r.back || !q.hint
		r.hint = r.hint || q.hint && !q.below
		r.partial = r.partial || q.below
		if r.wide && r.left > 0 {
			r.timer.Reset(loopHurry)
		}
	}
	if act = p.verdict(r); act != nil {
		delete(p.rounds, r)
	}
	return act
}

// verdict returns what is to be done about a round; nil: nothing yet.
func (p *loopProber) verdict(r *loopRound) (act func()) {
	switch {
	case r.wide && r.left > 0:
		return nil
	case r.someBack && r.someNot:
		return func() { p.divided(r) }
	case r.back && !r.wide && p.isLast(r.m):
		return func() { p.confirm(r.m) }
	case r.back, r.left == 0 && r.hint && !r.refuted && r.m.up.Stale(time.Now(), loopSilence):
		return func() { p.began(r.m) }
	case r.left == 0:
		return func() { p.clear(r) }
	}
	return nil
}

// conclude does what a round has come to, and wakes those who wait for that.
func (p *loopProber) conclude(act func()) {
	act()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turnLocked()
}

// turnLocked wakes those who wait for a verdict.
func (p *loopProber) turnLocked() {
	close(p.turned)
	p.turned = make(chan struct{})
}

// confirm asks the only upstream that a probe came back from several times more:
// behind its address there may be others, that lead out.
func (p *loopProber) confirm(m *member) {
	now := time.Now()
	m.returned.Store(&now)
	m.wider.Store(true)
	p.nudge()
}

// divided takes notice that some of a probe's questions came back and others did
// not: queries are sent on as often as they come back, up to a bound.
func (p *loopProber) divided(r *loopRound) {
	now, m := time.Now(), r.m
	d := division{from: now, last: now}
	if old := m.half.Load(); old.recent(now) {
		d.from = old.from
	}
	m.half.Store(&d)
	if d.counts(now) {
		p.l.warnDivided(now, m)
	}
	m.spared.Store(0)
	m.returned.Store(&now)
	m.watch.Divided(now, r.at)
	if looping, _ := m.watch.Looping(); !looping {
		m.up.LoopEnded(now)
	}
	p.suspect(now, m, loopguard.Returned) // until none come back
	p.nudge()
}

// division is when probes came back in part: first, and at last.
type division struct{ from, last time.Time }

// When a division counts: not at first, since a loop that begins or ends is in part for a moment, and for so long.
const (
	loopDividing = 800 * time.Millisecond
	loopDivided  = 10 * time.Second
)

func (d *division) recent(now time.Time) bool {
	return d != nil && now.Sub(d.last) < loopDivided
}

func (d *division) counts(now time.Time) bool {
	return d.recent(now) && d.last.Sub(d.from) >= loopDividing
}

// leadsOut reports whether a query that came back may well be answered where it
// is sent once more: there is no other upstream, and part of what is behind its
// address leads out. The probe that it gave a reason for tells in time.
func (p *loopProber) leadsOut(ctx context.Context) bool {
	for _, m := range p.members {
		if m.half.Load().recent(time.Now()) && m.stamped() && m.up.State() != upstream.Looping && p.isLast(m) {
			if p.waiting.Add(1) <= maxWaiting {
				p.settle(ctx, tellWait, m.up.To())
			}
			p.waiting.Add(-1)
			return p.isDivided(time.Now())
		}
	}
	return false
}

// maxWaiting is how many queries that came back may wait for a verdict at a time.
const maxWaiting = 1000

func (p *loopProber) isDivided(now time.Time) bool {
	for _, m := range p.members {
		if m.half.Load().counts(now) && m.stamped() && m.up.State() != upstream.Looping && p.isLast(m) {
			return true
		}
	}
	return false
}

// began takes an upstream out that a probe came back from.
func (p *loopProber) began(m *member) {
	now := time.Now()
	if p.spares(now, m) {
		m.spared.Add(1)
		m.returned.Store(&now)
		p.suspect(now, m, loopguard.Returned)
		return
	}
	if m.watch.CameBack(now) != loopguard.Begins && m.up.State() == upstream.Looping {
		return
	}
	m.half.Store(nil)
	m.spared.Store(0)
	m.link.counts.LoopDetected()
	m.up.Loops(now, p.l.path(m.endpoint))
	p.nudge()
}

// When the only upstream that is left stays in though probes come back.
const (
	loopUseful = 900 * time.Millisecond // it has given a client an answer of use so lately
	loopSpared = 3                      // and no more probes than these came back in a row: it may have answers from before the loop
)

// spares reports whether an upstream stays in for now though a probe has come
// back: there is no other, and it is of use. It may be an address behind which
// only some lead back. Those queries that do are cut one by one.
func (p *loopProber) spares(now time.Time, m *member) bool {
	looping, _ := m.watch.Looping()
	return !looping && m.spared.Load() < loopSpared && m.up.Useful(now, loopUseful) && p.isLast(m)
}

// isLast reports whether there is no other upstream that queries could go to.
func (p *loopProber) isLast(m *member) bool {
	for _, o := range p.members {
		if s := o.up.State(); o != m && (s == upstream.Unknown || s == upstream.Healthy || s == upstream.HalfOpen) {
			return false
		}
	}
	return true
}

// cameBack returns the upstreams that a probe has just come back from.
func (p *loopProber) cameBack(now time.Time) (to []string) {
	for _, m := range p.members {
		if at := m.returned.Load(); at != nil && now.Sub(*at) < 2*loopguard.Soon || m.up.State() == upstream.Looping {
			to = append(to, m.up.To())
		}
	}
	return to
}

// clear takes notice that a probe did not come back, or in part.
func (p *loopProber) clear(r *loopRound) {
	now, m := time.Now(), r.m
	m.spared.Store(0)
	switch {
	case r.partial && !m.half.Load().recent(now): // of a divided upstream only this one may have come back
		if known := m.partial.Load(); known.recent(now) {
			p.l.warnPartly(now, m, r.below)
		}
		m.partial.Store(&zoneLoop{name: r.below, at: now})
	case r.below != "":
		m.partial.Store(nil)
	}
	if r.seen && !r.refuted { // it came in here, but no answer came of it
		p.suspect(now, m, loopguard.Returned)
		return
	}
	m.watch.Ended(now, r.at, r.denied && p.isLast(m)) // the last one is put back at the first sign
	if looping, _ := m.watch.Looping(); !looping {
		m.up.LoopEnded(now) // if it has begun for this one
	}
	p.nudge()
}
