package loopguard

import (
	"sync"
	"time"
)

// Watch is what is known of one upstream: whether queries to it come back.
//
// It decides when to probe and what the end of a probe means, and does nothing
// else: the caller sends, at the instants that Due tells, and reports.
type Watch struct {
	mu      sync.Mutex
	every   time.Duration // between probes where nothing is wrong; 0: none without a reason
	looping bool
	since   time.Time // when looping began or ended
	back    time.Time // when a probe last came back
	clear   int       // probes in a row that did not come back, while looping
	due     time.Time // when the next probe is to be sent; zero: when there is a reason
	last    time.Time // when the last one was sent
	first   int       // probes sent since it began
	doubt   time.Duration
	quick   int                    // probes that did not wait for Soon, since there was none for a while
	times   [Reasons]int           // how often a probe was due for a weak reason, without a rest
	vain    int                    // probes in a row that showed no loop
	gaps    [Reasons]time.Duration // the least between two probes for a weak reason
	told    [Reasons]time.Time     // when there was last such a reason
}

// When probes are sent.
const (
	Soon         = time.Second            // the least between two to one upstream, whatever the reason, but at first
	soonest      = 100 * time.Millisecond // the same between the first two, of which the first may have come too early, and for a few where there is a reason
	quickProbes  = 3                      // so many
	quickRest    = 10 * time.Second       // without a probe, after which there may be as many again
	loopFirst    = 2 * time.Second        // to one that loops, growing
	loopMost     = 12 * time.Second       // so that its end is noticed within 30 s, also where probes time out
	clearNeeded  = 2                      // probes in a row that end a loop
	silenceMost  = 4 * time.Second        // between two for silence, growing
	weakRest     = 10 * time.Minute       // without a weak reason, after which it counts as at first; silence sooner
	weakMost     = time.Minute            // the same for other weak reasons, and for all where the upstream is public
	vainMost     = 10                     // probes in a row that showed no loop, after which queries that come back are no reason for one a second
	returnedMost = 15 * time.Second       // but for one so often
)

// beginnings are the times between the first probes of an upstream: this server,
// or the others of the group, may not have been listening at the first.
var beginnings = [...]time.Duration{Soon, 3 * time.Second}

// NewWatch returns a Watch for an upstream that is to be probed at once, and
// then every so often; every 0 says that it is reached over the public Internet,
// where nobody is to be burdened: it is probed for a reason only.
func NewWatch(now time.Time, every time.Duration) *Watch {
	w := &Watch{due: now, since: now}
	w.setLocked(every)
	return w
}

// Every changes how often the upstream is probed where nothing is wrong.
func (w *Watch) Every(every time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.setLocked(every)
}

func (w *Watch) setLocked(every time.Duration) {
	w.every = every
	w.gaps = [Reasons]time.Duration{}
}

// gapLocked returns the least between two probes for a weak reason. It begins
// anew after a while without such a reason.
func (w *Watch) gapLocked(now time.Time, r Reason) time.Duration {
	rest := weakRest
	if r == Silence {
		rest = 2 * w.mostLocked(r)
	}
	if now.Sub(w.told[r]) > rest {
		w.gaps[r], w.times[r] = 0, 0
	}
	w.told[r] = now
	return max(w.gaps[r], Soon)
}

// growLocked makes it longer: mostly such a reason has another cause, and will be there again.
func (w *Watch) growLocked(r Reason) {
	if w.times[r]++; w.every > 0 && w.times[r] <= quickProbes {
		return
	}
	w.gaps[r] = min(2*max(w.gaps[r], Soon), w.mostLocked(r))
}

func (w *Watch) mostLocked(r Reason) time.Duration {
	if r == Silence && w.every > 0 {
		return silenceMost
	}
	return weakMost
}

// Looping reports whether queries to the upstream come back, and since when.
func (w *Watch) Looping() (bool, time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.looping, w.since
}

// Reason is why there may be a loop.
type Reason uint8

// The reasons.
const (
	Returned    Reason = iota // a query came back to this server
	Silence                   // the upstream has begun to leave queries unanswered: others may merge them
	Failure                   // it replied with SERVFAIL, as a server of the group does that a query came back to
	Changed                   // the configuration, or who is in the group
	Coincidence               // the question that it is asked came in again before it replied, as clients do too
	Mate                      // a probe of another server of the group came in: its upstreams are ours

	Reasons
)

