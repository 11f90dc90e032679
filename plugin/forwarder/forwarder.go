// Package forwarder takes one query through a pool of upstreams: the selector
// orders the pool, attempts race, failures go on to the next, denials are
// verified.
//
// The way of a query by file: forwarder.go (coalesce and recall) -> walk.go
// (order, first attempt) -> judge.go (what a reply means) -> late.go (hedges,
// waits that end) -> finish.go (the answer). loop.go is about loops.
//
// A Forwarder may be used concurrently. A query is walked by the goroutine
// that asks; only waiting is shared (coalesce.go). Chance comes in by
// Config.Draw.
//
// RFC 8914 (Extended DNS Errors), RFC 9520 (resolution failures are
// remembered), RFC 6891 (EDNS fallback).
package forwarder

import (
	"context"
	"sync"
	"time"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
	"github.com/dnsguard/dnsguard/plugin/loopguard"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/race"
	"github.com/dnsguard/dnsguard/plugin/selector"
	"github.com/dnsguard/dnsguard/plugin/upstream"
	"github.com/dnsguard/dnsguard/plugin/zones"

	"github.com/miekg/dns"
)

// MaxUpstreams is the most that one pool can hold.
const MaxUpstreams = 64

// Config is what a Forwarder needs to know.
type Config struct {
	// Upstreams is the pool, at most MaxUpstreams.
	Upstreams []*upstream.Upstream
	// Policy orders upstreams that are equally fit.
	Policy selector.Policy
	// ForceTCP sends by TCP whatever the client used; it goes before PreferUDP.
	ForceTCP bool
	// PreferUDP sends by UDP first whatever the client used.
	PreferUDP bool
	// Timeout is how long a client waits at the most.
	Timeout time.Duration
	// Lost is how long a client waits where no upstream gives a sign of life.
	Lost time.Duration
	// MaxAttempts bounds the attempts for one query; 0: 2 + the number of upstreams.
	MaxAttempts int
	// Hedge is the share of queries that may be sent once more because they are late, 0 to 1.
	Hedge float64
	// Trust passes denials on unverified.
	Trust bool
	// Eject is false where no upstream is ever taken out: then none counts as dead either.
	Eject bool
	// Failfast answers SERVFAIL at once while all upstreams are ejected.
	Failfast bool
	// Failover are response codes that are not taken while another upstream can be asked.
	Failover []int
	// Private are zones that only some upstreams may be asked for.
	Private []PrivateZone
	// Stamps says which queries are marked, so that those are known that come back.
	Stamps Stamps
	// Draw returns a random number in [0, n).
	Draw func(n int) int
	// Observer is told what happens.
	Observer Observer
	// Empty says why there is no upstream, where there is none. May be nil.
	Empty func() string
	// Predecessor worked with the pool as it was before, whose knowledge is taken over. May be nil.
	Predecessor *Forwarder
	// Was gives, with a Predecessor, the index that each of Upstreams had in its pool; negative: none.
	Was []int
}

// PrivateZone is a zone, and the upstreams that may be asked for names in it.
type PrivateZone struct {
	Zone string // lower case, fully qualified
	At   zones.Set
}

// Observer is told what happens, for metrics. Its methods may be called
// concurrently and must not block.
type Observer interface {
	Hedge(HedgeEvent)
	// Disputed: another upstream contradicted a denial by this one.
	Disputed(to string)
	// Coalesced: a query waits for the answer to an equal one.
	Coalesced()
	// AllEjected: a query came while all the upstreams that may be asked were ejected.
	AllEjected()
}

// HedgeEvent is what became of a hedge.
type HedgeEvent uint8

// The events.
const (
	HedgeSent   HedgeEvent = iota // a further attempt was sent because one was late
	HedgeWon                      // and its reply came first
	HedgeDenied                   // it would have been sent, but for the budget
)

// Request is a client's query.
type Request struct {
	Key   dnsmsg.Key      // what is asked
	Name  string          // the name in the client's own case
	Stamp loopguard.Stamp // where it has been; Key.Path is of that
	// Foreign are options that are sent on with the stamp: stamps of others, who know them.
	Foreign []byte
	Probe   bool  // another server's for a loop: it goes to no public upstream, and where queries to all come back, is sent all the same
	Look    *Look // what somebody wants to see of it; nil: nobody looks
}

