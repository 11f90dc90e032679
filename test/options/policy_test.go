package options

import (
	"fmt"
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
				if got, want := inTurn > most*9/10, tc.option == "policy round_robin"; got != want {
					t.Errorf("%d of %d in turn", inTurn, most)
				}
			})
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
