package upstream

import "sync/atomic"

// inherit takes over what another Upstream for the same server knows, at the
// moment: the configuration was loaded again, and the server is the same.
// Attempts under way stay with the other.
func (u *Upstream) inherit(old *Upstream) {
	u.base = old.base // so that instants keep their meaning
	u.est.inherit(&old.est)
	u.state.Store(old.state.Load())
	instants := func(u *Upstream) []*atomic.Int64 {
		return []*atomic.Int64{
			&u.heard, &u.reply, &u.good, &u.useful, &u.asked, &u.plain, &u.byTCP, &u.ripeAt, &u.stream, &u.tcpDown, &u.tcpMiss, &u.edns,
			&u.udp.heard, &u.udp.hold, &u.udp.back,
		}
	}
	for i, at := range instants(old) {
		instants(u)[i].Store(at.Load())
	}
	u.tcpBad.Store(old.tcpBad.Load())
	u.plains.Store(old.plains.Load())
	u.udp.missed.Store(old.udp.missed.Load())
	u.udp.flaps.Store(old.udp.flaps.Load())
	u.udp.out.Store(old.udp.out.Load())
	u.unheard.Store(old.unheard.Load())
	u.replies.Store(old.replies.Load())
	old.mu.Lock()
	u.health, u.recent = old.health, old.recent
	old.mu.Unlock()
}

func (e *estimate) inherit(old *estimate) {
	old.mu.Lock()
	defer old.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.srtt, e.rttvar, e.typ, e.loss, e.measured = old.srtt, old.rttvar, old.typ, old.loss, old.measured
	e.publishLocked()
}
