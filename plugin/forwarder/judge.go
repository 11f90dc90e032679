package forwarder

import (
	"slices"
	"time"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/upstream"
	"github.com/dnsguard/dnsguard/plugin/zones"

	"github.com/miekg/dns"
)

// For so long an upstream is spared what it does not cope with.
const (
	plainFor  = time.Minute      // EDNS
	streamFor = 30 * time.Second // UDP, while forged replies come, or cookies are asked for
)

// cutWait is how long a client that has a truncated reply to be passed on waits
// for the whole one: connecting, and as long again.
const cutWait = time.Second

// Result implements race.Contest: a result came in.
func (w *walk) Result(now time.Time, r upstream.Result) bool {
	w.pending--
	if watch := w.watch(); watch != nil {
		watch.Ended(r.Attempt, r.Reply)
	}
	if w.spares(now, r) {
		w.spare = r
		return false
	}
	return w.take(now, r)
}

// take draws the conclusions from a result.
func (w *walk) take(now time.Time, r upstream.Result) bool {
	w.cause = Retry
	a, reply := r.Attempt, r.Reply
	reply.Kind = w.f.meaning(a, reply)
	switch k := reply.Kind; {
	case reply.Msg != nil && slices.Contains(w.f.cfg.Failover, reply.Msg.Rcode):
		return w.failedBy(now, a, reply)
	case k == outcome.OK:
		return w.win(now, a, reply)
	case k.Denied():
		return w.deniedBy(now, a, reply)
	case k == outcome.Truncated:
		return w.truncatedBy(now, a, reply)
	default:
		return w.failedBy(now, a, reply)
	}
}

// win takes a reply with data.
func (w *walk) win(now time.Time, a *upstream.Attempt, r exchange.Reply) bool {
	w.learnOK(now, a)
	if name := w.req.Key.Name; len(w.f.cfg.Upstreams) > 1 {
		if w.denied|w.refused != 0 {
			w.disputed(now, a.Index)
		} else if !w.view.Good.Has(a.Index) || w.view.Refuses.Has(a.Index) || w.view.Struck.Has(a.Index) {
			w.f.table.Positive(now, name, a.Index)
		}
	}
	return w.finish(a, r)
}

// learnOK draws the conclusions from a usable reply: EDNS was the trouble, or
// the other upstreams that failed were wrong.
func (w *walk) learnOK(now time.Time, a *upstream.Attempt) {
	for i, b := range w.failed {
		switch {
		case b.Upstream != a.Upstream:
			w.f.contradicted(now, w.req.Key.Name, b, w.kinds[i])
		case a.Options.NoEDNS && !b.Options.NoEDNS && edns(w.kinds[i]) && w.req.Key.Options == "":
			a.Upstream.AvoidEDNS(now, plainFor)
		}
	}
}

// contradicted records that an upstream failed where another answered. Kinds
// that may be a matter of zones count there; those that are a matter of the
// upstream count against it.
func (f *Forwarder) contradicted(now time.Time, name string, a *upstream.Attempt, k outcome.Kind) {
	if !k.Answered() || k == outcome.Refused {
		return
	}
	if k == outcome.ServFail {
		f.table.Failed(now, name, a.Index)
	}
	a.Upstream.Contradicted(now, k)
}

func (w *walk) disputed(now time.Time, winner int) {
	denied := w.denied &^ zones.Of(winner)
	for i, u := range w.f.cfg.Upstreams {
		if denied.Has(i) {
			w.f.cfg.Observer.Disputed(u.To())
		}
	}
	w.f.table.Contradicted(now, zones.Dispute{
		Name: w.req.Key.Name, Type: w.req.Key.Type, Winner: winner, Absent: denied &^ w.typed, NoData: denied & w.typed, Refused: w.refused &^ zones.Of(winner),
	})
}

// hasFailed reports whether all attempts that were made with upstream i have failed.
func (w *walk) hasFailed(i int) bool {
	n := 0
	for _, a := range w.failed {
		if a.Index == i {
			n++
		}
	}
	return n > 0 && n == w.triesOf(i)
}

func (w *walk) triesOf(i int) int {
	n := 0
	for _, a := range w.tries {
		if a.Index == i {
			n++
		}
	}
	return n
}

// truncatedBy takes a reply that did not fit a datagram.
func (w *walk) truncatedBy(now time.Time, a *upstream.Attempt, r exchange.Reply) bool {
	if !w.wantsMore(a, r) {
		w.learnOK(now, a)
		return w.finish(a, r)
	}
	w.cut = &held{reply: r, by: a, at: now}
	if a.Upstream.TCPDown(now) {
		return w.failedBy(now, a, r)
	}
	if !w.launch(now, a.Index, exchange.Options{TCP: true}) && w.pending == 0 {
		return w.finish(a, r)
	}
	if !w.req.Key.Stream { // the client can do the same itself
		if until := now.Add(cutWait + a.Upstream.LateAfter()); until.Before(w.deadline) {
			w.deadline = until
		}
	}
	return false
}

// wantsMore reports whether the rest is to be asked for by TCP: as prefer_udp
// has it, and where the client can take more than the upstream put into the
// datagram, since it came by a stream, or has a larger buffer than we announced,
// or than the upstream, which does not speak EDNS, could know of.
func (w *walk) wantsMore(a *upstream.Attempt, r exchange.Reply) bool {
	k := &w.req.Key
	if w.f.cfg.PreferUDP || k.Stream || k.Size > dnsmsg.UDPSize || a.Upstream.TCPDown(w.start) {
		return true // in the last case the client will ask again by TCP, which is to go to another upstream
	}
	return (a.Options.NoEDNS || r.Msg.IsEdns0() == nil) && k.Size > dns.MinMsgSize
}

