package dnsguard

import (
	"crypto/rand"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/loopguard"
	"github.com/dnsguard/dnsguard/plugin/metrics"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/upstream"
)

// loopRound is one probe of an upstream: a question for each suffix.
type loopRound struct {
	m     *member
	at    time.Time
	left  int // questions that have not ended
	timer *time.Timer

	wide              bool   // it asks the same several times at once, to see whether all come back
	someBack, someNot bool   // of these
	back              bool   // a question came back that suffices to take the upstream out
	seen              bool   // one of ours came in here, which somebody else may have sent
	hint              bool   // a question came back that does not suffice for that
	refuted           bool   // the upstream answered another one otherwise
	denied            bool   // and soundly: there is no such name
	below             string // the name of a query that came back, below which one question asks; "": none
	partial           bool   // that came back
}

// loopQuestion is one question of a probe.
type loopQuestion struct {
	p      *loopProber
	round  *loopRound
	token  loopguard.Token
	marks  *marks
	hint   bool // by itself it condemns nobody
	below  bool // it asks below the round's name
	same   bool // it is one of several for the same
	seen   bool // it came in here
	denied bool // there is no such name, the upstream says
	sound  bool // that, or there is something else, it says
	back   bool // it was answered rightly
	handle exchange.Handle
	grace  *time.Timer // from when it came in here; nil: it did not
}

// loopPatience is how long a probe has for a reply. A resolver that validates
// may need seconds for the first one.
const loopPatience = 4 * time.Second

// Wide probes.
const (
	loopWide  = 3                      // questions more than else
	loopHurry = 100 * time.Millisecond // the wait for the others once one came back
)

// probe sends the questions of one probe.
func (p *loopProber) probe(now time.Time, m *member) { p.send(now, m, p.widely(now, m)) }

// widely reports whether a probe is to be a wide one: the upstream is the only
// one, and there is a reason to ask, or it is out. One answer more may make the
// difference between some and none. A public one is not burdened with that at
// the first sign.
func (p *loopProber) widely(now time.Time, m *member) bool {
	doubted := m.doubted.Swap(false) && m.stamped()
	return p.isLast(m) && (doubted || m.up.State() == upstream.Looping || m.half.Load().recent(now))
}

func (p *loopProber) send(now time.Time, m *member, wide bool) {
	suffixes := p.l.suffixes
	r := &loopRound{m: m, at: now, wide: wide && len(suffixes) > 0}
	if r.wide {
		suffixes = append(slices.Repeat(suffixes[:1], loopWide), suffixes...)
	}
	if name := m.asked.Swap(nil); name != nil && loopguard.Fits(*name) && !p.l.reserved(*name) {
		r.below = *name
		suffixes = append(slices.Clip(suffixes), r.below)
	}
	opt := exchange.Options{TCP: p.l.g.cfg.ForceTCP || m.up.NoUDP(now)}
	for i, q := range p.begin(r, suffixes) {
		m.link.counts.LoopProbe(metrics.LoopSent)
		query, err := q.query(suffixes[i])
		if err != nil { // a name that is too long has been refused long ago
			q.Done(exchange.Reply{Kind: outcome.FormErr})
			continue
		}
		q.start(m, query, opt)
	}
}

// begin makes the questions of a round.
func (p *loopProber) begin(r *loopRound, suffixes []string) (questions []*loopQuestion) {
	marks := p.marks.Load()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over || len(suffixes) == 0 {
		return nil
	}
	r.left = len(suffixes)
	p.rounds[r] = struct{}{}
	r.timer = p.l.g.env.recoverer.AfterFunc(loopPatience, "the end of a probe for loops", func() { p.timedOut(r) })
	for _, suffix := range suffixes {
		q := &loopQuestion{p: p, round: r, marks: marks, below: suffix == r.below}
		q.hint = q.below || suffix == loopInternal && len(p.l.suffixes) > 1
		q.same = r.wide && suffix == p.l.suffixes[0]
		q.token = loopguard.Token{Group: marks.group}
		if !marks.shared && !r.m.stamped() {
			q.token.Group = p.l.blind
		}
		_, _ = rand.Read(q.token.Nonce[:]) // never fails
		p.open[q.token.Nonce] = q
		questions = append(questions, q)
	}
	return questions
}

// query packs the question. Nobody on the way is to validate the answer, which
// is made up.
func (q *loopQuestion) query(suffix string) (*exchange.Query, error) {
	name := q.marks.key.Name(q.token, suffix)
	wire, end, err := dnsmsg.Pack(nil, dnsmsg.Key{Name: name, Type: dns.TypeTXT, Class: dns.ClassINET, RD: true, CD: true}, name)
	if err != nil {
		return nil, err
	}
	return &exchange.Query{Wire: wire, QuestionEnd: end}, nil
}

func (q *loopQuestion) start(m *member, query *exchange.Query, opt exchange.Options) {
	h := m.link.Start(query, opt, q)
	if over := q.started(h); over {
		h.Cancel()
	}
}

