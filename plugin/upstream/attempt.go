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

	noUDP     bool // UDP is left out, so that TCP stands for the upstream
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
	if u.NoUDP(now) && !u.TCPDown(now) && !(a.Probe && u.udpLeftOut(now)) {
		a.Options.TCP, a.noUDP = true, true
	}
	t := u.since(now)
	a.overdueAt = t + int64(u.overdueAfter())
	a.giveUpAt = t + int64(u.cfg.ReadTimeout)
	if !u.watch(a, t) {
		u.giveUp([]*Attempt{a})
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
	a.mu.Lock()
	was := a.stage
	if was == ended {
		a.mu.Unlock()
		return
	}
	a.stage = ended
	a.mu.Unlock()

	a.Upstream.ended(now, a, was, r)
	a.tell(r)
}

// tell tells who waits of the end, or who does after the attempt was abandoned.
func (a *Attempt) tell(r exchange.Reply) {
	a.mu.Lock()
	after := a.after
	if a.to != nil {
		a.to <- Result{Attempt: a, Reply: r} // has room; under the lock, so that none comes after Abandon
	}
	a.to, a.after = nil, nil
	a.mu.Unlock()
	if after != nil {
		after(r)
	}
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

// giveUp ends attempts, and tells who waits for them that they were cancelled:
// the Upstream is being closed. Others may go on to use the Exchanger.
func (u *Upstream) giveUp(as []*Attempt) {
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
			u.cfg.Observer.Attempt(End{Kind: outcome.Cancelled, Proto: a.proto(), Rcode: -1, Probe: a.Probe})
		}
		a.tell(exchange.Reply{Kind: outcome.Cancelled, Proto: a.proto()})
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
	switch {
	case r.Kind == outcome.Local:
		u.udpMissed(a) // the way out may be blocked for datagrams alone
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
