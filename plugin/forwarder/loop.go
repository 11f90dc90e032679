package forwarder

import (
	"encoding/binary"
	"slices"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/loopguard"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/selector"
	"github.com/dnsguard/dnsguard/plugin/upstream"
	"github.com/dnsguard/dnsguard/plugin/zones"
)

// Loops: the stamp on queries, by which a server knows those that come back;
// and the upstreams that are known to send them back, which are not asked.

// Stamps says which queries carry a stamp. The zero value: none.
type Stamps struct {
	// To are the upstreams, by their indices, whose queries carry one.
	To zones.Set
	// Append appends the option to buf, for a query with this question section that has come with the stamp s.
	Append func(buf []byte, s loopguard.Stamp, question []byte) []byte
	// Again is told that a question came in while it was asked some of these upstreams, and they had not replied. May be nil.
	Again func(of zones.Set)
}

// queryFor returns what is sent to upstream i.
func (w *walk) queryFor(i int) *exchange.Query {
	if !w.f.cfg.Stamps.To.Has(i) {
		return w.query
	}
	if w.stamped == nil {
		w.stamped = w.f.stamp(w.query, w.req)
	}
	return w.stamped
}

// stampedQuery is a query with room for a stamp.
type stampedQuery struct {
	exchange.Query
	room [120]byte // enough for most, and all of it is of a size that the allocator has
}

// stamp returns the query with a stamp.
func (f *Forwarder) stamp(q *exchange.Query, r *Request) *exchange.Query {
	out := &stampedQuery{Query: *q}
	out.Wire = append(out.room[:0], q.Wire...)
	f.stampIt(&out.Query, r)
	return &out.Query
}

// stampIt puts a stamp on a query that nobody has been sent yet: an option behind
// those that are in its OPT record, which ends the message.
func (f *Forwarder) stampIt(q *exchange.Query, r *Request) {
	const header, optLen = 12, 11
	end := q.QuestionEnd
	q.Wire = f.cfg.Stamps.Append(q.Wire, r.Stamp, q.Wire[header:end])
	q.Wire = append(q.Wire, r.Foreign...)
	binary.BigEndian.PutUint16(q.Wire[end+optLen-2:], uint16(len(q.Wire)-end-optLen))
}

// pack packs what is sent.
func (w *walk) pack(r *Request) (err error) {
	f := w.f
	if f.all == 0 || f.cfg.Stamps.To != f.all {
		w.query, err = newQuery(r)
		return err
	}
	q := &stampedQuery{}
	if err = pack(&q.Query, q.room[:0], r); err == nil {
		f.stampIt(&q.Query, r)
	}
	w.query, w.stamped = &q.Query, &q.Query
	return err
}

// leaveOutLoops takes the upstreams out of the order that queries come back
// from. They are the last in it.
func (w *walk) leaveOutLoops() {
	n := len(w.order)
	for n > 0 && w.order[n-1].Rank == selector.Loop {
		n--
		w.eligible &^= zones.Of(w.order[n].Index)
	}
	w.order = w.order[:n]
}

// confine leaves in the order, for another server's probe, the upstreams that
// are not public: names that nobody has are no load for others. It reports
// whether it goes on at all: where queries go to a public one, it would say
// that they come back by others.
func (w *walk) confine() (goesOn bool) {
	private := w.f.cfg.Stamps.To
	if !private.Has(w.order[0].Index) {
		return false
	}
	w.eligible &= private
	w.order = slices.DeleteFunc(w.order, func(c selector.Candidate) bool { return !private.Has(c.Index) })
	return true
}

// withhold ends the walk of a probe that goes on to nobody.
func (w *walk) withhold() bool {
	w.fail(outcome.NXDomain, dnsmsg.EDE{})
	w.answer.Withheld = true
	return true
}

// whyLoops tells why no upstream was asked.
func (w *walk) whyLoops() dnsmsg.EDE {
	var via zones.Set
	for _, c := range w.order {
		via |= zones.Of(c.Index)
	}
	return dnsmsg.Loop(w.names(via))
}

// meaning is what a reply says. Where it says itself that the query came round,
// that is no failure of the upstream; and no proof of a loop either.
func (f *Forwarder) meaning(a *upstream.Attempt, r exchange.Reply) outcome.Kind {
	if r.Kind == outcome.ServFail && f.cfg.Stamps.To.Has(a.Index) && dnsmsg.TellsOfLoop(r.Msg) {
		return outcome.Loop
	}
	return r.Kind
}
