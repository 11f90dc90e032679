package upstream

import (
	"sync"
	"time"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// Result is the end of an attempt, for whoever still waits.
type Result struct {
	Attempt *Attempt
	Reply   exchange.Reply
}

// Attempt is one exchange for a client query, or a probe.
type Attempt struct {
	// Upstream is where the query went.
	Upstream *Upstream
	// SentAt is when it went.
	SentAt time.Time
	// Options are how it was sent.
	Options exchange.Options
	// Index is the caller's own number for the upstream.
	Index int
	// Trial says that the attempt was made to learn, beside another.
	Trial bool
	// KeepEDNS says that the query means little without EDNS.
	KeepEDNS bool
	// Probe says that no client waits for the attempt.
	Probe bool
	// Anyway sends to an upstream that is looping, too: it is another server's probe for that loop.
	Anyway bool

	noUDP     bool          // UDP is left out, so that TCP stands for the upstream
	patience  time.Duration // after its sending it is overdue
	handle    exchange.Handle
	overdueAt int64
	giveUpAt  int64

	mu    sync.Mutex
	to    chan<- Result // nil: nobody waits
	after func(exchange.Reply)
	stage stage
}

type stage uint8

const (
	pending  stage = iota
	overdue        // later than replies usually are
	timedOut       // counted as a timeout; a late reply is still taken
	ended
)

// Send makes an attempt. Its result comes over to, which must have room.
func (u *Upstream) Send(now time.Time, q *exchange.Query, a *Attempt, to chan<- Result) {
	a.Upstream, a.SentAt, a.to = u, now, to
	if u.NoEDNS(now) && !a.KeepEDNS {
		a.Options.NoEDNS = true
	}
	if u.NoUDP(now) && !u.TCPDown(now) && !(a.Probe && u.UDPLeftOut(now)) {
		a.Options.TCP, a.noUDP = true, true
	}
	t := u.since(now)
	a.patience = u.overdueAfter()
	a.overdueAt = t + int64(a.patience)
	a.giveUpAt = t + int64(u.cfg.ReadTimeout)
	if open := u.watch(a, t); !open || u.State() == Looping && !a.Anyway {
		u.giveUp([]*Attempt{a}, u.lost())
		return
	}
	h := u.cfg.Exchanger.Start(q, a.Options, a)
	a.mu.Lock()
	a.handle = h
	over := a.stage == ended
	a.mu.Unlock()
	if over { // it may have been given up before there was a handle
		h.Cancel()
	}
}

// overdueAfter is how long an attempt may be unanswered before that tells
// against the upstream.
func (u *Upstream) overdueAfter() time.Duration {
	return min(max(3*u.LateAfter(), 30*time.Millisecond), u.cfg.ReadTimeout, u.LateAfter()+250*time.Millisecond)
}

// The round trips that opening a connection takes beside that of the query, at the most.
const (
	roundsTCP = 2 // one, and one more for what is lost or slow
	roundsTLS = 3 // TLS 1.2 without a session to resume
)

// connectWait is how long opening a connection usually takes at the most.
func (u *Upstream) connectWait() time.Duration {
	rtt := u.SRTT()
	switch {
	case rtt == 0:
		return lateUnknown
	case u.cfg.Transport == "tls", u.cfg.Transport == "https":
		return roundsTLS * max(rtt, lateLeast)
	}
	return roundsTCP * max(rtt, lateLeast)
}

// sentLocked returns when the query went out, and how long it may wait for
// that: not at all, or for as long as opening a connection takes. While it
// still waits, it is taken to go out when that time is over.
func (a *Attempt) sentLocked() (at time.Time, wait time.Duration) {
	if a.handle == nil || a.stage == ended {
		return a.SentAt, 0
	}
	switch at := a.handle.Begun(); {
	case at.IsZero():
		wait := a.Upstream.connectWait()
		return a.SentAt.Add(wait), wait
	case at.Sub(a.SentAt) > lateSlack:
		return at, a.Upstream.connectWait()
	}
	return a.SentAt, 0
}

// LateAt returns when a reply is late that usually takes no longer than usual:
// counted from when the query went out over a connection that is open.
func (a *Attempt) LateAt(usual time.Duration) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, _ := a.sentLocked()
	return at.Add(usual)
}

// Waiting reports whether the query still waits for a connection.
func (a *Attempt) Waiting() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stage != ended && a.handle != nil && a.handle.Begun().IsZero()
}

// Patience is how long the query may wait for a connection, where it has to;
// else 0.
func (a *Attempt) Patience() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, wait := a.sentLocked()
	return wait
}

// Usual is the smoothed round trip, with the time for connecting where the
// query had to wait for a connection.
func (a *Attempt) Usual() time.Duration { return a.Upstream.SRTT() + a.Patience() }

