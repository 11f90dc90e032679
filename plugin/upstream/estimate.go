package upstream

import (
	"sync"
	"sync/atomic"
	"time"
)

// The bounds of the moment for a hedge.
const (
	lateUnknown = 100 * time.Millisecond // nothing measured yet
	lateLeast   = 5 * time.Millisecond
	lateSlack   = time.Millisecond       // what a scheduler may add
	lateMargin  = 200 * time.Millisecond // the most that deviations may add
)

// estimate is what is known of the time that replies take.
//
// Two estimates serve two questions. "When is a reply late?" is answered from
// the smoothed round trip and its mean deviation (RFC 6298, section 2), tails
// included. "Which upstream is nearest?" is answered by a typical round trip
// whose samples are clipped at twice its value, so that one slow recursion
// moves it by an eighth, and lasting slowness still doubles it in six replies.
//
// Writers come one at a time (mu); readers see the last published values.
type estimate struct {
	mu       sync.Mutex
	srtt     time.Duration
	rttvar   time.Duration
	typ      time.Duration
	loss     float64
	measured bool

	pubLate, pubExpected, pubSRTT, pubLoss atomic.Int64
}

func (e *estimate) init() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.publishLocked()
}

// sample takes the round trip of a timely or late reply.
func (e *estimate) sample(rtt time.Duration, timely bool) {
	rtt = max(rtt, time.Microsecond)
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.measured {
		e.measured = true
		e.srtt, e.rttvar, e.typ = rtt, rtt/2, rtt
	} else {
		e.rttvar += ((e.srtt - rtt).Abs() - e.rttvar) / 4
		e.srtt += (rtt - e.srtt) / 8
		e.typ += (min(rtt, 2*e.typ+time.Millisecond) - e.typ) / 8
	}
	if timely {
		e.loss -= e.loss / 16
	}
	e.publishLocked()
}

// missed takes an attempt without a timely reply.
func (e *estimate) missed() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.loss += (1 - e.loss) / 16
	e.publishLocked()
}

// forgive forgets losses: the upstream is back.
func (e *estimate) forgive() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.loss = 0
	e.publishLocked()
}

func (e *estimate) publishLocked() {
	late := lateUnknown
	if e.measured {
		late = max(e.srtt+min(max(4*e.rttvar, lateSlack), lateMargin), lateLeast)
	}
	typ := lateUnknown
	if e.measured {
		typ = e.typ
	}
	e.pubLate.Store(int64(late))
	e.pubExpected.Store(int64(typ) + int64(e.loss*float64(min(late, 2*typ+lateLeast))))
	e.pubSRTT.Store(int64(e.srtt))
	e.pubLoss.Store(int64(e.loss * 1e6))
}

func (e *estimate) lateAfter() time.Duration { return time.Duration(e.pubLate.Load()) }
func (e *estimate) expected() time.Duration  { return time.Duration(e.pubExpected.Load()) }
func (e *estimate) smoothed() time.Duration  { return time.Duration(e.pubSRTT.Load()) }
func (e *estimate) lossShare() float64       { return float64(e.pubLoss.Load()) / 1e6 }
