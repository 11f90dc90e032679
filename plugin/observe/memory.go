package observe

import (
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/zones"
)

// memory is what was replied to each question not long ago, and by whom: a
// guard would have asked them all at once. Bounded; the least recent goes.
type memory struct {
	mu    sync.Mutex
	cache *lru.Cache[asked, *replies]
}

type asked struct {
	name  string
	qtype uint16
}

// replies are those to one question.
type replies struct {
	answerer int       // who answered with data last
	answered time.Time // and when; zero: nobody has

	absent zones.Set // who said NXDOMAIN
	noData zones.Set // who said NODATA
	denied time.Time // when the last of them did

	failures []failure // at most one of each upstream
	failed   time.Time // when the last of them was
}

// failure is a reply that says failure.
type failure struct {
	index int
	kind  outcome.Kind
}

// How long a reply counts as given to the same question. What fails may work
// a moment later; names come and go more seldom.
const (
	answersFor  = 5 * time.Minute
	failuresFor = time.Minute
	remembered  = 8192 // questions
)

func newMemory() *memory {
	c, _ := lru.New[asked, *replies](remembered) // errs only on a size below 1
	return &memory{cache: c}
}

// lesson is what a reply teaches beside those that others have given to the
// same question. The zero lesson: nothing.
type lesson struct {
	answerer  int       // where right is set: who has answered
	right     bool      // another has answered what this one denies or fails
	absent    zones.Set // others that said NXDOMAIN
	noData    zones.Set // others that said NODATA
	failures  []failure // of others
	agreement bool      // with this denial the others' make an agreement
}

// answer takes an answer with data by upstream i.
func (m *memory) answer(now time.Time, q Question, i int) lesson {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.ofLocked(now, q)
	me := zones.Of(i)
	l := lesson{absent: r.absent &^ me, noData: r.noData &^ me, failures: r.takeFailures(i)}
	r.answerer, r.answered = i, now
	r.absent, r.noData = 0, 0
	return l
}

// denial takes an NXDOMAIN, or where noData is set a NODATA, by upstream i.
func (m *memory) denial(now time.Time, q Question, i int, noData bool) lesson {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.ofLocked(now, q)
	if !r.answered.IsZero() && r.answerer != i {
		return lesson{right: true, answerer: r.answerer}
	}
	r.answered = time.Time{} // or this one has changed its mind
	me := zones.Of(i)
	l := lesson{absent: r.absent &^ me, noData: r.noData &^ me, failures: r.takeFailures(i)}
	l.agreement = l.absent|l.noData|unable(l.failures) != 0
	// From here on each further denial by another is one more agreement, as if the guard had asked.
	r.absent, r.noData, r.denied = me, 0, now
	if noData {
		r.absent, r.noData = 0, me
	}
	return l
}

// failure takes a reply by upstream i that says failure.
func (m *memory) failure(now time.Time, q Question, i int, k outcome.Kind) lesson {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.ofLocked(now, q)
	if !r.answered.IsZero() && r.answerer != i && now.Sub(r.answered) < failuresFor {
		return lesson{right: true, answerer: r.answerer}
	}
	others := r.takeFailures(i)
	r.failures, r.failed = append(r.failures, others...), now
	r.failures = append(r.failures, failure{i, k})
	return lesson{failures: others}
}

// ofLocked returns the replies to a question, less those that are too old.
func (m *memory) ofLocked(now time.Time, q Question) *replies {
	key := asked{q.Name, q.Type}
	r, ok := m.cache.Get(key)
	if !ok {
		r = new(replies)
		m.cache.Add(key, r)
		return r
	}
	if now.Sub(r.answered) >= answersFor {
		r.answered = time.Time{}
	}
	if now.Sub(r.denied) >= answersFor {
		r.absent, r.noData = 0, 0
	}
	if now.Sub(r.failed) >= failuresFor {
		r.failures = nil
	}
	return r
}

// takeFailures removes all failures, and returns those of others than upstream i.
func (r *replies) takeFailures(i int) []failure {
	var others []failure
	for _, f := range r.failures {
		if f.index != i {
			others = append(others, f)
		}
	}
	r.failures = nil
	return others
}

// unable returns the upstreams that refused, or said SERVFAIL: they could have
// contradicted a denial, and did not.
func unable(failures []failure) (s zones.Set) {
	for _, f := range failures {
		if f.kind == outcome.Refused || f.kind == outcome.ServFail {
			s |= zones.Of(f.index)
		}
	}
	return s
}
