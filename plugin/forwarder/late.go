package forwarder

import (
	"time"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/selector"
)

// Patience.
const (
	forceAfter   = 220 * time.Millisecond  // later than usual by this: the next attempt needs no budget
	LongAfter    = 200 * time.Millisecond  // since the query came, and a usual reply: all that is left is tried at once
	faultCosts   = 250 * time.Millisecond  // what a fault may cost, beside the time of a good upstream
	verifyShort  = 200 * time.Millisecond  // for a verifier that gives no sign of life
	verifyLong   = 1500 * time.Millisecond // for one that does
	failingAfter = 50 * time.Millisecond   // before an upstream that is suspect is asked as well
	lossy        = 0.1                     // share of attempts without a timely reply
	localPause   = 20 * time.Millisecond   // after a fault of this host, doubling
	localPauses  = 3                       // so often
)

// Next implements race.Contest.
func (w *walk) Next() time.Time {
	next := w.deadline
	if lost := w.lostAt(); !w.lived && lost.Before(next) {
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
	if !w.lived && !now.Before(w.lostAt()) {
		if w.lived = w.lifeSeen(); !w.lived {
			return w.giveUp(now)
		}
	}
	if !w.checkAt.IsZero() && !now.Before(w.checkAt) {
		return w.checkVerifiers(now)
	}
	if !w.lateAt.IsZero() && !now.Before(w.lateAt) {
		return w.late(now)
	}
	return false
}

// lostAt is when the query is given up unless there is a sign of life: later
// than usual where the upstreams are known to be slow.
func (w *walk) lostAt() time.Time {
	wait := w.f.cfg.Lost
	for _, a := range w.tries {
		wait = max(wait, a.Upstream.LateAfter())
	}
	return w.start.Add(wait)
}

// lifeSeen reports whether any upstream that was asked has replied to
// anything when it was late already: then it is slow, not silent.
func (w *walk) lifeSeen() bool {
	since := w.start.Add(w.f.cfg.Lost / 4)
	for _, a := range w.tries {
		if w.tcp && !a.Upstream.HeardStream(since) {
			continue
		}
		if a.Upstream.Heard(since) {
			return true
		}
	}
	return false
}

// late makes the next attempt: the ones under way are late.
func (w *walk) late(now time.Time) (over bool) {
	w.cause = Hedge
	if at := w.patientUntil(); at.After(now) && w.last.Patience() > 0 { // it had to wait for a connection
		w.lateAt = at
		return false
	}
	switch {
	case w.hasSpare():
		return w.useSpare(now)
	case w.held.by != nil:
		w.lateVerifier(now)
	case w.pending == 0: // the pause after a fault of this host is over
		w.cause = Retry
		w.resume(now)
	case w.spent():
		w.lateAt = time.Time{}
	default:
		w.hedge(now)
	}
	return false
}

// hedge makes the next attempt, if the budget or the time that has gone by allow it.
func (w *walk) hedge(now time.Time) {
	sent := w.last.SentAt
	forced := sent.Add(w.last.Usual() + forceAfter)
	if long := w.longAt(); long.Before(forced) && (long.After(sent) || w.hasUntried(selector.Failing, -1)) {
		forced = long // attempts in between do not begin the wait anew
	}
	if now.Before(forced) && !w.f.hedges.Take() {
		w.f.cfg.Observer.Hedge(HedgeDenied)
		w.lateAt = forced
		return
	}
	w.f.cfg.Observer.Hedge(HedgeSent)
	w.hedged = true
	if w.waitedLong(now) { // no more time for one after another
		for w.hasUntried(selector.Failing, -1) && w.f.rescues.Take() && w.launchNext(now) {
		}
	}
	if w.launchUntried(now) {
		return
	}
	w.resend(now)
}

// resume asks again after a fault of this host: in turn by UDP, since it may
// have been a matter of a moment, and by TCP, since connections that are open
// work where nothing else gets out.
func (w *walk) resume(now time.Time) {
	c := w.order[(w.paused-1)%w.fits()]
	u := w.up(c.Index)
	tcp := w.paused%2 == 0 && u.Transport() == "dns" && !u.TCPDown(now)
	w.launch(now, c.Index, exchange.Options{TCP: tcp}) // there was room before the pause
}

// patientUntil is when the last attempt is late, counted from when it went out.
// Connecting is granted no more than a fault may cost.
func (w *walk) patientUntil() time.Time {
	at, long := w.last.LateAt(w.lateIn), w.longAt()
	if at.After(long) && w.hasUntried(selector.Failing, -1) {
		return long
	}
	return at
}

// longWait is how long a query may wait before a fault has cost all it may: for
// a usual reply of the first upstream, and LongAfter; but no longer than
// faultCosts where another that can be asked is nearer.
func (w *walk) longWait() time.Duration {
	wait := w.up(w.order[0].Index).SRTT() + LongAfter
	if wait <= faultCosts {
		return wait
	}
	for _, c := range w.order[1:] {
		if rtt := w.up(c.Index).SRTT(); rtt > 0 && c.Rank < selector.Failing {
			wait = min(wait, max(rtt+LongAfter, faultCosts))
		}
	}
	return wait
}

// longAt is when the query has waited for as long as a fault may cost: later
// where the first attempt had to wait for a connection to an upstream whose
// distance is known, unless another is nearer by far.
func (w *walk) longAt() time.Time {
	rtt := w.tries[0].Upstream.SRTT()
	nearer := rtt+LongAfter > faultCosts && w.long.Sub(w.start) <= faultCosts
	if rtt == 0 || nearer {
		return w.long
	}
	return w.long.Add(w.tries[0].Patience())
}

// waitedLong reports whether that is now, and somebody is left to be asked.
func (w *walk) waitedLong(now time.Time) bool {
	return !now.Before(w.longAt()) && w.hasUntried(selector.Failing, -1)
}

// hasUntried reports whether an upstream of at most that rank has not been
// asked, besides one.
func (w *walk) hasUntried(most selector.Rank, besides int) bool {
	for _, c := range w.order {
		if !w.tried.Has(c.Index) && c.Index != besides {
			return c.Rank <= most
		}
	}
	return false
}

// launchUntried asks the next upstream that has not been asked, those that
// have failed of late only when there has been some waiting.
func (w *walk) launchUntried(now time.Time) bool {
	switch {
	case w.hasUntried(selector.Unfit, -1):
	case w.hasUntried(selector.Out, -1) && now.Sub(w.start) >= failingAfter && w.resent > 0:
	default:
		return false
	}
	return w.launchNext(now)
}

// resend asks an upstream again, the fittest first, in another way than
// before: from a new port; without EDNS, which some servers and firewalls
// leave unanswered; by TCP, which gets through where datagrams are lost.
func (w *walk) resend(now time.Time) {
	c := w.order[w.resent%w.fits()]
	u := w.up(c.Index)
	opt := exchange.Options{Fresh: true, NoEDNS: w.resent == 0 && !w.req.Key.DO}
	if u.Transport() == "dns" && !u.TCPDown(now) && (len(w.order) > 1 || w.resent > 0) && !w.connecting(c.Index) {
		opt.TCP, opt.Fresh = true, false
	}
	if !w.launch(now, c.Index, opt) {
		w.lateAt = time.Time{}
	}
}

// connecting reports whether an attempt waits for a connection to upstream i:
// another by TCP would wait for the same one.
func (w *walk) connecting(i int) bool {
	for _, a := range w.tries {
		if a.Index == i && a.Options.TCP && a.Waiting() {
			return true
		}
	}
	return false
}

// fits counts the upstreams of the best rank in the order, at least one.
func (w *walk) fits() int {
	n := 1
	for n < len(w.order) && w.order[n].Rank == w.order[0].Rank {
		n++
	}
	return n
}

// lateVerifier asks late verifiers again, since a packet may be lost, and for a
// sign of life: by TCP where packets do get lost, which resends, and where the
// denial is no use without them, so that one further attempt is enough. Else
// the upstream is slow, and connecting would take longer still.
func (w *walk) lateVerifier(now time.Time) {
	w.lateAt = time.Time{}
	for _, set := range w.verifiers(now) {
		for i := range w.f.cfg.Upstreams {
			if set.Has(i) && w.open(i) {
				w.askAgain(now, i)
			}
		}
	}
}

func (w *walk) askAgain(now time.Time, i int) {
	u := w.up(i)
	u.AskProbe()
	lost := !w.held.credible || w.triesOf(i) > 1 || u.Loss() >= lossy
	tcp := lost && u.Transport() == "dns" && !u.TCPDown(now) && !w.connecting(i)
	if w.launch(now, i, exchange.Options{TCP: tcp, Fresh: !tcp}) {
		w.f.cfg.Observer.Hedge(HedgeSent)
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
		if w.held.verify.Has(a.Index) && w.open(a.Index) && a.Upstream.HeardSame(a) {
			alive = true
		}
	}
	if !alive && w.held.credible {
		return w.passDenial(now)
	}
	w.checkAt = w.held.at.Add(verifyLong)
	return false
}
