package fakedns

import (
	"sync"
	"time"
)

// waiter is what the blocking end of a connection in memory needs: a lock, a
// condition, and a deadline that wakes the waiting.
type waiter struct {
	mu      sync.Mutex
	cond    *sync.Cond
	closed  bool
	timer   *time.Timer
	expired bool
	turn    int // of the deadline, so that an old timer does nothing
}

func (w *waiter) init() { w.cond = sync.NewCond(&w.mu) }

// setDeadline is SetReadDeadline.
func (w *waiter) setDeadline(t time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	w.turn++
	w.expired = false
	if t.IsZero() || w.closed {
		return
	}
	d := time.Until(t)
	if d <= 0 {
		w.expired = true
		w.cond.Broadcast()
		return
	}
	turn := w.turn
	w.timer = time.AfterFunc(d, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.turn == turn {
			w.expired = true
			w.cond.Broadcast()
		}
	})
}

// closeLocked wakes everybody for good.
func (w *waiter) closeLocked() {
	w.closed = true
	w.turn++
	if w.timer != nil {
		w.timer.Stop()
	}
	w.cond.Broadcast()
}
