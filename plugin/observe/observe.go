// Package observe is a guard that only looks on: somebody else forwards the
// queries and tells it of each attempt, and it says what a guard would have
// done otherwise.
//
// It keeps the guard's own model of the pool: the state of each upstream
// (plugin/upstream) and who is right in which zone (plugin/zones), and learns
// from the attempts that are made anyway; nothing is sent for its sake. A guard
// learns who is wrong by asking a second upstream the same question at once.
// Here that is seen when different upstreams are asked it one after the other, for
// different clients (memory.go).
//
// The way of a query by file: query.go (what was known before, what was tried)
// -> learn.go (what each reply teaches) -> judge.go (the verdict) -> summary.go
// (a line for the log).
//
// A Model may be used concurrently, a Query by one goroutine at a time.
package observe

import (
	"time"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/race"
	"github.com/dnsguard/dnsguard/plugin/selector"
	"github.com/dnsguard/dnsguard/plugin/upstream"
	"github.com/dnsguard/dnsguard/plugin/zones"
)

// Verdict is what a guard would have made of a query.
type Verdict uint8

// The verdicts, one for each query: where several apply, the one that is
// nearest to the end of this list.
const (
	Same          Verdict = iota // the same
	OtherUpstream                // another upstream would have been asked first; what the client got was not wrong
	Verified                     // a denial, which would have been checked with another upstream first
	Hedged                       // a reply later than usual: another upstream, or the same once more, would have been asked meanwhile
	Disputed                     // a denial by an upstream that is known to be wrong about the name or its zone
	Hopeless                     // a failure, and no other upstream was known to be any better
	Retried                      // a failure, after which another upstream that is fit would have been asked
	NotForwarded                 // a query that a guard answers itself
	Cancelled                    // the client went away

	Verdicts // number of verdicts
)

var verdictNames = [Verdicts]string{
	Same: "same", OtherUpstream: "other_upstream", Verified: "verified", Hedged: "hedged", Disputed: "disputed",
	Hopeless: "hopeless", Retried: "retried", NotForwarded: "not_forwarded", Cancelled: "cancelled",
}

// String returns the value of the metric label "verdict".
func (v Verdict) String() string {
	if v >= Verdicts {
		return "invalid"
	}
	return verdictNames[v]
}

// Finding is the verdict on one query.
type Finding struct {
	Verdict Verdict
	// By is the upstream that the verdict is about, by its index: whose reply or failure the client got, who was
	// late, who would not have been asked first. -1: none.
	By int
	// Kind is what the attempt at that upstream came to.
	Kind outcome.Kind
}

// Config is what a Model needs to know.
type Config struct {
	// Upstreams is the pool, at most 64, made with Silent as their Exchanger, Linger 0, and without Wake.
	Upstreams []*upstream.Upstream
	// ReadTimeout is that of the upstreams: an attempt of this age that ends without a reply has been counted already.
	ReadTimeout time.Duration
	// Policy is the order in which a guard would ask upstreams that are equally fit.
	Policy selector.Policy
	// Hedge is the share of queries that a guard may send once more because they are late, 0 to 1.
	Hedge float64
	// Forced is how much later than usual a query may be before a guard sends it again whatever the share.
	Forced time.Duration
	// Trust says that a guard would pass denials on unverified.
	Trust bool
	// Table is what is known of zones.
	Table *zones.Table
	// Survey returns what a query by TCP or not would begin with: the upstreams that may be asked for a name, what
	// is known of it, and how fit they are.
	Survey func(now time.Time, name string, tcp bool) (zones.Set, zones.View, []selector.Candidate)
}

// Model is what a guard would know. Make it with New.
type Model struct {
	cfg    Config
	table  *zones.Table
	hedges *race.Budget
	memory *memory
}

// hedgeBurst is how many hedges may be saved up, as in the forwarder.
const hedgeBurst = 100

// New returns a model that remembers no reply yet.
func New(cfg Config) *Model {
	return &Model{cfg: cfg, table: cfg.Table, hedges: race.NewBudget(cfg.Hedge, hedgeBurst), memory: newMemory()}
}

// Silent is the exchanger of upstreams that are only watched: what goes
// through it is sent by somebody else.
type Silent struct{}

// Start implements exchange.Exchanger.
func (Silent) Start(*exchange.Query, exchange.Options, exchange.Sink) exchange.Handle { return nil }

// Close implements exchange.Exchanger.
func (Silent) Close() {}
