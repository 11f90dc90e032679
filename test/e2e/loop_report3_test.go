package e2e

import (
	"errors"
	"testing"
	"time"
)

// The third report: pods ask the node-local cache, that asks CoreDNS's
// Service, and CoreDNS asks whom the node's resolv.conf names, which one day
// is the node-local cache. It was well for a while before.

// report3 is the cluster of the report, which is well.
func report3(t *testing.T, directive, options string, v *verdict) *stage {
	t.Helper()
	s := newStage(t, hops[0], 2, v)
	s.asks = nodeLocal + ":53"
	s.names(false)
	s.begin(directive, options)
	s.point(dnsService)
	if a := s.ask(); a.wrong != "" {
		t.Fatalf("before the loop: %v", a)
	}
	return s
}

func TestReport3(t *testing.T) {
	requires(t)
	requiresDirective(t, directive())
	judgedApart(t, "resolv.conf changes", func(t *testing.T, v *verdict) {
		s := report3(t, directive(), maxConcurrent, v)
		time.Sleep(20 * time.Second)
		s.names(true)
		s.known()
		var r loopRun
		s.meets(&r, "after 20 s", loopLoad)
		t.Log(&r)
		s.reboot(0, directive())
		s.meets(&r, "after a reboot", loopLoad)
		t.Log(&r)
		s.names(false)
		t.Logf("repaired: well after %v", s.end("resolv.conf is repaired"))
		s.lives()
		for _, r := range s.replicas {
			if len(r.server.log.lines("/etc/resolv.conf line 1 names "+nodeLocal+", which forwards back to this service")) == 0 {
				v.errorf("the log of %s does not tell:\n%s", r.addr, r.server.log.tail(logTail))
			}
		}
	})
	judgedApart(t, "one node", func(t *testing.T, v *verdict) {
		s := report3(t, directive(), maxConcurrent, v)
		wrong, returned := s.oneNode(directive())
		if returned > 2*oneNodeQueries {
			v.errorf("%d queries came round", returned)
		}
		if wrong > oneNodeQueries/20 {
			v.softf("%d of %d wrong", wrong, oneNodeQueries)
		}
		if err := s.served(); err != nil {
			v.errorf("%v", err)
		}
		s.lives()
	})
	judgedApart(t, "one node, stock", func(t *testing.T, v *verdict) {
		s := report3(t, forward, maxConcurrent, v)
		s.oneNode(forward)
	})
	judgedApart(t, "without the guard", func(t *testing.T, v *verdict) {
		s := report3(t, directive(), maxConcurrent+"\nloop off", v)
		time.Sleep(3 * time.Second) // the cache's own loop plugin is off
		s.names(true)
		s.known()
		before := s.counts()
		questions := s.questions(loopRate)
		f := measure(questions, s.client.load(s.asks, loopRate, questions))
		n := s.counts().since(before)
		t.Logf("%d of %d wrong (%s), p50 %v, %d came round, %v", f.wrong, f.total, f.why(), f.p50, n.returned, s.burden())
		if n.returned <= int64(f.total) || f.p50 < time.Second {
			v.errorf("of %d queries %d came round, p50 %v: no worse than with the guard, so that this test shows nothing", f.total, n.returned, f.p50)
		}
	})
	judgedApart(t, "stock", func(t *testing.T, v *verdict) {
		s := newStage(t, hops[0], 2, v)
		s.names(true) // forward reads it at the start only
		s.point(dnsService)
		s.begin(forward, maxConcurrent, inBounds...)
		eventually(t, 10*time.Second, nil, func() error {
			if s.burden().ended+s.endedHops() == 0 {
				return errors.New("all live")
			}
			return nil
		})
		t.Logf("%v; %d hops ended", s.burden(), s.endedHops())
	})
}

const oneNodeQueries = 3 * loopRate

// oneNode has one node of two start again with the loop, and asks from there.
// The Service follows where a replica ends. It returns how many answers are
// wrong, and how often queries came round.
func (s *stage) oneNode(directive string) (wrong int, returned int64) {
	s.t.Helper()
	s.replicas[0].resolvConf(nodeLocal)
	s.reboot(0, directive)
	time.Sleep(3 * time.Second) // the loop plugin looks for no longer
	for _, n := range s.nodes {
		s.service(n)
	}
	before := s.counts()
	questions := s.questions(oneNodeQueries)
	f := measure(questions, s.client.load(s.asks, loopRate, questions))
	n := s.counts().since(before)
	s.t.Logf("%d of %d wrong (%s), max %v, %d came round; %v, %d hops ended", f.wrong, f.total, f.why(), f.max, n.returned, s.burden(), s.endedHops())
	return f.wrong, n.returned
}

// reboot ends what runs on a node, and starts it again.
func (s *stage) reboot(node int, directive string) {
	s.t.Helper()
	s.hops[node].kill()
	n := s.nodes[node]
	for i, r := range s.replicas {
		if i%len(s.nodes) == node {
			r.server.kill()
		}
	}
	s.hops[node] = s.hop.start(n, dnsService)[0]
	for i, r := range s.replicas {
		if i%len(s.nodes) == node {
			r.start(s.corefile("", directive, maxConcurrent))
			r.awaited()
		}
	}
}

// lives holds that no process has ended.
func (s *stage) lives() {
	s.t.Helper()
	for _, r := range s.replicas {
		if r.server.ended() {
			s.v.errorf("%s has ended: %v", r.server.name, r.server.err)
		}
	}
	for _, p := range s.hops {
		if p.ended() {
			s.v.errorf("%s has ended: %v", p.name, p.err)
		}
	}
}
