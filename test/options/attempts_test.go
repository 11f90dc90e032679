package options

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// TestMaxConnectAttempts counts what is sent for one query that nobody answers.
func TestMaxConnectAttempts(t *testing.T) {
	for _, tc := range []struct {
		name        string
		upstreams   int
		option      string
		fault       string
		least, most int
	}{
		{"default, one", 1, "", "except probes drop", 3, 3},
		{"1, one", 1, "max_connect_attempts 1", "except probes drop", 1, 1},
		{"2, one", 1, "max_connect_attempts 2", "except probes drop", 2, 2},
		{"4, one", 1, "max_connect_attempts 4", "except probes drop", 4, 4},
		{"0, one", 1, "max_connect_attempts 0", "except probes drop", 5, 64},
		{"default, three", 3, "", "except probes drop", 5, 5},
		{"1, three", 3, "max_connect_attempts 1", "except probes drop", 1, 1},
		{"2, three", 3, "max_connect_attempts 2", "except probes drop", 2, 2},
		{"0, three", 3, "max_connect_attempts 0", "except probes drop", 7, 64},
		{"default, three refuse", 3, "", "except probes refused", 3, 3},
		{"1, three refuse", 3, "max_connect_attempts 1", "except probes refused", 1, 1},
		{"2, three refuse", 3, "max_connect_attempts 2", "except probes refused", 2, 2},
		{"1, three deny", 3, "max_connect_attempts 1", "except probes nxdomain", 1, 1},
		{"2, three deny", 3, "max_connect_attempts 2", "except probes nxdomain", 2, 2},
		{"default, three deny", 3, "", "except probes nxdomain", 3, 3},
		{"1, port closed", 3, "max_connect_attempts 1", "except probes refuse-port", 1, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, server(10*ms), server(10*ms), server(10*ms))
				to := [...]string{1: "10.0.0.1", 3: "10.0.0.1 10.0.0.2 10.0.0.3"}[tc.upstreams]
				l.corefile(directive(to, tc.option, "eject off"))
				l.settle()
				for _, s := range l.up {
					fail(s, tc.fault)
				}
				const name = "www.example.org."
				if r := l.a(name); r.right() {
					t.Errorf("reply %v", r.msg)
				}
				time.Sleep(5 * time.Second)
				got := 0
				for _, s := range l.up {
					got += len(queries(s, name))
				}
				if got < tc.least || got > tc.most {
					t.Errorf("%d sent, want %d to %d", got, tc.least, tc.most)
				}
			})
		})
	}
}

// TestOneAttempt holds that max_connect_attempts 1 leaves no room for trials either.
func TestOneAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, server(10*ms), server(20*ms))
		l.corefile(directive("10.0.0.1 10.0.0.2", "max_connect_attempts 1"))
		l.settle()
		const n = 100
		for i := range n {
			if r := l.a(fmt.Sprintf("%d.example.org.", i)); !r.right() {
				t.Errorf("reply %v", r.msg)
			}
			time.Sleep(200 * ms)
		}
		if got := asked(l.up[0]) + asked(l.up[1]); got != n {
			t.Errorf("%d sent for %d queries", got, n)
		}
	})
}

func TestFailover(t *testing.T) {
	for _, tc := range []struct {
		name    string
		options []string
		faults  [3]string // of each upstream, asked in this order
		rcode   string
		right   bool
		asked   [3]int
	}{
		{"NXDOMAIN without", []string{"nxdomain trust"}, [3]string{"nxdomain"}, "NXDOMAIN", false, [3]int{1, 0, 0}},
		{"NXDOMAIN", []string{"nxdomain trust", "failover NXDOMAIN"}, [3]string{"nxdomain"}, "NOERROR", true, [3]int{1, 1, 0}},
		{"another code", []string{"nxdomain trust", "failover REFUSED"}, [3]string{"nxdomain"}, "NXDOMAIN", false, [3]int{1, 0, 0}},
		{"of two", []string{"nxdomain trust", "failover NXDOMAIN"}, [3]string{"nxdomain", "nxdomain"}, "NOERROR", true, [3]int{1, 1, 1}},
		{"of all", []string{"nxdomain trust", "failover NXDOMAIN"}, [3]string{"nxdomain", "nxdomain", "nxdomain"}, "NXDOMAIN", false, [3]int{1, 1, 1}},
		{"verified too", []string{"failover NXDOMAIN"}, [3]string{"nxdomain", "nxdomain", "nxdomain"}, "NXDOMAIN", false, [3]int{1, 1, 1}},
		{"YXDOMAIN without", nil, [3]string{"yxdomain"}, "YXDOMAIN", false, [3]int{1, 0, 0}},
		{"YXDOMAIN", []string{"failover YXDOMAIN"}, [3]string{"yxdomain"}, "NOERROR", true, [3]int{1, 1, 0}},
		{"two codes", []string{"failover REFUSED YXDOMAIN", "failover NOTAUTH"}, [3]string{"yxdomain", "notauth"}, "NOERROR", true, [3]int{1, 1, 1}},
		{"SERVFAIL without", nil, [3]string{"servfail"}, "NOERROR", true, [3]int{1, 1, 0}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, server(10*ms), server(10*ms), server(10*ms))
				l.corefile(directive("10.0.0.1 10.0.0.2 10.0.0.3", append(tc.options, "policy sequential")...))
				l.settle()
				for i, f := range tc.faults {
					if f != "" {
						fail(l.up[i], "except probes "+f)
					}
				}
				r := l.a("www.example.org.")
				got := [3]int{asked(l.up[0]), asked(l.up[1]), asked(l.up[2])}
				if r.rcode() != tc.rcode || r.right() != tc.right || got != tc.asked {
					t.Errorf("%s, right %t, asked %v; want %s, %t, %v", r.rcode(), r.right(), got, tc.rcode, tc.right, tc.asked)
				}
			})
		})
	}
}