func edns(k outcome.Kind) bool {
	return k == outcome.FormErr || k == outcome.NotImp || k == outcome.BadVers
}

// failedBy takes an attempt that came to nothing: the same upstream is asked
// in another way where that may help, else the next one.
func (w *walk) failedBy(now time.Time, a *upstream.Attempt, r exchange.Reply) bool {
	w.noteFailure(now, a, r)
	if !a.Trial && w.otherwise(now, a, r) {
		return false
	}
	if w.held.by != nil {
		if !w.held.credible && !a.Options.TCP && w.byTCP(now, a.Index, r.Kind) {
			return false
		}
		return w.verify(now)
	}
	return w.goOn(now, a, r)
}

// goOn asks the next one after a failure, takes what was put by, or gives up.
func (w *walk) goOn(now time.Time, a *upstream.Attempt, r exchange.Reply) bool {
	switch {
	case a.Trial && w.pending > 0:
		return false
	case w.spareIsNext():
		return w.useSpare(now)
	case w.waitsForFit() || w.launchNext(now):
		return false
	case w.pending > 0:
		if unsent(a, r) && r.Kind != outcome.Local {
			w.lateAt = now // the others are late already
		}
		return false
	case w.hasSpare():
		return w.useSpare(now)
	case w.lastResort(now, r.Kind):
		return false
	}
	return w.giveUp(now)
}

func (w *walk) noteFailure(now time.Time, a *upstream.Attempt, r exchange.Reply) {
	w.failed = append(w.failed, a)
	w.kinds = append(w.kinds, r.Kind)
	if unsent(a, r) {
		w.unsent++
	}
	if r.Kind == outcome.Refused {
		w.refused |= zones.Of(a.Index)
	}
	if r.Msg != nil && r.Kind != outcome.Truncated && (w.soft == nil || (r.Kind == outcome.ServFail && !w.soft.reply.Kind.Denied())) {
		w.soft = &held{reply: r, by: a, at: now}
	}
}

// unsent reports whether an attempt ended before anything was sent: for want
// of a connection, or by a fault of this host.
func unsent(a *upstream.Attempt, r exchange.Reply) bool {
	if r.Kind != outcome.Local {
		return a.Options.TCP && r.Local == nil
	}
	_, sent := a.Sent() // a fault may come when the reply is to be read
	return !sent
}

// otherwise asks the same upstream once more in the way that its failure suggests.
func (w *walk) otherwise(now time.Time, a *upstream.Attempt, r exchange.Reply) bool {
	opt := a.Options
	switch {
	case edns(r.Kind) && !opt.NoEDNS:
		opt.NoEDNS = true
	case distrusts(r) && !opt.TCP && a.Upstream.Transport() == "dns":
		a.Upstream.AvoidUDP(now, streamFor)
		opt.TCP = true
	default:
		return false
	}
	return w.launch(now, a.Index, opt)
}

// distrusts reports whether one side cannot tell who is at the other end, which
// TCP does away with: forged replies came; or the upstream insists on a cookie
// (RFC 7873, section 5.2.3), which it should not where none was sent, or
// refuses datagrams without one, and says by TC that TCP is welcome.
func distrusts(r exchange.Reply) bool {
	switch r.Kind {
	case outcome.Mismatched, outcome.BadCookie:
		return true
	case outcome.Refused:
		return r.Msg.Truncated && r.Proto == exchange.UDP
	}
	return false
}

// waitsForFit reports whether an attempt is under way that is likelier to be
// answered than those not made yet.
func (w *walk) waitsForFit() bool {
	if w.pending == 0 {
		return false
	}
	for _, c := range w.order {
		if !w.tried.Has(c.Index) {
			return w.up(c.Index).Silent()
		}
	}
	return false
}

// byTCP asks an upstream by TCP whose UDP port refuses.
func (w *walk) byTCP(now time.Time, i int, k outcome.Kind) bool {
	u := w.up(i)
	if (k != outcome.ConnRefused && k != outcome.Unreachable) || w.tcp || u.Transport() != "dns" || u.TCPDown(now) {
		return false
	}
	return w.launch(now, i, exchange.Options{TCP: true})
}

// lastResort asks once more where nothing else is left: by TCP after a reply
// that could not be parsed, or where only UDP may be blocked; a little later
// after a fault of this host.
func (w *walk) lastResort(now time.Time, k outcome.Kind) bool {
	first := w.order[0].Index
	switch k {
	case outcome.Malformed:
		if w.up(first).Transport() == "dns" && w.resent == 0 {
			return w.launch(now, first, exchange.Options{TCP: true})
		}
	case outcome.ConnReset:
		if w.resent == 0 {
			return w.launch(now, first, exchange.Options{})
		}
	case outcome.Local:
		if w.paused < localPauses && !w.spent() {
			w.lateAt = now.Add(localPause << w.paused)
			w.paused++
			return true
		}
	case outcome.ConnRefused, outcome.Unreachable:
		for _, c := range w.order {
			if w.triesOf(c.Index) == 1 && w.byTCP(now, c.Index, k) {
				return true
			}
		}
	}
	return false
}
