package loopguard

import (
	"sync"
	"time"
)

// Rate bounds how often something is done: so often a second, and as much at once.
type Rate struct {
	perSecond float64

	mu   sync.Mutex
	left float64
	at   time.Time
}

// NewRate returns a bound that is not used yet.
func NewRate(perSecond int) *Rate {
	return &Rate{perSecond: float64(perSecond), left: float64(perSecond)}
}

// Take reports whether it may be done once more now.
func (r *Rate) Take(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d := now.Sub(r.at); d > 0 {
		r.left = min(r.perSecond, r.left+d.Seconds()*r.perSecond)
		r.at = now
	}
	if r.left < 1 {
		return false
	}
	r.left--
	return true
}
