package options

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestPolicy counts who is asked of three upstreams that all answer. Up to
// one query in a hundred, and five, is shown to a second one.
func TestPolicy(t *testing.T) {
	const n, trials = 600, 11
	equal := [3]time.Duration{10 * ms, 10 * ms, 10 * ms}
	unequal := [3]time.Duration{30 * ms, 10 * ms, 20 * ms}
	third := [3]int{n / 3, n / 3, n / 3}
	for _, tc := range []struct {
		option string
		rtt    [3]time.Duration
		want   [3]int
		slack  int
	}{
		{"policy sequential", equal, [3]int{n, 0, 0}, 0},
		{"policy sequential", unequal, [3]int{n, 0, 0}, 0},
		{"policy round_robin", equal, third, 0},
		{"policy round_robin", unequal, third, 0},
		{"policy random", equal, third, 50},
		{"policy random", unequal, third, 50},
		{"policy sequential\nmax_fails 0", unequal, [3]int{n, 0, 0}, 0},
		{"policy round_robin\nmax_fails 0", unequal, third, 0},
		{"policy random\nmax_fails 0", unequal, third, 50},
		{"policy adaptive", equal, third, 50},
		{"policy adaptive", unequal, [3]int{0, n, 0}, 0},
		{"", equal, third, 50},
		{"", unequal, [3]int{0, n, 0}, 0},
	} {
		t.Run(fmt.Sprint(tc.option, tc.rtt), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, server(tc.rtt[0]), server(tc.rtt[1]), server(tc.rtt[2]))
				l.corefile(directive("10.0.0.1 10.0.0.2 10.0.0.3", tc.option))
				l.settle()
				var order []int
				before := [3]int{}
				for i := range n {
					if r := l.a(fmt.Sprintf("%d.example.org.", i)); !r.right() {
						t.Errorf("reply %v", r.msg)
					}
					for j, s := range l.up {
						if now := asked(s); now > before[j] {
							order = append(order, j)
							before[j] = now
						}
					}
				}
				for i, got := range before {
					if got < tc.want[i]-tc.slack || got > tc.want[i]+tc.slack+trials {
						t.Fatalf("asked %v, want %v", before, tc.want)
					}
				}
				if len(order) > n+trials {
					t.Errorf("%d sent for %d queries", len(order), n)
				}
				inTurn, most := 0, len(order)-1
				for i := range most {
					if order[i+1] == (order[i]+1)%3 {
						inTurn++
					}
				}
				if got, want := inTurn > most*9/10, strings.HasPrefix(tc.option, "policy round_robin"); got != want {
					t.Errorf("%d of %d in turn", inTurn, most)
				}
			})
		})
	}
}

// TestPolicyAtStart is about the first query, when a farther upstream has not
// been heard yet and the nearer has: only what left a probe unanswered loses its place.
func TestPolicyAtStart(t *testing.T) {
	for _, tc := range []struct {
		option string
		fault  string
		after  time.Duration
		first  int
	}{
		{"policy sequential", "", 20 * ms, 0},
		{"policy sequential", "drop", 20 * ms, 0},
		{"policy sequential", "drop", time.Second, 1},
		{"policy adaptive", "", 20 * ms, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, server(50*ms), server(5*ms))
			if tc.fault != "" {
				fail(l.up[0], tc.fault)
			}
			l.corefile(directive("10.0.0.1 10.0.0.2", tc.option, "hedge off"))
			time.Sleep(tc.after)
			go l.a("www.example.org.")
			time.Sleep(50 * ms)
			got := [2]int{asked(l.up[0]), asked(l.up[1])}
			beside := tc.first > 0 && tc.fault != "" // the silent one may be shown the query too
			if got[tc.first] != 1 || got[1-tc.first] != 0 && !beside {
				t.Errorf("%s, first %q, after %s: asked %v, want number %d", tc.option, tc.fault, tc.after, got, tc.first)
			}
			time.Sleep(5 * time.Second)
		})
	}
}

// TestPolicyNext is about who is asked after the first: it refuses.
func TestPolicyNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, server(30*ms), server(20*ms), server(10*ms))
		l.corefile(directive("10.0.0.1 10.0.0.2 10.0.0.3", "policy sequential"))
		l.settle()
		fail(l.up[0], "except probes refused")
		if r := l.a("www.example.org."); !r.right() || asked(l.up[0]) != 1 || asked(l.up[1]) != 1 || asked(l.up[2]) != 0 {
			t.Errorf("%s, asked %d, %d, %d", r.rcode(), asked(l.up[0]), asked(l.up[1]), asked(l.up[2]))
		}
	})
}
