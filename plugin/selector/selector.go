// Package selector puts the upstreams of a pool into the order in which a
// query is to try them.
//
// What an upstream is fit for, its Rank, goes before everything; among equals
// a Policy decides, one a file. Policies may be used concurrently. Chance
// comes in as an argument.
package selector

import (
	"fmt"
	"time"

	"github.com/dnsguard/dnsguard/plugin/upstream"
	"github.com/dnsguard/dnsguard/plugin/zones"
)

// Rank is how fit an upstream is for a query; lower is fitter.
type Rank uint8

// The ranks.
const (
	Fit     Rank = iota
	Unsure       // never heard, or wrong in most of the zones it was seen in, and this one is new
	Sole         // failing, but known to be right in this zone
	Unfit        // has denied, refused or failed in this zone where others answered
	Failing      // suspect or half-open
	Out          // ejected
	Loop         // queries to it come back: it is not asked at all
)

var rankNames = [...]string{"fit", "unsure", "sole", "unfit", "failing", "out", "loop"}

// String returns the rank in a word.
func (r Rank) String() string { return rankNames[r] }

// Candidate is an upstream as a query sees it.
type Candidate struct {
	Index int           // in the pool
	Rank  Rank          // see above
	Cost  time.Duration // expected time to an answer
	key   int64
}

// Policy gives candidates of equal rank their order.
type Policy interface {
	// Name is the word in the Corefile.
	Name() string
	// Strict says that the order is the operator's will, and not just who is likely to answer first.
	Strict() bool
	// keys sets the key of each candidate: the lower is asked first. draw returns a number in [0, n). Keys that are drawn are negative, others are not.
	keys(cs []Candidate, draw func(n int) int)
}

// New returns the policy of that name.
func New(name string) (Policy, error) {
	switch name {
	case "adaptive":
		return adaptive{}, nil
	case "random":
		return random{}, nil
	case "round_robin":
		return &roundRobin{}, nil
	case "sequential":
		return sequential{}, nil
	}
	return nil, fmt.Errorf("unknown policy %q", name)
}

// Subject is what an upstream is ranked by, beside what is known of the zone.
type Subject struct {
	Index   int
	State   upstream.State
	Heard   bool // it has ever replied, or is to be taken for one that has
	Replies bool // it is ejected for what it replies, not for silence
	NoTCP   bool // the query goes by TCP, and this upstream's TCP does not work
}

// RankOf ranks an upstream for a name of which v is known.
func RankOf(s Subject, v zones.View) Rank {
	right := v.Name.Has(s.Index) || (v.Name == 0 && v.Good.Has(s.Index))
	switch s.State {
	case upstream.Looping:
		return Loop
	case upstream.Ejected, upstream.Suspect, upstream.HalfOpen:
		switch {
		case right && s.Replies:
			return Fit
		case right:
			return Sole
		case s.State == upstream.Ejected:
			return Out
		}
		return Failing
	}
	switch {
	case s.NoTCP:
		return Failing
	case v.Weak.Has(s.Index):
		return Unfit
	case right:
		return Fit
	case v.Name != 0, v.Bad.Has(s.Index), v.Refuses.Has(s.Index):
		return Unfit
	case v.Poor.Has(s.Index), !s.Heard:
		return Unsure
	}
	return Fit
}

// Order sorts candidates into the order in which they are to be tried.
func Order(p Policy, cs []Candidate, draw func(n int) int) {
	if len(cs) < 2 {
		return
	}
	p.keys(cs, draw)
	for i := 1; i < len(cs); i++ { // insertion: there are few, and they are almost in order
		for j := i; j > 0 && less(cs[j], cs[j-1]); j-- {
			cs[j], cs[j-1] = cs[j-1], cs[j]
		}
	}
}

// Foresee sorts candidates as Order will do for the next query, but for what
// will be drawn, and takes no turn.
func Foresee(p Policy, cs []Candidate) {
	if r, ok := p.(*roundRobin); ok {
		p = r.clone()
	}
	Order(p, cs, func(int) int { return 0 })
}

// Tied reports, after Foresee, whether it will be drawn which of two candidates
// comes before the other.
func Tied(a, b Candidate) bool { return a.Rank == b.Rank && a.key == b.key && a.key < 0 }

func less(a, b Candidate) bool {
	if a.Rank != b.Rank {
		return a.Rank < b.Rank
	}
	return a.key < b.key
}
