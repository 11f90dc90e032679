package forwarder

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/upstream"
	"github.com/dnsguard/dnsguard/plugin/zones"

	"github.com/miekg/dns"
)

// finish ends the walk with a reply.
func (w *walk) finish(a *upstream.Attempt, r exchange.Reply) bool {
	if w.hedged && a != w.tries[0] && w.stillOpen(w.tries[0]) {
		w.f.hedges.Refund()
		w.f.cfg.Observer.Hedge(HedgeWon)
	}
	w.answer = Answer{Msg: r.Msg, Kind: r.Kind, Upstream: a.Upstream.To(), Attempts: len(w.tries), Hedged: w.hedged}
	w.learnSpare(a, r.Kind)
	w.abandon(a, r.Kind)
	return true
}

// stillOpen reports whether the attempt has had no result.
func (w *walk) stillOpen(a *upstream.Attempt) bool {
	for _, b := range w.failed {
		if a == b {
			return false
		}
	}
	return !w.denied.Has(a.Index)
}

// abandon leaves the other attempts to themselves, and learns from the replies
// that they still get: an upstream that denies what has been answered, or
// answers what has been denied, or answers after all what seemed lost.
func (w *walk) abandon(by *upstream.Attempt, k outcome.Kind) {
	if w.pending == 0 {
		return
	}
	f, key := w.f, w.req.Key
	if k == outcome.OK && by != nil {
		w.noteLate(by)
	}
	var after func(*upstream.Attempt, exchange.Reply)
	if by != nil && len(f.cfg.Upstreams) > 1 && (k == outcome.OK || k.Denied()) {
		after = func(a *upstream.Attempt, r exchange.Reply) { f.afterthought(key, by, k, a, r) }
	}
	for _, a := range w.tries {
		if after == nil || a == by {
			a.Abandon(nil)
			continue
		}
		a.Abandon(func(r exchange.Reply) { after(a, r) })
	}
}

// noteLate records which upstreams were late where another has answered: an
// upstream may be silent about some zones alone.
func (w *walk) noteLate(by *upstream.Attempt) {
	if len(w.f.cfg.Upstreams) == 1 {
		return
	}
	now := time.Now()
	for _, a := range w.tries {
		if a.Index != by.Index && w.open(a.Index) && !now.Before(a.LateAt(a.Upstream.LateAfter())) && !a.Options.TCP {
			w.f.table.Failed(now, w.req.Key.Name, a.Index)
		}
	}
}

// afterthought learns from a reply that nobody waits for any more, after the
// reply k by another upstream has been passed on.
func (f *Forwarder) afterthought(key dnsmsg.Key, by *upstream.Attempt, k outcome.Kind, a *upstream.Attempt, r exchange.Reply) {
	now := time.Now()
	switch {
	case a.Index == by.Index:
	case k == outcome.OK:
		f.afterAnswer(now, key, by, a, r.Kind)
	case r.Kind != outcome.OK:
	case k == outcome.NoData && !address(key.Type):
		f.table.DisputedType()
	default:
		f.table.Disputed(now, key.Name, a.Index, zones.Of(by.Index), 0)
		f.cfg.Observer.Disputed()
	}
}

// afterAnswer learns from a reply that comes after another upstream's answer.
func (f *Forwarder) afterAnswer(now time.Time, key dnsmsg.Key, by, a *upstream.Attempt, k outcome.Kind) {
	switch {
	case k == outcome.OK:
		f.table.Positive(now, key.Name, a.Index)
	case k == outcome.NoData && !address(key.Type):
		f.table.DisputedType()
	case k.Denied():
		f.table.Disputed(now, key.Name, by.Index, zones.Of(a.Index), 0)
		f.cfg.Observer.Disputed()
	case k == outcome.Refused:
		f.table.Disputed(now, key.Name, by.Index, 0, zones.Of(a.Index))
	case k != outcome.Truncated:
		f.contradicted(now, key.Name, a, k)
	}
}

// passDenial passes the held denial on, unless it is known to be of an
// upstream that is wrong about the zone, and those who are right could not be
// heard: a false denial would be cached.
func (w *walk) passDenial(now time.Time) bool {
	h := w.held
	missing := h.verify &^ w.denied &^ w.refused
	if missing != 0 && !h.credible {
		return w.fail(outcome.Timeout, dnsmsg.EDE{
			Code: dns.ExtendedErrorCodeNoReachableAuthority,
			Text: fmt.Sprintf("%s denies the name, and is known to be wrong here; no reply from %s", h.by.Upstream.To(), w.names(missing)),
		})
	}
	w.learnOK(now, h.by)
	unable := w.unable()
	if by := w.denied | unable; missing&^unable&w.tried == 0 && by&(by-1) != 0 { // two at least, and none that was asked is missing
		w.f.table.Agreed(now, zones.Agreement{
			Name: w.req.Key.Name, SOA: dnsmsg.SOA(h.reply.Msg), Absent: w.denied &^ w.typed, NoData: w.typed, Refused: unable,
		})
	}
	return w.finish(h.by, h.reply)
}

