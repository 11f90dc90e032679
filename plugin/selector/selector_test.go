package selector

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dnsguard/dnsguard/plugin/upstream"
	"github.com/dnsguard/dnsguard/plugin/zones"
)

func TestRankOf(t *testing.T) {
	const me, other zones.Set = 1 << 1, 1 << 0
	right, wrong := zones.View{Good: me, Known: true}, zones.View{Bad: me, Good: other, Known: true}
	for name, tc := range map[string]struct {
		s    Subject
		view zones.View
		want Rank
	}{
		"healthy":                             {Subject{State: upstream.Healthy, Heard: true}, zones.View{}, Fit},
		"never heard":                         {Subject{State: upstream.Unknown}, zones.View{}, Unsure},
		"heard, no query answered yet":        {Subject{State: upstream.Unknown, Heard: true}, zones.View{}, Fit},
		"suspect":                             {Subject{State: upstream.Suspect, Heard: true}, zones.View{}, Failing},
		"half-open":                           {Subject{State: upstream.HalfOpen, Heard: true}, zones.View{}, Failing},
		"ejected":                             {Subject{State: upstream.Ejected, Heard: true}, zones.View{}, Out},
		"ejected for its replies":             {Subject{State: upstream.Ejected, Heard: true, Replies: true}, zones.View{}, Out},
		"TCP broken, and asked for":           {Subject{State: upstream.Healthy, Heard: true, NoTCP: true}, right, Failing},
		"right in the zone":                   {Subject{State: upstream.Healthy, Heard: true}, right, Fit},
		"right in the zone, poor elsewhere":   {Subject{State: upstream.Healthy, Heard: true}, zones.View{Good: me, Poor: me, Known: true}, Fit},
		"right in the zone, never heard":      {Subject{State: upstream.Unknown}, right, Fit},
		"right in the zone, fails of late":    {Subject{State: upstream.Healthy, Heard: true}, zones.View{Good: me, Weak: me, Known: true}, Unfit},
		"another fails of late":               {Subject{State: upstream.Healthy, Heard: true}, zones.View{Weak: other, Known: true}, Fit},
		"poor, and the zone is new":           {Subject{State: upstream.Healthy, Heard: true}, zones.View{Poor: me}, Unsure},
		"another is poor":                     {Subject{State: upstream.Healthy, Heard: true}, zones.View{Poor: other}, Fit},
		"wrong in the zone":                   {Subject{State: upstream.Healthy, Heard: true}, wrong, Unfit},
		"refuses the zone":                    {Subject{State: upstream.Healthy, Heard: true}, zones.View{Refuses: me, Known: true}, Unfit},
		"another is wrong":                    {Subject{State: upstream.Healthy, Heard: true}, zones.View{Bad: other, Known: true}, Fit},
		"knows the name in a zone it is not":  {Subject{State: upstream.Healthy, Heard: true}, zones.View{Name: me, Bad: me, Known: true}, Fit},
		"another knows the name":              {Subject{State: upstream.Healthy, Heard: true}, zones.View{Name: other, Good: me | other, Known: true}, Unfit},
		"suspect goes before wrong":           {Subject{State: upstream.Suspect, Heard: true}, wrong, Failing},
		"suspect, right in the zone":          {Subject{State: upstream.Suspect, Heard: true}, right, Sole},
		"suspect, another knows the name":     {Subject{State: upstream.Suspect, Heard: true}, zones.View{Name: other, Good: me | other, Known: true}, Failing},
		"ejected, but it knows the name":      {Subject{State: upstream.Ejected, Heard: true}, zones.View{Name: me, Known: true}, Sole},
		"ejected elsewhere, right in zone":    {Subject{State: upstream.Ejected, Heard: true, Replies: true}, right, Fit},
		"half-open, though it knows the name": {Subject{State: upstream.HalfOpen, Heard: true}, zones.View{Name: me, Known: true}, Sole},
	} {
		tc.s.Index = 1
		if got := RankOf(tc.s, tc.view); got != tc.want {
			t.Errorf("%s: rank %d, want %d", name, got, tc.want)
		}
	}
}

func policy(t *testing.T, name string) Policy {
	t.Helper()
	p, err := New(name)
	if err != nil || p.Name() != name {
		t.Fatalf("New(%q): %v, %v", name, p, err)
	}
	return p
}

func TestNewUnknown(t *testing.T) {
	if p, err := New("nearest"); err == nil || p != nil {
		t.Errorf("%v, %v, want an error", p, err)
	}
}

// orders puts candidates in order n times, and counts who comes first.
func orders(p Policy, cs []Candidate, n int) (first map[int]int, last []int) {
	rnd := rand.New(rand.NewPCG(1, 2))
	first = make(map[int]int)
	for range n {
		got := slices.Clone(cs)
		Order(p, got, rnd.IntN)
		first[got[0].Index]++
		last = last[:0]
		for _, c := range got {
			last = append(last, c.Index)
		}
	}
	return first, last
}

func at(rank Rank, cost ...time.Duration) []Candidate {
	cs := make([]Candidate, len(cost))
	for i, c := range cost {
		cs[i] = Candidate{Index: i, Rank: rank, Cost: c * time.Millisecond}
	}
	return cs
}

