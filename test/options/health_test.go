package options

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// TestMaxFails is about an upstream whose port is closed, first in order,
// beside one that answers: how often it is asked before it is taken out.
func TestMaxFails(t *testing.T) {
	for _, tc := range []struct {
		option string
		asked  int // in 60 queries within 3 s, trials apart
		state  string
	}{
		{"", 5, "ejected"},
		{"max_fails 1", 5, "ejected"}, // as large as the default of eject failures has it
		{"max_fails 5", 5, "ejected"},
		{"max_fails 12", 12, "ejected"},
		{"max_fails 4294967295", 18, "ejected"}, // by the share of failures, of 20 attempts
		{"max_fails 0", 60, "healthy"},
		{"eject off", 60, "healthy"},
		{"eject failures 1", 1, "ejected"},
		{"eject failures 3", 3, "ejected"},
		{"eject failures 20 share 100%", 20, "ejected"},
	} {
		t.Run(tc.option, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, server(10*ms), server(10*ms))
				l.corefile(directive("10.0.0.1 10.0.0.2", tc.option, "policy sequential"))
				time.Sleep(500 * ms)
				l.a("first.example.org.")
				l.a("second.example.org.")
				fail(l.up[0], "except probes refuse-port")
				l.up[0].Reset()
				for i := range 60 {
					if r := l.a(fmt.Sprintf("%d.example.org.", i)); !r.right() {
						t.Errorf("query %d: %s", i, r.rcode())
					}
				}
				if got := asked(l.up[0]); got < tc.asked || got > tc.asked+1 {
					t.Errorf("asked %d times, want %d", got, tc.asked)
				}
				if got := l.state(0); got != tc.state {
					t.Errorf("%s, want %s", got, tc.state)
				}
			})
		})
	}
}

// TestNeverOut is about the only upstream, which fails for an hour.
func TestNeverOut(t *testing.T) {
	for _, tc := range []struct {
		option  string
		ejected bool
		probes  bool
	}{
		{"", true, true},
		{"max_fails 2", true, true},
		{"max_fails 0", false, false},
		{"eject off", false, true},
	} {
		for _, fault := range []string{"drop", "refuse-port", "servfail"} {
			t.Run(tc.option+" "+fault, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := newLab(t, server(10*ms), server(10*ms, fault))
					l.corefile(directive("10.0.0.1 10.0.0.2", tc.option))
					ejected := false
					for i := range 1000 {
						l.a(fmt.Sprintf("%d.example.org.", i))
						ejected = ejected || l.state(1) == "ejected"
						time.Sleep(50 * ms)
					}
					if ejected != tc.ejected && (ejected || fault != "servfail") { // who fails is not asked often enough to be ejected
						t.Errorf("ejected: %t, want %t", ejected, tc.ejected)
					}
					if got := len(probes(l.up[1])) > 0; got != tc.probes {
						t.Errorf("probes: %t, want %t", got, tc.probes)
					}
				})
			})
		}
	}
}

// TestEjectShare is about an upstream half of whose attempts fail.
func TestEjectShare(t *testing.T) {
	for option, want := range map[string]bool{
		"eject failures 1000":            true,
		"eject failures 1000 share 0.4":  true,
		"eject failures 1000 share 30%":  true,
		"eject failures 1000 share 90%":  false,
		"eject failures 1000 share 100%": false,
	} {
		t.Run(option, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, server(10*ms), server(10*ms))
				l.corefile(directive("10.0.0.1 10.0.0.2", option, "policy sequential"))
				l.settle()
				fail(l.up[0], "zone bad.example refuse-port")
				ejected := false
				for i := range 200 {
					l.a(fmt.Sprintf("%d.%s.example.", i, [...]string{"good", "bad", "bad", "good", "bad"}[i%5]))
					ejected = ejected || l.state(0) == "ejected"
					time.Sleep(20 * ms)
				}
				if ejected != want {
					t.Errorf("ejected: %t, want %t", ejected, want)
				}
			})
		})
	}
}

