package upstream

import (
	"slices"
	"time"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// Loops says that what is sent to the upstream comes back to those who sent it.
// Attempts under way end with outcome.Loop, and so do all further ones, without
// being sent, until LoopEnded. reason is for people.
func (u *Upstream) Loops(now time.Time, reason string) {
	u.tell(u.record(func(*health) *Change {
		if u.closed {
			return nil
		}
		return u.setLocked(u.since(now), Looping, outcome.Loop, reason)
	}))
	if u.State() == Looping {
		u.cut()
	}
}

// cut ends the attempts under way. They leave the list as all that have ended do.
func (u *Upstream) cut() {
	u.giveUp(u.mayEnd(), outcome.Loop)
}

// mayEnd returns those under way that a loop ends.
func (u *Upstream) mayEnd() (open []*Attempt) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, a := range append(slices.Clone(u.watched.fresh), u.watched.late...) {
		if !a.Anyway {
			open = append(open, a)
		}
	}
	return open
}

// Waits reports whether a client's query that was sent to it d ago or more, and
// within its time, has had no reply.
func (u *Upstream) Waits(now time.Time, d time.Duration) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, list := range [][]*Attempt{u.watched.fresh, u.watched.late} {
		for _, a := range list {
			if !a.Probe && !a.Anyway && now.Sub(a.SentAt) >= d && a.unanswered() {
				return true
			}
		}
	}
	return false
}

func (a *Attempt) unanswered() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stage == pending || a.stage == overdue
}

// LoopEnded says that what is sent to the upstream does not come back any
// more. It is shown a few queries, as one that was ejected.
func (u *Upstream) LoopEnded(now time.Time) {
	t := u.since(now)
	u.tell(u.record(func(h *health) *Change {
		if u.State() != Looping {
			return nil
		}
		h.fails, h.silent, h.probes, h.proven, h.unproven, h.until = 0, 0, 0, 0, 0, t
		h.old, h.cur = tally{}, tally{}
		return u.setLocked(t, HalfOpen, outcome.OK, "queries to it came back, and do so no more")
	}))
}

// doubt tells of a failure that may be a loop.
func (u *Upstream) doubt(k outcome.Kind) {
	if u.cfg.Doubt != nil {
		u.cfg.Doubt(k)
	}
}
