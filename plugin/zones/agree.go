package zones

import (
	"hash/maphash"
	"time"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
)

// What upstreams agree on, and which of them say that all names exist.

// Agreement is a denial that nobody contradicted.
type Agreement struct {
	Name    string // lower case, fully qualified
	SOA     string // the owner of the SOA that came with a denial, or ""
	Absent  Set    // said NXDOMAIN
	NoData  Set    // said NODATA: that the name exists
	Refused Set    // refused to answer, or failed to
}

// Agreed records an agreement. Where some say that the name exists and others
// that it does not, that is none, unless those that are not known to be wrong
// are of one mind.
func (t *Table) Agreed(now time.Time, a Agreement) {
	floor := dnsmsg.Registrable(a.Name)
	t.mu.Lock()
	defer t.mu.Unlock()
	_, z := t.findLocked(now, a.Name, floor)
	if z == nil {
		z = t.addLocked(now, zoneOf(a.Name, a.SOA, floor))
	}
	z.touched = now
	unreliable := (z.bad | Set(t.poor.Load())) &^ z.good
	if a.Absent&^unreliable != 0 && a.NoData&^(t.hollowLocked(now)&^z.good) != 0 {
		t.agreed.Store(0)
		t.differs.Store(true)
		if z.good&a.NoData != 0 && z.good&a.Absent == 0 {
			t.changeLocked(z, func() { z.bad |= a.Absent })
		}
		return
	}
	t.parents.Add(dnsmsg.Parent(a.Name), struct{}{})
	most := uint8(roundsDark)
	if z.again(t.hash(a.Name)) { // a name that is asked for again and again shows nothing of others
		most = 1
	} else {
		t.agreed.Add(1)
	}
	if z.took == nil {
		z.took = make([]uint8, len(t.right))
	}
	for i := range z.took {
		if (a.Absent | a.NoData | a.Refused).Has(i) && z.took[i] < most {
			z.took[i]++
		}
	}
}

// again counts an agreement about a name, and reports whether there was one before.
func (z *zone) again(hash uint32) bool {
	for i := range z.absent {
		if a := &z.absent[i]; a.hash == hash {
			a.times = min(a.times+1, roundsDark)
			return true
		}
	}
	if len(z.absent) == roundsDark {
		copy(z.absent, z.absent[1:])
		z.absent = z.absent[:roundsDark-1]
	}
	z.absent = append(z.absent, absent{hash: hash, times: 1})
	return false
}

// times is how often it was agreed on that a name does not exist.
func (z *zone) times(hash uint32) uint8 {
	for _, a := range z.absent {
		if a.hash == hash {
			return a.times
		}
	}
	return 0
}

// absent is a name that an agreement was about.
type absent struct {
	hash  uint32
	times uint8
}

func (t *Table) hash(name string) uint32 { return uint32(maphash.String(t.seed, name)) }

func zoneOf(name, soa, floor string) string {
	if len(soa) > len(floor) && dnsmsg.Within(name, soa) && dnsmsg.Within(soa, floor) {
		return soa
	}
	return floor
}

// hollowed records that the upstreams of s said NODATA, of a name that another
// has data of: for a while that they say so does not show that they know a name.
func (t *Table) hollowed(now time.Time, s Set) {
	if s == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.hollow {
		if s.Has(i) {
			t.hollow[i] = now
		}
	}
}

// hollowLocked returns the upstreams whose NODATA does not show that a name exists.
func (t *Table) hollowLocked(now time.Time) (s Set) {
	for i, last := range t.hollow {
		if now.Sub(last) < expires {
			s |= Of(i)
		}
	}
	return s
}
