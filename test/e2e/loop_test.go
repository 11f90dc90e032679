package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dnsguard/dnsguard/plugin/loopguard"
)

// What a loop may cost at the most.
const (
	loopRate     = 100 // client queries a second
	loopCutAfter = 5 * time.Second
	loopEndAfter = 30 * time.Second
	// Answers while the loop is cut, half of them and all: a busy machine adds to them.
	loopMedian = 50 * time.Millisecond
	loopAnswer = time.Second
	// The answer to the first query: what validates takes its time with probes, which alone show the loop.
	loopFirst          = 250 * time.Millisecond
	loopFirstValidated = 500 * time.Millisecond
	loopSettled        = time.Second
	loopLoad           = 2 * time.Second
	// What a replica may have at the most: memory as most clusters allow it, in MB.
	loopMemory      = 170
	loopDescriptors = 200
	// A query may come round once where stamps are passed on, and so often for each replica otherwise.
	loopRoundsEach = 4
	// Loops do not begin just after one has ended.
	loopPause = 20 * time.Second
)

// loopRun is what became of one loop.
type loopRun struct {
	first  answer // to the first query that met it
	round  counts // what came round, for a second
	cut    time.Duration
	load   figures // of the load when it is cut
	loaded counts
	burden burden
}

func (r *loopRun) String() string {
	return fmt.Sprintf("first %v, %d came round before the loop was cut, %d in all, and %d others; cut after %v; then of %d: %d wrong (%s), p50 %v, max %v, %d came round and %d others; %v", r.first, r.round.early, r.round.returned, r.round.others,
		r.cut.Round(time.Millisecond), r.load.total, r.load.wrong, r.load.why(), r.load.p50.Round(time.Millisecond/10), r.load.max.Round(time.Millisecond), r.loaded.returned, r.loaded.others, r.burden)
}

// guarded is all that becomes of loops through one hop with dnsguard.
type guarded struct {
	replicas int
	other    bool
	// The loop is there at the start; it begins by a hop that is pointed at the Service; by a resolv.conf that names the hop.
	start, hop, file loopRun
	// The end is noticed so long after the hop is pointed elsewhere, and after resolv.conf names it no more.
	hopEnd, fileEnd time.Duration
}

// TestLoop runs dnsguard in loops through every hop: they begin, are cut, and
// end, and nobody is asked to do anything.
func TestLoop(t *testing.T) {
	requires(t)
	requiresDirective(t, directive())
	kinds := []guarded{{replicas: 2}, {replicas: 3, other: true}}
	if loopsTable() != "" {
		kinds = append(kinds, guarded{replicas: 3}, guarded{replicas: 2, other: true})
	}
	eachHop(t, true, func(t *testing.T, p *hop) {
		for _, g := range kinds {
			judgedApart(t, g.String(), func(t *testing.T, v *verdict) {
				g := guarded{replicas: g.replicas, other: g.other}
				g.run(t, p, v)
				loopFigures.add(p, &g)
			})
		}
	})
}

func (g *guarded) String() string {
	if g.other {
		return fmt.Sprintf("%d replicas, with another upstream", g.replicas)
	}
	return fmt.Sprintf("%d replicas, without another upstream", g.replicas)
}

func (g *guarded) run(t *testing.T, p *hop, v *verdict) {
	s := newStage(t, p, g.replicas, v)
	s.other = g.other
	s.names(true)
	s.point(dnsService)
	s.begin(directive(), maxConcurrent)
	s.meets(&g.start, "at the start", loopLoad)

	s.point(publicServer)
	g.hopEnd = s.end("the hop is pointed elsewhere")

	time.Sleep(loopPause)
	s.point(dnsService)
	if p.start == nil {
		s.known()
	}
	s.meets(&g.hop, "by the hop", shortOr(loopLoad, time.Minute))

	s.names(false)
	g.fileEnd = s.end("resolv.conf is repaired")

	s.names(true)
	s.known()
	s.meets(&g.file, byResolvConf, loopLoad)
	s.lives()
	s.killed()
	s.endHops()
	t.Logf("%s, %v:\nat the start: %v\nby the hop: %v\nby resolv.conf: %v\nends: by the hop %v, by resolv.conf %v", p.name, g, &g.start, &g.hop, &g.file, g.hopEnd.Round(time.Millisecond), g.fileEnd.Round(time.Millisecond))
}

// byResolvConf is how a loop begins where the replicas are told of the hop, each when it reads the file.
const byResolvConf = "by resolv.conf"

// meets measures the loop that is there now, by one query and then under a load.
func (s *stage) meets(r *loopRun, how string, load time.Duration) {
	s.t.Helper()
	s.uncut()
	before, sent := s.counts(), s.sent()
	began := time.Now()
	answered := s.asking()
	found := 0
	for time.Since(began) < loopSettled { // what one query does, all by itself
		r.round = s.counts().since(before)
		if found < len(s.replicas) {
			found, r.cut = s.finders(), time.Since(began)
		}
		time.Sleep(20 * time.Millisecond)
	}
	r.first = <-answered
	within, most := loopFirst, int64(1)
	if s.hop.drops {
		most = int64(loopRoundsEach * len(s.replicas))
	}
	if s.hop.validates {
		within = loopFirstValidated
	}
	bound := max(2*most, loopguard.MaxHops) // on a busy machine; until all have read resolv.conf some lead out, and queries that come back are sent on
	s.judge(how+": the first query", r.first, false, within)
	rounds := r.round.early
	if !s.hop.drops {
		rounds = r.round.returned
	}
	if problem := "%s: one query came round %d times before the loop was cut and %d in all, at most %d"; rounds > bound {
		s.v.errorf(problem, how, r.round.early, r.round.returned, bound)
	} else if rounds > most {
		s.v.softf(problem, how, r.round.early, r.round.returned, most)
	}
	if found < len(s.replicas) {
		s.cut(r, how, began, sent)
	}
	s.load(r, how, load)
}