var reasonNames = [Reasons]string{"returned", "silence", "failure", "changed", "coincidence", "mate"}

// String returns the value of the metric label.
func (r Reason) String() string { return reasonNames[r] }

// weak reports whether a reason has mostly other causes than a loop: then
// probes that show none make the next ones rarer.
func (r Reason) weak() bool {
	return r == Silence || r == Failure || r == Coincidence || r == Mate
}

// Suspect says that there is a reason for a probe. It reports whether one is
// due sooner than before.
func (w *Watch) Suspect(now time.Time, r Reason) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.looping {
		return false
	}
	wait := w.waitLocked(now, r)
	quick := w.quickLocked(now, wait)
	if quick {
		wait = soonest
	}
	at := w.last.Add(wait)
	if at.Before(now) {
		at = now
	}
	if !w.due.IsZero() && !at.Before(w.due) {
		return false
	}
	w.due = at
	if r.weak() {
		w.growLocked(r)
	}
	return true
}

// waitLocked returns the least between two probes for a reason. One that cannot
// be had by chance weakens too: what comes back may be a single zone.
func (w *Watch) waitLocked(now time.Time, r Reason) time.Duration {
	switch {
	case r.weak():
		return w.gapLocked(now, r)
	case r == Returned && w.vain > vainMost:
		return returnedMost
	}
	return Soon
}

// quickLocked reports whether a probe need not wait for Soon: one of the first,
// which may have come too early, and a few for a reason that has not been there
// again and again. One that is lost, or comes back by a way that tells nothing,
// would leave clients to wait for a second.
func (w *Watch) quickLocked(now time.Time, wait time.Duration) bool {
	if w.first < len(beginnings) {
		return true
	}
	if now.Sub(w.last) > quickRest {
		w.quick = 0
	}
	return w.every > 0 && wait == Soon && w.quick < quickProbes
}

// Due returns when the next probe is to be sent; zero: not without a reason.
func (w *Watch) Due() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.due
}

// Take reports whether a probe is due, and if so takes it as being sent. jitter
// is a random share, 0 to 1.
func (w *Watch) Take(now time.Time, jitter float64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.due.IsZero() || now.Before(w.due) {
		return false
	}
	if w.first >= len(beginnings) && now.Sub(w.last) < Soon {
		w.quick++
	}
	w.last = now
	switch {
	case w.looping:
		w.doubt = min(max(2*w.doubt, loopFirst), loopMost)
		w.due = now.Add(w.doubt)
	case w.first < len(beginnings):
		w.due = now.Add(beginnings[w.first])
		w.first++
	default:
		w.restLocked(now, jitter)
	}
	return true
}

// restLocked puts the next probe off until it is time to, or there is a reason.
func (w *Watch) restLocked(now time.Time, jitter float64) {
	w.due = time.Time{}
	if w.every > 0 {
		w.due = now.Add(w.every - time.Duration(jitter*float64(w.every)/4))
	}
}

// Verdict is what the end of a probe changed.
type Verdict uint8

// The verdicts.
const (
	Unchanged Verdict = iota
	Begins            // the upstream loops from now on
	Ends              // and does so no more
)

// CameBack says that a probe was answered by one of us.
func (w *Watch) CameBack(now time.Time) Verdict {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clear, w.vain, w.back = 0, 0, now
	if w.looping {
		return Unchanged
	}
	w.looping, w.since = true, now
	w.doubt, w.gaps, w.times = loopFirst, [Reasons]time.Duration{}, [Reasons]int{}
	w.due = now.Add(loopFirst)
	return Begins
}

// Divided says that some questions of a probe came back, and others did not.
func (w *Watch) Divided(now, sent time.Time) Verdict {
	v := w.Ended(now, sent, true)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.vain = 0
	return v
}

// Ended says that all questions of a probe, sent at an instant, have come to
// something else, or to nothing. Where that is certain one such probe ends a
// loop. One that was sent before another came back says nothing: the others of
// the group may not have been listening yet.
func (w *Watch) Ended(now, sent time.Time, certain bool) Verdict {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.looping {
		w.vain++
	}
	if !w.looping || sent.Before(w.back) {
		return Unchanged
	}
	if w.clear++; w.clear < clearNeeded && !certain {
		w.due = now.Add(Soon)
		return Unchanged
	}
	w.looping, w.since, w.clear, w.doubt = false, now, 0, 0
	w.restLocked(now, 0)
	return Ends
}
