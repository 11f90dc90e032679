// Package zones remembers which upstream has shown that it can answer for
// which zone: its credibility there.
//
// An upstream is credible for a zone once it has answered positively in it.
// It is not once it has denied or refused there what another answered. A
// denial of an upstream that may be wrong is to be verified by the others,
// until the pool has agreed on denials in the zone often enough; from then on
// one in SampleEvery is verified still.
//
// Zones are keyed by name: the owner of the SOA of a denial where that is at
// or below the registrable domain, else the registrable domain; where a name
// was disputed, its parent. The deepest known zone above a name counts. Where
// upstreams know different names of the same zone (split horizon), single
// names are remembered too. Memory is bounded; entries expire.
//
// All methods may be called concurrently. Upstreams are bits of a Set, by
// their index in the pool.
package zones

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
)

// Set is a set of upstreams by their index, 0 to 63.
type Set uint64

// Of returns the set of one upstream.
func Of(i int) Set { return 1 << uint(i) }

// Has reports whether upstream i is in s.
func (s Set) Has(i int) bool { return s&Of(i) != 0 }

// Bounds.
const (
	// Zones and Names are how many are remembered at the most.
	Zones = 8192
	Names = 8192
	// SampleEvery is how many unverified denials go by before one is verified again.
	SampleEvery = 50

	expires    = 15 * time.Minute // what nothing has confirmed for so long is forgotten
	rounds     = 4                // agreed denials after which a zone is agreed on
	roundsDark = 16               // the same where nobody has shown to know the zone
	poorAt     = 2                // zones in which an upstream was wrong before it is poor
	confidence = 16               // agreed denials without a dispute that make a pool uniform
	strikesOut = 3                // failures that make an upstream weak in a zone
	weakFor    = 30 * time.Second // and for how long
)

// View is what is known for a name. The zero View: nothing.
type View struct {
	Good    Set  // have answered positively in the zone
	Bad     Set  // have denied or refused there what another answered, and answered nothing
	Weak    Set  // have failed there of late, more than once, where another answered
	Struck  Set  // have failed there since they answered last, were it but once
	Refuses Set  // have refused there
	Name    Set  // the upstream that has answered this very name where others denied it
	Poor    Set  // are wrong in more zones than they are right in
	Known   bool // the zone is known
}

// Table is what a pool knows of zones. Make it with New.
type Table struct {
	all      Set
	disputes atomic.Int64 // disputes and failures ever; 0: selection need not look
	agreed   atomic.Int64 // agreed denials since the last disputed one
	differs  atomic.Bool  // a denial was disputed, ever
	poor     atomic.Uint64
	sample   atomic.Uint32

	mu      sync.Mutex
	zones   *lru.Cache[string, *zone]
	parents *lru.Cache[string, struct{}] // domains right above a name that was agreed on
	names   *lru.Cache[string, nameEntry]
	right   []int       // zones in which an upstream is good, by index
	wrong   []int       // zones in which it is bad
	hollow  []time.Time // when an upstream last said NODATA of a name that another has data of
	seed    maphash.Seed
}

type zone struct {
	good, bad, refuses Set
	took               []uint8  // agreed denials of different names that an upstream took part in, by index; nil: none
	absent             []absent // the last names that were agreed on
	split              bool     // two have answered positively what the other denied
	touched            time.Time
	weak               Set
	strikes            []uint8   // failures since the last positive answer, by upstream; nil: none
	struckBy           Set       // those of which there are any
	struck             time.Time // the last of them
}

type nameEntry struct {
	good    Set
	touched time.Time
}

// New returns an empty table for n upstreams, at most 64.
func New(n int) *Table {
	t := &Table{all: Set(1)<<uint(n) - 1, right: make([]int, n), wrong: make([]int, n), hollow: make([]time.Time, n), seed: maphash.MakeSeed()}
	if n >= 64 {
		t.all = ^Set(0)
	}
	t.names, _ = lru.New[string, nameEntry](Names) // errs only on a size below 1
	t.parents, _ = lru.New[string, struct{}](Names)
	t.zones, _ = lru.NewWithEvict(Zones, func(_ string, z *zone) { t.countLocked(z, -1) })
	return t
}

