package forwarder

import (
	"time"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
	"github.com/dnsguard/dnsguard/plugin/selector"
	"github.com/dnsguard/dnsguard/plugin/upstream"
	"github.com/dnsguard/dnsguard/plugin/zones"
)

// Who is asked, in which order, and whether anybody: what a query begins with,
// and what Explain tells.

// rank orders the eligible upstreams.
func (w *walk) rank(now time.Time) {
	w.eligible, _ = w.f.allowed(w.req.Key.Name)
	if len(w.f.cfg.Upstreams) > 1 {
		w.view = w.f.table.View(now, w.req.Key.Name)
	}
	w.order = w.f.candidates(w.order[:0], now, w.eligible, w.view, w.tcp)
	selector.Order(w.f.cfg.Policy, w.order, w.f.cfg.Draw)
	w.steered = w.req.Look != nil && w.isSteered(now)
}

// Survey returns what a query for a name, that goes by TCP or not, would begin
// with: who may be asked, what is known of the name, and how fit those are. It
// changes nothing.
func (f *Forwarder) Survey(now time.Time, name string, tcp bool) (eligible zones.Set, v zones.View, cs []selector.Candidate) {
	eligible, _ = f.allowed(name)
	if len(f.cfg.Upstreams) > 1 {
		v = f.table.View(now, name)
	}
	return eligible, v, f.candidates(nil, now, eligible, v, tcp)
}

// candidates appends to cs the eligible upstreams with their ranks, for a query
// that goes by TCP or not, and of whose name v is known.
func (f *Forwarder) candidates(cs []selector.Candidate, now time.Time, eligible zones.Set, v zones.View, tcp bool) []selector.Candidate {
	strict := f.cfg.Policy.Strict() // then one that is new keeps its place, unless it has left a probe unanswered
	for i, u := range f.cfg.Upstreams {
		if eligible.Has(i) {
			cs = append(cs, selector.Candidate{Index: i, Cost: u.Expected(), Rank: selector.RankOf(selector.Subject{
				Index: i, State: u.State(), Heard: u.EverHeard() || strict && !u.Silent(), Replies: u.Replies(), NoTCP: tcp && u.TCPDown(now),
			}, v)})
		}
	}
	return cs
}

// Allowed returns the upstreams that may be asked for a name.
func (f *Forwarder) Allowed(name string) zones.Set {
	set, _ := f.allowed(name)
	return set
}

// allowed returns the upstreams that may be asked for a name, and the private
// zone that it is in; "" where it is in none.
func (f *Forwarder) allowed(name string) (set zones.Set, zone string) {
	set = f.all
	for _, p := range f.cfg.Private {
		if len(p.Zone) > len(zone) && dnsmsg.Within(name, p.Zone) {
			set, zone = p.At, p.Zone
		}
	}
	return set & f.all, zone
}

// Prospect is what is clear of a query before anything is sent.
type Prospect uint8

// The prospects.
const (
	Hopeful    Prospect = iota // upstreams will be asked
	NoUpstream                 // there is none
	NotAllowed                 // none may be asked for the private zone that the name is in
	AllEjected                 // all are, and that is to end it
	AllLoop                    // queries to all come back
	AllDead                    // all are known to be dead: at the most one of them is shown the query, and has little time
)

func (f *Forwarder) prospect(now time.Time, order []selector.Candidate) Prospect {
	switch {
	case f.all == 0:
		return NoUpstream
	case len(order) == 0:
		return NotAllowed
	case order[0].Rank == selector.Loop:
		return AllLoop
	case f.cfg.Failfast && order[0].Rank == selector.Out:
		return AllEjected
	case f.cfg.Eject && f.allDead(now, order):
		return AllDead
	}
	return Hopeful
}

// allEjected reports whether there is no upstream in the order but ejected ones.
func (f *Forwarder) allEjected(order []selector.Candidate) bool {
	for _, c := range order {
		if f.cfg.Upstreams[c.Index].State() != upstream.Ejected {
			return false
		}
	}
	return len(order) > 0
}

func (f *Forwarder) allDead(now time.Time, order []selector.Candidate) bool {
	for _, c := range order {
		if c.Rank == selector.Loop {
			break // they are the last
		}
		if c.Rank != selector.Out || !f.cfg.Upstreams[c.Index].Dead(now) {
			return false
		}
	}
	return true
}
