package metrics

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dnsguard/dnsguard/plugin/exchange"
)

// proxyName is the value of the label "proxy_name".
const proxyName = "dnsguard"

// proxies are the metrics of CoreDNS's plugin/pkg/proxy, which forward and grpc
// count in, and which dashboards show: the same counts again under the names
// that they know. Upstreams asked by QUIC count there by themselves, since it is that
// package which asks them. A metric is nil where the process has another one under the name.
type proxies struct {
	requests               *prometheus.HistogramVec
	failures, hits, misses *prometheus.CounterVec
}

// newProxies declares the metrics as plugin/pkg/proxy does, and takes that
// package's own where it is in the process: then the default registry has them.
func newProxies(reg prometheus.Registerer, o Options) proxies {
	const subsystem = "proxy"
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return adopt(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: o.Namespace, Subsystem: subsystem, Name: name, Help: help}, labels))
	}
	return proxies{
		requests: adopt(reg, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: o.Namespace, Subsystem: subsystem, Name: "request_duration_seconds",
			Help:    "Histogram of the time each request took.",
			Buckets: o.Buckets, NativeHistogramBucketFactor: o.NativeFactor,
		}, []string{"proxy_name", "to", "rcode"})),
		failures: counter("healthcheck_failures_total", "Counter of the number of failed healthchecks.", "proxy_name", "to"),
		hits:     counter("conn_cache_hits_total", "Counter of connection cache hits per upstream and protocol.", "proxy_name", "to", "proto"),
		misses:   counter("conn_cache_misses_total", "Counter of connection cache misses per upstream and protocol.", "proxy_name", "to", "proto"),
	}
}

// adopt registers a metric, or returns the equal one that is registered
// already; nil where there is another one under its name.
func adopt[C prometheus.Collector](reg prometheus.Registerer, c C) (none C) {
	err := reg.Register(c)
	if err == nil {
		return c
	}
	if twice, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if same, ok := twice.ExistingCollector.(C); ok {
			return same
		}
	}
	return none
}

// forget deletes the series of an upstream.
func (p *proxies) forget(to string) {
	of := prometheus.Labels{"proxy_name": proxyName, "to": to}
	for _, c := range []*prometheus.CounterVec{p.failures, p.hits, p.misses} {
		if c != nil {
			c.DeletePartialMatch(of)
		}
	}
	if p.requests != nil {
		p.requests.DeletePartialMatch(of)
	}
}

// proxy counts a reply to a query.
func (s *series) proxy(rcode int, took float64) {
	slot := &s.proxied[rcode]
	o := slot.Load()
	if o == nil {
		o = s.observer(slot, s.m.requests, proxyName, s.to, rcodeName(rcode))
	}
	(*o).Observe(took)
}

// unanswered counts a probe without a reply.
func (s *series) unanswered() {
	c := s.unhealthy.Load()
	if c == nil {
		c = s.counter(&s.unhealthy, s.m.failures, proxyName, s.to)
	}
	(*c).Inc()
}

// proxyConn counts a connection that was needed, and whether one was open.
func (s *series) proxyConn(p exchange.Proto, reused bool) {
	slot, of := &s.missed[p], s.m.misses
	if reused {
		slot, of = &s.hit[p], s.m.hits
	}
	c := slot.Load()
	if c == nil {
		c = s.counter(slot, of, proxyName, s.to, p.String())
	}
	(*c).Inc()
}