// unable returns the upstreams that replied with REFUSED or SERVFAIL: they
// could have contradicted, and did not.
func (w *walk) unable() zones.Set {
	s := w.refused
	for i, a := range w.failed {
		if w.kinds[i] == outcome.ServFail {
			s |= zones.Of(a.Index)
		}
	}
	return s &^ w.denied
}

func (w *walk) names(s zones.Set) string {
	var b strings.Builder
	for i, u := range w.f.cfg.Upstreams {
		if s.Has(i) {
			if b.Len() > 0 {
				b.WriteString(", ")
			}
			b.WriteString(u.To())
		}
	}
	return b.String()
}

// giveUp ends the walk with the best there is: the reply of a trial, a denial
// that nobody could check, a truncated reply, an upstream's own failure, or SERVFAIL.
func (w *walk) giveUp(now time.Time) bool {
	if w.hasSpare() && w.useSpare(now) {
		return true
	}
	switch {
	case w.held.by != nil:
		return w.passDenial(now)
	case w.cut != nil:
		return w.finish(w.cut.by, w.cut.reply)
	case w.soft != nil && w.passesOn(w.soft.reply):
		over := w.finish(w.soft.by, w.soft.reply)
		if k := w.soft.reply.Kind; k != outcome.OK && !k.Denied() {
			w.answer.EDE = dnsmsg.EDE{Code: dns.ExtendedErrorCodeNoReachableAuthority, Text: w.why()}
			if w.allSaid(k) {
				w.f.recall.add(now, w.req.Key, w.answer)
			}
		}
		return over
	}
	kind := outcome.Timeout
	if len(w.kinds) > 0 {
		kind = w.kinds[len(w.kinds)-1]
	}
	code := dns.ExtendedErrorCodeNoReachableAuthority
	if w.soft == nil {
		code = dns.ExtendedErrorCodeNetworkError
	}
	return w.fail(kind, dnsmsg.EDE{Code: code, Text: w.why()})
}

// passesOn reports whether an upstream's own failure is what the client is
// told in the end: what all said; what the failover option had set aside;
// SERVFAIL or REFUSED where every upstream has been asked and none replied
// otherwise. That an upstream takes our query for malformed is not the client's
// affair.
func (w *walk) passesOn(r exchange.Reply) bool {
	if w.allSaid(r.Kind) || slices.Contains(w.f.cfg.Failover, r.Msg.Rcode) {
		return true
	}
	complete := w.pending == 0 && w.eligible&^w.tried == 0
	return complete && (r.Kind == outcome.ServFail || r.Kind == outcome.Refused)
}

// allSaid reports whether every upstream that was asked failed with k.
func (w *walk) allSaid(k outcome.Kind) bool {
	if w.pending > 0 || w.eligible&^w.tried != 0 {
		return false
	}
	for _, x := range w.kinds {
		if x != k {
			return false
		}
	}
	return true
}

// why tells what became of each attempt, for people.
func (w *walk) why() string {
	var b strings.Builder
	for _, a := range w.tries {
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		what := "no reply"
		for i, x := range w.failed {
			if x == a {
				what = w.kinds[i].String()
			}
		}
		fmt.Fprintf(&b, "%s: %s", a.Upstream.To(), what)
	}
	return b.String()
}

// whyDead tells why no upstream was asked.
func (f *Forwarder) whyDead() dnsmsg.EDE {
	var b strings.Builder
	for _, u := range f.cfg.Upstreams {
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		s := u.Snapshot()
		fmt.Fprintf(&b, "%s: %s (%s)", s.To, s.State, s.Reason)
	}
	return dnsmsg.EDE{Code: dns.ExtendedErrorCodeNetworkError, Text: b.String()}
}

// fail ends the walk without a reply.
func (w *walk) fail(k outcome.Kind, e dnsmsg.EDE) bool {
	w.answer = Answer{Kind: k, EDE: e, Attempts: len(w.tries), Hedged: w.hedged}
	w.abandon(nil, k)
	return true
}
