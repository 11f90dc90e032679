package zones

import "slices"

// Inherit returns a table for a pool that has changed, with what old knows.
// was gives, for each upstream of the new pool, its index in the old one, and
// is negative for one that was not in it.
func Inherit(old *Table, was []int) *Table {
	t := New(len(was))
	t.seed = old.seed
	m := mapping{was: was}
	for _, i := range was {
		m.grown = m.grown || i < 0
	}
	old.mu.Lock()
	defer old.mu.Unlock()
	for _, key := range old.zones.Keys() { // the oldest first
		z, ok := old.zones.Peek(key)
		if !ok {
			continue
		}
		if n := m.zone(z); n.good != 0 || z.good == 0 { // else who was right is gone, and the others may not be wrong
			t.zones.Add(key, n)
			t.countLocked(n, 1)
		}
	}
	for _, key := range old.names.Keys() {
		if e, ok := old.names.Peek(key); ok && m.set(e.good) != 0 {
			t.names.Add(key, nameEntry{good: m.set(e.good), touched: e.touched})
		}
	}
	for _, key := range old.parents.Keys() {
		t.parents.Add(key, struct{}{})
	}
	for i, k := range was {
		if k >= 0 {
			t.hollow[i] = old.hollow[k]
		}
	}
	t.disputes.Store(old.disputes.Load())
	t.differs.Store(old.differs.Load())
	if !m.grown { // a newcomer may know better than those who have always agreed
		t.agreed.Store(old.agreed.Load())
	}
	return t
}

// mapping leads from the indexes of a new pool to those of an old one.
type mapping struct {
	was   []int
	grown bool // some are new
}

func (m mapping) set(s Set) Set {
	var n Set
	for i, k := range m.was {
		if k >= 0 && s.Has(k) {
			n |= Of(i)
		}
	}
	return n
}

func (m mapping) counts(c []uint8) []uint8 {
	if c == nil {
		return nil
	}
	n := make([]uint8, len(m.was))
	for i, k := range m.was {
		if k >= 0 {
			n[i] = c[k]
		}
	}
	return n
}

func (m mapping) zone(z *zone) *zone {
	return &zone{
		good: m.set(z.good), bad: m.set(z.bad), refuses: m.set(z.refuses), weak: m.set(z.weak),
		took: m.counts(z.took), strikes: m.counts(z.strikes), struckBy: m.set(z.struckBy), absent: slices.Clone(z.absent),
		split: z.split, touched: z.touched, struck: z.struck,
	}
}
