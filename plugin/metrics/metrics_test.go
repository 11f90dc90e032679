package metrics

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/forwarder"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/upstream"
)

func newMetrics() (*Metrics, *prometheus.Registry) {
	reg := prometheus.NewPedanticRegistry()
	return New(reg, Options{Namespace: "coredns", Buckets: []float64{0.01, 1}}), reg
}

// everything makes each metric have at least one sample.
func everything(m *Metrics) {
	u := m.Upstream("192.0.2.1:53")
	for k := range outcome.Count {
		for p := range exchange.ProtoCount {
			u.Attempt(k, p, int(k), time.Millisecond)
		}
	}
	u.Attempt(outcome.Timeout, exchange.UDP, -1, 0)
	u.Attempt(outcome.ServFail, exchange.UDP, 4095, time.Millisecond)
	u.Mismatched()
	u.Late(time.Millisecond)
	u.Sockets(exchange.UDP, 1)
	u.Conn(exchange.TCP, true)
	u.Conn(exchange.TCP, false)
	for e := forwarder.HedgeSent; e <= forwarder.HedgeDenied; e++ {
		m.Hedge(e)
	}
	m.Disputed()
	m.Coalesced()
	m.Rejected()
	m.InFlight(1)
	m.Track(func() []upstream.Snapshot { return []upstream.Snapshot{{To: "192.0.2.1:53", State: "healthy"}} })
}

// TestNames holds Prometheus's rules for names and help, and ours: a common prefix, and a sentence that says what kind of metric it is.
func TestNames(t *testing.T) {
	m, reg := newMetrics()
	everything(m)
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	families, err := reg.Gather()
	if err != nil || len(families) < 10 {
		t.Fatalf("%d metrics, %v", len(families), err)
	}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "coredns_dnsguard_") || !strings.HasSuffix(f.GetHelp(), ".") {
			t.Errorf("%s: %q", f.GetName(), f.GetHelp())
		}
	}
}

// TestAttempts holds the labels of every outcome.
func TestAttempts(t *testing.T) {
	m, _ := newMetrics()
	u, other := m.Upstream("192.0.2.1:53"), m.Upstream("[2001:db8::1]:853")
	for k := range outcome.Count {
		for range int(k) + 1 {
			u.Attempt(k, exchange.TLS, -1, 0)
		}
	}
	other.Attempt(outcome.OK, exchange.UDP, 0, time.Millisecond)
	for k := range outcome.Count {
		if got := testutil.ToFloat64(m.attempts.WithLabelValues("192.0.2.1:53", "tcp-tls", k.String())); got != float64(k)+1 {
			t.Errorf("%s: %v, want %d", k, got, k+1)
		}
	}
	if n := testutil.CollectAndCount(m.attempts); n != int(outcome.Count)+1 {
		t.Errorf("%d series, want %d", n, outcome.Count+1)
	}
	if n := testutil.CollectAndCount(m.duration); n != 1 {
		t.Errorf("%d histograms, want that of the one reply", n)
	}
}

func TestDurations(t *testing.T) {
	m, reg := newMetrics()
	u := m.Upstream("192.0.2.1:53")
	u.Attempt(outcome.OK, exchange.UDP, 0, 5*time.Millisecond)
	u.Attempt(outcome.NoData, exchange.UDP, 0, 500*time.Millisecond)
	const want = `
		# HELP coredns_dnsguard_request_duration_seconds Histogram of the time upstreams took to reply, per upstream and response code.
		# TYPE coredns_dnsguard_request_duration_seconds histogram
		coredns_dnsguard_request_duration_seconds_bucket{rcode="NOERROR",to="192.0.2.1:53",le="0.01"} 1
		coredns_dnsguard_request_duration_seconds_bucket{rcode="NOERROR",to="192.0.2.1:53",le="1"} 2
		coredns_dnsguard_request_duration_seconds_bucket{rcode="NOERROR",to="192.0.2.1:53",le="+Inf"} 2
		coredns_dnsguard_request_duration_seconds_sum{rcode="NOERROR",to="192.0.2.1:53"} 0.505
		coredns_dnsguard_request_duration_seconds_count{rcode="NOERROR",to="192.0.2.1:53"} 2
	`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "coredns_dnsguard_request_duration_seconds"); err != nil {
		t.Error(err)
	}
}

// TestRcodesAreBounded holds that no reply can make series without end.
func TestRcodesAreBounded(t *testing.T) {
	m, _ := newMetrics()
	u := m.Upstream("192.0.2.1:53")
	for rcode := range 4096 {
		u.Attempt(outcome.ServFail, exchange.UDP, rcode, time.Millisecond)
	}
	if n := testutil.CollectAndCount(m.duration); n > 64 {
		t.Errorf("%d histograms for one upstream", n)
	}
}

