package e2e

import (
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// stage is a cluster whose replicas have a hop before them.
type stage struct {
	*cluster
	hop   *hop
	hops  []*process
	other bool // resolv.conf names the public server, too
	v     *verdict
}

// newStage makes it, without a process yet.
func newStage(t *testing.T, p *hop, replicas int, v *verdict) *stage {
	t.Helper()
	return &stage{cluster: newCluster(t, replicas, p.hostNetwork), hop: p, v: v}
}

// point has the hops forward to another server: the Service closes the
// loop, the public server opens it. Without hops, resolv.conf is what changes.
func (s *stage) point(to string) {
	s.t.Helper()
	if s.hop.start == nil {
		s.names(to == dnsService)
		return
	}
	s.endHops()
	for _, n := range s.nodes {
		s.hops = append(s.hops, s.hop.start(n, to)...)
	}
}

// names writes the replicas' resolv.conf, with or without the hop.
func (s *stage) names(hop bool) {
	s.t.Helper()
	var servers []string
	if hop {
		servers = append(servers, s.hop.addr)
	}
	if s.other || !hop {
		servers = append(servers, publicServer)
	}
	s.resolvConf(servers...)
}

func (s *stage) endHops() {
	for _, p := range s.hops {
		p.kill()
	}
	s.hops = nil
}

// endedHops counts the hops that are no more, but for us.
func (s *stage) endedHops() int {
	n := 0
	for _, p := range s.hops {
		if p.ended() {
			n++
		}
	}
	return n
}

// asking asks one question, whose answer comes by the channel.
func (s *stage) asking() <-chan answer {
	s.t.Helper()
	q := s.question()
	q.again = true
	l := s.client.loaders([]string{s.asks}, 1, 1, []question{q})
	done := make(chan answer, 1)
	go func() { done <- l.run()[0] }()
	return done
}

// loopsTable is the file that the figures of all hops are written to; empty: none, and shorter runs.
func loopsTable() string { return os.Getenv("DNSGUARD_LOOPS_TABLE") }

// shortOr is the first in an ordinary run, the second where the table is asked for.
func shortOr(short, long time.Duration) time.Duration {
	if loopsTable() != "" {
		return long
	}
	return short
}

// eachHop runs the test with each hop whose programs there are, at the same
// time where it is parallel. Where any are missing, the whole test counts as
// skipped: else nobody would notice.
func eachHop(t *testing.T, parallel bool, test func(t *testing.T, p *hop)) {
	missing := make(map[string]bool)
	t.Run("hops", func(t *testing.T) {
		for _, p := range hops {
			t.Run(p.name, func(t *testing.T) {
				if why := p.missing(); why != "" {
					missing[why] = true
					t.Skip(why)
				}
				if parallel {
					t.Parallel()
				}
				test(t, p)
			})
		}
	})
	if len(missing) > 0 {
		t.Skip(strings.Join(slices.Sorted(maps.Keys(missing)), "; "))
	}
}

// judgedApart runs the test beside others.
func judgedApart(t *testing.T, name string, test func(t *testing.T, v *verdict)) {
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		judged(t, func(v *verdict) {
			defer v.watch()()
			test(t, v)
		})
	})
}

// watch notes, until it is stopped, whether the machine stands still, as one
// that is shared may for a while.
func (v *verdict) watch() (stop func()) {
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		last := time.Now()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			gap := time.Since(last)
			last = last.Add(gap)
			v.stalled = v.stalled || gap > time.Second
			v.disturbed = v.disturbed || gap > 100*time.Millisecond
		}
	})
	return func() { close(done); watching.Wait() }
}