// finders is the number of replicas that have found the loop.
func (s *stage) finders() int {
	n := 0
	for _, r := range s.replicas {
		if r.server.looping() > 0 {
			n++
		}
	}
	return n
}

// cut waits until all replicas have the upstream out of their pools.
func (s *stage) cut(r *loopRun, how string, began time.Time, sent []float64) {
	s.t.Helper()
	for {
		missing := ""
		now := s.sent()
		for i, rep := range s.replicas {
			if rep.server.looping() > 0 {
				continue
			}
			s.askAt(rep.addrPort(53))
			// Another upstream answers what came round by a hop that drops stamps: nobody notices, and nothing is wrong.
			if !s.other || now[i] > sent[i] && !s.hop.drops {
				missing = rep.addr.String()
			}
		}
		r.cut = time.Since(began)
		if missing == "" {
			return
		}
		if r.cut > loopCutAfter {
			s.v.softf("%s: not cut within %v by %s", how, loopCutAfter, missing)
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// sent is how many queries each replica has sent to the hop.
func (s *stage) sent() []float64 {
	s.t.Helper()
	var out []float64
	for _, r := range s.replicas {
		out = append(out, r.server.metric("coredns_dnsguard_attempts_total", `to="`+s.hop.addr+`:53"`))
	}
	return out
}

// load asks at a steady rate while the loop is cut.
func (s *stage) load(r *loopRun, how string, d time.Duration) {
	s.t.Helper()
	before := s.counts()
	questions := s.questions(int(d/time.Second) * loopRate)
	answers := s.client.load(s.asks, loopRate, questions)
	r.load, r.loaded, r.burden = measure(questions, answers), s.counts().since(before), s.burden()
	if b := r.burden; b.memory > loopMemory || b.descriptors > loopDescriptors {
		s.v.errorf("%s: %v, at most %d MB and %d descriptors", how, b, loopMemory, loopDescriptors)
	}
	if err := s.served(); err != nil {
		s.v.errorf("%s: %v", how, err)
	}
	if r.load.p50 > loopMedian {
		s.v.softf("%s: half of the queries take longer than %v, at most %v", how, r.load.p50, loopMedian)
	}
	for i, a := range answers {
		if !s.judge(how+": a query of the load", a, i%2 == 0, loopAnswer) {
			break
		}
	}
	if most := int64(r.load.total); r.loaded.returned > most {
		s.v.errorf("%s: of %d queries %d came round", how, most, r.loaded.returned)
	}
}

// judge holds that a query that meets the loop is answered by another
// upstream, or refused, with the reason where it has EDNS, and at once.
func (s *stage) judge(what string, a answer, edns bool, within time.Duration) bool {
	s.t.Helper()
	reason := "SERVFAIL"
	if edns && s.asks == dnsService+":53" {
		reason = "forwarding loop via " + s.hop.addr + ":53"
	}
	switch {
	case s.other && a.wrong != "":
		s.v.errorf("%s: %v, although there is another upstream", what, a)
	case !s.other && (!strings.HasPrefix(a.wrong, "SERVFAIL") || !strings.Contains(a.wrong, reason)):
		s.v.errorf("%s: %v, want SERVFAIL with the reason", what, a)
	case a.took > within:
		s.v.softf("%s: %v, at most %v", what, a, within)
	default:
		return true
	}
	return false
}

// end waits until no replica takes the upstream for looping, and a query is answered.
func (s *stage) end(how string) time.Duration {
	s.t.Helper()
	began := time.Now()
	for {
		err := s.sound()
		took := time.Since(began)
		switch {
		case err == nil:
			return took
		case took > loopEndAfter:
			s.v.softf("%s: not noticed within %v: %v", how, loopEndAfter, err)
			return took
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (s *stage) sound() error {
	for _, r := range s.replicas {
		if n := r.server.looping(); n > 0 {
			return fmt.Errorf("%s has %v looping upstreams", r.addr, n)
		}
		if a := s.askAt(r.addrPort(53)); a.wrong != "" && !s.hop.validates {
			return errors.New(a.wrong)
		}
	}
	return nil
}

// known waits until the replicas have read that resolv.conf names the hop.
func (s *stage) known() {
	s.t.Helper()
	for _, r := range s.replicas {
		eventually(s.t, 10*time.Second, r.server.process, func() error {
			if len(r.server.metrics("coredns_dnsguard_loop_active", `to="`+s.hop.addr+`:53"`)) == 0 {
				return errors.New("resolv.conf is not read yet")
			}
			return nil
		})
	}
}

// looping is the number of upstreams that the server takes for looping.
func (s *server) looping() float64 {
	s.t.Helper()
	return s.metric("coredns_dnsguard_loop_active")
}
