package observe

import (
	"time"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/zones"
)

// learn draws the conclusions about zones from the end of an attempt.
func (q *Query) learn(now time.Time, t *try, r exchange.Reply) {
	i, k := t.index(), r.Kind
	if usable(k) {
		q.failed &^= zones.Of(i)
	} else if !k.Blameless() {
		q.failed |= zones.Of(i)
	}
	if len(q.m.cfg.Upstreams) == 1 || !q.eligible.Has(i) {
		return // a guard would learn nothing, or not have asked
	}
	switch {
	case k == outcome.OK:
		q.answered(now, i)
	case k.Denied():
		q.denied(now, i, r)
	case k.Answered() && k != outcome.Truncated:
		q.refusedOrFailed(now, i, k)
	}
}

// answered: upstream i has data. Who denied or refused it was wrong.
func (q *Query) answered(now time.Time, i int) {
	m, name := q.m, q.question.Name
	l := m.memory.answer(now, q.question, i)
	refused := zones.Set(0)
	for _, f := range l.failures {
		if f.kind == outcome.Refused {
			refused |= zones.Of(f.index)
		}
	}
	switch {
	case l.absent|l.noData|refused != 0:
		m.table.Contradicted(now, zones.Dispute{Name: name, Type: q.question.Type, Winner: i, Absent: l.absent, NoData: l.noData, Refused: refused})
	case !q.view.Good.Has(i) || q.view.Refuses.Has(i) || q.view.Struck.Has(i):
		m.table.Positive(now, name, i)
	}
	q.excelled(now, i, l.failures)
}

// excelled: upstream i has a usable reply where others have failed, or where
// those that this client's query went to before gave none.
func (q *Query) excelled(now time.Time, i int, failures []failure) {
	for _, f := range failures {
		q.m.contradicted(now, q.question.Name, f.index, f.kind)
	}
	for k := range q.tries {
		t := &q.tries[k]
		silent := !t.kind.Answered() && !t.kind.Blameless() && t.took >= t.late
		if silent && t.index() != i && !t.attempt.Options.TCP {
			q.m.table.Failed(now, q.question.Name, t.index())
		}
	}
}

// contradicted: upstream i failed where another answered. Refusals are a
// matter of zones alone.
func (m *Model) contradicted(now time.Time, name string, i int, k outcome.Kind) {
	if k == outcome.Refused {
		return
	}
	if k == outcome.ServFail {
		m.table.Failed(now, name, i)
	}
	m.cfg.Upstreams[i].Contradicted(now, k)
}

// denied: upstream i denies the name or the type.
func (q *Query) denied(now time.Time, i int, r exchange.Reply) {
	m, name, noData := q.m, q.question.Name, r.Kind == outcome.NoData
	if q.filtered = dnsmsg.Filtered(r.Msg); q.filtered || m.cfg.Trust {
		return
	}
	soa := dnsmsg.SOA(r.Msg)
	q.denial = m.table.Denied(now, zones.Denial{Name: name, SOA: soa, By: i, NoData: noData})
	l := m.memory.denial(now, q.question, i, noData)
	if l.right {
		q.contradicted = true
		d := zones.Dispute{Name: name, Type: q.question.Type, Winner: l.answerer}
		if noData {
			d.NoData = zones.Of(i)
		} else {
			d.Absent = zones.Of(i)
		}
		m.table.Contradicted(now, d)
		return
	}
	q.excelled(now, i, l.failures)
	if !l.agreement {
		return
	}
	a := zones.Agreement{Name: name, SOA: soa, Absent: l.absent, NoData: l.noData, Refused: unable(l.failures)}
	if noData {
		a.NoData |= zones.Of(i)
	} else {
		a.Absent |= zones.Of(i)
	}
	m.table.Agreed(now, a)
}

// refusedOrFailed: upstream i replied with a failure.
func (q *Query) refusedOrFailed(now time.Time, i int, k outcome.Kind) {
	l := q.m.memory.failure(now, q.question, i, k)
	switch {
	case l.right && k == outcome.Refused:
		q.m.table.Contradicted(now, zones.Dispute{Name: q.question.Name, Type: q.question.Type, Winner: l.answerer, Refused: zones.Of(i)})
	case l.right:
		q.m.contradicted(now, q.question.Name, i, k)
	default:
		for _, f := range l.failures { // they are no better
			q.failed |= zones.Of(f.index)
		}
	}
}
