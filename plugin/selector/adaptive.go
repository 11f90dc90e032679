package selector

import "time"

// adaptive asks the upstream with the lowest expected time to an answer.
// Those that are about as near as the nearest share the queries.
type adaptive struct{}

// What counts as about as near.
const (
	nearShare = 10 // a tenth more than the nearest
	nearLeast = 100 * time.Microsecond
)

func (adaptive) Name() string { return "adaptive" }

func (adaptive) Strict() bool { return false }

func (adaptive) keys(cs []Candidate, draw func(n int) int) {
	for i := range cs {
		nearest := cs[i].Cost
		for j := range cs {
			if cs[j].Rank == cs[i].Rank {
				nearest = min(nearest, cs[j].Cost)
			}
		}
		if cs[i].Cost <= nearest+max(nearest/nearShare, nearLeast) {
			cs[i].key = -int64(1 + draw(1<<20))
			continue
		}
		cs[i].key = int64(cs[i].Cost)
	}
}