func TestEvents(t *testing.T) {
	m, reg := newMetrics()
	for range 3 {
		m.Hedge(forwarder.HedgeSent)
	}
	m.Hedge(forwarder.HedgeWon)
	m.Disputed()
	m.Coalesced()
	m.Coalesced()
	m.Rejected()
	m.InFlight(5)
	m.InFlight(-2)
	u := m.Upstream("192.0.2.1:53")
	u.Mismatched()
	u.Conn(exchange.TCP, true)
	u.Conn(exchange.TCP, true)
	u.Conn(exchange.TLS, false)
	const want = `
		# TYPE coredns_dnsguard_coalesced_queries_total counter
		coredns_dnsguard_coalesced_queries_total 2
		# TYPE coredns_dnsguard_connections_total counter
		coredns_dnsguard_connections_total{how="dialed",proto="tcp-tls",to="192.0.2.1:53"} 1
		coredns_dnsguard_connections_total{how="reused",proto="tcp",to="192.0.2.1:53"} 2
		# TYPE coredns_dnsguard_disputed_denials_total counter
		coredns_dnsguard_disputed_denials_total 1
		# TYPE coredns_dnsguard_hedges_total counter
		coredns_dnsguard_hedges_total{event="denied"} 0
		coredns_dnsguard_hedges_total{event="sent"} 3
		coredns_dnsguard_hedges_total{event="won"} 1
		# TYPE coredns_dnsguard_in_flight_queries gauge
		coredns_dnsguard_in_flight_queries 3
		# TYPE coredns_dnsguard_max_concurrent_rejects_total counter
		coredns_dnsguard_max_concurrent_rejects_total 1
		# TYPE coredns_dnsguard_mismatched_replies_total counter
		coredns_dnsguard_mismatched_replies_total{to="192.0.2.1:53"} 1
	`
	got := gathered(t, reg)
	for line := range strings.Lines(want) {
		if line = strings.TrimSpace(line); !strings.Contains(got, line+"\n") {
			t.Errorf("no %q in:\n%s", line, got)
		}
	}
}

// gathered is what a scrape of reg returns.
func gathered(t *testing.T, reg *prometheus.Registry) string {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// TestCollector holds that pools are merged, each upstream in its worst state, and that nothing stays of a pool that is gone.
func TestCollector(t *testing.T) {
	m, reg := newMetrics()
	first := []upstream.Snapshot{
		{To: "192.0.2.1:53", State: "healthy", SRTT: 10 * time.Millisecond, Expected: 11 * time.Millisecond, Outstanding: 2},
		{To: "192.0.2.2:53", State: "suspect"},
	}
	second := []upstream.Snapshot{{To: "192.0.2.1:53", State: "ejected", SRTT: 20 * time.Millisecond}, {To: "192.0.2.3:53", State: "unknown"}}
	untrack := m.Track(func() []upstream.Snapshot { return first })
	defer untrack()
	untrackSecond := m.Track(func() []upstream.Snapshot { return second })

	const state = "coredns_dnsguard_upstream_state"
	check := func(when, to, want string) {
		t.Helper()
		got := gathered(t, reg)
		for _, name := range upstream.States() {
			v := "0"
			if name == want {
				v = "1"
			}
			line := state + `{state="` + name + `",to="` + to + `"} ` + v + "\n"
			if has := strings.Contains(got, line); has != (want != "") {
				t.Errorf("%s: %q is there: %t\n%s", when, line, has, got)
			}
		}
	}
	check("two pools", "192.0.2.1:53", "ejected")
	check("two pools", "192.0.2.2:53", "suspect")
	check("two pools", "192.0.2.3:53", "unknown")
	if n := strings.Count(gathered(t, reg), state+"{"); n != 3*len(upstream.States()) {
		t.Errorf("%d series", n)
	}
	untrackSecond()
	untrackSecond()
	check("one pool", "192.0.2.1:53", "healthy")
	check("one pool", "192.0.2.3:53", "")
	for _, line := range []string{
		`upstream_smoothed_rtt_seconds{to="192.0.2.1:53"} 0.01`, `upstream_expected_seconds{to="192.0.2.1:53"} 0.011`, `upstream_outstanding_attempts{to="192.0.2.1:53"} 2`,
	} {
		if !strings.Contains(gathered(t, reg), "coredns_dnsguard_"+line+"\n") {
			t.Errorf("no %s", line)
		}
	}
	first[0].State = "half-open" // read at the time of the scrape
	check("later", "192.0.2.1:53", "half-open")
}

// TestOneOfEach holds that several pools can share what a process declares once.
func TestOneOfEach(t *testing.T) {
	reg := prometheus.NewRegistry()
	New(reg, Options{Namespace: "coredns"})
	defer func() {
		if recover() == nil {
			t.Error("metrics were declared twice")
		}
	}()
	one, two := Unregistered(), Unregistered()
	if one == two || OfProcess(Options{Namespace: "test"}) != OfProcess(Options{Namespace: "other"}) {
		t.Error("want those of the process to be the same, and others not")
	}
	New(reg, Options{Namespace: "coredns"})
}

func TestConcurrent(t *testing.T) {
	m, reg := newMetrics()
	u := m.Upstream("192.0.2.1:53")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 500 {
				u.Attempt(outcome.OK, exchange.UDP, 0, time.Millisecond)
				m.Hedge(forwarder.HedgeSent)
				m.Track(func() []upstream.Snapshot { return []upstream.Snapshot{{To: "192.0.2.1:53", State: "healthy"}} })()
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			gathered(t, reg)
		}
	})
	wg.Wait()
	if got := testutil.ToFloat64(m.attempts.WithLabelValues("192.0.2.1:53", "udp", "ok")); got != 2000 {
		t.Errorf("%v attempts, want 2000", got)
	}
}
