package metrics

import (
	"testing"
	"time"

	"github.com/coredns/coredns/plugin"
	_ "github.com/coredns/coredns/plugin/pkg/proxy" // declares its metrics
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/upstream"
)

// TestProxy holds what counts under the names that forward's dashboards know: queries by any transport but QUIC, which counts there by itself;
// probes only where they fail.
func TestProxy(t *testing.T) {
	m, reg := newMetrics()
	u := m.Upstream(one)
	u.Attempt(upstream.End{Kind: outcome.OK, RTT: 5 * time.Millisecond})
	u.Attempt(upstream.End{Kind: outcome.OK, RTT: 5 * time.Millisecond, Proto: exchange.HTTPS})
	u.Attempt(upstream.End{Kind: outcome.OK, RTT: 5 * time.Millisecond, Proto: exchange.QUIC})
	u.Attempt(upstream.End{Kind: outcome.OK, RTT: 5 * time.Millisecond, Probe: true})
	u.Attempt(upstream.End{Kind: outcome.ServFail, Rcode: 2, RTT: 5 * time.Millisecond})
	u.Attempt(upstream.End{Kind: outcome.Timeout, Rcode: -1})
	lacks(t, reg, "healthcheck_failures")
	for _, k := range []outcome.Kind{outcome.ServFail, outcome.Refused, outcome.Local, outcome.Cancelled, outcome.Timeout, outcome.ConnRefused, outcome.TLS} {
		u.Attempt(upstream.End{Kind: k, Rcode: -1, Probe: true})
	}
	for p := range exchange.ProtoCount {
		u.Conn(p, true)
		u.Conn(p, false)
		u.Conn(p, false)
	}
	wants(t, reg, `
		coredns_proxy_request_duration_seconds_bucket{proxy_name="dnsguard",rcode="NOERROR",to="192.0.2.1:53",le="0.01"} 2
		coredns_proxy_request_duration_seconds_count{proxy_name="dnsguard",rcode="NOERROR",to="192.0.2.1:53"} 2
		coredns_proxy_request_duration_seconds_count{proxy_name="dnsguard",rcode="SERVFAIL",to="192.0.2.1:53"} 1
		coredns_proxy_healthcheck_failures_total{proxy_name="dnsguard",to="192.0.2.1:53"} 3
		coredns_proxy_conn_cache_hits_total{proto="tcp",proxy_name="dnsguard",to="192.0.2.1:53"} 1
		coredns_proxy_conn_cache_misses_total{proto="https",proxy_name="dnsguard",to="192.0.2.1:53"} 2
	`)
	lacks(t, reg, `cache_hits_total{proto="quic",proxy_name="dnsguard"`, `cache_misses_total{proto="quic",proxy_name="dnsguard"`)
}

// TestProxyOfCoreDNS holds that what CoreDNS's plugin/pkg/proxy has declared is fed, and not declared again under its name.
func TestProxyOfCoreDNS(t *testing.T) {
	o := Options{Namespace: plugin.Namespace, Buckets: plugin.TimeBuckets, NativeFactor: plugin.NativeHistogramBucketFactor}
	p := newProxies(prometheus.DefaultRegisterer, o)
	if p != newProxies(prometheus.DefaultRegisterer, o) || p.requests == nil || p.failures == nil || p.hits == nil || p.misses == nil {
		t.Fatalf("%+v: want CoreDNS's own; its labels or help may have changed", p)
	}
	p.requests.WithLabelValues("forward", one, "NOERROR").Observe(0.001)
	p.requests.WithLabelValues(proxyName, one, "NOERROR").Observe(0.001)
	p.failures.WithLabelValues("forward", one).Inc()
	const (
		others = `
			coredns_proxy_request_duration_seconds_count{proxy_name="forward",rcode="NOERROR",to="192.0.2.1:53"} 1
			coredns_proxy_healthcheck_failures_total{proxy_name="forward",to="192.0.2.1:53"} 1
		`
		ours = `
			coredns_proxy_request_duration_seconds_bucket{proxy_name="dnsguard",rcode="NOERROR",to="192.0.2.1:53",le="0.001"} 1
			coredns_proxy_request_duration_seconds_count{proxy_name="dnsguard",rcode="NOERROR",to="192.0.2.1:53"} 1
		`
	)
	wants(t, prometheus.DefaultGatherer, others+ours)
	p.forget(one)
	wants(t, prometheus.DefaultGatherer, others)
	lacks(t, prometheus.DefaultGatherer, `proxy_name="dnsguard"`)
}

// TestOtherProxy holds that a process which has something else under a name keeps it, and everything else goes on.
func TestOtherProxy(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "coredns_proxy_request_duration_seconds", Help: "Another."}, []string{"other"}))
	reg.MustRegister(prometheus.NewCounterVec(prometheus.CounterOpts{Name: "coredns_proxy_healthcheck_failures_total", Help: "Another."}, []string{"proxy_name", "to"}))
	m := New(reg, Options{Namespace: "coredns"})
	u := m.Upstream(one)
	everyEvent(u)
	wants(t, reg, `
		coredns_dnsguard_late_replies_total{to="192.0.2.1:53"} 1
		coredns_proxy_conn_cache_hits_total{proto="tcp",proxy_name="dnsguard",to="192.0.2.1:53"} 1
	`)
	lacks(t, reg, "coredns_proxy_request", "coredns_proxy_health")
	u.Close()
	lacks(t, reg, one)
}