// Answer is what came of a Request.
type Answer struct {
	// Msg is the reply, owned by the caller; nil where there is none.
	Msg *dns.Msg
	// Kind is what Msg says; where it is nil, what the last attempt came to.
	Kind outcome.Kind
	// EDE says why there is no answer, where Msg is nil or a failure.
	EDE dnsmsg.EDE
	// Upstream is who answered; "" where nobody did.
	Upstream string
	// Malformed says that the query itself could not be sent on.
	Malformed bool
	// Withheld says that the query, a probe, is not for the upstreams that queries go to. There is no such name, is what to say.
	Withheld bool
	// Attempts is how many attempts were made.
	Attempts int
	// Hedged says that one was made because another was late.
	Hedged bool
	// Shared says that another client's query was waited for.
	Shared bool
	// Steered says that what is known of the name's zone kept an upstream from being asked first, or had one asked first. Not told unless Request.Look is set.
	Steered bool
}

// Forwarder answers queries from a pool. Make it with New.
type Forwarder struct {
	cfg     Config
	all     zones.Set
	most    int // attempts for one query
	table   *zones.Table
	hedges  *race.Budget
	trials  *race.Budget
	rescues *race.Budget // attempts made all at once when a query has waited for long
	flights flights
	recall  *failures
	walks   sync.Pool

	closed chan struct{}
	close  sync.Once
}

// Extra work: trials of upstreams, as a share of queries.
const (
	trialShare  = 0.01
	trialBurst  = 5
	hedgeBurst  = 100
	rescueShare = 0.05
	rescueBurst = 200
)

// New returns a forwarder.
func New(cfg Config) *Forwarder {
	n := len(cfg.Upstreams)
	f := &Forwarder{cfg: cfg, most: cfg.MaxAttempts, recall: newFailures()}
	if cfg.Empty == nil {
		f.cfg.Empty = func() string { return "no upstream" }
	}
	if old := cfg.Predecessor; old != nil {
		f.table, f.trials, f.rescues = zones.Inherit(old.table, cfg.Was), old.trials, old.rescues
		if old.cfg.Hedge == cfg.Hedge {
			f.hedges = old.hedges
		}
		f.cfg.Predecessor = nil // it is not to be kept alive
	} else {
		f.table, f.trials, f.rescues = zones.New(n), race.NewBudget(trialShare, trialBurst), race.NewBudget(rescueShare, rescueBurst)
	}
	if f.hedges == nil {
		f.hedges = race.NewBudget(cfg.Hedge, hedgeBurst)
	}
	for i := range n {
		f.all |= zones.Of(i)
	}
	if f.cfg.Lost <= 0 {
		f.cfg.Lost = lostWait
	}
	if f.most <= 0 {
		f.most = 2 + n
	}
	f.flights.init(cfg.Stamps.Again != nil && cfg.Stamps.To != 0)
	f.walks.New = func() any { return newWalk(f) }
	f.closed = make(chan struct{})
	return f
}

// Forward answers a request. It returns when there is an answer, at the latest
// at the configured time-out, or when ctx ends and nobody else waits for the
// same question.
func (f *Forwarder) Forward(ctx context.Context, r *Request) Answer {
	if a, ok := f.recall.find(r.Key); ok {
		return a
	}
	flight, leads, other := f.flights.join(r.Key)
	if other != nil {
		f.again(other)
	}
	if !leads {
		f.cfg.Observer.Coalesced()
		return flight.wait(ctx)
	}
	landed := false
	defer func() { // a panic, which the server survives, must not leave followers waiting
		if !landed {
			f.flights.land(flight, Answer{Kind: outcome.Cancelled, EDE: dnsmsg.EDE{Code: dns.ExtendedErrorCodeOther, Text: "internal error"}})
		}
	}()
	a := f.walk(ctx, r, flight)
	landed = true
	return f.flights.land(flight, a)
}

// again tells of a question that came in while another query for it is under way.
func (f *Forwarder) again(other *flight) {
	if to := zones.Set(other.asked.Load()) & f.cfg.Stamps.To; to != 0 {
		f.cfg.Stamps.Again(to)
	}
}

func (f *Forwarder) walk(ctx context.Context, r *Request, flight *flight) Answer {
	w := f.walks.Get().(*walk) //nolint:forcetypeassert // the pool holds nothing else
	now := time.Now()
	w.flight = flight
	over := w.begin(now, r)
	if !over {
		w.run(ctx, now, flight)
	}
	a := w.answer
	w.release()
	f.walks.Put(w)
	return a
}

// Close ends the queries under way. The upstreams are the caller's to close.
func (f *Forwarder) Close() { f.close.Do(func() { close(f.closed) }) }

// Table returns what is known of zones.
func (f *Forwarder) Table() *zones.Table { return f.table }

// Zones returns the sizes of what is known of zones.
func (f *Forwarder) Zones() zones.Stats { return f.table.Stats() }
