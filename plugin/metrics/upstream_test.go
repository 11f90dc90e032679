package metrics

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/upstream"
)

// TestAttempts holds the labels of every outcome.
func TestAttempts(t *testing.T) {
	m, reg := newMetrics()
	u, other := m.Upstream(one), m.Upstream("[2001:db8::1]:853")
	for k := range outcome.Count {
		for range int(k) + 1 {
			u.Attempt(upstream.End{Kind: k, Proto: exchange.TLS, Rcode: -1})
		}
	}
	other.Attempt(upstream.End{Kind: outcome.OK, RTT: time.Millisecond})
	for k := range outcome.Count {
		wants(t, reg, fmt.Sprintf(`coredns_dnsguard_attempts_total{outcome="%s",proto="tcp-tls",to="192.0.2.1:53"} %d`, k, k+1))
	}
	wants(t, reg, `coredns_dnsguard_attempts_total{outcome="ok",proto="udp",to="[2001:db8::1]:853"} 1`)
	if n := testutil.CollectAndCount(m.attempts); n != int(outcome.Count)+1 {
		t.Errorf("%d series, want %d", n, outcome.Count+1)
	}
	if n := testutil.CollectAndCount(m.duration); n != 1 {
		t.Errorf("%d histograms, want that of the one reply", n)
	}
	if n := testutil.CollectAndCount(m.probes); n != 0 {
		t.Errorf("%d series of probes", n)
	}
}

// TestProbes holds that probes count as attempts, and by themselves.
func TestProbes(t *testing.T) {
	m, reg := newMetrics()
	u := m.Upstream(one)
	u.Attempt(upstream.End{Kind: outcome.NoData, RTT: time.Millisecond, Probe: true})
	u.Attempt(upstream.End{Kind: outcome.NoData, RTT: time.Millisecond})
	u.Attempt(upstream.End{Kind: outcome.Timeout, Rcode: -1, Probe: true})
	wants(t, reg, `
		coredns_dnsguard_attempts_total{outcome="nodata",proto="udp",to="192.0.2.1:53"} 2
		coredns_dnsguard_attempts_total{outcome="timeout",proto="udp",to="192.0.2.1:53"} 1
		coredns_dnsguard_probes_total{outcome="nodata",proto="udp",to="192.0.2.1:53"} 1
		coredns_dnsguard_probes_total{outcome="timeout",proto="udp",to="192.0.2.1:53"} 1
		coredns_dnsguard_request_duration_seconds_count{rcode="NOERROR",to="192.0.2.1:53"} 2
	`)
}

func TestDurations(t *testing.T) {
	m, reg := newMetrics()
	u := m.Upstream(one)
	u.Attempt(upstream.End{Kind: outcome.OK, RTT: 5 * time.Millisecond})
	u.Attempt(upstream.End{Kind: outcome.NoData, RTT: 500 * time.Millisecond})
	u.Attempt(upstream.End{Kind: outcome.ServFail, Rcode: 13, RTT: time.Second})
	u.Attempt(upstream.End{Kind: outcome.ServFail, Rcode: 24, RTT: time.Second})
	u.Attempt(upstream.End{Kind: outcome.ServFail, Rcode: 4095, RTT: time.Second})
	wants(t, reg, `
		coredns_dnsguard_request_duration_seconds_bucket{rcode="NOERROR",to="192.0.2.1:53",le="0.01"} 1
		coredns_dnsguard_request_duration_seconds_bucket{rcode="NOERROR",to="192.0.2.1:53",le="1"} 2
		coredns_dnsguard_request_duration_seconds_bucket{rcode="NOERROR",to="192.0.2.1:53",le="+Inf"} 2
		coredns_dnsguard_request_duration_seconds_sum{rcode="NOERROR",to="192.0.2.1:53"} 0.505
		coredns_dnsguard_request_duration_seconds_count{rcode="NOERROR",to="192.0.2.1:53"} 2
		coredns_dnsguard_request_duration_seconds_count{rcode="13",to="192.0.2.1:53"} 1
		coredns_dnsguard_request_duration_seconds_count{rcode="other",to="192.0.2.1:53"} 2
	`)
}

// TestNativeHistograms holds that scrapers which can have native histograms get them, with buckets that are bounded, beside the classic ones.
func TestNativeHistograms(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := New(reg, Options{Namespace: "coredns", Buckets: []float64{0.01, 1}, NativeFactor: 1.05})
	u := m.Upstream(one)
	for d := time.Nanosecond; d < time.Hour; d += 1 + d/50 {
		u.Attempt(upstream.End{Kind: outcome.OK, RTT: d})
	}
	for _, f := range gather(t, reg) {
		if !strings.HasSuffix(f.GetName(), "_request_duration_seconds") {
			continue
		}
		h := f.GetMetric()[0].GetHistogram()
		buckets := 0
		for _, s := range h.GetPositiveSpan() {
			buckets += int(s.GetLength())
		}
		if len(h.GetBucket()) != 2 || buckets == 0 || h.GetSampleCount() == 0 {
			t.Errorf("%s: %d classic and %d native buckets", f.GetName(), len(h.GetBucket()), buckets)
		}
		if strings.Contains(f.GetName(), subsystem) && buckets > nativeBuckets {
			t.Errorf("%s: %d native buckets, want at most %d", f.GetName(), buckets, nativeBuckets)
		}
	}
}

