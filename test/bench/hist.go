package main

import (
	"math"
	"math/bits"
	"time"
)

const (
	subBuckets  = 128 // per power of two: a bucket is less than 1% wide
	histBuckets = 31 * subBuckets
	histMax     = 1<<37 - 1 // ns, 137 s; what is later counts as this
)

// hist is a log-linear histogram of durations, of fixed size, that records
// without allocating. The zero value is empty and ready. One writer at a time.
type hist struct {
	counts [histBuckets]uint64
	count  uint64
	max    time.Duration
}

// bucket returns the index of the bucket that d falls into.
func bucket(d time.Duration) int {
	v := uint64(min(max(d, 0), histMax))
	shift := max(bits.Len64(v)-8, 0)
	return shift*subBuckets + int(v>>shift)
}

// middle returns the middle of bucket i.
func middle(i int) time.Duration {
	if i < 2*subBuckets {
		return time.Duration(i)
	}
	shift := i/subBuckets - 1
	low := uint64(i-shift*subBuckets) << shift
	return time.Duration(low + uint64(1)<<shift/2)
}

func (h *hist) record(d time.Duration) {
	h.counts[bucket(d)]++
	h.count++
	h.max = max(h.max, d)
}

// quantile returns the duration that a share q (0 to 1) of what was recorded
// does not exceed, within 1%; 0 when nothing was recorded.
func (h *hist) quantile(q float64) time.Duration {
	if h.count == 0 {
		return 0
	}
	rank := max(uint64(math.Ceil(q*float64(h.count))), 1)
	var seen uint64
	for i, n := range h.counts {
		if seen += n; seen >= rank {
			return min(middle(i), h.max)
		}
	}
	return h.max
}
