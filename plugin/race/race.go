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

// A process may be held up: for want of CPU time, or of a limit on it. Then
// replies that came in time wait to be read.
const (
	heldUp = 5 * time.Millisecond // later than this, something is due late because the process did not run
	grace  = 5 * time.Millisecond // for results to come in then, before what is due is done
)

// Run runs a race whose first attempt has been started. It returns nil when
// the contest is over, the cause why ctx ended, or ErrStopped when stop is
// closed, which may be nil. The timer is used for the waiting and is stopped at
// the end; it may be used for another race.
func Run[R any](ctx context.Context, c Contest[R], results <-chan R, timer *time.Timer, now time.Time, stop <-chan struct{}) error {
	defer timer.Stop()
	var until time.Time // the end of the grace; zero: there is none
	for {
		due := c.Next()
		if due.Before(until) {
			due = until
		}
		timer.Reset(due.Sub(now))
		select {
		case r := <-results:
			now = time.Now()
			if c.Result(now, r) {
				return nil
			}
		case <-timer.C:
			now = time.Now() // the timer's own instant may be when it was due
			if now.Sub(due) > heldUp && due != until {
				until = now.Add(grace)
				continue
			}
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
