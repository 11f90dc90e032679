package observe

import (
	"time"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/selector"
	"github.com/dnsguard/dnsguard/plugin/upstream"
	"github.com/dnsguard/dnsguard/plugin/zones"
)

// Question is what a client asks.
type Question struct {
	Name string // lower case, fully qualified
	Type uint16
	TCP  bool // a guard would ask by TCP
}

// Query is one client's query on its way.
type Query struct {
	m        *Model
	question Question

	// What was known when it came.
	view     zones.View
	eligible zones.Set
	pool     []selector.Candidate

	tries        []try
	failed       zones.Set // upstreams whose last attempt failed
	denial       zones.Doubt
	filtered     bool // the denial says itself that it is no matter of existence
	contradicted bool // and another upstream has answered the question not long ago
}

// try is one attempt.
type try struct {
	attempt *upstream.Attempt
	late    time.Duration // after which a guard with budget hedges
	forced  time.Duration // after which it does so without
	took    time.Duration
	kind    outcome.Kind
}

func (t *try) index() int { return t.attempt.Index }

// Begin says that a query has come, and keeps what is known at this moment.
func (m *Model) Begin(now time.Time, question Question) *Query {
	q := &Query{m: m, question: question}
	q.eligible, q.view, q.pool = m.cfg.Survey(now, question.Name, question.TCP)
	m.hedges.Earn()
	return q
}

// Sent says that upstream i is being asked, by TCP or not.
func (q *Query) Sent(now time.Time, i int, tcp bool) {
	u := q.m.cfg.Upstreams[i]
	t := try{
		attempt: &upstream.Attempt{Index: i, Options: exchange.Options{TCP: tcp}},
		late:    u.LateAfter(), forced: u.SRTT() + q.m.cfg.Forced,
	}
	u.Send(now, nil, t.attempt, nil)
	q.tries = append(q.tries, t)
}

// Ended says what became of the attempt that was Sent last.
func (q *Query) Ended(now time.Time, r exchange.Reply) {
	t := &q.tries[len(q.tries)-1]
	t.took, t.kind = now.Sub(t.attempt.SentAt), r.Kind
	q.learn(now, t, r)
	if r.Kind == outcome.Timeout && t.took >= q.m.cfg.ReadTimeout {
		return // the upstream counts it by itself
	}
	t.attempt.Done(r)
}
