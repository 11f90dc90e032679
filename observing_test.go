package dnsguard

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns/coredns/plugin/pkg/dnstest"
	"github.com/coredns/coredns/plugin/test"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/metrics"
	"github.com/dnsguard/dnsguard/plugin/observe"
	"github.com/dnsguard/dnsguard/plugin/selector"
	"github.com/dnsguard/dnsguard/plugin/zones"
)

// What clients and upstreams see in mode observe is compared with forward in test/observe.

// TestObservingOrder is about whom a query would go to, by the policy.
func TestObservingOrder(t *testing.T) {
	for policy, want := range map[string][]string{
		"sequential":  {"[0 1 2]", "[0 1 2]", "[0 1 2]", "[0 1 2]"},
		"round_robin": {"[1 0 2]", "[2 0 1]", "[0 1 2]", "[1 0 2]"}, // as forward: the others keep their order
	} {
		g := guard(t, Env{}, ".", "192.0.2.1 192.0.2.2 192.0.2.3", "mode observe", "policy "+policy)
		var got []string
		for range want {
			got = append(got, fmt.Sprint(g.pool.Load().observing.list()))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", policy, got, want)
		}
	}
	for _, policy := range []string{"random", "adaptive"} {
		g := guard(t, Env{}, ".", "192.0.2.1 192.0.2.2 192.0.2.3", "mode observe", "policy "+policy)
		seen := make(map[string]int)
		for range 6000 {
			seen[fmt.Sprint(g.pool.Load().observing.list())]++
		}
		for order, n := range seen {
			if n < 800 || n > 1200 {
				t.Errorf("%s: %s %d times of 6000", policy, order, n)
			}
		}
		if len(seen) != 6 {
			t.Errorf("%s: %d orders of 6: %v", policy, len(seen), seen)
		}
	}
}

// TestObservingHops is about what proxies and health checks are set to.
func TestObservingHops(t *testing.T) {
	cfg := mustParse(t, `dnsguard . tls://192.0.2.1%one.example tls://192.0.2.2 https://192.0.2.3%three.example 192.0.2.4 {
		mode observe
		health_check 1s no_rec domain probe.example
		source_address 192.0.2.9
	}`)
	g, err := New(cfg, Env{Debug: true})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Stop()
	for i, name := range []string{"one.example", "", "", "-"} {
		hop := g.pool.Load().members[i].hop
		c := hop.GetTransport().GetTLSConfig()
		if name == "-" {
			if c != nil {
				t.Error("plain DNS has a TLS configuration")
			}
		} else if c == nil || c.ServerName != name {
			t.Errorf("upstream %d: %+v, want the name %q", i, c, name)
		}
		if check := hop.GetHealthchecker(); check.GetRecursionDesired() || check.GetDomain() != "probe.example." || check.GetLocalAddress().String() != "192.0.2.9" {
			t.Errorf("upstream %d: health check %t, %s, %s", i, check.GetRecursionDesired(), check.GetDomain(), check.GetLocalAddress())
		}
	}
}

// TestObservingExplain: queries of class CH are answered, and tell what the guard would do.
func TestObservingExplain(t *testing.T) {
	up := listen(t, answers)
	g := guard(t, Env{}, ".", up.addr, "mode observe")
	w := dnstest.NewRecorder(&test.ResponseWriter{})
	if _, err := g.ServeDNS(t.Context(), w, query("www.example.org.")); err != nil || w.Msg == nil {
		t.Fatal(w.Msg, err)
	}
	for _, name := range []string{"upstreams.dnsguard.", "www.example.org.upstreams.dnsguard."} {
		got := texts(explained(t, g, "127.0.0.1", query(name, chaosTXT, edns)))
		if len(got) == 0 || slices.ContainsFunc(got, func(text string) bool { return value(text, "mode") != "observe" }) {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := texts(explained(t, guard(t, Env{}, ".", up.addr), "127.0.0.1", query("upstreams.dnsguard.", chaosTXT))); len(got) != 1 || strings.Contains(got[0], "mode=") {
		t.Errorf("mode guard: %q", got)
	}
}

// TestObservingPanic: what goes wrong in the model does not concern the client.
func TestObservingPanic(t *testing.T) {
	up := listen(t, answers)
	var lines []string
	reg := prometheus.NewRegistry()
	g := guard(t, Env{
		Metrics: metrics.New(reg, metrics.Options{Namespace: "coredns"}),
		Logf:    func(_ Level, format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) },
	}, ".", up.addr, "mode observe")
	p := g.pool.Load()
	p.observing.model = observe.New(observe.Config{
		Upstreams: p.upstreams, Table: zones.New(1),
		Survey: func(time.Time, string, bool) (zones.Set, zones.View, []selector.Candidate) { panic("no survey") },
	})
	for range 3 {
		w := dnstest.NewRecorder(&test.ResponseWriter{})
		if _, err := g.ServeDNS(t.Context(), w, query("www.example.org.")); err != nil || w.Msg == nil || len(w.Msg.Answer) != 1 {
			t.Fatal(w.Msg, err)
		}
	}
	if len(lines) != 1 || !strings.Contains(lines[0], "no survey") {
		t.Errorf("log: %q", lines)
	}
	if n := up.asked.Load(); n != 3 {
		t.Errorf("%d queries sent", n)
	}
	if got := verdicts(t, reg); got != 0 {
		t.Errorf("%v verdicts on what was not observed", got)
	}
}

// verdicts sums the verdicts.
func verdicts(t *testing.T, reg *prometheus.Registry) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "coredns_dnsguard_observed_queries_total" {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// TestObservingEmpty: without upstreams there is no reply, and no verdict about any.
func TestObservingEmpty(t *testing.T) {
	for _, policy := range []string{"random", "round_robin", "sequential"} {
		g := guard(t, Env{}, ".", "/nonexistent/resolv.conf", "mode observe", "policy "+policy)
		w := dnstest.NewRecorder(&test.ResponseWriter{})
		rcode, err := g.ServeDNS(t.Context(), w, query("www.example.org."))
		if rcode != dns.RcodeServerFailure || err == nil || !strings.Contains(err.Error(), "no upstream: /nonexistent/resolv.conf") || w.Msg != nil {
			t.Errorf("%d, %v, %v", rcode, err, w.Msg)
		}
	}
}
