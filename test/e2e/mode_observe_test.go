package e2e

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Mode observe, beside stock forward: one of three upstreams is bad, and the same load on each.
const (
	observeRate    = 400
	observeLookups = 3000
	// Who is asked first is left to chance in both: 5 deviations of the difference of two such loads.
	observeNoise = 5 * 0.0122
	badAddr      = "10.0.0.2"
)

// observed is the count of a verdict on the upstream.
func (s *server) observed(verdict, to string) float64 {
	s.t.Helper()
	return s.metric(fmt.Sprintf(`coredns_dnsguard_observed_queries_total{to="%s:53",verdict="%s"}`, to, verdict))
}

// reload gives the server another Corefile.
func (s *server) reload(corefile string) {
	s.t.Helper()
	done := len(s.log.lines("Reloading complete"))
	if err := os.WriteFile(s.corefile, []byte(corefile), 0o644); err != nil {
		s.t.Fatal(err)
	}
	if err := syscall.Kill(s.pid(), syscall.SIGUSR1); err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, 15*time.Second, s.process, func() error {
		if len(s.log.lines("Reloading complete")) == done {
			return errors.New("not reloaded")
		}
		return nil
	})
}

// TestObserve: clients and upstreams see the same of dnsguard in mode observe
// as of forward; the verdicts and the log point at the bad upstream; and
// with mode guard in the same Corefile all is right.
func TestObserve(t *testing.T) {
	requires(t, "unbound", "dnsmasq")
	requiresDirective(t, directive())
	zones := public()
	for _, c := range []struct {
		name    string
		bad     func(l *lab) upstream
		verdict string // on what the bad one does
		share   float64
	}{
		{"refused", func(l *lab) upstream { return l.upstream("bad", badAddr, unbound("always_refuse")) }, "retried", 0.9},
		// It takes one answer of another to know.
		{"nxdomain", func(l *lab) upstream { return l.upstream("bad", badAddr, dnsmasq(private())) }, "disputed", 0.6},
		// Once it is down it is not asked.
		{"silent", func(l *lab) upstream { return l.dropped("bad", badAddr) }, "hedged", 0.9},
		{"closed port", func(l *lab) upstream { return l.closed("bad", badAddr) }, "other_upstream", 0.6},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			// Few names, so that they are asked of several upstreams.
			questions := mix(observeLookups, publicQuestions(zones[:20])...)
			r := l.report("observe "+c.name, questions, c.bad(l),
				l.upstream("good1", "10.0.0.3", unbound("static", zones...)),
				l.upstream("good2", "10.0.0.4", unbound("static", zones...)),
			)
			r.resolvConf(r.upstreams)
			rows := new(table)
			defer func() { t.Logf("\n%s", rows) }()
			judged(t, func(v *verdict) {
				stock := r.node.coredns(plain(forward, "/etc/resolv.conf", ""))
				want := r.measured(stock, forward, rows)
				stock.kill()

				s := r.node.coredns(plain(directive(), "/etc/resolv.conf", "mode observe"))
				got := r.measured(s, directive()+", observe", rows)
				v.stalled = want.stalled() || got.stalled()
				v.same(want, got)
				v.points(s, got, c.verdict, c.share)

				s.reload(plain(directive(), "/etc/resolv.conf", "mode guard"))
				r.names(s, badAddr)
				right := r.measured(s, directive()+", guard", rows)
				v.right("in mode guard", right)
				s.alive()
				s.kill()
			})
		})
	}
}

// closed is an upstream whose ports are closed: its kernel says so, and the filter counts.
func (l *lab) closed(name, addr string) upstream {
	h := l.host(name, addr)
	h.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/icmp_ratelimit") // else it says so once a second
	h.filter("input", "udp dport 53 counter name hits", "tcp dport 53 counter name hits")
	return upstream{host: h}
}

// measured puts the load on a server, and counts what each upstream got.
func (r *report) measured(s *server, label string, rows *table) figures {
	r.lab.t.Helper()
	sent, cpu := r.sent(), s.cpu()
	f := r.ask(observeRate, r.questions)
	f.cpu = s.cpu() - cpu
	f.scenario, f.server, f.misses = r.scenario, label, float64(f.total)
	f.each = r.sent()
	for i := range f.each {
		f.each[i] -= sent[i]
		if i == len(f.each)-1 {
			f.each[i] -= int64(f.control)
		}
		f.upstream += f.each[i]
	}
	rows.add(f)
	summary.add(f)
	s.alive()
	return f
}

// same notes where two loads differ by more than chance.
func (v *verdict) same(want, got figures) {
	reasons := map[string]bool{"": true}
	for reason := range want.reasons {
		reasons[reason] = true
	}
	for reason := range got.reasons {
		reasons[reason] = true
	}
	n := float64(want.total)
	for reason := range reasons {
		if a, b := float64(want.reasons[reason])/n, float64(got.reasons[reason])/n; math.Abs(a-b) > observeNoise {
			v.errorf("%q: %.1f%% of the answers of forward, %.1f%% in mode observe", reason, 100*a, 100*b)
		}
	}
	for i := range want.each {
		if a, b := float64(want.each[i])/n, float64(got.each[i])/n; math.Abs(a-b) > observeNoise {
			v.errorf("upstream %d got %.3f queries per query of forward, %.3f in mode observe", i, a, b)
		}
	}
	if a, b := want.perQuery(), got.perQuery(); math.Abs(a-b) > 0.03 {
		v.errorf("%.3f upstream queries per query of forward, %.3f in mode observe", a, b)
	}
	slow := func(f figures) bool { return f.p99 > time.Second }
	if slow(want) != slow(got) {
		v.errorf("p99 %v of forward, %v in mode observe", want.p99, got.p99)
	}
}

// points notes where the verdicts do not point at the bad upstream, of whose
// queries this share at least must have the given one.
func (v *verdict) points(s *server, f figures, verdict string, share float64) {
	bad := float64(f.each[0])
	if got := s.observed(verdict, badAddr); got < share*bad || got > bad {
		v.errorf("%v queries are %s because of %s, which got %v", got, verdict, badAddr, bad)
	}
	for _, wrong := range []string{"retried", "disputed"} {
		for _, to := range []string{"10.0.0.3", "10.0.0.4"} {
			if got := s.observed(wrong, to); got > 0 {
				v.errorf("%v queries are %s because of %s, which is well", got, wrong, to)
			}
		}
	}
	if got := s.metric("coredns_dnsguard_observed_queries_total"); got < float64(f.total) || got > float64(f.total)+5 {
		v.errorf("%v verdicts on %d queries", got, f.total)
	}
	for _, line := range s.log.lines("plugin/dnsguard") {
		if !strings.Contains(line, "observed: ") {
			v.errorf("log: %s", line)
		}
	}
}
