// Package upstream is one server that queries are forwarded to: it sends
// attempts, watches each to its end, and keeps what is known of the server,
// the round-trip estimate (estimate.go), the state (state.go, transition.go, loop.go) and
// the ways to reach it (reach.go).
//
// An attempt is watched until its reply or its give-up time, whether or not
// somebody still waits for it: so a server whose late replies always lose a
// race is known as late, and one that is silent as silent, and a loser that
// was merely second is not blamed.
//
// All methods may be called concurrently. What selection reads (Rank inputs)
// are atomics; everything else is behind one mutex that is never held across
// I/O or a callback. Functions take the instant they speak of, so that their
// behaviour over time can be tested.
package upstream

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/recovery"
)

// Observer is told what happens, for metrics and the log. Its methods may be
// called concurrently and must not block.
type Observer interface {
	// Attempt is told once for each attempt, when it has come to something.
	Attempt(e End)
	// Late is told of a reply that came after its attempt had been told as timed out; rtt is counted from its sending.
	Late(rtt time.Duration)
	// State is told of each change of state.
	State(c Change)
	// Local is told of each attempt that a fault of this host ended.
	Local(err error)
}

// End is what an attempt came to.
type End struct {
	Kind  outcome.Kind
	Proto exchange.Proto
	Rcode int           // of the reply; negative: there was none
	RTT   time.Duration // 0 without a reply
	Probe bool          // no client waited for it
}

// Config is what an Upstream needs to know.
type Config struct {
	// To names the upstream: host:port, as CoreDNS's label "to".
	To string
	// Addr is its address.
	Addr netip.AddrPort
	// Transport is dns, tls, https or quic.
	Transport string
	// Exchanger sends; the Upstream closes it.
	Exchanger exchange.Exchanger
	// ReadTimeout is when an unanswered attempt counts as timed out.
	ReadTimeout time.Duration
	// Linger is how long after its sending an unanswered attempt is still watched for a late reply; at least ReadTimeout.
	Linger time.Duration
	// Eject says when the upstream is taken out, and for how long.
	Eject Eject
	// Observer is told what happens.
	Observer Observer
	// TCPOnly says that plain DNS goes by TCP alone, whose failures then tell against the upstream.
	TCPOnly bool
	// Predecessor is another Upstream for the same server, whose knowledge the new one begins with. May be nil.
	Predecessor *Upstream
	// Wake is called when the upstream needs a probe; it must not block. May be nil.
	Wake func()
	// Doubt is called when the upstream begins to leave queries unanswered (outcome.Timeout), and for each query that it answers with
	// SERVFAIL (outcome.ServFail): there may be a loop. It must not block. May be nil.
	Doubt func(k outcome.Kind)
	// Recoverer recovers timers; nil: a panic ends the process.
	Recoverer *recovery.Recoverer
}

// Upstream is one server. Make it with New.
type Upstream struct {
	cfg  Config
	base time.Time // all instants below are nanoseconds since; only its monotonic reading counts

	est     estimate
	state   atomic.Uint32 // State
	heard   atomic.Int64  // the last reply, to probes too, whatever it said; 0: never
	reply   atomic.Int64  // the last reply to a query; 0: never
	good    atomic.Int64  // the last usable sample of the round trip
	useful  atomic.Int64  // the same of a client's query; 0: never
	asked   atomic.Int64  // the last trial or probe
	plain   atomic.Int64  // until when EDNS is left out
	byTCP   atomic.Int64  // until when UDP is left out
	ripeAt  atomic.Int64  // before this there is no way back from suspect or ejected
	unheard atomic.Bool   // has left a probe unanswered, and has never replied
	wanted  atomic.Bool   // a probe is wanted
	stream  atomic.Int64  // the last reply over a stream; 0: never
	tcpDown atomic.Int64  // until when plain TCP is taken for broken
	tcpBad  atomic.Int32  // time-outs in a row by plain TCP
	tcpMiss atomic.Int64  // the last of them
	edns    atomic.Int64  // the last reply to a query with EDNS; 0: never
	plains  atomic.Int32  // replies in a row to queries without EDNS, while those with EDNS got none
	replies atomic.Bool   // ejected for what it replies, not for silence
	udp     udpPath

	mu      sync.Mutex
	health  health
	watched watchList
	recent  recent // attempts, probes not counted
	closed  bool
}

