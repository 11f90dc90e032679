package e2e

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	rate = 800 // lookups per second

	// What is asked of the plugin once it has had time to learn.
	settling       = 1000 // lookups before it counts as settled
	settledLookups = 9000
	perQueryBound  = 1.1                    // upstream queries per query
	p50Share       = 0.10                   // over the good upstream alone
	p50Floor       = 300 * time.Microsecond // or this, whichever is more
	p99Times       = 2                      // the good upstream alone, or asked directly at the same time
	p99Floor       = 25 * time.Millisecond  // or this, for a busy machine
	p99Crowd       = 50 * time.Millisecond  // the same where many servers are asked at once on it; scenarios hold the bound itself
	settlingMax    = 250 * time.Millisecond // and the good upstream's own time
	kindShare      = 0.01                   // NODATA for NXDOMAIN or the reverse
	growth         = 64                     // descriptors or goroutines more, right after the load
	logLines       = 60                     // in all

	controlRate     = 40 // lookups per second past the server, for comparison
	forwardLookups  = 3000
	baselineLookups = 2000

	nodeAddr   = "10.196.129.208"
	clientAddr = "10.244.3.7"
)

// upstream is a DNS server that the node's resolv.conf names.
type upstream struct {
	*host
	relay *relay // nil: its own filter counts
}

func (u upstream) queries() int64 {
	if u.relay == nil {
		return u.hits("input")
	}
	return u.relay.queries()
}

// upstream puts a real server behind a relay at the address.
func (l *lab) upstream(name, addr string, p peer) upstream {
	h := l.host(name, addr)
	p.start(h)
	return upstream{host: h, relay: h.relay(roundTrip)}
}

// dropped is an address at which everything is counted, and dropped.
func (l *lab) dropped(name, addr string) upstream {
	h := l.host(name, addr)
	h.filter("input", "udp dport 53 counter name hits drop", "tcp dport 53 counter name hits drop")
	return upstream{host: h}
}

// report is a field report: a node whose resolv.conf names servers of which
// one, the last, is good.
type report struct {
	lab       *lab
	scenario  string
	node      *host
	client    *host
	upstreams []upstream
	questions []question
}

func (l *lab) report(scenario string, questions []question, upstreams ...upstream) *report {
	return &report{
		lab: l, scenario: scenario, node: l.host("node", nodeAddr), client: l.host("client", clientAddr),
		upstreams: upstreams, questions: questions,
	}
}

func (r *report) resolvConf(upstreams []upstream) {
	var servers []string
	for _, u := range upstreams {
		servers = append(servers, u.addr.String())
	}
	r.node.resolvConf(servers...)
}

// sent is the number of queries that each upstream got so far.
func (r *report) sent() (n []int64) {
	for _, u := range r.upstreams {
		n = append(n, u.queries())
	}
	return n
}

// good is the upstream that knows all public names.
func (r *report) good() upstream { return r.upstreams[len(r.upstreams)-1] }

// ask puts the load on the node's server, and the control load past it on
// the good upstream.
func (r *report) ask(rate int, questions []question) figures {
	r.lab.t.Helper()
	main := r.client.loader(r.node.addrPort(53), rate, questions)
	thin := slices.DeleteFunc(slices.Clone(questions), question.private)[:1+len(questions)*controlRate/rate]
	control := r.client.loader(r.good().addrPort(53), controlRate, thin)
	var wg sync.WaitGroup
	wg.Go(func() { control.run() })
	f := measure(questions, main.run())
	wg.Wait()
	c := measure(thin, control.answers)
	f.control, f.controlWrong, f.controlP99, f.controlMax = c.total, c.wrong, c.p99, c.max
	return f
}

// load measures one load on a server that runs already.
func (r *report) load(s *server, label string, questions []question) figures {
	r.lab.t.Helper()
	sent, misses, cpu := r.sent(), s.metric("coredns_cache_misses_total"), s.cpu()
	f := r.ask(rate, questions)
	f.scenario, f.server = r.scenario, label
	f.misses = s.metric("coredns_cache_misses_total") - misses
	f.cpu = s.cpu() - cpu
	f.each = r.sent()
	for i := range f.each {
		f.each[i] -= sent[i]
	}
	f.each[len(f.each)-1] -= int64(f.control)
	for _, n := range f.each {
		f.upstream += n
	}
	summary.add(f)
	return f
}

// tries is how often a run is repeated because the machine was too busy. The
// last one counts in any case: the server may be what keeps it busy.
const tries = 3

