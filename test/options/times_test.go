package options

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestReadTimeout is about one upstream that does not reply: when the attempt
// is counted as a time-out, and when the next is made.
func TestReadTimeout(t *testing.T) {
	for _, tc := range []struct {
		option string
		count  time.Duration // at which one is counted; looked at every 100 ms
	}{
		{"", 2 * time.Second},
		{"read_timeout 300ms", 300 * ms},
		{"read_timeout 1s", time.Second},
		{"read_timeout 3s", 3 * time.Second},
	} {
		t.Run(tc.option, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, server(10*ms))
				l.corefile(directive("10.0.0.1", tc.option, "hedge off", "timeout 10s"))
				l.settle()
				fail(l.up[0], "except probes drop")
				const name = "www.example.org."
				go l.a(name)
				synctest.Wait()
				began := time.Now()
				for l.counter("attempts_total", "timeout") == 0 && time.Since(began) < 10*time.Second {
					time.Sleep(5 * ms)
				}
				if got := time.Since(began); got < tc.count || got > tc.count+120*ms {
					t.Errorf("time-out counted after %v, want %v", got, tc.count)
				}
				time.Sleep(10 * time.Second)
				sent := queries(l.up[0], name)
				if len(sent) < 2 {
					t.Fatalf("%d sent, want more", len(sent))
				}
				if gap := sent[1].At - sent[0].At; gap < 200*ms || gap > 230*ms { // whatever read_timeout says
					t.Errorf("the next was sent after %v, want 210ms", gap)
				}
			})
		})
	}
}

// TestLateReply is about a reply that comes after 5 s: a read_timeout above
// the default of timeout raises that.
func TestLateReply(t *testing.T) {
	for _, tc := range []struct {
		options []string
		right   bool
		took    time.Duration
	}{
		{nil, false, 4500 * ms},
		{[]string{"read_timeout 1s"}, false, 4500 * ms},
		{[]string{"read_timeout 8s"}, true, 5010 * ms},
		{[]string{"read_timeout 8s", "timeout 3s"}, false, 3 * time.Second},
		{[]string{"timeout 6s"}, true, 5010 * ms}, // a late reply is still taken
	} {
		t.Run(fmt.Sprint(tc.options), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, server(10*ms))
				l.corefile(directive("10.0.0.1", tc.options...))
				l.settle()
				l.a("first.example.org.") // the upstream is known to answer
				fail(l.up[0], "except probes delay 5s")
				r := l.a("www.example.org.")
				if r.right() != tc.right || r.took != tc.took {
					t.Errorf("%s after %v, right %t; want %t after %v", r.rcode(), r.took, r.right(), tc.right, tc.took)
				}
			})
		})
	}
}

// TestTimeout is about upstreams that answer probes and nothing else.
func TestTimeout(t *testing.T) {
	for option, want := range map[string]time.Duration{
		"": 4500 * ms, "timeout 100ms": 100 * ms, "timeout 1s": time.Second, "timeout 20s": 20 * time.Second,
	} {
		for _, to := range []string{"10.0.0.1", "10.0.0.1 10.0.0.2"} {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, server(10*ms), server(20*ms))
				l.corefile(directive(to, option, "eject off", "policy random"))
				l.settle()
				for i := range 20 { // so that all are known to answer
					l.a(fmt.Sprintf("%d.example.org.", i))
				}
				for _, s := range l.up {
					fail(s, "except probes drop")
				}
				if r := l.a("www.example.org."); r.rcode() != "SERVFAIL" || r.took != want {
					t.Errorf("%q, %s: %s after %v, want SERVFAIL after %v", option, to, r.rcode(), r.took, want)
				}
			})
		}
	}
}

// TestHedge is about two upstreams, the first of which is late: whether and
// when the second is asked.
func TestHedge(t *testing.T) {
	for _, tc := range []struct {
		name    string
		options []string
		late    string        // how late the first is
		asked   bool          // the second
		from    time.Duration // the first is sent
		to      time.Duration
	}{
		{"off, late", []string{"hedge off"}, "100ms", false, 0, 0},
		{"0, late", []string{"hedge 0"}, "100ms", false, 0, 0},
		{"default, late", nil, "100ms", true, 10 * ms, 35 * ms},
		{"100%, late", []string{"hedge 100%"}, "100ms", true, 10 * ms, 35 * ms},
		{"off, very late", []string{"hedge off"}, "1s", true, 210 * ms, 230 * ms},
		{"default, very late", nil, "1s", true, 10 * ms, 35 * ms},
		{"default, in time", nil, "500us", false, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, server(10*ms), server(10*ms))
				l.corefile(directive("10.0.0.1 10.0.0.2", append(tc.options, "policy sequential")...))
				time.Sleep(100 * ms)
				for i := range 20 { // to learn what is usual
					l.a(fmt.Sprintf("%d.example.org.", i))
				}
				const name = "late.example.org."
				fail(l.up[0], "delay "+tc.late)
				if r := l.a(name); !r.right() {
					t.Errorf("reply %v", r.msg)
				}
				first, second := queries(l.up[0], name), queries(l.up[1], name)
				if len(first) == 0 || len(second) > 0 != tc.asked {
					t.Fatalf("first asked %d times, second %d, want %t", len(first), len(second), tc.asked)
				}
				if tc.asked {
					if gap := second[0].At - first[0].At; gap < tc.from || gap > tc.to {
						t.Errorf("second asked after %v, want %v to %v", gap, tc.from, tc.to)
					}
				}
			})
		})
	}
}

// TestHedgeBudget counts the second attempts for queries that are all lost,
// half of all queries: early ones come out of the budget, which begins with 100.
func TestHedgeBudget(t *testing.T) {
	const n = 300 // of each half
	for option, want := range map[string]int{
		"hedge off": 0, "hedge 1%": 100 + 2*n/100, "hedge 10%": 100 + 2*n/10, "hedge 0.25": 100 + 2*n/4, "hedge 100%": n, "": 100 + 2*n/20,
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, server(10*ms))
			l.corefile(directive("10.0.0.1", option, "timeout 400ms", "max_connect_attempts 2"))
			time.Sleep(100 * ms)
			for i := range 20 {
				l.a(fmt.Sprintf("%d.example.org.", i))
			}
			fail(l.up[0], "zone lost.example drop")
			early, late := 0, 0
			for i := range n {
				l.a(fmt.Sprintf("%d.good.example.", i))
				lost := fmt.Sprintf("%d.lost.example.", i)
				l.a(lost)
				sent := queries(l.up[0], lost)
				if len(sent) != 2 {
					t.Fatalf("%s: query %d sent %d times", option, i, len(sent))
				}
				if sent[1].At-sent[0].At < 100*ms {
					early++
				} else {
					late++
				}
			}
			if early < want-2 || early > want+2 {
				t.Errorf("%q: %d second attempts were early and %d late, want %d early", option, early, late, want)
			}
			if sent, denied := l.counter("hedges_total", "sent"), l.counter("hedges_total", "denied"); sent != n || denied != late {
				t.Errorf("%q: counted %d hedges sent and %d denied, want %d and %d", option, sent, denied, n, late)
			}
		})
	}
}
