package zones

import (
	"time"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
)

// Doubt is how far a denial may be believed.
type Doubt struct {
	// Verify are the upstreams that might contradict and have not been heard on the zone.
	Verify Set
	// Credible says that the denial may be passed on if nobody contradicts, though not all could be asked.
	Credible bool
	// Exists says that it shows that the name exists, whoever denies that: it is NODATA, of an upstream that does not say so idly.
	Exists bool
}

// Denial is a reply that denies a name.
type Denial struct {
	Name   string // lower case, fully qualified
	SOA    string // the owner of the SOA that came with it, or ""
	By     int    // the upstream
	NoData bool   // the type alone is denied
}

// Denied tells how far to believe a denial.
func (t *Table) Denied(now time.Time, d Denial) Doubt {
	others := t.all &^ Of(d.By)
	if others == 0 {
		return Doubt{Credible: true}
	}
	j := judgement{
		Denial: d, others: others, poor: Set(t.poor.Load()), floor: dnsmsg.Registrable(d.Name),
		uniform: !t.differs.Load() && t.agreed.Load() >= confidence,
		sampled: t.sample.Add(1)%SampleEvery == 0,
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	exists := d.NoData && !t.hollowLocked(now).Has(d.By)
	if e, ok := t.names.Get(d.Name); ok && !e.good.Has(d.By) && now.Sub(e.touched) < expires {
		return Doubt{Verify: others, Exists: exists} // this very name has been answered by another
	}
	j.sibling = t.parents.Contains(dnsmsg.Parent(d.Name))
	_, z := t.findLocked(now, d.Name, j.floor)
	doubt := j.unknown()
	if z != nil {
		j.times = z.times(t.hash(d.Name))
		doubt = j.known(z)
	}
	doubt.Exists = exists
	return doubt
}

// judgement is what a denial is judged by.
type judgement struct {
	Denial
	others  Set
	poor    Set
	floor   string // the registrable domain
	uniform bool   // the pool has always agreed
	sampled bool   // this one is verified in any case
	sibling bool   // a name beside it has been agreed on
	times   uint8  // that this very name has been agreed on
}

// knowsZone reports whether the denial came with the SOA of a zone at or below
// the registrable domain.
func (j judgement) knowsZone() bool {
	return j.SOA != "" && j.floor != "." && dnsmsg.Within(j.Name, j.SOA) && dnsmsg.Within(j.SOA, j.floor)
}

// unknown judges a denial in a zone of which nothing is known.
func (j judgement) unknown() Doubt {
	if j.uniform && j.NoData && j.knowsZone() && !j.sampled {
		return Doubt{Credible: true}
	}
	return Doubt{Verify: j.others, Credible: !j.poor.Has(j.By)}
}

// known judges a denial in a known zone.
func (j judgement) known(z *zone) Doubt {
	d := Doubt{Verify: j.others, Credible: !z.bad.Has(j.By) && (z.good.Has(j.By) || (z.good == 0 && !j.poor.Has(j.By)))}
	if j.sampled {
		return d
	}
	d.Verify &^= z.refuses
	if !d.Credible || z.split {
		return d
	}
	// It is the one that knows the zone, and the others are wrong in most zones, and have known nothing here.
	authority := z.good.Has(j.By) && d.Verify&(^j.poor|z.good) == 0
	if j.NoData && (j.uniform || authority) {
		d.Verify = 0
		return d
	}
	d.Verify &^= j.heard(z, authority)
	return d
}

// heard returns the upstreams that need not be asked any more: they took part
// in enough agreements in the zone, one of them right beside the name, for a
// domain below may be somebody else's; or in any, where this name alone has
// been agreed on often enough.
func (j judgement) heard(z *zone, authority bool) Set {
	if !j.sibling {
		return 0
	}
	need := uint8(rounds)
	switch {
	case j.uniform || authority:
		need = 1
	case z.good == 0 && !j.knowsZone():
		need = roundsDark
	}
	if j.times >= need {
		need = 1
	}
	var s Set
	for i, n := range z.took {
		if n >= need {
			s |= Of(i)
		}
	}
	return s
}
