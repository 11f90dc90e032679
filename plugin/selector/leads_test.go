package selector

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestLeads(t *testing.T) {
	const ms = time.Millisecond
	even := []Candidate{{Index: 0, Cost: 10 * ms}, {Index: 1, Cost: 10 * ms}, {Index: 2, Cost: 10 * ms}}
	uneven := []Candidate{{Index: 0, Cost: 30 * ms}, {Index: 1, Cost: 10 * ms}, {Index: 2, Cost: 11 * ms}}
	ranked := []Candidate{{Index: 0, Rank: Unfit, Cost: ms}, {Index: 1, Cost: 30 * ms}, {Index: 2, Rank: Out, Cost: ms}, {Index: 3, Cost: 10 * ms}}
	for _, tc := range []struct {
		policy string
		cs     []Candidate
		want   []int
	}{
		{"random", even, []int{0, 1, 2}},
		{"random", uneven, []int{0, 1, 2}},
		{"random", ranked, []int{1, 3}},
		{"round_robin", uneven, []int{0, 1, 2}},
		{"round_robin", ranked, []int{1, 3}},
		{"sequential", even, []int{0}},
		{"sequential", ranked, []int{1}},
		{"adaptive", even, []int{0, 1, 2}},
		{"adaptive", uneven, []int{1, 2}},
		{"adaptive", ranked, []int{3}},
	} {
		p := policy(t, tc.policy)
		var got []int
		for i := range len(tc.cs) + 1 { // the last one is not among them
			if Leads(p, slices.Clone(tc.cs), i) {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s of %v: %v may lead, want %v", tc.policy, tc.cs, got, tc.want)
		}
	}
}

// TestLeadsAsOrder compares what Leads says with whom Order ever puts first.
func TestLeadsAsOrder(t *testing.T) {
	draw := rand.New(rand.NewPCG(3, 4))
	for _, name := range []string{"random", "round_robin", "sequential", "adaptive"} {
		p := policy(t, name)
		for range 200 {
			cs := make([]Candidate, 1+draw.IntN(5))
			for i := range cs {
				cs[i] = Candidate{Index: i, Rank: Rank(draw.IntN(3)), Cost: time.Duration(9+draw.IntN(4)) * time.Millisecond}
			}
			first, _ := orders(p, cs, 200)
			for i := range cs {
				if got := Leads(p, cs, i); got != (first[i] > 0) {
					t.Fatalf("%s of %v: Leads(%d) is %t, and it was first in %d of 200 orders", name, cs, i, got, first[i])
				}
			}
		}
	}
}
