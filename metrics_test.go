package dnsguard

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/coredns/plugin/test"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/metrics"
)

// countingEnv returns a registry and an Env that counts there.
func countingEnv() (*prometheus.Registry, Env) {
	reg := prometheus.NewPedanticRegistry()
	return reg, Env{Debug: true, Metrics: metrics.New(reg, metrics.Options{Namespace: "coredns"})}
}

// series returns the series of a metric that are not 0, by the values of their labels but "to".
func series(t *testing.T, reg prometheus.Gatherer, name string) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				if l.GetName() != "to" {
					labels = append(labels, l.GetValue())
				}
			}
			v := m.GetCounter().GetValue()
			if f.GetType() == dto.MetricType_GAUGE {
				v = m.GetGauge().GetValue()
			}
			if f.GetName() == "coredns_dnsguard_"+name && v != 0 {
				found[strings.Join(labels, " ")] += v
			}
		}
	}
	return found
}

func wantSeries(t *testing.T, reg prometheus.Gatherer, name string, want map[string]float64) {
	t.Helper()
	if got := series(t, reg, name); !maps.Equal(got, want) {
		t.Errorf("%s: %v, want %v", name, got, want)
	}
}

// TestQueryResults holds what each query of a client counts as.
func TestQueryResults(t *testing.T) {
	for name, tc := range map[string]struct {
		options string
		reply   func(m, q *dns.Msg)
		change  func(m *dns.Msg)
		want    string
	}{
		"data":                   {"", answers, nil, "answered"},
		"denied":                 {"", code(dns.RcodeNameError), nil, "answered"},
		"no data":                {"", code(dns.RcodeSuccess), nil, "answered"},
		"SERVFAIL":               {"", code(dns.RcodeServerFailure), nil, "failed"},
		"REFUSED":                {"", code(dns.RcodeRefused), nil, "failed"},
		"for another's query":    {"timeout 100ms", func(m, _ *dns.Msg) { m.Question[0].Name = "other.example." }, nil, "unanswered"},
		"not to be forwarded":    {"", answers, func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, "unsupported"},
		"passed on":              {"next NXDOMAIN", code(dns.RcodeNameError), nil, "passed_on"},
		"passed on for no data":  {"next_on_nodata", code(dns.RcodeSuccess), nil, "passed_on"},
		"data, next is set up":   {"next NXDOMAIN", answers, nil, "answered"},
		"no private zone for it": {"private_zones org at 127.0.0.99", answers, nil, "unanswered"},
	} {
		t.Run(name, func(t *testing.T) {
			s := listen(t, tc.reply)
			reg, env := countingEnv()
			to := s.addr
			if strings.Contains(tc.options, "127.0.0.99") {
				to += " 127.0.0.99" // where nobody listens
			}
			g := guard(t, env, ".", to, tc.options)
			g.Next = &next{name: "forward"}
			q := query("www.example.org.")
			if tc.change != nil {
				tc.change(q)
			}
			serve(t, g, q)
			wantSeries(t, reg, "queries_total", map[string]float64{tc.want: 1})
		})
	}
	t.Run("the client is gone", func(t *testing.T) {
		release := make(chan struct{})
		s := listen(t, func(m, q *dns.Msg) { <-release; answers(m, q) })
		reg, env := countingEnv()
		g := guard(t, env, ".", s.addr)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, _ = g.ServeDNS(ctx, &test.ResponseWriter{}, query("www.example.org."))
		close(release)
		wantSeries(t, reg, "queries_total", map[string]float64{"cancelled": 1})
	})
}