// View returns what is known for a name, lower case and fully qualified.
func (t *Table) View(now time.Time, name string) View {
	if t.disputes.Load() == 0 {
		return View{}
	}
	v := View{Poor: Set(t.poor.Load())}
	t.mu.Lock()
	defer t.mu.Unlock()
	e, _ := t.names.Get(name)
	_, z := t.findLocked(now, name, dnsmsg.Registrable(name))
	v.add(now, e, z)
	return v
}

// add takes in the entry of the name, which may be empty, and that of the zone, which may be nil.
func (v *View) add(now time.Time, e nameEntry, z *zone) {
	if now.Sub(e.touched) < expires {
		v.Name = e.good
	}
	if z != nil {
		v.Good, v.Bad, v.Refuses, v.Known = z.good, z.bad, z.refuses, true
		if z.weak != 0 && now.Sub(z.struck) < weakFor {
			v.Weak = z.weak
		}
		v.Struck = z.struckBy
	}
}

// Failed records that upstream i did not reply in time to a question for name
// that another answered, or said SERVFAIL.
func (t *Table) Failed(now time.Time, name string, i int) {
	t.disputes.Add(1)
	floor := dnsmsg.Registrable(name)
	t.mu.Lock()
	defer t.mu.Unlock()
	_, z := t.findLocked(now, name, floor)
	if z == nil {
		z = t.addLocked(now, floor)
	}
	t.strikeLocked(now, z, i)
}

// strikeLocked records one more time that upstream i was of no use in z.
func (t *Table) strikeLocked(now time.Time, z *zone, i int) {
	if now.Sub(z.struck) >= weakFor {
		z.weak, z.struckBy = 0, 0
		clear(z.strikes)
	}
	if z.strikes == nil {
		z.strikes = make([]uint8, len(t.right))
	}
	z.struck = now
	z.struckBy |= Of(i)
	if z.strikes[i]++; z.strikes[i] >= strikesOut {
		z.strikes[i] = strikesOut
		z.weak |= Of(i)
	}
}

// praiseLocked forgets the strikes of upstream i: it has answered.
func (z *zone) praiseLocked(i int) {
	z.weak &^= Of(i)
	z.struckBy &^= Of(i)
	if z.strikes != nil {
		z.strikes[i] = 0
	}
}

// findLocked returns the deepest known zone above name, down from floor.
func (t *Table) findLocked(now time.Time, name, floor string) (string, *zone) {
	return deepest(name, floor, func(n string) *zone {
		z, ok := t.zones.Get(n)
		if !ok {
			return nil
		}
		if now.Sub(z.touched) >= expires {
			t.zones.Remove(n)
			return nil
		}
		return z
	})
}

// deepest returns the first of name and its parents, up to floor, that get has a zone of.
func deepest(name, floor string, get func(name string) *zone) (string, *zone) {
	for n := name; ; n = dnsmsg.Parent(n) {
		if z := get(n); z != nil {
			return n, z
		}
		if len(n) <= len(floor) || n == "." {
			return "", nil
		}
	}
}

// Positive records that upstream i answered name with data. Before the first
// dispute there is nothing to learn from that.
func (t *Table) Positive(now time.Time, name string, i int) {
	if t.disputes.Load() == 0 {
		return
	}
	floor := dnsmsg.Registrable(name)
	t.mu.Lock()
	defer t.mu.Unlock()
	_, z := t.findLocked(now, name, floor)
	if z == nil {
		z = t.addLocked(now, floor)
	}
	t.changeLocked(z, func() {
		z.good |= Of(i)
		z.bad &^= Of(i)
		z.refuses &^= Of(i)
	})
	z.touched = now
	z.praiseLocked(i)
}

// Dispute is an answer with data, to a question that others have denied or refused.
type Dispute struct {
	Name    string // lower case, fully qualified
	Type    uint16
	Winner  int // the upstream that answered
	Absent  Set // said NXDOMAIN
	NoData  Set // said NODATA
	Refused Set
}

