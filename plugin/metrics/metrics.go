// Package metrics counts what happens, for Prometheus.
//
// All of a process's pools share one Metrics. What happens often is counted
// through counters that are looked up once per upstream; what is a state is
// read from snapshots at the time of the scrape (collector.go), so that
// nothing remains of an upstream that is gone.
//
// All methods may be called concurrently.
package metrics

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/forwarder"
	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// Options are what the host process's metrics have in common.
type Options struct {
	Namespace    string    // coredns
	Buckets      []float64 // of durations, in seconds
	NativeFactor float64   // growth of native histogram buckets; 0: none
}

const subsystem = "dnsguard"

// Metrics are all the metrics. Make them with New.
type Metrics struct {
	attempts   *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	mismatched *prometheus.CounterVec
	conns      *prometheus.CounterVec
	hedges     [3]prometheus.Counter
	disputed   prometheus.Counter
	coalesced  prometheus.Counter
	rejects    prometheus.Counter
	panics     prometheus.Counter
	inFlight   prometheus.Gauge
	collector  *collector
}

// New declares the metrics with reg.
func New(reg prometheus.Registerer, o Options) *Metrics {
	with := promauto.With(reg)
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return with.NewCounterVec(prometheus.CounterOpts{Namespace: o.Namespace, Subsystem: subsystem, Name: name, Help: help}, labels)
	}
	hedges := counter("hedges_total", "Counter of further attempts because one was late: sent, won (answered first), denied (over the budget).", "event")
	m := &Metrics{
		attempts: counter("attempts_total", "Counter of attempts per upstream, protocol and outcome.", "to", "proto", "outcome"),
		duration: with.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: o.Namespace, Subsystem: subsystem, Name: "request_duration_seconds",
			Help:    "Histogram of the time upstreams took to reply, per upstream and response code.",
			Buckets: o.Buckets, NativeHistogramBucketFactor: o.NativeFactor,
		}, []string{"to", "rcode"}),
		mismatched: counter("mismatched_replies_total", "Counter of packets of an upstream that belong to no query.", "to"),
		conns:      counter("connections_total", "Counter of connections needed per upstream and protocol: reused or dialed.", "to", "proto", "how"),
		hedges: [3]prometheus.Counter{
			forwarder.HedgeSent: hedges.WithLabelValues("sent"), forwarder.HedgeWon: hedges.WithLabelValues("won"),
			forwarder.HedgeDenied: hedges.WithLabelValues("denied"),
		},
		disputed:  counter("disputed_denials_total", "Counter of denials that another upstream contradicted.").WithLabelValues(),
		coalesced: counter("coalesced_queries_total", "Counter of queries that waited for the answer to an equal one.").WithLabelValues(),
		rejects:   counter("max_concurrent_rejects_total", "Counter of queries refused because too many were in flight.").WithLabelValues(),
		panics:    counter("panics_total", "Counter of panics that were recovered.").WithLabelValues(),
		inFlight: with.NewGauge(prometheus.GaugeOpts{
			Namespace: o.Namespace, Subsystem: subsystem, Name: "in_flight_queries", Help: "Gauge of queries of clients in flight.",
		}),
		collector: newCollector(o.Namespace),
	}
	reg.MustRegister(m.collector)
	return m
}

// Unregistered returns metrics that nobody scrapes.
func Unregistered() *Metrics { return New(prometheus.NewRegistry(), Options{Namespace: "coredns"}) }

var process = struct {
	once    sync.Once
	metrics *Metrics
}{}

// OfProcess returns the metrics that the whole process shares, declared with
// Prometheus's default registry at the first call; o counts only then.
func OfProcess(o Options) *Metrics {
	process.once.Do(func() { process.metrics = New(prometheus.DefaultRegisterer, o) })
	return process.metrics
}

// Hedge implements forwarder.Observer.
func (m *Metrics) Hedge(e forwarder.HedgeEvent) { m.hedges[e].Inc() }

// Disputed implements forwarder.Observer.
func (m *Metrics) Disputed() { m.disputed.Inc() }

// Coalesced implements forwarder.Observer.
func (m *Metrics) Coalesced() { m.coalesced.Inc() }

// Rejected counts a query refused for too many in flight.
func (m *Metrics) Rejected() { m.rejects.Inc() }

// Panicked counts a panic that was recovered.
func (m *Metrics) Panicked() { m.panics.Inc() }

// InFlight changes the number of queries in flight.
func (m *Metrics) InFlight(by float64) { m.inFlight.Add(by) }

// Upstream counts for one upstream. It implements exchange.Events.
type Upstream struct {
	m  *Metrics
	to string

	attempts [outcome.Count][exchange.ProtoCount]atomic.Pointer[prometheus.Counter]
	duration [24]atomic.Pointer[prometheus.Observer]
	sockets  [exchange.ProtoCount]atomic.Int64
}

// Upstream returns the counters of one upstream.
func (m *Metrics) Upstream(to string) *Upstream { return &Upstream{m: m, to: to} }

// Attempt counts the end of an attempt; rcode is negative where there was no reply.
func (u *Upstream) Attempt(k outcome.Kind, p exchange.Proto, rcode int, rtt time.Duration) {
	slot := &u.attempts[k][p]
	c := slot.Load()
	if c == nil {
		n := u.m.attempts.WithLabelValues(u.to, p.String(), k.String())
		c = &n
		slot.Store(c)
	}
	(*c).Inc()
	if rcode >= 0 {
		u.observe(rcode, rtt)
	}
}

func (u *Upstream) observe(rcode int, rtt time.Duration) {
	if rcode >= len(u.duration) {
		u.m.duration.WithLabelValues(u.to, "other").Observe(rtt.Seconds())
		return
	}
	slot := &u.duration[rcode]
	h := slot.Load()
	if h == nil {
		name, ok := dns.RcodeToString[rcode]
		if !ok {
			name = strconv.Itoa(rcode)
		}
		n := u.m.duration.WithLabelValues(u.to, name)
		h = &n
		slot.Store(h)
	}
	(*h).Observe(rtt.Seconds())
}

// Mismatched implements exchange.Events.
func (u *Upstream) Mismatched() { u.m.mismatched.WithLabelValues(u.to).Inc() }

// Late implements exchange.Events.
func (u *Upstream) Late(time.Duration) {}

// Sockets implements exchange.Events.
func (u *Upstream) Sockets(p exchange.Proto, n int) { u.sockets[p].Add(int64(n)) }

// Conn implements exchange.Events.
func (u *Upstream) Conn(p exchange.Proto, reused bool) {
	how := "dialed"
	if reused {
		how = "reused"
	}
	u.m.conns.WithLabelValues(u.to, p.String(), how).Inc()
}
