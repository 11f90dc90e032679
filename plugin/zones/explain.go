package zones

import (
	"time"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
)

// Knowledge is a View, and what it rests on.
type Knowledge struct {
	View
	Zone      string    // the zone that Good, Bad, Weak and Refuses are about; "" where none is known
	Until     time.Time // when that is forgotten, unless it is confirmed
	WeakUntil time.Time // when Weak is, unless there are further failures
	NameUntil time.Time // when Name is
}

// Explain returns what View does, and why, for people. It changes nothing: not
// even what is forgotten first.
func (t *Table) Explain(now time.Time, name string) Knowledge {
	if t.disputes.Load() == 0 {
		return Knowledge{}
	}
	k := Knowledge{View: View{Poor: Set(t.poor.Load())}}
	t.mu.Lock()
	defer t.mu.Unlock()
	e, _ := t.names.Peek(name)
	key, z := deepest(name, dnsmsg.Registrable(name), func(n string) *zone {
		if z, ok := t.zones.Peek(n); ok && now.Sub(z.touched) < expires {
			return z
		}
		return nil
	})
	k.add(now, e, z)
	k.Zone = key
	if k.Name != 0 {
		k.NameUntil = e.touched.Add(expires)
	}
	if z != nil {
		k.Until = z.touched.Add(expires)
	}
	if k.Weak != 0 {
		k.WeakUntil = z.struck.Add(weakFor)
	}
	return k
}
