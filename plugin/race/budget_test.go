package race

import (
	"sync"
	"sync/atomic"
	"testing"
)

// takes takes all the tokens there are.
func takes(b *Budget) int {
	n := 0
	for b.Take() {
		n++
	}
	return n
}

func earn(b *Budget, n int) {
	for range n {
		b.Earn()
	}
}

func TestBudget(t *testing.T) {
	for name, tc := range map[string]struct {
		share float64
		burst int
		use   func(b *Budget)
		want  int // tokens left
	}{
		"begins full":                 {0.1, 10, func(*Budget) {}, 10},
		"saves up a burst":            {0.1, 10, func(b *Budget) { earn(b, 1000) }, 10},
		"is earned by work":           {0.1, 10, func(b *Budget) { takes(b); earn(b, 50) }, 5},
		"is earned in parts":          {0.1, 10, func(b *Budget) { takes(b); earn(b, 19) }, 1},
		"nothing for too little work": {0.1, 10, func(b *Budget) { takes(b); earn(b, 9) }, 0},
		"all work":                    {1, 10, func(b *Budget) { takes(b); earn(b, 7) }, 7},
		"off":                         {0, 10, func(b *Budget) { earn(b, 1000) }, 0},
		"off, and nothing to refund":  {0, 10, func(b *Budget) { b.Refund() }, 0},
		"refund":                      {0.1, 10, func(b *Budget) { takes(b); b.Refund(); b.Refund() }, 2},
		"no refund beyond a burst":    {0.1, 10, func(b *Budget) { b.Refund() }, 10},
	} {
		b := NewBudget(tc.share, tc.burst)
		tc.use(b)
		if got := takes(b); got != tc.want {
			t.Errorf("%s: %d tokens, want %d", name, got, tc.want)
		}
	}
}

// TestBudgetConcurrent holds that no token is taken twice, and none is lost.
func TestBudgetConcurrent(t *testing.T) {
	const workers, work = 8, 5000
	b := NewBudget(0.25, 2*workers)
	takes(b)
	var taken atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range work {
				b.Earn()
				for b.Take() {
					taken.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if got := int(taken.Load()) + takes(b); got != workers*work/4 {
		t.Errorf("%d tokens, want %d", got, workers*work/4)
	}
}
