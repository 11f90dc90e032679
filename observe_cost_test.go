//go:build !race

// The race detector lets a sync.Pool forget what is in it, so that more is allocated.

package dnsguard

import "testing"

// TestStampCost holds what a stamp adds to that: nothing but what the stub
// brings about, who sends it back, as nobody should.
func TestStampCost(t *testing.T) {
	g, ctx, w, q := aloneGuard(t)
	const most = 10 + 3
	if n := testing.AllocsPerRun(500, func() {
		if _, err := g.ServeDNS(ctx, w, q); err != nil {
			t.Error(err)
		}
	}); n > most {
		t.Errorf("%v allocations for a query, want %d", n, most)
	}
}

// TestUnobservedCostsNothing holds what a query allocates, the parsed reply
// and its answer to the client included, while no plugin looks at it.
func TestUnobservedCostsNothing(t *testing.T) {
	g, ctx, w, q := aloneGuard(t, "loop off")
	ask := func() {
		if _, err := g.ServeDNS(ctx, w, q); err != nil {
			t.Error(err)
		}
	}
	for range 200 {
		ask()
	}
	if g.look(ctx, w, q) != nil {
		t.Error("somebody looks")
	}
	if n := testing.AllocsPerRun(500, ask); n > 10 {
		t.Errorf("%v allocations for a query, want 10", n)
	}
}
