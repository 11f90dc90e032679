package forwarder

import (
	"cmp"
	"slices"
	"time"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/selector"
	"github.com/dnsguard/dnsguard/plugin/upstream"
	"github.com/dnsguard/dnsguard/plugin/zones"
)

// Look is what somebody wants to see of one query: for metadata, traces and taps.
type Look struct {
	// Watch is told of each attempt; it may be nil. Where the query waits for an equal one, there is nothing to tell.
	Watch Watch
	// Wire says that Watch wants the octets of replies: exchange.Reply.Wire.
	Wire bool
}

// Watch is told of the attempts made for one query, for traces and taps.
//
// For each attempt it is told Started, and then either Ended, or, where the
// query is over before, Late. Until Over, and of Over itself, it is told by the
// goroutine that asks. Late may come from any goroutine, of several attempts at
// once and after Forward has returned, up to the time for which upstreams watch
// their attempts; it must not block.
type Watch interface {
	// Started is told of an attempt that has been made. q is what it sends; how it went out, Attempt.Sent tells.
	Started(a *upstream.Attempt, q *exchange.Query, c Cause)
	// Ended is told of a result. The message in r may be the answer: it is not to be changed or kept.
	Ended(a *upstream.Attempt, r exchange.Reply)
	// Over is told when there is an answer, or none to be had. Attempts that have not ended are left to themselves.
	Over()
	// Late is told how such an attempt ended; with outcome.Timeout, if there was no reply for as long as it was watched.
	Late(a *upstream.Attempt, r exchange.Reply)
}

// Cause is why an attempt was made.
type Cause uint8

// The causes.
const (
	First        Cause = iota // the query came
	Retry                     // another attempt had failed, or was to be asked otherwise
	Hedge                     // another attempt was late
	Verification              // another upstream denies what this one may know
	Trial                     // to learn of the upstream; nobody waits for it

	CauseCount
)

var causeNames = [CauseCount]string{"first", "retry", "hedge", "verify", "trial"}

// String names the cause.
func (c Cause) String() string { return causeNames[c] }

// watch returns who is to be told of attempts; nil: nobody.
func (w *walk) watch() Watch {
	if w.req.Look == nil {
		return nil
	}
	return w.req.Look.Watch
}

// causeOf tells why an attempt is made.
func (w *walk) causeOf(a *upstream.Attempt) Cause {
	if a.Trial {
		return Trial
	}
	return w.cause
}

// isSteered reports whether what is known of the zone decided who is asked
// first: without it another upstream would have been as fit as the first one,
// or the first one would not have been among the fittest.
func (w *walk) isSteered(now time.Time) bool {
	if w.view == (zones.View{}) || len(w.order) == 0 {
		return false
	}
	unknown := w.f.candidates(nil, now, w.eligible, zones.View{}, w.tcp)
	least := slices.MinFunc(unknown, func(a, b selector.Candidate) int { return cmp.Compare(a.Rank, b.Rank) }).Rank
	fittest := zones.Set(0)
	for _, c := range unknown {
		if c.Rank == least {
			fittest |= zones.Of(c.Index)
		}
	}
	first := w.order[0]
	return !fittest.Has(first.Index) || slices.ContainsFunc(w.order, func(c selector.Candidate) bool {
		return c.Rank > first.Rank && fittest.Has(c.Index)
	})
}