// Contradicted records a dispute. It reports whether a denial in it tells
// against who made it: NODATA says little of a type that not every server knows.
func (t *Table) Contradicted(now time.Time, d Dispute) bool {
	denied := d.Absent
	switch {
	case d.NoData == 0:
	case d.Type == dns.TypeA, d.Type == dns.TypeAAAA:
		denied |= d.NoData
		t.hollowed(now, d.NoData&^Of(d.Winner))
	default:
		t.disputedType()
	}
	t.disputed(now, d.Name, d.Winner, denied, d.Refused)
	return denied != 0
}

// disputed records that upstream winner answered name, which the upstreams of
// denied had denied and those of refused had refused to answer.
func (t *Table) disputed(now time.Time, name string, winner int, denied, refused Set) {
	losers := (denied | refused) &^ Of(winner)
	if losers == 0 {
		return
	}
	t.disputes.Add(1)
	if denied != 0 {
		t.agreed.Store(0)
		t.differs.Store(true)
	}
	floor := dnsmsg.Registrable(name)
	t.mu.Lock()
	defer t.mu.Unlock()
	if denied != 0 {
		t.names.Add(name, nameEntry{good: Of(winner), touched: now})
	}
	key, z := t.findLocked(now, name, floor)
	at := deeper(dnsmsg.Parent(name), floor)
	if z == nil || (z.good&losers != 0 && len(at) > len(key)) {
		// Those who are right above and wrong here make this a zone of its own.
		z = t.addLocked(now, at)
	}
	if z.good&denied != 0 { // who is right here denies what another answers
		z.split = true
		clear(z.took)
		z.absent = nil
	}
	t.changeLocked(z, func() {
		z.good |= Of(winner)
		z.bad &^= Of(winner)
		z.refuses &^= Of(winner)
		z.bad |= losers &^ z.good
		z.refuses |= refused &^ z.good
	})
	z.touched = now
	z.praiseLocked(winner)
	for i := range t.right { // who was right, and does nothing but deny now, is asked last until it answers
		if (denied & z.good &^ Of(winner)).Has(i) {
			t.strikeLocked(now, z, i)
		}
	}
}

// disputedType records that an upstream denied a type that another has data
// of, where that says little about the zone: some servers do not know newer
// types, or leave them out.
func (t *Table) disputedType() {
	t.disputes.Add(1)
	t.agreed.Store(0)
	t.differs.Store(true)
}

// deeper returns the parent of a disputed name where that is below the
// registrable domain, else the registrable domain.
func deeper(parent, floor string) string {
	if len(parent) > len(floor) {
		return parent
	}
	return floor
}

func (t *Table) addLocked(now time.Time, key string) *zone {
	z := &zone{touched: now}
	t.zones.Add(key, z)
	return z
}

// changeLocked changes a zone and keeps count of who is right and wrong in how many.
func (t *Table) changeLocked(z *zone, change func()) {
	good, bad := z.good, z.bad
	change()
	if z.good == good && z.bad == bad {
		return
	}
	after := *z
	z.good, z.bad = good, bad
	t.countLocked(z, -1)
	z.good, z.bad = after.good, after.bad
	t.countLocked(z, 1)
}

func (t *Table) countLocked(z *zone, by int) {
	var poor Set
	for i := range t.right {
		if z.good.Has(i) {
			t.right[i] += by
		}
		if z.bad.Has(i) {
			t.wrong[i] += by
		}
		if t.wrong[i] >= poorAt && t.wrong[i] > t.right[i] {
			poor |= Of(i)
		}
	}
	t.poor.Store(uint64(poor))
}

// Stats are the sizes of a table.
type Stats struct {
	Zones    int   // zones remembered
	Names    int   // names remembered
	Disputes int64 // disputes and failures ever
	Poor     Set   // upstreams that are wrong in more zones than they are right in
}

// Stats returns the sizes of the table.
func (t *Table) Stats() Stats {
	return Stats{Zones: t.zones.Len(), Names: t.names.Len(), Disputes: t.disputes.Load(), Poor: Set(t.poor.Load())}
}
