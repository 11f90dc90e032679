package main

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestBucketsAreContiguousAndNarrow(t *testing.T) {
	last := -1
	for v := time.Duration(0); v < 1<<16; v++ {
		i := bucket(v)
		if i != last && i != last+1 {
			t.Fatalf("bucket(%d) = %d after %d", v, i, last)
		}
		last = i
		if off := math.Abs(float64(middle(i) - v)); off > float64(v)/100 {
			t.Fatalf("middle(bucket(%d)) = %d: more than 1%% off", v, middle(i))
		}
	}
}

func TestBucketBounds(t *testing.T) {
	for _, tt := range []struct {
		d    time.Duration
		want int
	}{
		{-1, 0},
		{0, 0},
		{255, 255},
		{256, 256},
		{histMax, histBuckets - 1},
		{time.Hour, histBuckets - 1},
	} {
		if got := bucket(tt.d); got != tt.want {
			t.Errorf("bucket(%d) = %d, want %d", tt.d, got, tt.want)
		}
	}
}

func TestQuantile(t *testing.T) {
	var h hist
	if got := h.quantile(0.5); got != 0 {
		t.Errorf("quantile of nothing = %v", got)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	var all []time.Duration
	for range 100_000 {
		d := time.Duration(rnd.ExpFloat64() * float64(time.Millisecond))
		all = append(all, d)
		h.record(d)
	}
	slices.Sort(all)
	for _, q := range []float64{0, 0.01, 0.5, 0.99, 0.999, 1} {
		want := all[max(int(math.Ceil(q*float64(len(all)))), 1)-1]
		got := h.quantile(q)
		if math.Abs(float64(got-want)) > 0.01*float64(want) {
			t.Errorf("quantile(%v) = %v, want %v", q, got, want)
		}
	}
	if h.max != all[len(all)-1] || h.count != uint64(len(all)) {
		t.Errorf("max %v, count %d; want %v, %d", h.max, h.count, all[len(all)-1], len(all))
	}
}

func TestQuantileOfOne(t *testing.T) {
	var h hist
	h.record(12_345_678)
	for _, q := range []float64{0, 0.5, 0.999, 1} {
		if got := h.quantile(q); math.Abs(float64(got-12_345_678)) > 123_456 || got > h.max {
			t.Errorf("quantile(%v) = %v", q, got)
		}
	}
}
