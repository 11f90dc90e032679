package forwarder

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
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
	w.answer = Answer{Msg: r.Msg, Kind: r.Kind, Upstream: a.Upstream.To(), Attempts: len(w.tries), Hedged: w.hedged, Steered: w.steered}
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
// that they have got at the same time, or still get: an upstream that denies
// what has been answered, or answers what has been denied, or answers after all
// what seemed lost.
func (w *walk) abandon(by *upstream.Attempt, k outcome.Kind) {
	watch := w.watch()
	if w.pending == 0 && !w.hasSpare() {
		if watch != nil {
			watch.Over()
		}
		return
	}
	if k == outcome.OK && by != nil {
		w.noteLate(by)
	}
	learn := w.lesson(by, k)
	w.learnNow(learn)
	after := learn
	if watch != nil {
		watch.Over()
		after = func(a *upstream.Attempt, r exchange.Reply) {
			watch.Late(a, r)
			if learn != nil {
				learn(a, r)
			}
		}
	}
	for _, a := range w.tries {
		if after == nil || a == by {
			a.Abandon(nil)
			continue
		}
		a.Abandon(func(r exchange.Reply) { after(a, r) })
	}
	for len(w.results) > 0 { // meanwhile
		if r := <-w.results; after != nil {
			after(r.Attempt, r.Reply)
		}
	}
}

// learnNow learns from the replies that there are: one that was put by and not
// needed, and those that have come meanwhile. learn may be nil.
func (w *walk) learnNow(learn func(a *upstream.Attempt, r exchange.Reply)) {
	if learn != nil && w.hasSpare() {
		learn(w.spare.Attempt, w.spare.Reply)
	}
	for ; len(w.results) > 0; w.pending-- {
		r := <-w.results
		if watch := w.watch(); watch != nil {
			watch.Ended(r.Attempt, r.Reply)
		}
		if learn != nil {
			learn(r.Attempt, r.Reply)
		}
	}
}

// lesson returns what is to be learned from replies that nobody waits for any
// more, after the reply k by another upstream has been passed on; nil: nothing.
func (w *walk) lesson(by *upstream.Attempt, k outcome.Kind) func(a *upstream.Attempt, r exchange.Reply) {
	if by == nil || len(w.f.cfg.Upstreams) < 2 || (k != outcome.OK && !k.Denied()) {
		return nil
	}
	after := &afterthought{f: w.f, key: w.req.Key, by: by, k: k}
	if k == outcome.OK {
		after.disputed.Store(uint64(w.denied)) // counted by win
	}
	return after.learn
}

// noteLate records which upstreams were late where another has answered: an
// upstream may be silent about some zones alone.
func (w *walk) noteLate(by *upstream.Attempt) {
	if len(w.f.cfg.Upstreams) == 1 {
		return
	}
	now := time.Now()
	for _, a := range w.tries {
		if a.Index != by.Index && a != w.spare.Attempt && w.open(a.Index) && !now.Before(a.LateAt(a.Upstream.LateAfter())) && !a.Options.TCP {
			w.f.table.Failed(now, w.req.Key.Name, a.Index)
		}
	}
}

// afterthought learns from the replies that nobody waits for any more, after
// the reply k of another upstream has been passed on.
type afterthought struct {
	f        *Forwarder
	key      dnsmsg.Key
	by       *upstream.Attempt // whose reply it was
	k        outcome.Kind
	disputed atomic.Uint64 // zones.Set of those whose denial has been counted
}

// learn takes the reply to attempt a.
func (t *afterthought) learn(a *upstream.Attempt, r exchange.Reply) {
	f, now := t.f, time.Now()
	r.Kind = f.meaning(a, r)
	switch {
	case a.Index == t.by.Index:
	case t.k == outcome.OK:
		t.afterAnswer(now, a, r.Kind)
	case r.Kind == outcome.OK:
		if f.table.Contradicted(now, t.dispute(a.Index, t.by.Index, t.k)) {
			t.count(t.by)
		}
	}
}

// dispute is one between an upstream that answered and another whose reply was k.
func (t *afterthought) dispute(winner, loser int, k outcome.Kind) zones.Dispute {
	d := zones.Dispute{Name: t.key.Name, Type: t.key.Type, Winner: winner}
	switch k {
	case outcome.NoData:
		d.NoData = zones.Of(loser)
	case outcome.Refused:
		d.Refused = zones.Of(loser)
	default:
		d.Absent = zones.Of(loser)
	}
	return d
}

// afterAnswer learns from a reply that comes after another upstream's answer.
func (t *afterthought) afterAnswer(now time.Time, a *upstream.Attempt, k outcome.Kind) {
	f, name := t.f, t.key.Name
	switch {
	case k == outcome.OK:
		f.table.Positive(now, name, a.Index)
	case k.Denied(), k == outcome.Refused:
		if f.table.Contradicted(now, t.dispute(t.by.Index, a.Index, k)) {
			t.count(a)
		}
	case k != outcome.Truncated:
		f.contradicted(now, name, a, k)
	}
}

// count counts a denial as disputed, once however often either side was asked.
func (t *afterthought) count(a *upstream.Attempt) {
	if bit := uint64(zones.Of(a.Index)); t.disputed.Or(bit)&bit == 0 {
		t.f.cfg.Observer.Disputed(a.Upstream.To())
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
			if w.allSaid(k) && k != outcome.Loop { // which may be over any moment
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
// affair, and complaints about EDNS or cookies are about our hop alone.
func (w *walk) passesOn(r exchange.Reply) bool {
	if r.Kind == outcome.BadVers || r.Kind == outcome.BadCookie {
		return false
	}
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
	w.answer = Answer{Kind: k, EDE: e, Attempts: len(w.tries), Hedged: w.hedged, Steered: w.steered}
	w.abandon(nil, k)
	return true
}
