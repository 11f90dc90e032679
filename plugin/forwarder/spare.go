package forwarder

import (
	"slices"
	"time"

	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/upstream"
)

// A trial is made to learn. Where the policy says whom to ask, and where
// denials are trusted, its reply is not taken because it came first: it is put
// by until the attempts that go before it have failed or are late.

// spares reports whether a result is to be put by.
func (w *walk) spares(now time.Time, r upstream.Result) bool {
	switch {
	case !r.Attempt.Trial || w.pending == 0 || w.held.by != nil:
		return false
	case w.hedged || !now.Before(w.last.LateAt(w.lateIn)): // the others are late already
		return false
	case r.Reply.Msg != nil && slices.Contains(w.f.cfg.Failover, r.Reply.Msg.Rcode):
		return false
	}
	switch k := r.Reply.Kind; {
	case k.Denied():
		return w.f.cfg.Trust || w.f.cfg.Policy.Strict()
	case k == outcome.OK, k == outcome.Truncated:
		return w.f.cfg.Policy.Strict()
	}
	return false
}

func (w *walk) hasSpare() bool { return w.spare.Attempt != nil }

// useSpare takes the result that was put by, as if it came now.
func (w *walk) useSpare(now time.Time) (over bool) {
	r := w.spare
	w.spare = upstream.Result{}
	return w.take(now, r)
}

// spareIsNext reports whether all upstreams that go before that of the result
// that was put by have failed.
func (w *walk) spareIsNext() bool {
	if !w.hasSpare() {
		return false
	}
	for _, c := range w.order {
		if c.Index == w.spare.Attempt.Index {
			return true
		}
		if !w.hasFailed(c.Index) {
			return false
		}
	}
	return true
}
