package metrics

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dnsguard/dnsguard/plugin/upstream"
	"github.com/dnsguard/dnsguard/plugin/zones"
)

// TestCollector holds that pools are merged, each upstream in its worst state, and that nothing stays of a pool that is gone.
func TestCollector(t *testing.T) {
	m, reg := newMetrics()
	first := pool{
		snapshots: []upstream.Snapshot{
			{To: one, State: "healthy", SRTT: 10 * time.Millisecond, Expected: 11 * time.Millisecond, Outstanding: 2},
			{To: "192.0.2.2:53", State: "suspect"},
		},
		zones: zones.Stats{Zones: 3, Names: 4}, inFlight: 5,
	}
	second := pool{
		snapshots: []upstream.Snapshot{{To: one, State: "ejected", SRTT: 20 * time.Millisecond}, {To: "192.0.2.3:53", State: "unknown"}},
		zones:     zones.Stats{Zones: 10, Names: 20}, inFlight: 30,
	}
	untrack := m.Track(first)
	defer untrack()
	untrackSecond := m.Track(second)

	state := func(when, to, want string) {
		t.Helper()
		for _, name := range upstream.States() {
			v := 0
			if name == want {
				v = 1
			}
			line := fmt.Sprintf(`coredns_dnsguard_upstream_state{state="%s",to="%s"} %d`, name, to, v)
			if want == "" {
				lacks(t, reg, line)
			} else if wants(t, reg, line); t.Failed() {
				t.Fatal(when)
			}
		}
	}
	state("two pools", one, "ejected")
	state("two pools", "192.0.2.2:53", "suspect")
	state("two pools", "192.0.2.3:53", "unknown")
	if n := strings.Count(scrape(t, reg), "upstream_state{"); n != 3*len(upstream.States()) {
		t.Errorf("%d series", n)
	}
	wants(t, reg, `
		coredns_dnsguard_credibility_entries{kind="zone"} 13
		coredns_dnsguard_credibility_entries{kind="name"} 24
		coredns_dnsguard_in_flight_queries 35
	`)
	untrackSecond()
	untrackSecond()
	state("one pool", one, "healthy")
	state("one pool", "192.0.2.3:53", "")
	wants(t, reg, `
		coredns_dnsguard_credibility_entries{kind="zone"} 3
		coredns_dnsguard_credibility_entries{kind="name"} 4
		coredns_dnsguard_in_flight_queries 5
		coredns_dnsguard_upstream_smoothed_rtt_seconds{to="192.0.2.1:53"} 0.01
		coredns_dnsguard_upstream_expected_seconds{to="192.0.2.1:53"} 0.011
		coredns_dnsguard_upstream_outstanding_attempts{to="192.0.2.1:53"} 2
	`)
	first.snapshots[0].State = "half-open" // read at the time of the scrape
	state("later", one, "half-open")
}
