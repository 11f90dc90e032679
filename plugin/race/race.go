// Package race waits for the first good result of several attempts that are
// started one after another, each when those before it are late or have failed.
//
// The race knows nothing of DNS. One goroutine, the caller's, runs it: results
// come in over a channel, and a Contest decides what a result means, when the
// next attempt is due, and when the race is over. No goroutine is started.
//
// A Budget bounds how many attempts may be made beyond the necessary ones; it
// may be used concurrently.
package race

import (
	"context"
	"errors"
	"time"
)

// Contest decides a race. Its methods are called by one goroutine.
type Contest[R any] interface {
	// Result takes a result and reports whether the race is over.
	Result(now time.Time, r R) (over bool)
	// Due is called when the instant of Next has come; it reports whether the race is over.
	Due(now time.Time) (over bool)
	// Next is the next instant at which something is due.
	Next() time.Time
}

// ErrStopped is what Run returns when it is stopped.
var ErrStopped = errors.New("race: stopped")

// Run runs a race whose first attempt has been started. It returns nil when
// the contest is over, the cause why ctx ended, or ErrStopped when stop is
// closed, which may be nil. The timer is used for the waiting and is stopped at
// the end; it may be used for another race.
func Run[R any](ctx context.Context, c Contest[R], results <-chan R, timer *time.Timer, now time.Time, stop <-chan struct{}) error {
	defer timer.Stop()
	for {
		timer.Reset(c.Next().Sub(now))
		select {
		case r := <-results:
			now = time.Now()
			if c.Result(now, r) {
				return nil
			}
		case now = <-timer.C:
			if c.Due(now) {
				return nil
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-stop:
			return ErrStopped
		}
	}
}
