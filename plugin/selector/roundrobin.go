package selector

import "sync/atomic"

// roundRobin begins with the next upstream at each query, and goes on with the
// others in the order of the Corefile, as forward's policy of that name.
type roundRobin struct{ turn atomic.Uint64 }

func (*roundRobin) Name() string { return "round_robin" }

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
		cs[i].key = int64(cs[i].Index)
		if cs[i].Rank == fittest {
			if place == first {
				cs[i].key = -1
			}
			place++
		}
	}
}