// New returns an upstream in the state Unknown, or in that of its predecessor.
func New(cfg Config, now time.Time) *Upstream {
	cfg.Linger = max(cfg.Linger, cfg.ReadTimeout)
	u := &Upstream{cfg: cfg, base: now.Add(-time.Second)}
	u.health.since = u.since(now)
	u.est.init()
	if cfg.Predecessor != nil {
		u.inherit(cfg.Predecessor)
		u.cfg.Predecessor = nil // it is not to be kept alive
	}
	return u
}

// To names the upstream.
func (u *Upstream) To() string { return u.cfg.To }

// Addr is the upstream's address.
func (u *Upstream) Addr() netip.AddrPort { return u.cfg.Addr }

// Transport is dns, tls, https or quic.
func (u *Upstream) Transport() string { return u.cfg.Transport }

func (u *Upstream) since(now time.Time) int64 { return int64(now.Sub(u.base)) }

// Heard reports whether the upstream has replied to anything since t.
func (u *Upstream) Heard(t time.Time) bool { return u.heard.Load() > u.since(t) }

// EverHeard reports whether the upstream has ever replied.
func (u *Upstream) EverHeard() bool { return u.heard.Load() != 0 }

// Stale reports whether the estimate is older than d.
func (u *Upstream) Stale(now time.Time, d time.Duration) bool {
	return u.since(now)-u.good.Load() > int64(d)
}

// Useful reports whether a client has had an answer from it within d, or a denial.
func (u *Upstream) Useful(now time.Time, d time.Duration) bool {
	t := u.useful.Load()
	return t != 0 && u.since(now)-t <= int64(d)
}

// TryTrial reports whether the last trial or probe is at least d ago, and if so
// takes now as the instant of the next.
func (u *Upstream) TryTrial(now time.Time, d time.Duration) bool {
	last, t := u.asked.Load(), u.since(now)
	return t-last >= int64(d) && u.asked.CompareAndSwap(last, t)
}

// NoEDNS reports whether queries are to be sent without EDNS for now.
func (u *Upstream) NoEDNS(now time.Time) bool { return u.plain.Load() > u.since(now) }

// AvoidEDNS leaves EDNS out for d: the upstream answered without and not with it.
func (u *Upstream) AvoidEDNS(now time.Time, d time.Duration) { u.plain.Store(u.since(now.Add(d))) }

// NoUDP reports whether queries are to be sent by TCP for now.
func (u *Upstream) NoUDP(now time.Time) bool { return u.byTCP.Load() > u.since(now) }

// AvoidUDP leaves UDP out for d: replies that belong to no query kept coming.
func (u *Upstream) AvoidUDP(now time.Time, d time.Duration) { u.byTCP.Store(u.since(now.Add(d))) }

// LateAfter is how long a reply usually takes at the most: the moment for a hedge.
func (u *Upstream) LateAfter() time.Duration { return u.est.lateAfter() }

// Expected is the expected time to an answer, losses counted in: what
// selection compares.
func (u *Upstream) Expected() time.Duration { return u.est.expected() }

// SRTT is the smoothed round trip; 0 where nothing is known.
func (u *Upstream) SRTT() time.Duration { return u.est.smoothed() }

// Loss is the share of attempts without a timely reply, of late, 0 to 1.
func (u *Upstream) Loss() float64 { return u.est.lossShare() }

// Silent reports whether a reply is not to be expected: the upstream is not
// healthy, or new and has left a probe unanswered.
func (u *Upstream) Silent() bool {
	switch u.State() {
	case Healthy:
		return false
	case Unknown:
		return u.unheard.Load()
	}
	return !u.Replies()
}

// Replies reports whether the upstream is ejected for what it replies.
func (u *Upstream) Replies() bool { return u.replies.Load() && u.State() >= HalfOpen }

// TCPDown reports whether plain TCP to the upstream has failed of late.
func (u *Upstream) TCPDown(now time.Time) bool { return u.tcpDown.Load() > u.since(now) }

// TCPAlone reports whether nothing but plain TCP to the upstream has failed.
func (u *Upstream) TCPAlone(now time.Time) bool { return u.State() == Healthy && u.TCPDown(now) }

