package forwarder

import (
	"time"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/upstream"
	"github.com/dnsguard/dnsguard/plugin/zones"
)

// Denials: whether one is passed on at once, and who is asked about it first.

// deniedBy takes an NXDOMAIN or NODATA: it is passed on unless somebody may
// know better, who is then asked first.
func (w *walk) deniedBy(now time.Time, a *upstream.Attempt, r exchange.Reply) bool {
	w.denied |= zones.Of(a.Index)
	if r.Kind == outcome.NoData {
		w.typed |= zones.Of(a.Index)
	}
	if w.f.cfg.Trust || len(w.f.cfg.Upstreams) == 1 || dnsmsg.Filtered(r.Msg) {
		w.learnOK(now, a)
		return w.finish(a, r)
	}
	d := w.f.table.Denied(now, zones.Denial{
		Name: w.req.Key.Name, SOA: dnsmsg.SOA(r.Msg), By: a.Index, NoData: r.Kind == outcome.NoData,
	})
	h := held{reply: r, by: a, at: now, verify: d.Verify & w.eligible, credible: d.Credible, exists: d.Exists}
	if w.held.by != nil {
		h.at = w.held.at
		if !better(h, w.held) {
			h.reply, h.by, h.exists = w.held.reply, w.held.by, w.held.exists
		}
		if !d.Credible {
			h.verify &= w.held.verify
		}
		h.credible = h.credible || w.held.credible
	}
	w.held = h
	if w.hasSpare() {
		return w.useSpare(now)
	}
	return w.verify(now)
}

// better tells which of two denials is the one to pass on: the one that shows
// that the name exists; that of the upstream which is credible in the zone;
// that the name exists rather than that it does not; with an SOA rather than
// without.
func better(a, b held) bool {
	if a.exists != b.exists && a.reply.Kind != b.reply.Kind {
		return a.exists
	}
	if a.credible != b.credible {
		return a.credible
	}
	if a.reply.Kind != b.reply.Kind {
		return a.reply.Kind == outcome.NoData
	}
	return dnsmsg.SOA(a.reply.Msg) != "" && dnsmsg.SOA(b.reply.Msg) == ""
}

// verify asks those who may contradict the denial that is held, and passes it
// on when none is left.
func (w *walk) verify(now time.Time) bool {
	w.cause = Verification
	open := zones.Set(0)
	for _, set := range w.verifiers(now) {
		for i := range w.f.cfg.Upstreams {
			if set.Has(i) && w.asksVerifier(now, i) {
				open |= zones.Of(i)
			}
		}
	}
	if open == 0 {
		return w.passDenial(now)
	}
	if w.checkAt.IsZero() {
		w.checkAt = w.held.at.Add(verifyShort)
	}
	return false
}

// verifiers returns who may contradict the denial that is held: where it is no
// use without them, those first who have shown that they know the zone.
func (w *walk) verifiers(now time.Time) [2]zones.Set {
	all, first := w.held.verify, zones.Set(0)
	if !w.held.credible {
		v := w.f.table.View(now, w.req.Key.Name)
		first = all & (v.Good | v.Name)
	}
	return [2]zones.Set{first, all &^ first}
}

// asksVerifier asks upstream i about the denial that is held, unless it has been
// asked. It reports whether a reply may come.
func (w *walk) asksVerifier(now time.Time, i int) bool {
	u := w.up(i)
	switch {
	case w.denied.Has(i) || w.refused.Has(i):
		return false
	case w.hasFailed(i):
		return w.verifyByTCP(now, i)
	case w.tried.Has(i):
		return true
	case u.Silent() && (w.held.credible || u.Dead(now)):
		return false
	}
	return w.launch(now, i, exchange.Options{})
}

// verifyByTCP asks upstream i by TCP, where that is left, about a denial that is no use without.
func (w *walk) verifyByTCP(now time.Time, i int) bool {
	return !w.held.credible && w.onlyUDPFailed(now, i) && w.launch(now, i, exchange.Options{TCP: true})
}

// onlyUDPFailed reports whether upstream i has been asked by UDP alone, and may
// be reached by TCP still.
func (w *walk) onlyUDPFailed(now time.Time, i int) bool {
	for k, a := range w.failed {
		if a.Index == i && (a.Options.TCP || w.kinds[k].Answered()) {
			return false
		}
	}
	return w.up(i).Transport() == "dns" && !w.up(i).TCPDown(now)
}
