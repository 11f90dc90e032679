package forwarder

import (
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
)

// failures remembers for a moment for which questions all upstreams said
// SERVFAIL or the like, so that retries of clients do not reach the upstreams
// (RFC 9520, section 3.2).
type failures struct {
	any   atomic.Bool
	cache *lru.Cache[dnsmsg.Key, failure]
}

type failure struct {
	until  time.Time
	answer Answer
}

const (
	failureFor  = time.Second // the least that RFC 9520 allows
	failureMost = 1024
)

func newFailures() *failures {
	c, _ := lru.New[dnsmsg.Key, failure](failureMost) // errs only on a size below 1
	return &failures{cache: c}
}

func (f *failures) find(k dnsmsg.Key) (Answer, bool) {
	if !f.any.Load() {
		return Answer{}, false
	}
	e, ok := f.cache.Get(k)
	if !ok {
		return Answer{}, false
	}
	if time.Now().After(e.until) {
		f.cache.Remove(k)
		f.any.Store(f.cache.Len() > 0)
		return Answer{}, false
	}
	a := e.answer.private()
	a.Shared, a.Attempts = true, 0
	return a, true
}

func (f *failures) add(now time.Time, k dnsmsg.Key, a Answer) {
	f.cache.Add(k, failure{until: now.Add(failureFor), answer: a.private()})
	f.any.Store(true)
}