// started takes the handle, and reports whether nobody waits any more.
func (q *loopQuestion) started(h exchange.Handle) (over bool) {
	q.p.mu.Lock()
	defer q.p.mu.Unlock()
	q.handle = h
	return q.p.over || q.p.open[q.token.Nonce] != q
}

func (q *loopQuestion) cancel() {
	h, grace := q.under()
	if grace != nil {
		grace.Stop()
	}
	if h != nil {
		h.Cancel()
	}
}

// under returns what is under way; nil: nothing yet.
func (q *loopQuestion) under() (exchange.Handle, *time.Timer) {
	q.p.mu.Lock()
	defer q.p.mu.Unlock()
	return q.handle, q.grace
}

// Done implements exchange.Sink.
func (q *loopQuestion) Done(r exchange.Reply) {
	result := metrics.LoopUnanswered
	switch {
	case r.Msg != nil && q.answered(r.Msg):
		result = metrics.LoopReturned
	case r.Msg != nil:
		result = metrics.LoopAnswered
		q.denied = r.Msg.Rcode == dns.RcodeNameError
		q.sound = q.denied || r.Msg.Rcode == dns.RcodeSuccess
	}
	q.p.ended(q, result)
}

// answered reports whether a reply is what only the group can say.
func (q *loopQuestion) answered(m *dns.Msg) bool {
	for _, rr := range m.Answer {
		if txt, ok := rr.(*dns.TXT); ok && q.marks.key.Answered(q.token, strings.Join(txt.Txt, "")) {
			return true
		}
	}
	return false
}

// loopGrace is how long an upstream has at the least to reply to a question that
// has come in here. A server that validates may keep the answer to itself until
// it has keys, which it asks for by the same loop.
const loopGrace = 75 * time.Millisecond

// loopKept is how long an upstream must have been of no use to clients where it
// is to count that it keeps an answer to itself.
const loopKept = 2 * time.Second

// sees reports whether a probe that came in is one of this server's own that is
// under way. By itself that is no proof: who has seen it on its way may have sent
// it, and the upstream may have asked others too. It says so in who, with whether
// the reply is to be held back.
func (p *loopProber) sees(n loopguard.Nonce, who *origin) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.open[n]
	if q == nil {
		return false
	}
	*who = own
	if q.same && !q.seen {
		*who = held
	}
	if !q.seen {
		grace := q.round.grace()
		q.grace = p.l.g.env.recoverer.AfterFunc(grace, "the end of a question for loops", func() { p.kept(q, grace) })
	}
	q.seen, q.round.seen = true, true
	return true
}

func (r *loopRound) grace() time.Duration {
	if r.m.up.SRTT() == 0 { // it has been of no use yet
		return loopGrace
	}
	return min(max(loopGrace, r.m.up.LateAfter()), time.Second)
}

// kept takes a question as having come back that came in here, and to which the
// upstream has not replied since, where it has left a client's query for as long,
// and given no client an answer of use lately.
func (p *loopProber) kept(q *loopQuestion, grace time.Duration) {
	now, up := time.Now(), q.round.m.up
	if up.Waits(now, grace) && !up.Useful(now, loopKept) {
		q.cancel()
		p.ended(q, metrics.LoopReturned)
		return
	}
	q.p.mu.Lock()
	defer q.p.mu.Unlock()
	if q.p.open[q.token.Nonce] == q {
		q.grace.Reset(loopGrace) // it may be so later
	}
}

// ended takes the end of a question.
func (p *loopProber) ended(q *loopQuestion, result metrics.LoopProbe) {
	act, ok := p.takeEnd(q, result)
	if !ok {
		return
	}
	q.round.m.link.counts.LoopProbe(result)
	if act != nil {
		p.conclude(act)
	}
}

func (p *loopProber) takeEnd(q *loopQuestion, result metrics.LoopProbe) (act func(), ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open[q.token.Nonce] != q {
		return nil, false
	}
	delete(p.open, q.token.Nonce)
	if q.grace != nil {
		q.grace.Stop()
	}
	r := q.round
	r.left--
	switch {
	case result == metrics.LoopReturned:
		q.back = true
		r.someBack = r.someBack || q.same
	case result == metrics.LoopAnswered && !q.hint:
		r.refuted, r.denied = true, r.denied || q.denied
		r.someNot = r.someNot || q.same && q.sound
	}
	return p.judgeLocked(r, q), true
}

// timedOut ends a probe whose questions are not all answered.
func (p *loopProber) timedOut(r *loopRound) {
	for _, q := range p.late(r) {
		q.cancel()
		p.ended(q, metrics.LoopUnanswered)
	}
}

// late returns the questions of a round that are not answered.
func (p *loopProber) late(r *loopRound) (late []*loopQuestion) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, q := range p.open {
		if q.round == r {
			late = append(late, q)
		}
	}
	return late
}
