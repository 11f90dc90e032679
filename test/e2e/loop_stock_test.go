package e2e

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// storm is what a loop did to stock CoreDNS.
type storm struct {
	// Where the loop was there at the start: how many replicas, and hops, ended themselves within three seconds.
	endedAtStart, hopsEndedAtStart int
	// Where it began later: what one query did.
	limited blow
	// The same without the option max_concurrent, which bounds it.
	free blow
}

// blow is what one query did.
type blow struct {
	answer   answer
	round    counts
	burden   burden
	hopEnded int
}

// inBounds keeps a storm from taking the machine with it.
var inBounds = []string{"prlimit", "--nofile=16384", "--as=8589934592", "nice", "-n", "5"}

// TestLoopStock shows what the loops do to stock forward with the loop
// plugin, so that the other tests show something.
func TestLoopStock(t *testing.T) {
	requires(t, "prlimit")
	eachHop(t, false, func(t *testing.T, p *hop) {
		if loopsTable() == "" && !p.storms {
			return // those that storm are enough to show that the tests of dnsguard show something
		}
		st := &storm{}
		if loopsTable() != "" {
			st.start(t, p)
			st.free.later(t, p, "")
		}
		st.limited.later(t, p, maxConcurrent)
		t.Log(st)
		if n := st.limited.round.returned; p.storms && n < 100 && st.limited.hopEnded == 0 {
			t.Errorf("%d queries came round: the loop shows nothing", n)
		}
		loopFigures.row(p, func(r *hopRow) { r.stock = st })
	})
}

func (st *storm) String() string {
	return fmt.Sprintf("at start: %d replicas ended, %d hops; later: %v; without max_concurrent: %v", st.endedAtStart, st.hopsEndedAtStart, &st.limited, &st.free)
}

func (b *blow) String() string {
	return fmt.Sprintf("%d queries came round and %d of other names, %v, %v, %d hops ended", b.round.returned, b.round.others, b.answer, b.burden, b.hopEnded)
}

// start has the loop there before the replicas.
func (st *storm) start(t *testing.T, p *hop) {
	s := newStage(t, p, 2, nil)
	s.resolvConf(p.addr)
	s.point(dnsService)
	s.begin(forward, maxConcurrent, inBounds...)
	time.Sleep(3 * time.Second) // the loop plugin looks for no longer
	st.endedAtStart, st.hopsEndedAtStart = s.burden().ended, s.endedHops()
	s.killed()
	s.endHops()
}

// later has the loop begin while the replicas serve. Where resolv.conf itself
// leads back, which forward reads but once, it is there at the start, and the
// loop plugin is not.
func (b *blow) later(t *testing.T, p *hop, options string) {
	s := newStage(t, p, 2, nil)
	s.resolvConf(p.addr)
	if p.start == nil {
		s.loop = ""
	}
	s.point(publicServer)
	s.resolvConf(p.addr)
	s.begin(forward, options, inBounds...)
	if p.start != nil {
		eventually(t, 5*time.Second, nil, func() error {
			if a := s.ask(); a.wrong != "" && !p.validates {
				return errors.New(a.wrong)
			}
			return nil
		})
		time.Sleep(2500 * time.Millisecond) // the loop plugin is off
		s.point(dnsService)
	}
	before := s.counts()
	answered := s.asking()
	select {
	case b.answer = <-answered:
	case <-time.After(shortOr(2*time.Second, 6*time.Second)):
	}
	b.burden, b.round, b.hopEnded = s.burden(), s.counts().since(before), s.endedHops()
	s.killed()
	s.endHops()
	if b.answer.took == 0 {
		b.answer = <-answered
	}
}
