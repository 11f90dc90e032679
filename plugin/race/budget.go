package race

import "sync/atomic"

// Budget is a token bucket that fills with the work done rather than with
// time: it bounds a kind of extra work to a share of all work.
type Budget struct {
	earn int64 // micro-tokens per piece of work
	most int64 // micro-tokens

	tokens atomic.Int64 // micro-tokens
}

const token = 1_000_000

// NewBudget returns a full budget for extra work of share (0 to 1) of all
// work, that may save up burst pieces.
func NewBudget(share float64, burst int) *Budget {
	b := &Budget{earn: int64(share * token), most: int64(burst) * token}
	if b.earn > 0 {
		b.tokens.Store(b.most)
	}
	return b
}

// Earn records one piece of ordinary work.
func (b *Budget) Earn() { b.add(b.earn) }

// Refund gives one token back: the extra work turned out to be necessary.
func (b *Budget) Refund() {
	if b.earn > 0 {
		b.add(token)
	}
}

func (b *Budget) add(n int64) {
	for {
		have := b.tokens.Load()
		if have >= b.most || n == 0 {
			return
		}
		if b.tokens.CompareAndSwap(have, min(have+n, b.most)) {
			return
		}
	}
}

// Take takes one token, if there is one.
func (b *Budget) Take() bool {
	for {
		have := b.tokens.Load()
		if have < token {
			return false
		}
		if b.tokens.CompareAndSwap(have, have-token) {
			return true
		}
	}
}