// Abandon says that nobody waits for the attempt any more. It is watched to
// its end all the same; after, which may be nil, is told of that: with
// outcome.Timeout where there is no reply by then.
func (a *Attempt) Abandon(after func(exchange.Reply)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.to, a.after = nil, after
}

// Done implements exchange.Sink.
func (a *Attempt) Done(r exchange.Reply) {
	now := time.Now()
	was := a.end()
	if was == ended {
		return
	}
	defer a.tell(r) // also where the record panics: somebody waits
	a.Upstream.ended(now, a, was, r)
}

// end ends the attempt, and returns how far it had come.
func (a *Attempt) end() (was stage) {
	a.mu.Lock()
	defer a.mu.Unlock()
	was, a.stage = a.stage, ended
	return was
}

// tell tells who waits of the end, or who does after the attempt was abandoned.
func (a *Attempt) tell(r exchange.Reply) {
	if after := a.tellWaiting(r); after != nil {
		after(r)
	}
}

// tellWaiting tells who waits, and returns who is to be told if nobody does.
func (a *Attempt) tellWaiting(r exchange.Reply) (after func(exchange.Reply)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	after = a.after
	if a.to != nil {
		a.to <- Result{Attempt: a, Reply: r} // has room; under the lock, so that none comes after Abandon
	}
	a.to, a.after = nil, nil
	return after
}

// age moves an attempt on with time: it may become one stage older at once.
func (a *Attempt) age(t int64, linger int64) (now stage, changed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.stage == ended:
		return ended, false
	case t >= a.giveUpAt+linger && a.stage == timedOut:
		a.to = nil
		return ended, a.cancelLocked()
	case t >= a.giveUpAt && a.stage == overdue:
		a.stage = timedOut
		return timedOut, true
	case t >= a.overdueAt && a.stage == pending:
		if at, _ := a.sentLocked(); at.After(a.SentAt) { // it had to wait for a connection
			a.overdueAt = min(max(a.overdueAt, a.Upstream.since(at.Add(a.patience))), a.giveUpAt)
		}
		if t < a.overdueAt {
			return pending, false
		}
		a.stage = overdue
		return overdue, true
	}
	return a.stage, false
}

func (a *Attempt) cancelLocked() bool {
	a.stage = ended
	if a.handle != nil {
		a.handle.Cancel()
	}
	return true
}

// lost is what attempts come to that are given up.
func (u *Upstream) lost() outcome.Kind {
	if u.State() == Looping {
		return outcome.Loop
	}
	return outcome.Cancelled
}

// giveUp ends attempts, and tells who waits for them what they came to: the
// Upstream is being closed, or what is sent to it comes back. Others may go on
// to use the Exchanger.
func (u *Upstream) giveUp(as []*Attempt, k outcome.Kind) {
	for _, a := range as {
		a.mu.Lock()
		open, counted := a.stage != ended, a.stage >= timedOut
		if open {
			a.cancelLocked()
		}
		a.mu.Unlock()
		if !open {
			continue
		}
		u.unwatch()
		if !counted {
			u.cfg.Observer.Attempt(End{Kind: k, Proto: a.proto(), Rcode: -1, Probe: a.Probe})
		}
		a.tell(exchange.Reply{Kind: k, Proto: a.proto()})
	}
}

// optionalTCP reports whether the attempt went by TCP where UDP is the rule.
func (a *Attempt) optionalTCP() bool {
	return a.Options.TCP && !a.noUDP && a.Upstream.cfg.Transport == "dns" && !a.Upstream.cfg.TCPOnly
}

// ended takes the end of an attempt into the record.
func (u *Upstream) ended(now time.Time, a *Attempt, was stage, r exchange.Reply) {
	u.unwatch()
	switch {
	case was < timedOut:
		e := End{Kind: r.Kind, Proto: r.Proto, Rcode: -1, RTT: r.RTT, Probe: a.Probe}
		if r.Msg != nil {
			e.Rcode = r.Msg.Rcode
		}
		u.cfg.Observer.Attempt(e)
	case r.Msg != nil: // it has been counted as a timeout
		u.cfg.Observer.Late(now.Sub(a.SentAt))
	}
	if r.Kind == outcome.ServFail && !a.Probe {
		u.doubt(outcome.ServFail)
	}
	switch {
	case r.Kind == outcome.Local:
		u.udpMissed(a) // the way out may be blocked for datagrams alone
		u.faulted(now)
		u.cfg.Observer.Local(r.Err)
	case r.Kind.Blameless() || r.Stale:
	case r.Kind.Answered():
		u.answered(now, a, r, was)
	case r.Kind == outcome.Mismatched:
		// Somebody else's packets; the upstream is judged by what comes over TCP.
	case a.optionalTCP():
		u.tcpFailed(now, r.Kind)
	default:
		u.udpMissed(a)
		u.failed(now, r.Kind, a.Probe)
	}
}
