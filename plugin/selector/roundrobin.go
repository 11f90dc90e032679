package selector

import "sync/atomic"

// roundRobin begins with the next upstream at each query, and goes on with the
// others in the order of the Corefile, as forward's policy of that name.
type roundRobin struct{ turn atomic.Uint64 }

func (*roundRobin) Name() string { return "round_robin" }

// clone returns a policy of its own that takes the same turns from here on.
func (r *roundRobin) clone() *roundRobin {
	c := new(roundRobin)
	c.turn.Store(r.turn.Load())
	return c
}

func (*roundRobin) Strict() bool { return true }

func (r *roundRobin) keys(cs []Candidate, _ func(n int) int) {
	fittest := Out
	for _, c := range cs {
		fittest = min(fittest, c.Rank)
	}
	n := uint64(0)
	for _, c := range cs {
		if c.Rank == fittest {
			n++
		}
	}
	first := r.turn.Add(1) % n
	place := uint64(0)
	for i := range cs {
		cs[i].key = int64(1 + cs[i].Index)
		if cs[i].Rank == fittest {
			if place == first {
				cs[i].key = 0
			}
			place++
		}
	}
}
