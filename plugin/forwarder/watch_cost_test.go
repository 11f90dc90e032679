//go:build !race

// The race detector lets a sync.Pool forget what is in it, so that more is allocated.

package forwarder

import "testing"

// TestUnwatchedCostsNothing holds what a query allocates while nobody looks: the packed query, the attempt, the flight. The client's request and the reply
// are not counted.
func TestUnwatchedCostsNothing(t *testing.T) {
	f := instantly(t, 3)
	q := request("www.example.org.")
	ask := func() { f.Forward(t.Context(), q) }
	for range 1000 {
		ask()
	}
	if n := testing.AllocsPerRun(1000, ask); n > 3 {
		t.Errorf("%v allocations for a query, want 3", n)
	}
}