// TestRankFirst holds that no policy sets a worse rank before a better one.
func TestRankFirst(t *testing.T) {
	cs := []Candidate{
		{Index: 0, Rank: Out, Cost: 1},
		{Index: 1, Rank: Failing, Cost: 2},
		{Index: 2, Rank: Unfit, Cost: 3},
		{Index: 3, Rank: Sole, Cost: 4},
		{Index: 4, Rank: Unsure, Cost: 5},
		{Index: 5, Rank: Fit, Cost: time.Second},
	}
	for _, name := range []string{"adaptive", "random", "round_robin", "sequential"} {
		first, last := orders(policy(t, name), cs, 20)
		if first[5] != 20 || !slices.Equal(last, []int{5, 4, 3, 2, 1, 0}) {
			t.Errorf("%s: %v, %v", name, first, last)
		}
	}
}

func TestSequential(t *testing.T) {
	first, last := orders(policy(t, "sequential"), at(Fit, 30, 20, 10), 10)
	if first[0] != 10 || !slices.Equal(last, []int{0, 1, 2}) {
		t.Errorf("%v, %v, want the order of the Corefile", first, last)
	}
}

func TestRoundRobin(t *testing.T) {
	p := policy(t, "round_robin")
	cs := at(Fit, 30, 20, 10, 10)
	cs[2].Rank = Failing
	var got [][]int
	for range 4 {
		_, last := orders(p, cs, 1)
		got = append(got, slices.Clone(last))
	}
	// Three are fit; each begins in turn, and the others follow in the order of the Corefile.
	rounds := [][]int{{0, 1, 3, 2}, {1, 0, 3, 2}, {3, 0, 1, 2}}
	turn := slices.IndexFunc(rounds, func(r []int) bool { return slices.Equal(r, got[0]) })
	for i, g := range got {
		if turn < 0 || !slices.Equal(g, rounds[(turn+i)%3]) {
			t.Fatalf("%v, want %v in turn", got, rounds)
		}
	}
}

func TestRandom(t *testing.T) {
	first, _ := orders(policy(t, "random"), at(Fit, 1, 2, 300), 3000)
	for i := range 3 {
		if first[i] < 900 || first[i] > 1100 {
			t.Errorf("%v, want a third each", first)
		}
	}
}

func TestAdaptive(t *testing.T) {
	const n = 3000
	for name, tc := range map[string]struct {
		cs   []Candidate
		want map[int]int // shares of first places, in per cent
		last []int       // the order, where it is certain
	}{
		"the nearest":                {at(Fit, 30, 10, 20), map[int]int{1: 100}, []int{1, 2, 0}},
		"about as near share":        {at(Fit, 100, 105, 110, 111), map[int]int{0: 33, 1: 33, 2: 33}, nil},
		"the far ones in order":      {at(Fit, 10, 40, 30, 20), map[int]int{0: 100}, []int{0, 3, 2, 1}},
		"all alike":                  {at(Fit, 10, 10), map[int]int{0: 50, 1: 50}, nil},
		"unknown costs alike":        {at(Fit, 0, 0), map[int]int{0: 50, 1: 50}, nil},
		"of the same rank":           {append(at(Failing, 1), Candidate{Index: 1, Cost: time.Second}, Candidate{Index: 2, Cost: time.Second}), map[int]int{1: 50, 2: 50}, nil},
		"under a millisecond":        {[]Candidate{{Index: 0, Cost: 150 * time.Microsecond}, {Index: 1, Cost: 240 * time.Microsecond}, {Index: 2, Cost: 260 * time.Microsecond}}, map[int]int{0: 50, 1: 50}, nil},
		"the nearest is of no rank":  {append(at(Out, 1), Candidate{Index: 1, Cost: 50 * time.Millisecond}, Candidate{Index: 2, Cost: 100 * time.Millisecond}), map[int]int{1: 100}, []int{1, 2, 0}},
		"one alone":                  {at(Fit, 10), map[int]int{0: 100}, []int{0}},
		"the same whatever it costs": {at(Fit, 10_000, 10_900), map[int]int{0: 50, 1: 50}, nil},
	} {
		first, last := orders(policy(t, "adaptive"), tc.cs, n)
		for i := range tc.cs {
			if got := first[i] * 100 / n; got < tc.want[i]-4 || got > tc.want[i]+4 {
				t.Errorf("%s: %v first of %d, want per cent %v", name, first, n, tc.want)
				break
			}
		}
		if tc.last != nil && !slices.Equal(last, tc.last) {
			t.Errorf("%s: order %v, want %v", name, last, tc.last)
		}
	}
}

func TestConcurrent(t *testing.T) {
	for _, name := range []string{"adaptive", "random", "round_robin", "sequential"} {
		p := policy(t, name)
		var mu sync.Mutex
		first := make(map[int]int)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				got, _ := orders(p, at(Fit, 10, 10, 10), 300)
				mu.Lock()
				defer mu.Unlock()
				for i, n := range got {
					first[i] += n
				}
			})
		}
		wg.Wait()
		if name == "round_robin" && (first[0] != 400 || first[1] != 400) {
			t.Errorf("%s: %v, want the same number each", name, first)
		}
	}
}