// TestInFlightGauge holds that the queries in flight are read at the scrape, those that are one too many not among them.
func TestInFlightGauge(t *testing.T) {
	release, asked := make(chan struct{}), make(chan struct{}, 2)
	s := listen(t, func(m, q *dns.Msg) { asked <- struct{}{}; <-release; answers(m, q) })
	reg, env := countingEnv()
	g := guard(t, env, ".", s.addr, "max_concurrent 1")
	done := make(chan struct{})
	go func() {
		serve(t, g, query("www.example.org."))
		close(done)
	}()
	<-asked
	serve(t, g, query("other.example.org."))
	wantSeries(t, reg, "in_flight_queries", map[string]float64{"": 1})
	close(release)
	<-done
	wantSeries(t, reg, "in_flight_queries", map[string]float64{})
	wantSeries(t, reg, "queries_total", map[string]float64{"answered": 1, "rejected": 1})
}

// TestEjectionCounted holds that an upstream which is taken out counts, with its reason, and who asks for nothing while all are out.
func TestEjectionCounted(t *testing.T) {
	reg, env := countingEnv()
	g := guard(t, env, ".", "127.0.0.1:1", "max_fails 0") // no probes; 0 means never out
	for i := range 10 {
		serve(t, g, query(fmt.Sprintf("n%d.example.org.", i)))
	}
	wantSeries(t, reg, "ejections_total", map[string]float64{})
	wantSeries(t, reg, "all_ejected_queries_total", map[string]float64{})
	reg, env = countingEnv()
	g = guard(t, env, ".", "127.0.0.1:1")
	for i := range 10 {
		serve(t, g, query(fmt.Sprintf("n%d.example.org.", i)))
	}
	if got := series(t, reg, "ejections_total"); got["connection"] < 1 || len(got) != 1 {
		t.Errorf("ejections %v", got)
	}
	if got := series(t, reg, "all_ejected_queries_total"); got[""] < 1 || got[""] > 9 {
		t.Errorf("%v queries while all were ejected, of 10", got)
	}
	if got := series(t, reg, "upstream_state"); got["ejected"] != 1 {
		t.Errorf("state %v", got)
	}
}

