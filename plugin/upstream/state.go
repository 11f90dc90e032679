package upstream

import (
	"fmt"
	"time"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// State is what an upstream is taken for.
type State uint32

// The states.
const (
	Unknown  State = iota // nothing heard, nothing missed
	Healthy               // answers
	Suspect               // does not reply at the moment: asked only beside others, or where there is no other
	HalfOpen              // was suspect or ejected and has replied: shown a few queries beside others
	Ejected               // taken out
	Looping               // what is sent to it comes back: sent nothing until that is over
)

var stateNames = [...]string{"unknown", "healthy", "suspect", "half-open", "ejected", "looping"}

// String returns the value of the metric label "state".
func (s State) String() string { return stateNames[s] }

// States lists the names of all states.
func States() []string { return stateNames[:] }

// Change is a change of state, for the log and the metrics.
type Change struct {
	To       string
	From     State
	Now      State
	Kind     outcome.Kind  // what brought it about
	Reason   string        // cause and figures, for people
	For      time.Duration // how long an ejection lasts at least
	Lasted   time.Duration // how long the state before lasted
	Silence  time.Duration // how long nothing has been heard
	Failures int           // failures in a row
}

// Eject says when an upstream is taken out, and for how long.
type Eject struct {
	Off      bool          // never
	Failures int           // failures in a row that eject
	Share    float64       // share of failed attempts in the window that ejects
	Base     time.Duration // the first ejection
	Max      time.Duration // the longest
}

const (
	suspectAfter  = 3                // attempts in a row without any reply
	silenceEjects = 4 * time.Second  // silence that turns timeouts into an ejection: slower than this is no use
	deadAfter     = 2                // unanswered probes that make silence certain
	window        = 5 * time.Second  // half of the sliding window of failure shares
	windowLeast   = 20               // attempts in the window before a share counts
	halfOpenNeeds = 3                // good replies to queries that end half-open
	forgetAfter   = time.Minute      // without an ejection: one is forgotten
	calmAfter     = 20 * time.Second // without becoming suspect: one time is forgotten
	flapBase      = time.Second      // the second time in a row lasts at least this long, doubling
	flapMost      = 16 * time.Second
	plainFor      = time.Minute // for so long EDNS is left out where only plain queries are answered
	plainAfter    = time.Second // without a reply to a query with EDNS
	plainsNeeded  = 3           // replies in a row to plain queries, and none to others, that show this
	tcpFails      = 3           // time-outs in a row by TCP that show it to be broken
	tcpFailEvery  = 200 * time.Millisecond
	streamFor     = 30 * time.Second       // for so long UDP is left out where only TCP is answered
	tcpDownFor    = 30 * time.Second       // for so long TCP is left out, unless a probe shows that it works
	udpSilence    = 250 * time.Millisecond // without a reply by UDP, while TCP is answered
	udpOut        = time.Second            // UDP is left out at least this long, doubling each time it was taken back in vain
)

// health is what State is decided from; guarded by Upstream.mu.
type health struct {
	since     int64 // when the state began
	reason    string
	fails     int          // failures in a row, of queries
	last      outcome.Kind // the last of them
	silent    int          // attempts in a row, overdue with nothing heard since they were sent
	silentAt  int64        // when the first of them was sent
	ejections int          // ejections, decayed
	until     int64        // before this there is no way back from suspect or ejected
	suspectAt int64        // when it was last made suspect
	flaps     int          // times it was made suspect, decayed
	ejectEnd  int64        // the end of the last ejection
	cause     outcome.Kind // of the ejection
	proven    int          // good replies to queries while half-open
	unproven  int          // failures while half-open
	probes    int          // unanswered probes in a row
	faultAt   int64        // when a fault of this host last ended an attempt; 0: never

	rolled   int64
	old, cur tally
}

type tally struct{ attempts, failed int }

// answered: the upstream replied.
func (u *Upstream) answered(now time.Time, a *Attempt, r exchange.Reply, was stage) {
	t := u.since(now)
	u.noteReply(now, a, r.Proto)
	usable := r.Kind == outcome.OK || r.Kind.Denied() || (r.Kind == outcome.Truncated && !u.TCPDown(now))
	if usable {
		rtt := r.RTT
		if rtt <= 0 {
			rtt = now.Sub(a.SentAt)
		}
		u.est.sample(rtt, was == pending)
		if !a.Anyway { // what is of use to others who look for a loop may have come round
			u.good.Store(t)
			if !a.Probe {
				u.useful.Store(t)
			}
		}
	}
	u.tell(u.record(func(h *health) *Change {
		h.probes = 0
		switch {
		case a.Probe:
			return u.probedLocked(t, r.Kind)
		case usable || r.Kind == outcome.Refused: // a refusal is a matter of zones
			h.fails, h.silent = 0, 0
			u.tallyLocked(t, false)
			return u.provenLocked(t)
		}
		h.silent = 0
		return nil
	}))
}

// record changes the record under the lock, and returns what change of state that brings about.
func (u *Upstream) record(change func(h *health) *Change) *Change {
	u.mu.Lock()
	defer u.mu.Unlock()
	return change(&u.health)
}

// failed: an attempt came to a failure that is the upstream's or its path's.
func (u *Upstream) failed(now time.Time, k outcome.Kind, probe bool) {
	t := u.since(now)
	u.tell(u.record(func(h *health) *Change {
		if probe {
			h.probes++
			if !u.EverHeard() {
				u.unheard.Store(true)
			}
			return u.unansweredLocked(t, k)
		}
		if k != outcome.ServFail { // that may be a matter of names
			h.fails++
		}
		h.last = k
		u.tallyLocked(t, true)
		return u.judgeLocked(t, k)
	}))
}

// unansweredLocked: a probe came to nothing.
func (u *Upstream) unansweredLocked(t int64, k outcome.Kind) *Change {
	h := &u.health
	reason := fmt.Sprintf("%d probes in a row: %s", h.probes, k)
	switch u.State() {
	case HalfOpen:
		return u.setLocked(t, Suspect, k, "probe: "+k.String())
	case Unknown:
		if h.probes >= deadAfter {
			h.suspectAt, h.until = t, t
			return u.setLocked(t, Suspect, k, reason)
		}
	case Suspect:
		if h.probes > 2*deadAfter && !u.cfg.Eject.Off && (k != outcome.Timeout || t-h.since > int64(silenceEjects)) {
			return u.ejectLocked(t, k, reason)
		}
	case Healthy, Ejected, Looping:
	}
	return nil
}

// Contradicted says that the upstream answered with a failure (SERVFAIL,
// FORMERR, NOTIMP, ...) what another could answer.
func (u *Upstream) Contradicted(now time.Time, k outcome.Kind) { u.failed(now, k, false) }

// missed: an attempt has no reply later than replies usually are.
func (u *Upstream) missed(now time.Time, a *Attempt) {
	sent := u.since(a.SentAt)
	u.udpMissed(a)
	switch {
	case a.optionalTCP():
		if u.stream.Load() <= sent {
			u.tcpFailed(now, outcome.Timeout)
		}
		return
	case a.Probe:
		if u.heard.Load() <= sent {
			u.failed(now, outcome.Timeout, true)
		}
		return
	}
	u.est.missed()
	if u.reply.Load() > sent {
		return
	}
	t := u.since(now)
	first := false
	u.tell(u.record(func(h *health) *Change {
		h.silent++
		if first = h.silent == 1; first {
			h.silentAt = sent
		}
		switch u.State() {
		case HalfOpen:
			h.unproven++
			if h.unproven >= 2 {
				return u.relapseLocked(t, outcome.Timeout)
			}
		case Unknown, Healthy:
			if h.silent >= suspectAfter {
				return u.suspectLocked(t, fmt.Sprintf("%d queries in a row without a reply", h.silent))
			}
		case Suspect, Ejected, Looping:
		}
		return nil
	}))
	if u.cfg.Wake != nil {
		u.cfg.Wake()
	}
	if first {
		u.doubt(outcome.Timeout)
	}
}

// judgeLocked decides on an ejection after a failure.
func (u *Upstream) judgeLocked(t int64, k outcome.Kind) *Change {
	h := &u.health
	switch u.State() {
	case Ejected, Looping:
		return nil
	case HalfOpen:
		h.unproven++
		if h.unproven >= 2 {
			return u.relapseLocked(t, k)
		}
		return nil
	}
	if u.cfg.Eject.Off {
		return nil
	}
	n, failed := h.old.attempts+h.cur.attempts, h.old.failed+h.cur.failed
	inRow := h.fails >= u.cfg.Eject.Failures
	share := n >= windowLeast && float64(failed) >= u.cfg.Eject.Share*float64(n)
	if !inRow && !share {
		return nil
	}
	silence := time.Duration(t - max(u.reply.Load(), h.silentAt))
	if k == outcome.Timeout && (h.silent == 0 || silence < silenceEjects) {
		return nil // it may be slow: it is suspect, and that is enough
	}
	reason := fmt.Sprintf("%s: %d failures in a row", k, h.fails)
	if !inRow {
		reason = fmt.Sprintf("%s: %d of %d attempts failed in %s", k, failed, n, 2*window)
	}
	return u.ejectLocked(t, k, reason)
}

// Dead reports whether it is certain that the upstream does not answer: it is
// ejected, its probes come to nothing, and nothing has been heard of it.
func (u *Upstream) Dead(now time.Time) bool {
	if u.State() != Ejected {
		return false
	}
	t := u.since(now)
	u.mu.Lock()
	defer u.mu.Unlock()
	h := &u.health
	return h.probes >= deadAfter && t-u.heard.Load() > int64(time.Second)
}

// WantsProbe reports whether a probe should be sent: the upstream has never
// been heard, or does not answer.
func (u *Upstream) WantsProbe(now time.Time) bool {
	if u.State() == Looping {
		return false // the loop guard has its own
	}
	if u.wanted.Load() || u.TCPAlone(now) || u.UDPLeftOut(now) {
		return true
	}
	switch u.State() {
	case Unknown:
		return !u.EverHeard()
	case Suspect, Ejected, HalfOpen:
		return true
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.health.silent > 0
}
