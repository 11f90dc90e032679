package upstream

import (
	"time"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// watchList holds the attempts under way. Those that have ended are dropped
// when a sweep meets them. Attempts that are not overdue yet are looked at
// often; the others, which may be many while an upstream is silent, seldom.
type watchList struct {
	fresh []*Attempt
	late  []*Attempt
	len   int // attempts that have not ended
	timer *time.Timer
	at    int64 // when the timer fires; 0: it is not set
	lateT int64 // when the late ones are looked at again
}

// How finely time is told to attempts under way.
const (
	sweepFresh = 10 * time.Millisecond
	sweepLate  = 100 * time.Millisecond

	// heldUp is how late a sweep shows that this process did not run, for want
	// of CPU time: replies that came in time wait to be read then.
	heldUp = 5 * time.Millisecond
)

// watch begins to watch an attempt, unless the Upstream is closed.
func (u *Upstream) watch(a *Attempt, t int64) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !a.Probe {
		u.recent.add(t)
	}
	w := &u.watched
	w.len++
	if u.closed {
		return false
	}
	w.fresh = append(w.fresh, a)
	if w.at == 0 || a.overdueAt < w.at {
		u.armLocked(t, a.overdueAt)
	}
	return true
}

func (u *Upstream) armLocked(t, at int64) {
	w := &u.watched
	w.at = max(at, t+int64(sweepFresh))
	d := time.Duration(w.at - t)
	if w.timer == nil {
		w.timer = u.cfg.Recoverer.AfterFunc(d, "the watch over attempts", u.sweep)
		return
	}
	w.timer.Reset(d)
}

func (u *Upstream) unwatch() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.watched.len--
}

// sweep tells time to the attempts under way.
func (u *Upstream) sweep() {
	now := time.Now()
	fresh, late := u.takeWatched(u.since(now))
	next := int64(0)
	stillFresh, becameLate := u.age(now, fresh, fresh[:0], nil, &next)
	_, stillLate := u.age(now, late, nil, late[:0], nil)
	u.giveUp(u.watchOn(u.since(now), stillFresh, append(stillLate, becameLate...), next), u.lost())
	if u.State() == Looping {
		u.cut() // those that Loops did not find
	}
}

// takeWatched returns the attempts that are to be told the time.
func (u *Upstream) takeWatched(t int64) (fresh, late []*Attempt) {
	u.mu.Lock()
	defer u.mu.Unlock()
	w := &u.watched
	fresh, w.fresh = w.fresh, nil
	if held := t - w.at; w.at != 0 && held > int64(heldUp) {
		for _, a := range fresh {
			a.overdueAt = min(a.overdueAt+held, a.giveUpAt) // that time does not count
		}
	}
	w.at = 0
	if t >= w.lateT {
		late, w.late = w.late, nil
		w.lateT = t + int64(sweepLate)
	}
	return fresh, late
}

// watchOn puts back those that have not ended, or returns them where the
// Upstream was closed meanwhile. next is when the first of fresh is overdue; 0:
// there is none.
func (u *Upstream) watchOn(t int64, fresh, late []*Attempt, next int64) (open []*Attempt) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return append(fresh, late...)
	}
	w := &u.watched
	if n := len(w.fresh); n > 0 {
		if at := w.fresh[0].overdueAt; next == 0 || at < next {
			next = at
		}
	}
	w.fresh = append(fresh, w.fresh...)
	w.late = append(late, w.late...)
	if len(w.late) > 0 && (next == 0 || w.lateT < next) {
		next = w.lateT
	}
	if next != 0 {
		u.armLocked(t, next)
	}
	return nil
}

// age moves attempts on, and appends those that are pending still to fresh,
// the other ones that have not ended to late. next, where it is not nil,
// becomes the earliest instant at which a pending one is overdue.
func (u *Upstream) age(now time.Time, as, fresh, late []*Attempt, next *int64) (stillFresh, stillLate []*Attempt) {
	linger := int64(u.cfg.Linger - u.cfg.ReadTimeout)
	for _, a := range as {
		switch u.ageOne(now, a, linger) {
		case ended:
		case pending:
			fresh = append(fresh, a)
			if next != nil && (*next == 0 || a.overdueAt < *next) {
				*next = a.overdueAt
			}
		default:
			late = append(late, a)
		}
	}
	clear(as[min(len(fresh)+len(late), len(as)):])
	return fresh, late
}

// ageOne moves one attempt on. One that makes it panic is watched no more.
func (u *Upstream) ageOne(now time.Time, a *Attempt, linger int64) (s stage) {
	defer u.cfg.Recoverer.Recover("the watch over an attempt", func() { s = ended })
	s, changed := a.age(u.since(now), linger)
	if changed {
		u.aged(now, a, s)
	}
	return s
}

// aged takes into the record that an attempt has got older.
func (u *Upstream) aged(now time.Time, a *Attempt, became stage) {
	switch became {
	case overdue:
		u.missed(now, a)
	case timedOut:
		u.cfg.Observer.Attempt(End{Kind: outcome.Timeout, Proto: a.proto(), Rcode: -1, Probe: a.Probe})
		switch {
		case a.Probe, a.optionalTCP(): // counted when they were overdue
		case u.reply.Load() <= u.since(a.SentAt):
			u.failed(now, outcome.Timeout, false)
		}
	case ended:
		u.unwatch()
		a.tell(exchange.Reply{Kind: outcome.Timeout, Proto: a.proto()})
	}
}

// proto guesses what carries an attempt that has no reply.
func (a *Attempt) proto() exchange.Proto {
	switch a.Upstream.cfg.Transport {
	case "tls":
		return exchange.TLS
	case "https":
		return exchange.HTTPS
	case "quic":
		return exchange.QUIC
	}
	if a.Options.TCP {
		return exchange.TCP
	}
	return exchange.UDP
}