// baseline measures forward with the good upstream alone.
func (r *report) baseline() (f figures) {
	t := r.lab.t
	t.Helper()
	r.resolvConf([]upstream{r.good()})
	questions := slices.DeleteFunc(slices.Clone(r.questions[:baselineLookups]), question.private)
	for range tries {
		s := r.node.coredns(fmt.Sprintf(reportCorefile, forward))
		f = r.load(s, "forward, the good upstream alone", questions)
		s.kill()
		if !f.disturbed() {
			break
		}
		t.Logf("disturbed: the good upstream itself took up to %v; again", f.controlP99)
	}
	if f.wrong > 0 {
		t.Fatalf("the lab itself is at fault: %d wrong with the good upstream alone: %s", f.wrong, f.why())
	}
	return f
}

// compare runs the report with forward and the good upstream alone, with
// forward, which must fail it where forwardFails is given, and with the plugin under test, which must
// keep its promises. It returns the last server, still running.
func (r *report) compare(t *testing.T, forwardFails func(figures) bool) *server {
	t.Helper()
	base := r.baseline()
	rows := table{rows: []figures{base}}
	defer func() { t.Logf("\n%s", rows.String()) }()

	r.resolvConf(r.upstreams)
	s := r.node.coredns(fmt.Sprintf(reportCorefile, forward))
	f := r.load(s, forward, r.questions[:forwardLookups])
	s.kill()
	rows.add(f)
	if forwardFails != nil && !forwardFails(f) {
		t.Errorf("forward passes, so that this test shows nothing: %d wrong, p99 %v", f.wrong, f.p99)
	}

	requiresDirective(t, directive())
	return r.promises(t, base, &rows)
}

// promises runs the plugin under test, and holds it to what the good upstream
// does alone. No try may have a wrong answer, unless the machine stood still.
// Times and numbers of queries, which a busy machine spoils, are to hold in one
// of the tries, or the machine was seen to be busy in each.
func (r *report) promises(t *testing.T, base figures, rows *table) *server {
	t.Helper()
	for try := 1; ; try++ { // each with a server that knows nothing yet
		s := r.node.coredns(fmt.Sprintf(reportCorefile, directive()))
		descriptors, goroutines := s.descriptors(), s.goroutines()
		first := r.load(s, directive()+", settling", r.questions[:settling])
		rest := r.load(s, directive()+", settled", r.questions[settling:])
		rows.add(first)
		rows.add(rest)
		busy := first.disturbed() || rest.disturbed()
		last := try == tries
		for _, f := range []figures{first, rest} {
			if f.wrong > 0 && (last || !f.stalled()) {
				t.Errorf("%s: %d of %d wrong; the good upstream answered all within %v: %s", f.server, f.wrong, f.total, f.controlMax, f.why())
			}
		}
		problems := missedBounds(base, first, rest)
		if len(problems) > 0 && !last {
			t.Logf("the good upstream itself took %v and %v at p99; again. It was:\n%s", first.controlP99, rest.controlP99, strings.Join(problems, "\n"))
			s.alive()
			s.kill()
			continue
		}
		switch text := strings.Join(problems, "\n"); {
		case text != "" && busy:
			t.Logf("the machine was busy; no failures but:\n%s", text)
		case text != "":
			t.Error(text)
		}
		if n := first.kind + rest.kind; float64(n) > kindShare*float64(len(r.questions)) {
			t.Errorf("%d of %d denials of the wrong kind", n, len(r.questions))
		}
		if d, g := s.descriptors(), s.goroutines(); d > descriptors+growth || g > goroutines+growth {
			t.Errorf("%d descriptors and %d goroutines after the load; before: %d and %d", d, g, descriptors, goroutines)
		} else {
			t.Logf("descriptors %d -> %d, goroutines %d -> %d", descriptors, d, goroutines, g)
		}
		if all := s.log.lines(); len(all) > logLines {
			t.Errorf("%d lines in the log for %d lookups; the last:\n%s", len(all), len(r.questions), s.log.tail(10))
		}
		s.alive()
		return s
	}
}

// missedBounds says which promises a try did not keep, wrong answers aside.
func missedBounds(base, first, rest figures) (problems []string) {
	missed := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if limit := settlingMax + first.controlMax; first.max > limit {
		missed("while settling, one lookup took %v; at most %v", first.max, limit)
	}
	if per := rest.perQuery(); per > perQueryBound {
		missed("%.3f upstream queries per query once settled; at most %v", per, perQueryBound)
	}
	if limit := base.p50First + max(p50Floor, time.Duration(p50Share*float64(base.p50First))); rest.p50First > limit {
		missed("p50 %v once settled; at most %v (the good upstream alone: %v)", rest.p50First, limit, base.p50First)
	}
	if limit := max(p99Floor, p99Times*base.p99, p99Times*rest.controlP99); rest.p99 > limit {
		missed("p99 %v once settled; at most %v", rest.p99, limit)
	}
	return problems
}
