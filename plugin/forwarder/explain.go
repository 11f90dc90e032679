package forwarder

import (
	"time"

	"github.com/dnsguard/dnsguard/plugin/selector"
	"github.com/dnsguard/dnsguard/plugin/upstream"
	"github.com/dnsguard/dnsguard/plugin/zones"
)

// Explanation is what would be done with a query for a name.
type Explanation struct {
	// Prospect says whether upstreams would be asked.
	Prospect Prospect
	// Empty says why there is no upstream, where there is none.
	Empty string
	// Policy is the name of the policy.
	Policy string
	// Private is the private zone that the name is in; "" where it is in none.
	Private string
	// Known is what is known of the name and its zone.
	Known zones.Knowledge
	// Order are the upstreams in the order in which they would be asked.
	Order []Place
	// Barred are those that would not be, because of Private.
	Barred []Place
}

// Place is an upstream as a query for the name would see it.
type Place struct {
	Index    int               // in the pool, as in Known
	At       int               // 1 for the first, and so on; the same for those whose order is drawn; 0: not asked
	Rank     selector.Rank     // see there
	Expected time.Duration     // what the policy adaptive compares
	Upstream upstream.Snapshot // of the upstream
}

// Explain tells what would be done with a query by UDP for a name, lower case
// and fully qualified. It ranks and orders as a query does, sends nothing and
// changes nothing.
func (f *Forwarder) Explain(now time.Time, name string) Explanation {
	e := Explanation{Policy: f.cfg.Policy.Name()}
	var eligible zones.Set
	eligible, e.Private = f.allowed(name)
	if len(f.cfg.Upstreams) > 1 {
		e.Known = f.table.Explain(now, name)
	}
	order := f.candidates(nil, now, eligible, e.Known.View, f.cfg.ForceTCP)
	selector.Foresee(f.cfg.Policy, order)
	if e.Prospect = f.prospect(now, order); e.Prospect == NoUpstream {
		e.Empty = f.cfg.Empty()
	}
	for i, c := range order {
		at := i + 1
		if i > 0 && selector.Tied(order[i-1], c) {
			at = e.Order[i-1].At
		}
		e.Order = append(e.Order, Place{Index: c.Index, At: at, Rank: c.Rank, Expected: c.Cost, Upstream: f.cfg.Upstreams[c.Index].Snapshot()})
	}
	for i, u := range f.cfg.Upstreams {
		if !eligible.Has(i) {
			e.Barred = append(e.Barred, Place{Index: i, Upstream: u.Snapshot()})
		}
	}
	return e
}