// TestDisputeCounted holds that a wrong denial counts for who made it, and what is learned from it shows.
func TestDisputeCounted(t *testing.T) {
	wrong, right := listen(t, code(dns.RcodeNameError)), listen(t, answers)
	reg, env := countingEnv()
	g := guard(t, env, ".", wrong.addr+" "+right.addr, "policy sequential")
	if m := serve(t, g, query("www.example.org.")); m.Rcode != dns.RcodeSuccess {
		t.Fatalf("%v", m)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	by := make(map[string]float64)
	for _, f := range families {
		if f.GetName() == "coredns_dnsguard_disputed_denials_total" {
			for _, m := range f.GetMetric() {
				by[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	if want := map[string]float64{wrong.addr: 1, right.addr: 0}; !maps.Equal(by, want) {
		t.Errorf("disputed %v, want %v", by, want)
	}
	wantSeries(t, reg, "credibility_entries", map[string]float64{"zone": 1, "name": 1})
}

// TestReloadsCounted holds what each reload of a file and of a host name counts as, and that the counts go with those who follow them.
func TestReloadsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg, counting := countingEnv()
		s := surround(t, "192.0.2.1", "192.0.2.2")
		env := s.env()
		env.Metrics = counting.Metrics
		start := func() *Guard {
			g, err := New(mustParse(t, "dnsguard . 192.0.2.1 "+resolvConfPath+" dns.example\n"), env)
			if err != nil {
				t.Fatal(err)
			}
			g.Start()
			time.Sleep(10 * time.Millisecond)
			return g
		}
		want := make(map[string]float64)
		check := func(when string, failing ...string) {
			t.Helper()
			wantFailing := make(map[string]float64)
			for _, f := range failing {
				wantFailing[f] = 1
			}
			if got := series(t, reg, "list_reloads_total"); !maps.Equal(got, want) {
				t.Errorf("%s: %v, want %v", when, got, want)
			}
			if got := series(t, reg, "list_failing"); !maps.Equal(got, wantFailing) {
				t.Errorf("%s: failing %v, want %v", when, got, wantFailing)
			}
		}
		later := func() { time.Sleep(10 * time.Second); synctest.Wait() }

		s.resolve("dns.example", "192.0.2.1 5s")
		g := start()
		want["missing "+resolvConfPath] = 1
		check("the file is missing at the start", resolvConfPath)
		later()
		check("and later", resolvConfPath)
		s.write(resolvConfPath, "nameserver 192.0.2.1\n")
		later()
		want["changed "+resolvConfPath] = 1
		check("the file is there")
		s.write(resolvConfPath, "search example.org\n")
		later()
		want["empty "+resolvConfPath] = 1
		check("the file is empty", resolvConfPath)
		s.write(resolvConfPath, "nameserver 192.0.2.1\n")
		later()
		check("the file is as it was")
		s.write(resolvConfPath, "nameserver 192.0.2.2\n")
		later()
		want["changed "+resolvConfPath] = 2
		check("the file is another")
		s.resolve("dns.example", "192.0.2.1 192.0.2.2 5s")
		later()
		want["changed dns.example"] = 1
		check("the host name has one more address")
		second := start() // of another directive
		g.Stop()
		check("one of two has stopped")
		s.resolve("dns.example", "")
		later()
		if n := series(t, reg, "list_reloads_total")["lookup dns.example"]; n < 2 || n > 5 {
			t.Errorf("%v failed lookups in ten seconds", n)
		}
		wantSeries(t, reg, "list_failing", map[string]float64{"dns.example": 1})
		second.Stop()
		want = map[string]float64{}
		check("both have stopped")
	})
}

// TestLabelsOfGarbage holds that an address whose zone is no text, as garbage in a file may be, ends nothing.
func TestLabelsOfGarbage(t *testing.T) {
	reg, env := countingEnv()
	env.ReadFile = func(string) ([]byte, error) { return []byte("nameserver fe80::1%\xff\xfe\n"), nil }
	g := guard(t, env, ".", resolvConfPath)
	if m := serve(t, g, query("www.example.org.")); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("%v", m)
	}
	g.env.Metrics.Disputed(g.Snapshot()[0].To)
	wantSeries(t, reg, "disputed_denials_total", map[string]float64{"": 1})
	wantSeries(t, reg, "queries_total", map[string]float64{"unanswered": 1})
}

// TestSeriesOfPools holds that the series of an upstream are there as long as a pool has it, and that a pool which never served leaves none.
func TestSeriesOfPools(t *testing.T) {
	shared, own := listen(t, answers), listen(t, answers)
	reg, env := countingEnv()
	upstreams := func() []string {
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		found := make(map[string]bool)
		for _, f := range families {
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					if l.GetName() == "to" {
						found[l.GetValue()] = true
					}
				}
			}
		}
		return slices.Sorted(maps.Keys(found))
	}
	pool := func(to string) *Guard {
		g, err := New(mustParse(t, "dnsguard . "+to+"\n"), env)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	broken := mustParse(t, "dnsguard . "+own.addr+"\n")
	broken.Policy = "none"
	_, err := New(broken, env)
	unused := pool(own.addr)
	if got := upstreams(); len(got) != 0 || err == nil {
		t.Errorf("series of %v, want none before anything happens (%v)", got, err)
	}
	unused.Stop()

	old, reloaded := pool(shared.addr+" "+own.addr), pool(shared.addr)
	old.Start()
	for i := range 20 { // each is asked
		serve(t, old, query(fmt.Sprintf("n%d.example.org.", i)))
	}
	for len(upstreams()) < 2 {
		serve(t, old, query("again.example.org."))
	}
	reloaded.Start()
	serve(t, reloaded, query("www.example.org."))
	before := series(t, reg, "attempts_total")["ok udp"]
	if before < 21 {
		t.Errorf("%v attempts", before)
	}
	old.Stop()
	if got := upstreams(); !slices.Equal(got, []string{shared.addr}) {
		t.Errorf("series of %v, want those of %s, which a pool has still", got, shared.addr)
	}
	reloaded.Stop()
	if got := upstreams(); len(got) != 0 {
		t.Errorf("series of %v, want none", got)
	}
}
