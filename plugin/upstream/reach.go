package upstream

import (
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
	if a.optionalTCP() && u.udpFails() {
		u.AvoidUDP(now, streamFor)
	}
	if p != exchange.UDP {
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