func TestUpstreamEvents(t *testing.T) {
	m, reg := newMetrics()
	u := m.Upstream(one)
	u.Mismatched()
	u.Late(3 * time.Second)
	u.Late(7 * time.Second)
	u.Conn(exchange.TCP, true)
	u.Conn(exchange.TCP, true)
	u.Conn(exchange.TLS, false)
	m.Disputed(one)
	m.Disputed("192.0.2.99:53") // nobody's
	u.Sockets(exchange.UDP, 2)
	u.Sockets(exchange.UDP, -1)
	u.Sockets(exchange.TCP, 1)
	u.Sockets(exchange.TCP, -1)
	wants(t, reg, `
		coredns_dnsguard_mismatched_replies_total{to="192.0.2.1:53"} 1
		coredns_dnsguard_late_replies_total{to="192.0.2.1:53"} 2
		coredns_dnsguard_connections_total{how="dialed",proto="tcp-tls",to="192.0.2.1:53"} 1
		coredns_dnsguard_connections_total{how="reused",proto="tcp",to="192.0.2.1:53"} 2
		coredns_dnsguard_disputed_denials_total{to="192.0.2.1:53"} 1
		coredns_dnsguard_open_sockets{proto="udp",to="192.0.2.1:53"} 1
		coredns_dnsguard_open_sockets{proto="tcp",to="192.0.2.1:53"} 0
	`)
	lacks(t, reg, "192.0.2.99", `open_sockets{proto="quic"`)
}

// TestEjections holds the reason of an ejection for every outcome, and that other changes are none.
func TestEjections(t *testing.T) {
	m, reg := newMetrics()
	u := m.Upstream(one)
	u.Attempt(upstream.End{})
	for _, r := range reasonNames { // there before the first
		wants(t, reg, fmt.Sprintf(`coredns_dnsguard_ejections_total{reason="%s",to="192.0.2.1:53"} 0`, r))
	}
	for k := range outcome.Count {
		for _, s := range []upstream.State{upstream.Unknown, upstream.Healthy, upstream.Suspect, upstream.HalfOpen, upstream.Ejected} {
			u.State(upstream.Change{Now: s, Kind: k})
		}
	}
	for r, n := range map[string]int{
		"timeout":    1,
		"connection": 3, // conn_refused, unreachable, conn_reset
		"tls":        1,
		"rcode":      6, // servfail, refused, notimp, formerr, badvers, badcookie
		"malformed":  2, // and mismatched
		"loop":       1,
		"other":      7, // what is no failure of the upstream
	} {
		wants(t, reg, fmt.Sprintf(`coredns_dnsguard_ejections_total{reason="%s",to="192.0.2.1:53"} %d`, r, n))
	}
}

// TestSeriesGo holds that all series of an upstream go with the last of those who have it, and only then.
func TestSeriesGo(t *testing.T) {
	m, reg := newMetrics()
	first, second, other := m.Upstream(one), m.Upstream(one), m.Upstream("192.0.2.2:53")
	for _, u := range []*Upstream{first, second, other} {
		everyEvent(u)
	}
	m.Disputed(one)
	mentions := func(to string) int { return strings.Count(scrape(t, reg), `to="`+to+`"`) }
	all := mentions(one)
	if all < 50 {
		t.Fatalf("%d lines for one upstream:\n%s", all, scrape(t, reg))
	}
	first.Close()
	first.Close()
	if n := mentions(one); n != all {
		t.Errorf("%d lines, want all %d while somebody has the upstream", n, all)
	}
	everyEvent(first) // shared with second, who still has it
	wants(t, reg, `coredns_dnsguard_late_replies_total{to="192.0.2.1:53"} 3`)
	second.Close()
	lacks(t, reg, one)
	if n := mentions("192.0.2.2:53"); n < 50 {
		t.Errorf("%d lines for the other upstream", n)
	}
	everyEvent(first) // what comes late makes no series
	everyEvent(second)
	m.Disputed(one)
	lacks(t, reg, one)

	again := m.Upstream(one)
	lacks(t, reg, one) // nothing has happened
	again.Late(time.Second)
	everyEvent(second)
	wants(t, reg, `coredns_dnsguard_late_replies_total{to="192.0.2.1:53"} 1`)
	again.Close()
	other.Close()
	lacks(t, reg, "192.0.2.", "to=")

	never := m.Upstream(one)
	never.Close()
	everyEvent(never)
	lacks(t, reg, one)
}

// everyEvent tells of all that can happen to an upstream.
func everyEvent(u *Upstream) {
	for k := range outcome.Count {
		for p := range exchange.ProtoCount {
			for _, probe := range []bool{true, false} {
				u.Attempt(upstream.End{Kind: k, Proto: p, Rcode: -1, Probe: probe})
				u.Attempt(upstream.End{Kind: k, Proto: p, Rcode: int(k), RTT: time.Millisecond, Probe: probe})
			}
		}
	}
	for p := range exchange.ProtoCount {
		u.Conn(p, true)
		u.Conn(p, false)
		u.Sockets(p, 1)
	}
	u.Mismatched()
	u.Late(time.Second)
	u.State(upstream.Change{Now: upstream.Ejected, Kind: outcome.TLS})
}
