package forwarder

import (
	"time"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/selector"
)

// Patience.
const (
	forceAfter   = 220 * time.Millisecond  // later than usual by this: the next attempt needs no budget
	verifyShort  = 200 * time.Millisecond  // for a verifier that gives no sign of life
	verifyLong   = 1500 * time.Millisecond // for one that does
	failingAfter = 50 * time.Millisecond   // before an upstream that is suspect is asked as well
)

// Next implements race.Contest.
func (w *walk) Next() time.Time {
	next := w.deadline
	if lost := w.start.Add(lostWait); lost.Before(next) && !w.lifeSeen() {
		next = lost
	}
	if !w.lateAt.IsZero() && w.lateAt.Before(next) {
		next = w.lateAt
	}
	if !w.checkAt.IsZero() && w.checkAt.Before(next) {
		next = w.checkAt
	}
	return next
}

// Due implements race.Contest.
func (w *walk) Due(now time.Time) bool {
	if !now.Before(w.deadline) {
		return w.giveUp(now)
	}
	if !now.Before(w.start.Add(lostWait)) && !w.lifeSeen() {
		return w.giveUp(now)
	}
	if !w.checkAt.IsZero() && !now.Before(w.checkAt) {
		return w.checkVerifiers(now)
	}
	if !w.lateAt.IsZero() && !now.Before(w.lateAt) {
		w.late(now)
	}
	return false
}

// lifeSeen reports whether any upstream that was asked has replied to
// anything since: then it is slow, not silent.
func (w *walk) lifeSeen() bool {
	for _, a := range w.tries {
		if a.Upstream.Heard(w.start) {
			return true
		}
	}
	return false
}

// late makes the next attempt: the ones under way are late.
func (w *walk) late(now time.Time) {
	if w.held.by != nil {
		w.lateVerifier(now)
		return
	}
	if len(w.tries) >= w.f.most {
		w.lateAt = time.Time{}
		return
	}
	forced := w.lastSent.Add(w.usual() + forceAfter)
	if w.waitedLong(now) {
		forced = now
	}
	if now.Before(forced) && !w.f.hedges.Take() {
		w.f.cfg.Observer.Hedge(HedgeDenied)
		w.lateAt = forced
		return
	}
	w.f.cfg.Observer.Hedge(HedgeSent)
	w.hedged = true
	if w.waitedLong(now) { // no more time for one after another
		for w.hasUntried(selector.Failing) && w.launchNext(now) {
		}
	}
	if w.launchUntried(now) {
		return
	}
	w.resend(now)
}

// usual is the round trip of the upstream asked last.
func (w *walk) usual() time.Duration {
	return w.tries[len(w.tries)-1].Upstream.SRTT()
}

// waitedLong reports whether the query has waited for longer than a fault may cost.
func (w *walk) waitedLong(now time.Time) bool {
	return now.Sub(w.start) >= w.up(w.order[0].Index).SRTT()+forceAfter-20*time.Millisecond && w.hasUntried(selector.Failing)
}

func (w *walk) hasUntried(most selector.Rank) bool {
	for _, c := range w.order {
		if !w.tried.Has(c.Index) {
			return c.Rank <= most
		}
	}
	return false
}

// launchUntried asks the next upstream that has not been asked, those that
// have failed of late only when there has been some waiting.
func (w *walk) launchUntried(now time.Time) bool {
	switch {
	case w.hasUntried(selector.Unfit):
	case w.hasUntried(selector.Out) && now.Sub(w.start) >= failingAfter && w.resent > 0:
	default:
		return false
	}
	return w.launchNext(now)
}

// resend asks an upstream again: the fittest first, each from a new port; the
// last by TCP, which may get through where UDP does not.
func (w *walk) resend(now time.Time) {
	c := w.order[w.resent%w.fits()]
	u := w.up(c.Index)
	opt := exchange.Options{Fresh: true, NoEDNS: u.TryPlain() && !w.req.Key.DO && w.resent%2 == 0}
	if u.Transport() == "dns" && len(w.tries) == w.f.most-1 {
		opt.TCP = true
	}
	if !w.launch(now, c.Index, opt) {
		w.lateAt = time.Time{}
	}
}

// fits counts the upstreams of the best rank in the order, at least one.
func (w *walk) fits() int {
	n := 1
	for n < len(w.order) && w.order[n].Rank == w.order[0].Rank {
		n++
	}
	return n
}

// lateVerifier asks a late verifier again, once, and for a sign of life.
func (w *walk) lateVerifier(now time.Time) {
	w.lateAt = time.Time{}
	for i := range w.f.cfg.Upstreams {
		if !w.held.verify.Has(i) || !w.open(i) {
			continue
		}
		w.up(i).AskProbe()
		if w.resent == 0 && w.f.hedges.Take() {
			w.f.cfg.Observer.Hedge(HedgeSent)
			w.launch(now, i, exchange.Options{Fresh: true})
			w.lateAt = time.Time{}
		}
	}
}

// open reports whether upstream i has been asked and has not answered.
func (w *walk) open(i int) bool {
	return w.tried.Has(i) && !w.denied.Has(i) && !w.refused.Has(i) && !w.hasFailed(i)
}

// checkVerifiers ends the wait for verifiers that give no sign of life.
func (w *walk) checkVerifiers(now time.Time) bool {
	w.checkAt = time.Time{}
	if now.Sub(w.held.at) >= verifyLong {
		return w.passDenial(now)
	}
	alive := false
	for _, a := range w.tries {
		if w.held.verify.Has(a.Index) && w.open(a.Index) && a.Upstream.Heard(a.SentAt) {
			alive = true
		}
	}
	if !alive {
		return w.passDenial(now)
	}
	w.checkAt = w.held.at.Add(verifyLong)
	return false
}
