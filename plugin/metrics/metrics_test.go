package metrics

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/forwarder"
	"github.com/dnsguard/dnsguard/plugin/loopguard"
	"github.com/dnsguard/dnsguard/plugin/observe"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/upstream"
)

const one = "192.0.2.1:53"

func newMetrics() (*Metrics, *prometheus.Registry) {
	reg := prometheus.NewPedanticRegistry()
	return New(reg, Options{Namespace: "coredns", Buckets: []float64{0.01, 1}}), reg
}

// everything makes each metric have at least one sample, with each value of each label that is a closed set.
func everything(m *Metrics) {
	u := m.Upstream(one)
	for k := range outcome.Count {
		for p := range exchange.ProtoCount {
			u.Attempt(upstream.End{Kind: k, Proto: p, Rcode: int(k), RTT: time.Millisecond})
			u.Attempt(upstream.End{Kind: k, Proto: p, Rcode: -1, Probe: true})
		}
		u.State(upstream.Change{Now: upstream.Ejected, Kind: k})
	}
	for rcode := range 4096 {
		u.Attempt(upstream.End{Kind: outcome.ServFail, Rcode: rcode, RTT: time.Millisecond})
	}
	u.Mismatched()
	u.Late(time.Millisecond)
	for p := range exchange.ProtoCount {
		u.Sockets(p, 1)
		u.Conn(p, true)
		u.Conn(p, false)
	}
	for f := range outcome.FaultCount {
		u.Fault(f)
	}
	for r := range loopguard.Changed {
		u.LoopSuspected(r)
	}
	for r := range loopProbes {
		u.LoopProbe(r)
	}
	u.LoopDetected()
	m.LoopFlood()
	for e := forwarder.HedgeSent; e <= forwarder.HedgeDenied; e++ {
		m.Hedge(e)
	}
	for r := range queryResults {
		m.Query(r)
	}
	m.Disputed(one)
	m.Coalesced()
	m.AllEjected()
	m.Observed(observe.Hopeless)
	s := m.Source("/etc/resolv.conf")
	for r := range listResults {
		s.Listed(r)
	}
	m.Track(pool{snapshots: []upstream.Snapshot{{To: one, State: "healthy"}}})
}

// recorder takes down what is declared.
type recorder struct {
	prometheus.Registerer
	names map[string]bool
}

func (r recorder) Register(c prometheus.Collector) error {
	ch := make(chan *prometheus.Desc)
	go func() {
		c.Describe(ch)
		close(ch)
	}()
	for desc := range ch {
		r.names[regexp.MustCompile(`fqName: "([^"]+)"`).FindStringSubmatch(desc.String())[1]] = true
	}
	return r.Registerer.Register(c)
}

func (r recorder) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		if err := r.Register(c); err != nil {
			panic(err)
		}
	}
}

// TestNames holds Prometheus's rules for names and help (promlint) for every metric that is declared, and ours: a common prefix, and a
// sentence that says which kind of metric it is.
func TestNames(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	rec := recorder{reg, make(map[string]bool)}
	everything(New(rec, Options{Namespace: "coredns", Buckets: []float64{0.01, 1}, NativeFactor: 1.05}))
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	begins := map[dto.MetricType]string{dto.MetricType_COUNTER: "Counter of ", dto.MetricType_GAUGE: "Gauge ", dto.MetricType_HISTOGRAM: "Histogram of "}
	gathered := make(map[string]bool)
	for _, f := range gather(t, reg) {
		gathered[f.GetName()] = true
		if !regexp.MustCompile(`^coredns_(dnsguard|proxy)_[a-z]+(_[a-z]+)*$`).MatchString(f.GetName()) {
			t.Errorf("name %q", f.GetName())
		}
		if begin := begins[f.GetType()]; begin == "" || !strings.HasPrefix(f.GetHelp(), begin) || !strings.HasSuffix(f.GetHelp(), ".") {
			t.Errorf("%s, a %s: help %q", f.GetName(), f.GetType(), f.GetHelp())
		}
		if counts := f.GetType() == dto.MetricType_COUNTER; counts != strings.HasSuffix(f.GetName(), "_total") {
			t.Errorf("%s is a %s", f.GetName(), f.GetType())
		}
	}
	if len(rec.names) < 20 || !maps.Equal(rec.names, gathered) {
		t.Errorf("linted\n%v\ndeclared\n%v", slices.Sorted(maps.Keys(gathered)), slices.Sorted(maps.Keys(rec.names)))
	}
}

