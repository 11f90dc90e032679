package selector

import (
	"slices"
	"testing"
	"time"
)

// foreseen returns the places of the candidates: those that are tied share one.
func foreseen(p Policy, cs []Candidate) (order, places []int) {
	got := slices.Clone(cs)
	Foresee(p, got)
	for i, c := range got {
		place := i + 1
		if i > 0 && Tied(got[i-1], c) {
			place = places[i-1]
		}
		order, places = append(order, c.Index), append(places, place)
	}
	return order, places
}

// TestForesee holds the order that is foretold, and where chance is said to decide.
func TestForesee(t *testing.T) {
	mixed := []Candidate{
		{Index: 0, Rank: Failing, Cost: 1},
		{Index: 1, Cost: 100 * time.Millisecond},
		{Index: 2, Cost: 30 * time.Millisecond},
		{Index: 3, Cost: 31 * time.Millisecond},
		{Index: 4, Cost: 100 * time.Millisecond},
		{Index: 5, Rank: Failing, Cost: 1},
	}
	for name, tc := range map[string]struct{ order, places []int }{
		"adaptive":    {[]int{2, 3, 1, 4, 0, 5}, []int{1, 1, 3, 4, 5, 5}},
		"random":      {[]int{1, 2, 3, 4, 0, 5}, []int{1, 1, 1, 1, 5, 5}},
		"round_robin": {[]int{2, 1, 3, 4, 0, 5}, []int{1, 2, 3, 4, 5, 6}},
		"sequential":  {[]int{1, 2, 3, 4, 0, 5}, []int{1, 2, 3, 4, 5, 6}},
	} {
		order, places := foreseen(policy(t, name), mixed)
		if !slices.Equal(order, tc.order) || !slices.Equal(places, tc.places) {
			t.Errorf("%s: %v at %v, want %v at %v", name, order, places, tc.order, tc.places)
		}
	}
}

// TestForeseeTrue holds that what is foretold happens, and that foretelling takes no turn.
func TestForeseeTrue(t *testing.T) {
	cs := at(Fit, 10, 20, 30)
	for _, name := range []string{"adaptive", "round_robin", "sequential"} {
		p := policy(t, name)
		for range 7 {
			foreseen(p, cs)
			want, _ := foreseen(p, cs)
			if _, got := orders(p, cs, 1); !slices.Equal(got, want) {
				t.Errorf("%s: %v, foretold %v", name, got, want)
			}
		}
	}
}

func TestRankNames(t *testing.T) {
	for r, want := range map[Rank]string{Fit: "fit", Unsure: "unsure", Sole: "sole", Unfit: "unfit", Failing: "failing", Out: "out"} {
		if r.String() != want {
			t.Errorf("%d is %q, want %q", r, r, want)
		}
	}
}