// TestNXDomain is about a denial by the first upstream of a name that the second knows.
func TestNXDomain(t *testing.T) {
	for option, verified := range map[string]bool{"": true, "nxdomain verify": true, "nxdomain trust": false} {
		for _, denial := range []string{"nxdomain", "nodata"} {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, server(10*ms), server(20*ms))
				l.corefile(directive("10.0.0.1 10.0.0.2", option, "policy sequential"))
				l.settle()
				fail(l.up[0], "except probes "+denial)
				r := l.a("www.example.org.")
				if r.right() != verified || asked(l.up[1]) > 0 != verified {
					t.Errorf("%q: %s, right %t, second upstream asked %d times", option, r.rcode(), r.right(), asked(l.up[1]))
				}
			})
		}
	}
}

func TestMaxConcurrent(t *testing.T) {
	for _, tc := range []struct {
		option  string
		clients int
		refused int
	}{
		{"max_concurrent 5", 5, 0},
		{"max_concurrent 5", 8, 3},
		{"max_concurrent 1", 8, 7},
		{"max_concurrent 0", 2000, 0},
		{"", 2000, 0},
	} {
		t.Run(fmt.Sprintf("%s of %d", tc.option, tc.clients), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, server(time.Second))
				l.corefile(directive("10.0.0.1", tc.option, "hedge off"))
				time.Sleep(3 * time.Second)
				for round := range 2 { // those of the first are done by then
					names := make([]string, tc.clients)
					for i := range names {
						names[i] = fmt.Sprintf("%d.%d.example.org.", i, round)
					}
					refused, right := 0, 0
					for _, r := range l.together(names, query{}) {
						switch {
						case r.rcode() == "REFUSED" && r.took == 0:
							refused++
						case r.right():
							right++
						}
					}
					if refused != tc.refused || right != tc.clients-tc.refused {
						t.Errorf("round %d: %d refused at once and %d right, want %d and %d", round, refused, right, tc.refused, tc.clients-tc.refused)
					}
				}
				if got := l.counter("max_concurrent_rejects_total"); got != 2*tc.refused {
					t.Errorf("%d rejects counted, want %d", got, 2*tc.refused)
				}
			})
		})
	}
}

// TestFailfast is about an upstream that is ejected, for ten seconds, but answers again.
func TestFailfast(t *testing.T) {
	for option, fast := range map[string]bool{"": false, "failfast_all_unhealthy_upstreams": true} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, server(10*ms), server(10*ms))
			l.corefile(directive("10.0.0.1 10.0.0.2", option, "eject failures 1 base 10s"))
			l.settle()
			for _, s := range l.up {
				fail(s, "except probes refuse-port")
			}
			for i := 0; l.state(0) != "ejected" || l.state(1) != "ejected"; i++ {
				if l.a(fmt.Sprintf("%d.example.org.", i)); i > 50 {
					t.Fatalf("%s and %s, want ejected", l.state(0), l.state(1))
				}
			}
			time.Sleep(time.Second)
			for _, s := range l.up {
				fail(s)
				s.Reset()
			}
			r := l.ask(query{name: "www.example.org.", size: 1232})
			sent := asked(l.up[0]) + asked(l.up[1])
			switch {
			case fast && (r.rcode() != "SERVFAIL" || r.took != 0 || sent != 0):
				t.Errorf("failfast: %s after %v, %d sent", r.rcode(), r.took, sent)
			case fast && len(r.msg.IsEdns0().Option) == 0:
				t.Error("failfast: the client is not told why")
			case !fast && (!r.right() || sent == 0):
				t.Errorf("without: %s, %d sent: the least bad is to be asked", r.rcode(), sent)
			}
			time.Sleep(12 * time.Second) // answered probes bring them back
			if r := l.a("later.example.org."); !r.right() {
				t.Errorf("%q: after the ejection: %s", option, r.rcode())
			}
		})
	}
}

// TestFailfastIsForAll holds that one upstream that is in is enough.
func TestFailfastIsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, server(10*ms, "refuse-port"), server(10*ms))
		l.corefile(directive("10.0.0.1 10.0.0.2", "failfast_all_unhealthy_upstreams", "policy sequential", "eject failures 1"))
		for i := range 20 {
			if r := l.a(fmt.Sprintf("%d.example.org.", i)); !r.right() {
				t.Errorf("query %d: %s", i, dns.RcodeToString[r.msg.Rcode])
			}
			time.Sleep(200 * ms)
		}
	})
}