// TestBounded holds how many series there are for one upstream and one list, whatever happens.
func TestBounded(t *testing.T) {
	m, reg := newMetrics()
	everything(m)
	const kinds, protos, codes = int(outcome.Count), int(exchange.ProtoCount), 25
	most := map[string]int{
		"coredns_dnsguard_attempts_total": kinds * protos, "coredns_dnsguard_probes_total": kinds * protos,
		"coredns_dnsguard_request_duration_seconds": codes, "coredns_proxy_request_duration_seconds": codes,
		"coredns_dnsguard_connections_total": 2 * protos, "coredns_proxy_conn_cache_hits_total": protos, "coredns_proxy_conn_cache_misses_total": protos,
		"coredns_dnsguard_open_sockets": protos, "coredns_dnsguard_upstream_state": 6, "coredns_dnsguard_ejections_total": 7,
		"coredns_dnsguard_hedges_total": 3, "coredns_dnsguard_queries_total": 8, "coredns_dnsguard_local_errors_total": 6,
		"coredns_dnsguard_loop_suspected_total": 3, "coredns_dnsguard_loop_probes_total": 4,
		"coredns_dnsguard_list_reloads_total": 5, "coredns_dnsguard_credibility_entries": 2,
	}
	for _, f := range gather(t, reg) {
		if n := len(f.GetMetric()); n > max(1, most[f.GetName()]) {
			t.Errorf("%s has %d series, want at most %d", f.GetName(), n, max(1, most[f.GetName()]))
		}
	}
}

func TestEvents(t *testing.T) {
	m, reg := newMetrics()
	for range 3 {
		m.Hedge(forwarder.HedgeSent)
	}
	m.Hedge(forwarder.HedgeWon)
	m.Coalesced()
	m.Coalesced()
	m.AllEjected()
	u := m.Upstream(one)
	for _, f := range []outcome.Fault{outcome.FaultDescriptors, outcome.FaultPermission, outcome.FaultPermission, outcome.NoFault} {
		u.Fault(f)
	}
	wants(t, reg, `
		coredns_dnsguard_all_ejected_queries_total 1
		coredns_dnsguard_coalesced_queries_total 2
		coredns_dnsguard_hedges_total{event="denied"} 0
		coredns_dnsguard_hedges_total{event="sent"} 3
		coredns_dnsguard_hedges_total{event="won"} 1
		coredns_dnsguard_local_errors_total{kind="buffers"} 0
		coredns_dnsguard_local_errors_total{kind="descriptors"} 1
		coredns_dnsguard_local_errors_total{kind="limit"} 0
		coredns_dnsguard_local_errors_total{kind="other"} 0
		coredns_dnsguard_local_errors_total{kind="permission"} 2
		coredns_dnsguard_local_errors_total{kind="ports"} 0
	`)
	lacks(t, reg, `kind="none"`)
}

func TestQueries(t *testing.T) {
	m, reg := newMetrics()
	for r := range queryResults {
		for range r + 1 {
			m.Query(r)
		}
	}
	wants(t, reg, `
		coredns_dnsguard_queries_total{result="answered"} 1
		coredns_dnsguard_queries_total{result="failed"} 2
		coredns_dnsguard_queries_total{result="unanswered"} 3
		coredns_dnsguard_queries_total{result="rejected"} 4
		coredns_dnsguard_max_concurrent_rejects_total 4
		coredns_dnsguard_queries_total{result="unsupported"} 5
		coredns_dnsguard_queries_total{result="passed_on"} 6
		coredns_dnsguard_queries_total{result="cancelled"} 7
	`)
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
	first, second := Unregistered(), Unregistered()
	if first == second || OfProcess(Options{Namespace: "test"}) != OfProcess(Options{Namespace: "other"}) {
		t.Error("want those of the process to be the same, and others not")
	}
	New(reg, Options{Namespace: "coredns"})
}

// TestConcurrent comes and goes, counts and scrapes at the same time.
func TestConcurrent(t *testing.T) {
	m, reg := newMetrics()
	stays := m.Upstream(one)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 500 {
				u, s := m.Upstream(one), m.Source("dns.example")
				u.Attempt(upstream.End{Kind: outcome.OK, RTT: time.Millisecond})
				stays.Attempt(upstream.End{Kind: outcome.OK, RTT: time.Millisecond, Probe: true})
				m.Hedge(forwarder.HedgeSent)
				m.Disputed(one)
				s.Listed(ListMissing)
				m.Track(pool{snapshots: []upstream.Snapshot{{To: one, State: "healthy"}}})()
				u.Close()
				s.Close()
				gone := m.Upstream("192.0.2.2:53")
				gone.Attempt(upstream.End{Kind: outcome.OK, RTT: time.Millisecond})
				gone.Close()
				gone.Attempt(upstream.End{Kind: outcome.Cancelled})
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			if _, err := reg.Gather(); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	wants(t, reg, `
		coredns_dnsguard_attempts_total{outcome="ok",proto="udp",to="192.0.2.1:53"} 4000
		coredns_dnsguard_probes_total{outcome="ok",proto="udp",to="192.0.2.1:53"} 2000
		coredns_dnsguard_disputed_denials_total{to="192.0.2.1:53"} 2000
	`)
	lacks(t, reg, "192.0.2.2:53", "dns.example")
}
