package options

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestSlowReply is about a reply after 5 s, of an upstream that would answer a
// probe at once: it is alive, and read_timeout allows for it.
func TestSlowReply(t *testing.T) {
	for _, tc := range []struct {
		name   string
		first  bool // nothing but a probe has been answered before
		client query
		option string
	}{
		{"the first query", true, query{}, ""},
		{"by TCP", false, query{tcp: true}, ""},
		{"without probes", false, query{}, "max_fails 0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, server(10*ms))
				l.corefile(directive("10.0.0.1", "read_timeout 8s", tc.option))
				l.settle()
				q := tc.client
				if q.name = "first.example.org."; !tc.first {
					l.ask(q)
				}
				fail(l.up[0], "except probes delay 5s")
				q.name = "www.example.org."
				if r := l.ask(q); !r.right() {
					t.Errorf("%s after %v; probed at %v", r.rcode(), r.took, probes(l.up[0]))
				}
			})
		})
	}
}

// TestTrustTheFirst holds that nxdomain trust with policy sequential passes on
// what the first upstream says, and not the denial of one that is merely tried beside it.
func TestTrustTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, server(20*ms), server(2*ms, "except probes nxdomain"))
		l.corefile(directive("10.0.0.1 10.0.0.2", "nxdomain trust", "policy sequential"))
		l.settle()
		const n = 500
		wrong := 0
		for i := range n {
			if r := l.a(fmt.Sprintf("www.%d.example.", i)); !r.right() {
				wrong++
			}
			time.Sleep(500 * ms)
		}
		if wrong > 0 {
			t.Errorf("%d of %d names denied that the first upstream knows; the second was asked %d times", wrong, n, asked(l.up[1]))
		}
	})
}
