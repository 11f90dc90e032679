package upstream

import (
	"time"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// The changes from one state to another. All are made under Upstream.mu, and
// told after it has been let go.

// suspectLocked makes the upstream suspect, for the longer the more often that
// has happened of late.
func (u *Upstream) suspectLocked(t int64, reason string) *Change {
	h := &u.health
	for forgiven := (t - h.suspectAt) / int64(calmAfter); forgiven > 0 && h.flaps > 0; forgiven-- {
		h.flaps--
	}
	h.flaps = min(h.flaps+1, 8)
	h.suspectAt, h.until = t, t
	if h.flaps > 1 {
		h.until = t + int64(min(flapBase<<(h.flaps-2), flapMost))
	}
	return u.setLocked(t, Suspect, outcome.Timeout, reason)
}

// faultBlurs is for how long after a fault of this host silence may be its doing too.
const faultBlurs = 2 * time.Second

// faulted: a fault of this host ended an attempt.
func (u *Upstream) faulted(now time.Time) {
	t := u.since(now)
	u.record(func(h *health) *Change { h.faultAt = t; return nil })
}

// relapseLocked: an upstream on its way back failed again.
func (u *Upstream) relapseLocked(t int64, k outcome.Kind) *Change {
	blurred := k == outcome.Timeout && u.health.faultAt > 0 && t-u.health.faultAt < int64(faultBlurs)
	if u.cfg.Eject.Off || blurred {
		return u.setLocked(t, Suspect, k, "failed again: "+k.String())
	}
	return u.ejectLocked(t, k, "failed again after "+time.Duration(t-u.health.since).Round(time.Millisecond).String()+": "+k.String())
}

func (u *Upstream) ejectLocked(t int64, k outcome.Kind, reason string) *Change {
	h := &u.health
	for forgiven := (t - h.ejectEnd) / int64(forgetAfter); forgiven > 0 && h.ejections > 0; forgiven-- {
		h.ejections--
	}
	h.ejections++
	d := u.cfg.Eject.Base
	for range h.ejections - 1 {
		if d = 2 * d; d >= u.cfg.Eject.Max {
			d = u.cfg.Eject.Max
			break
		}
	}
	h.until, h.cause = t+int64(d), k
	h.ejectEnd = h.until
	u.replies.Store(k.Answered())
	c := u.setLocked(t, Ejected, k, reason)
	if c != nil {
		c.For = d
	}
	return c
}

// provenLocked: a query was answered.
func (u *Upstream) provenLocked(t int64) *Change {
	h := &u.health
	switch u.State() {
	case Unknown:
		return u.setLocked(t, Healthy, outcome.OK, "")
	case Suspect:
		if t >= h.until {
			return u.setLocked(t, Healthy, outcome.OK, "")
		}
	case Ejected:
		if t < h.until {
			return nil
		}
		h.proven, h.unproven = 1, 0
		return u.setLocked(t, HalfOpen, outcome.OK, "a query was answered")
	case HalfOpen:
		h.proven++
		if h.proven >= halfOpenNeeds {
			return u.setLocked(t, Healthy, outcome.OK, "")
		}
	case Healthy, Looping:
	}
	return nil
}

// probedLocked: a probe was answered. That shows that the upstream is there,
// not that it answers queries.
func (u *Upstream) probedLocked(t int64, k outcome.Kind) *Change {
	h := &u.health
	switch u.State() {
	case Suspect:
		if t < h.until {
			return nil
		}
	case Ejected:
		if t < h.until || k == h.cause {
			return nil
		}
	case Unknown, Healthy, HalfOpen, Looping:
		return nil
	}
	h.proven, h.unproven = 0, 0
	return u.setLocked(t, HalfOpen, outcome.OK, "a probe was answered")
}

func (u *Upstream) setLocked(t int64, s State, k outcome.Kind, reason string) *Change {
	h := &u.health
	was := u.State()
	if was == s {
		return nil
	}
	c := &Change{
		To: u.cfg.To, From: was, Now: s, Kind: k, Reason: reason,
		Lasted: time.Duration(t - h.since), Failures: h.fails,
	}
	if heard := u.heard.Load(); heard != 0 {
		c.Silence = time.Duration(t - heard)
	}
	h.since, h.reason = t, reason
	u.ripeAt.Store(h.until)
	u.state.Store(uint32(s))
	if s == Healthy {
		h.fails, h.silent = 0, 0
		h.old, h.cur = tally{}, tally{}
		if was != Unknown {
			u.est.forgive()
		}
	}
	return c
}

func (u *Upstream) tell(c *Change) {
	if c != nil {
		u.cfg.Observer.State(*c)
		if c.Now != Healthy && u.cfg.Wake != nil {
			u.cfg.Wake()
		}
	}
}

func (u *Upstream) tallyLocked(t int64, failed bool) {
	h := &u.health
	if d := t - h.rolled; d >= int64(window) {
		h.old, h.cur = h.cur, tally{}
		if d >= 2*int64(window) {
			h.old = tally{}
		}
		h.rolled = t
	}
	h.cur.attempts++
	if failed {
		h.cur.failed++
	}
}