// ProbeByTCP reports whether the n-th probe in a row is to go by TCP: where
// TCP alone has failed; and every other one to an upstream that may be
// reachable by TCP alone.
func (u *Upstream) ProbeByTCP(now time.Time, n int) bool {
	return u.TCPAlone(now) || (u.State() == Ejected && u.cfg.Transport == "dns" && n%2 == 1)
}

// HeardStream reports whether the upstream has replied over a stream since t.
func (u *Upstream) HeardStream(t time.Time) bool { return u.stream.Load() > u.since(t) }

// HeardSame reports whether the upstream has replied to anything since attempt
// a was sent, in the way that a went.
func (u *Upstream) HeardSame(a *Attempt) bool {
	switch {
	case u.cfg.Transport != "dns":
		return u.Heard(a.SentAt)
	case a.Options.TCP:
		return u.HeardStream(a.SentAt)
	}
	return u.udp.heard.Load() > u.since(a.SentAt)
}

// AskProbe asks for a probe soon: somebody waits for the upstream longer than usual.
func (u *Upstream) AskProbe() {
	if u.wanted.CompareAndSwap(false, true) && u.cfg.Wake != nil {
		u.cfg.Wake()
	}
}

// Wanted reports whether a probe has been asked for and not been sent.
func (u *Upstream) Wanted() bool { return u.wanted.Load() }

// Probed says that a probe is being sent.
func (u *Upstream) Probed() { u.wanted.Store(false) }

// Ripe reports whether the upstream may be shown queries again, beside others.
func (u *Upstream) Ripe(now time.Time) bool { return u.since(now) >= u.ripeAt.Load() }

// State is the state now.
func (u *Upstream) State() State { return State(u.state.Load()) }

// Close ends all attempts, and then closes the Exchanger.
func (u *Upstream) Close() {
	u.mu.Lock()
	u.closed = true
	w := &u.watched
	if w.timer != nil {
		w.timer.Stop()
	}
	open := append(w.fresh, w.late...)
	w.fresh, w.late = nil, nil
	u.mu.Unlock()
	u.giveUp(open, outcome.Cancelled)
	u.cfg.Exchanger.Close()
}

// Snapshot is what is known of an upstream at an instant.
type Snapshot struct {
	To          string        // host:port
	Transport   string        // dns, tls, https or quic
	State       string        // unknown, healthy, suspect, ejected, half-open, looping
	Reason      string        // why it is not healthy, for people; "" where it is
	Since       time.Time     // when the state began
	Until       time.Time     // before this there is no way back from suspect or ejected; zero: there is
	LastReply   time.Time     // to a query or a probe; zero: never
	SRTT        time.Duration // smoothed round trip; 0 where nothing is known
	LateAfter   time.Duration // when a reply is late
	Expected    time.Duration // expected time to an answer
	Loss        float64       // share of attempts without a timely reply, recent, 0 to 1
	Recent      int           // attempts in the last minute, probes not counted
	Outstanding int           // attempts watched
	Ejections   int           // ejections in a row, decayed
	NoEDNS      bool          // EDNS is left out for now
	NoUDP       bool          // TCP takes the place of UDP for now
	NoTCP       bool          // plain TCP is taken for broken
}

// Snapshot returns what is known now.
func (u *Upstream) Snapshot() Snapshot {
	now := time.Now()
	t := u.since(now)
	u.mu.Lock()
	defer u.mu.Unlock()
	h := &u.health
	s := Snapshot{
		To: u.cfg.To, Transport: u.cfg.Transport,
		State: u.State().String(), Reason: h.reason, Since: u.instant(h.since),
		SRTT: u.est.smoothed(), LateAfter: u.est.lateAfter(), Expected: u.est.expected(), Loss: u.est.lossShare(),
		Recent: u.recent.count(t), Outstanding: u.watched.len, Ejections: h.ejections,
		NoEDNS: u.NoEDNS(now), NoUDP: u.NoUDP(now), NoTCP: u.TCPDown(now),
	}
	if heard := u.heard.Load(); heard != 0 {
		s.LastReply = u.instant(heard)
	}
	if st := u.State(); h.until > t && (st == Suspect || st == Ejected) {
		s.Until = u.instant(h.until)
	}
	return s
}

// instant is the inverse of since.
func (u *Upstream) instant(t int64) time.Time { return u.base.Add(time.Duration(t)) }
