package observe

import (
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/selector"
	"github.com/dnsguard/dnsguard/plugin/zones"
)

// End says that the client has got what the last attempt came to, or that it
// has gone away, and returns the verdict.
func (q *Query) End(gone bool) Finding {
	if len(q.tries) == 0 {
		if gone {
			return Finding{Verdict: Cancelled, By: -1}
		}
		return Finding{Verdict: Hopeless, By: -1}
	}
	last := &q.tries[len(q.tries)-1]
	switch {
	case gone || last.kind == outcome.Cancelled:
		return last.finding(Cancelled)
	case q.eligible == 0:
		return last.finding(NotForwarded)
	case last.kind == outcome.Local:
		return Finding{Verdict: Hopeless, By: -1, Kind: last.kind}
	case !usable(last.kind):
		if q.hasBetter() {
			return last.finding(Retried)
		}
		return last.finding(Hopeless)
	}
	if last.kind.Denied() && q.disputed(last.index(), last.kind) {
		return last.finding(Disputed)
	}
	if t := q.late(); t != nil {
		return t.finding(Hedged)
	}
	if last.kind.Denied() && q.verifies(last.index()) {
		return last.finding(Verified)
	}
	if first := &q.tries[0]; !selector.Leads(q.m.cfg.Policy, q.pool, first.index()) {
		return first.finding(OtherUpstream)
	}
	return last.finding(Same)
}

func (t *try) finding(v Verdict) Finding {
	return Finding{Verdict: v, By: t.index(), Kind: t.kind}
}

// usable reports whether a client can use a reply. What is truncated it asks
// for again.
func usable(k outcome.Kind) bool { return k == outcome.OK || k.Denied() || k == outcome.Truncated }

// hasBetter reports whether an upstream is left that is fit for the query, and
// is not known to fail it as well.
func (q *Query) hasBetter() bool {
	for _, c := range q.pool {
		if c.Rank <= selector.Sole && !q.failed.Has(c.Index) {
			return true
		}
	}
	return false
}

// disputed reports whether a guard would not have taken upstream i's word: it
// may not be asked for the name; another has answered it; it was wrong in the
// zone before, or in most zones, and others may know better.
func (q *Query) disputed(i int, k outcome.Kind) bool {
	v := &q.view
	switch {
	case q.m.cfg.Trust || q.filtered:
		return false
	case !q.eligible.Has(i), q.contradicted:
		return true
	case k == outcome.NXDomain && v.Name != 0 && !v.Name.Has(i):
		return true
	}
	return (v.Bad.Has(i) || v.Poor.Has(i) && !v.Good.Has(i)) && q.unheard() != 0
}

// verifies reports whether a guard would have asked others before it passed
// the denial of upstream i on.
func (q *Query) verifies(i int) bool {
	if q.m.cfg.Trust || q.filtered || len(q.m.cfg.Upstreams) == 1 {
		return false
	}
	for j, u := range q.m.cfg.Upstreams {
		if j != i && q.unheard().Has(j) && !u.Silent() {
			return true
		}
	}
	return false
}

// unheard are the upstreams that might contradict the denial, and have not
// been asked for this client.
func (q *Query) unheard() zones.Set { return q.denial.Verify & q.eligible &^ q.failed }

// late returns the first attempt that a guard would not have waited for alone;
// nil: there is none.
func (q *Query) late() *try {
	for i := range q.tries {
		t := &q.tries[i]
		if t.took >= t.forced || t.took >= t.late && q.m.hedges.Take() {
			return t
		}
	}
	return nil
}
