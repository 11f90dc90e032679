package upstream

import (
	"sync/atomic"
	"time"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// What is learned of the ways by which an upstream can be reached: with or
// without EDNS, by UDP or by TCP.

// noteReply draws the conclusions from how a reply came.
func (u *Upstream) noteReply(now time.Time, a *Attempt, p exchange.Proto) {
	t := u.since(now)
	u.heard.Store(t)
	u.unheard.Store(false)
	if !a.Probe {
		u.reply.Store(t)
		if !a.Options.NoEDNS {
			u.plains.Store(0)
			u.edns.Store(t)
		} else if u.plains.Add(1) >= plainsNeeded && t-u.edns.Load() >= int64(plainAfter) {
			u.AvoidEDNS(now, plainFor)
		}
	}
	if a.optionalTCP() && (u.udpFails() || u.udpSilent(t)) {
		u.leaveOutUDP(now)
	}
	if p == exchange.UDP {
		u.udpHeard(t)
	} else {
		u.stream.Store(t)
		u.tcpBad.Store(0)
		u.tcpDown.Store(0)
	}
}

// udpFails reports whether it is UDP that fails, now that TCP has been seen to
// work: the port refuses, or the upstream has been ejected for silence.
func (u *Upstream) udpFails() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	h := &u.health
	switch u.State() {
	case Ejected, HalfOpen:
		return h.cause == outcome.Timeout || h.cause == outcome.ConnRefused || h.cause == outcome.Unreachable
	}
	return h.fails >= suspectAfter && (h.last == outcome.ConnRefused || h.last == outcome.Unreachable)
}

// udpPath is what is known of UDP alone.
type udpPath struct {
	heard  atomic.Int64 // the last reply by UDP; 0: never
	missed atomic.Int32 // queries in a row without a reply by UDP
	out    atomic.Bool  // UDP is left out because TCP alone is answered
	hold   atomic.Int64 // until when it is, whatever is heard
	back   atomic.Int64 // when it was taken back
	flaps  atomic.Int32 // times that it was left out again soon after
}

// udpMissed: a query by UDP came to nothing.
func (u *Upstream) udpMissed(a *Attempt) {
	if a.Options.TCP || u.cfg.Transport != "dns" || u.udp.heard.Load() > u.since(a.SentAt) {
		return
	}
	if !a.Probe {
		u.udp.missed.Add(1)
	} else if u.udp.out.Load() { // still so
		u.byTCP.Store(max(u.byTCP.Load(), u.since(a.SentAt)+int64(streamFor)))
	}
}

// udpSilent reports whether nothing comes back by UDP.
func (u *Upstream) udpSilent(t int64) bool {
	return u.udp.missed.Load() >= suspectAfter && t-u.udp.heard.Load() >= int64(udpSilence)
}

// leaveOutUDP leaves UDP out until a probe by UDP is answered, and for the
// longer the more often that was not the end of it: a firewall may let probes
// through.
func (u *Upstream) leaveOutUDP(now time.Time) {
	t := u.since(now)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.NoUDP(now) {
		return
	}
	if t-u.udp.back.Load() > int64(forgetAfter) {
		u.udp.flaps.Store(0)
	}
	d := min(udpOut<<min(u.udp.flaps.Add(1)-1, 8), forgetAfter)
	u.udp.hold.Store(t + int64(d))
	u.udp.out.Store(true)
	u.byTCP.Store(t + int64(max(d, streamFor)))
}

// udpHeard: a reply came by UDP.
func (u *Upstream) udpHeard(t int64) {
	u.udp.heard.Store(t)
	if u.udp.missed.Load() != 0 {
		u.udp.missed.Store(0)
	}
	if u.udp.out.Load() && t >= u.udp.hold.Load() && u.udp.out.CompareAndSwap(true, false) {
		u.udp.back.Store(t)
		u.byTCP.Store(0)
	}
}

// UDPLeftOut reports whether a probe by UDP is wanted, to see whether it is back.
func (u *Upstream) UDPLeftOut(now time.Time) bool { return u.udp.out.Load() && u.NoUDP(now) }

// tcpFailed: plain TCP failed, where UDP is the rule. When that is certain it
// is left out until a probe by TCP is answered; what goes by UDP is not
// affected. One time-out may be one lost packet.
func (u *Upstream) tcpFailed(now time.Time, k outcome.Kind) {
	t := u.since(now)
	n := int32(1)
	if k != outcome.Timeout {
		n = tcpFails
	} else if last := u.tcpMiss.Load(); t-last < int64(tcpFailEvery) || !u.tcpMiss.CompareAndSwap(last, t) {
		return // it waited for the same connection
	}
	if u.tcpBad.Add(n) < tcpFails {
		return
	}
	u.tcpBad.Store(0)
	u.tcpDown.Store(t + int64(tcpDownFor))
	if u.cfg.Wake != nil {
		u.cfg.Wake()
	}
}