// TestEjectTimes is about an upstream that answers probes, and refuses all else: it comes
// back again and again. How long is it out each time?
func TestEjectTimes(t *testing.T) {
	for _, tc := range []struct {
		option string
		want   []time.Duration
	}{
		{"", []time.Duration{1 * time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second, 30 * time.Second}},
		{"eject base 3s max 10s", []time.Duration{3 * time.Second, 6 * time.Second, 10 * time.Second, 10 * time.Second}},
		{"eject base 5s max 5s", []time.Duration{5 * time.Second, 5 * time.Second, 5 * time.Second}},
		{"eject max 500ms", []time.Duration{500 * ms, 500 * ms, 500 * ms}},
		{"eject base 40s", []time.Duration{40 * time.Second, 40 * time.Second}},
	} {
		t.Run(tc.option, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, server(10*ms), server(10*ms))
				l.corefile(directive("10.0.0.1 10.0.0.2", tc.option, "policy sequential"))
				l.settle()
				fail(l.up[0], "except probes refuse-port")
				var out []time.Duration
				var since time.Time
				for i := 0; len(out) < len(tc.want) && i < 300_000; i++ { // half-open may last for two round trips
					if i%20 == 0 {
						go l.a(fmt.Sprintf("%d.example.org.", i))
					}
					switch ejected := l.state(0) == "ejected"; {
					case ejected && since.IsZero():
						since = time.Now()
					case !ejected && !since.IsZero():
						out, since = append(out, time.Since(since)), time.Time{}
					}
					time.Sleep(ms)
				}
				const slack = 2500 * ms // a probe of the next round brings it back
				for i, want := range tc.want {
					if i >= len(out) || out[i] < want-50*ms || out[i] > want+slack+want/20 {
						t.Fatalf("ejected for %v, want %v", out, tc.want)
					}
				}
			})
		})
	}
}

// TestHealthCheckInterval is about an upstream that has never replied, and that no client waits for.
func TestHealthCheckInterval(t *testing.T) {
	for option, want := range map[string]time.Duration{
		"": 500 * ms, "health_check 0s": 500 * ms, "health_check 200ms": 200 * ms, "health_check 2s": 2 * time.Second,
		"health_check 1m": time.Minute,
	} {
		t.Run(option, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, server(10*ms, "proto udp drop", "tcp-hang"), server(10*ms))
				l.corefile(directive("10.0.0.1 10.0.0.2", option))
				time.Sleep(60 * want)
				at := probes(l.up[0])
				if len(at) < 15 || len(at) > 60 {
					t.Fatalf("%d probes in 60 intervals", len(at))
				}
				for i := 1; i < len(at); i++ {
					gap, most := at[i]-at[i-1], want
					if i > 4 {
						most = 4 * want // it grows while they fail
					}
					if gap < want-20*ms || gap > most+20*ms { // connecting takes a round trip
						t.Fatalf("probe %d after %v, want %v to %v", i, gap, want, most)
					}
				}
				if last := at[len(at)-1] - at[len(at)-2]; last < 4*want-20*ms {
					t.Errorf("still a probe each %v at the end", last)
				}
				if n := len(probes(l.up[1])); n != 1 {
					t.Errorf("%d probes of an upstream that answers, want the first", n)
				}
			})
		})
	}
}

// TestHealthCheckQuery is about what probes ask.
func TestHealthCheckQuery(t *testing.T) {
	for _, tc := range []struct {
		option string
		name   string
		rd     bool
	}{
		{"", ".", true},
		{"health_check 1s", ".", true},
		{"health_check 1s no_rec", ".", false},
		{"health_check 1s domain Probe.Example.org", "probe.example.org.", true},
		{"health_check 1s no_rec domain probe.example.org.", "probe.example.org.", false},
		{"health_check 1s domain probe.example.org no_rec", "probe.example.org.", false},
	} {
		t.Run(tc.option, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, server(10*ms, "drop"))
				l.corefile(directive("10.0.0.1", tc.option))
				time.Sleep(10 * time.Second)
				sent := l.datagrams()
				if len(sent) < 5 {
					t.Fatalf("%d probes", len(sent))
				}
				for _, m := range sent {
					if q := m.Question[0]; q.Name != tc.name || q.Qtype != dns.TypeNS || m.RecursionDesired != tc.rd {
						t.Fatalf("probe %v", m)
					}
				}
			})
		})
	}
}

// TestHealthCheckNeeded holds that upstreams which answer are not probed at all, but at the start.
func TestHealthCheckNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, server(10*ms))
		l.corefile(directive("10.0.0.1", "health_check 100ms"))
		for i := range 100 {
			l.a(fmt.Sprintf("%d.example.org.", i))
			time.Sleep(100 * ms)
		}
		if at := probes(l.up[0]); !slices.Equal(at, []time.Duration{0}) {
			t.Errorf("probes at %v", at)
		}
	})
}
