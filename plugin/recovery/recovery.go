// Package recovery keeps the process alive where one of our own goroutines
// panics: nothing that arrives from the network may end it.
//
// All goroutines and timers of the plugin are started here (a test holds
// that). What must go on after a panic, the loop of a reader or of a prober,
// recovers each round of its own by Recover. A lock that is held where
// network input is looked at is let go by defer, so that a recovered panic
// leaves none behind.
//
// A panic is reported once for each place, and counted each time. The nil
// Recoverer recovers nothing, which suits tests, and operators who want a
// core (CoreDNS's debug plugin).
//
// All methods may be called concurrently.
package recovery

import (
	"runtime/debug"
	"sync"
	"time"
)

// Recoverer recovers panics. Make it with New.
type Recoverer struct {
	report func(where string, cause any, stack []byte)
	count  func()

	mu   sync.Mutex
	told map[string]bool
}

// New returns a Recoverer that counts each panic, and reports the first of each place.
func New(report func(where string, cause any, stack []byte), count func()) *Recoverer {
	return &Recoverer{report: report, count: count, told: make(map[string]bool)}
}

// Recover ends a panic where it is deferred. Then it calls what is to be done after one,
// whose own panics it ends as well.
func (r *Recoverer) Recover(where string, after ...func()) {
	if r == nil {
		return
	}
	cause := recover()
	if cause == nil {
		return
	}
	r.caught(where, cause, debug.Stack())
	for _, f := range after {
		r.call(where, f)
	}
}

func (r *Recoverer) call(where string, f func()) {
	defer r.Recover(where)
	f()
}

func (r *Recoverer) caught(where string, cause any, stack []byte) {
	r.count()
	r.mu.Lock()
	known := r.told[where]
	r.told[where] = true
	r.mu.Unlock()
	if !known {
		r.report(where, cause, stack)
	}
}

// Go runs f in a goroutine that wg waits for. After a panic of f it calls after.
func (r *Recoverer) Go(wg *sync.WaitGroup, where string, f func(), after ...func()) {
	wg.Go(func() {
		defer r.Recover(where, after...)
		f()
	})
}

// AfterFunc is time.AfterFunc.
func (r *Recoverer) AfterFunc(d time.Duration, where string, f func()) *time.Timer {
	return time.AfterFunc(d, func() {
		defer r.Recover(where)
		f()
	})
}
