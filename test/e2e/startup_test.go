package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// starts is how many fresh processes are asked their first query.
const starts = 6

const (
	firstQueryMax = 300 * time.Millisecond
	allDeadMax    = 2600 * time.Millisecond // 2.5 s, and dig's own time
)

// The first query through a fresh process, which knows nothing of its
// upstreams yet: one is dead, one refuses, and the last is good.
func TestFirstQueryAfterStart(t *testing.T) {
	requires(t, "dig", "unbound", "named")
	requiresDirective(t, directive())
	zones, office := public()[:20], private()
	l := newLab(t)
	good := unbound("static", zones...)
	r := l.report("first query", publicQuestions(zones),
		l.dropped("dead", "10.0.0.2"),
		l.upstream("refusing", "10.0.0.3", named(office)),
		l.upstream("good", "10.0.0.4", good),
	)
	r.resolvConf(r.upstreams)
	for _, d := range []string{forward, directive()} {
		var seen []string
		bad := 0
		for i := range starts {
			s := r.node.coredns(fmt.Sprintf(reportCorefile, d))
			rec := zones[i].records[1] // another name for each process
			a := r.client.dig(nodeAddr, rec.name, "A")
			seen = append(seen, fmt.Sprintf("%s in %v", a.status, a.took))
			if !strings.Contains(a.text, rec.v4.String()) || a.took >= firstQueryMax {
				bad++
			}
			s.alive()
			s.kill()
		}
		t.Logf("%s: first queries: %s; %d of %d late or wrong", d, strings.Join(seen, ", "), bad, starts)
		if d == directive() && bad > 0 {
			t.Errorf("%s: %d of %d first queries late or wrong; want each answered in less than %v", d, bad, starts, firstQueryMax)
		} else if d == forward && bad == 0 {
			t.Errorf("forward passes, so that this test shows nothing")
		}
	}
}

// No upstream answers at all: the client is told so in time, and why.
func TestAllDeadAtStart(t *testing.T) {
	requires(t, "dig")
	requiresDirective(t, directive())
	l := newLab(t)
	r := l.report("all dead", nil, l.dropped("dead1", "10.0.0.2"), l.dropped("dead2", "10.0.0.3"))
	r.resolvConf(r.upstreams)
	// Without CoreDNS's cache, which drops the OPT and so the reason.
	s := r.node.coredns(plain(directive(), "/etc/resolv.conf", ""))
	a := r.client.dig(nodeAddr, "www.example.com", "A")
	t.Logf("first: %s in %v", a.status, a.took)
	if a.status != "SERVFAIL" || a.took > allDeadMax {
		t.Errorf("first query: %s in %v, want SERVFAIL in 2.5 s", a.status, a.took)
	}
	if !strings.Contains(a.text, "EDE:") {
		t.Errorf("no Extended DNS Error in the answer:\n%s", a.text)
	}
	// Known to be dead by now, or after a few more; the names differ, because failures are cached.
	best := time.Hour
	for i := range 10 {
		a = r.client.dig(nodeAddr, fmt.Sprintf("www%d.example.com", i), "A")
		best = min(best, a.took)
		if a.status != "SERVFAIL" || a.took > allDeadMax {
			t.Errorf("query %d: %s in %v", i, a.status, a.took)
		}
		if best <= 50*time.Millisecond {
			break
		}
	}
	if best > 50*time.Millisecond {
		t.Errorf("still %v for a SERVFAIL after 11 queries, want 50 ms at the most once it is known", best)
	}
	s.alive()
	s.kill()
	s = r.node.coredns(fmt.Sprintf(reportCorefile, directive()))
	if a := r.client.dig(nodeAddr, "kubernetes.default.svc.cluster.local", "A"); a.status != "NOERROR" {
		t.Errorf("a name of the cluster meanwhile: %s", a.status)
	}
	s.alive()
}
