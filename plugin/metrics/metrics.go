// Package metrics counts what happens, for Prometheus.
//
// All of a process's pools share one Metrics. What happens often is counted
// through counters that are looked up once per upstream (upstream.go); what is
// a state is read at the time of the scrape (collector.go). Series of an
// upstream, or of a list of upstreams (list.go), go when nobody has it any
// more. compat.go feeds the metrics that dashboards for forward look at.
//
// All methods may be called concurrently.
package metrics

import (
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

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

// Native histograms are bounded: an upstream's round trips may be of any length.
const (
	nativeBuckets = 160
	nativeReset   = time.Hour // the least between two resets for too many buckets
)

// Metrics are all the metrics. Make them with New.
type Metrics struct {
	vecs    // per upstream
	proxies // the same for forward's dashboards

	queries    [queryResults]prometheus.Counter
	hedges     [3]prometheus.Counter
	faults     [outcome.FaultCount]prometheus.Counter
	coalesced  prometheus.Counter
	rejects    prometheus.Counter
	panics     prometheus.Counter
	allEjected prometheus.Counter
	cut, flood prometheus.Counter // about loops
	lists      *prometheus.CounterVec
	collector  *collector
	void       void

	mu        sync.Mutex
	upstreams map[string]*series
	sources   map[string]*source
}

// New declares the metrics with reg.
func New(reg prometheus.Registerer, o Options) *Metrics {
	with := promauto.With(reg)
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return with.NewCounterVec(prometheus.CounterOpts{Namespace: o.Namespace, Subsystem: subsystem, Name: name, Help: help}, labels)
	}
	queries := counter("queries_total", "Counter of queries of clients, by what became of them.", "result")
	hedges := counter("hedges_total", "Counter of further attempts because one was late: sent, won (answered first), denied (over the budget).", "event")
	faults := counter("local_errors_total", "Counter of dials, writes and reads that failed for want of something on this host.", "kind")
	m := &Metrics{
		vecs: vecs{
			attempts: counter("attempts_total", "Counter of attempts per upstream, protocol and outcome, probes included.", "to", "proto", "outcome"),
			probes:   counter("probes_total", "Counter of probes per upstream, protocol and outcome.", "to", "proto", "outcome"),
			duration: with.NewHistogramVec(prometheus.HistogramOpts{
				Namespace: o.Namespace, Subsystem: subsystem, Name: "request_duration_seconds",
				Help:    "Histogram of the time upstreams took to reply, per upstream and response code.",
				Buckets: o.Buckets, NativeHistogramBucketFactor: o.NativeFactor,
				NativeHistogramMaxBucketNumber: nativeBuckets, NativeHistogramMinResetDuration: nativeReset,
			}, []string{"to", "rcode"}),
			late:       counter("late_replies_total", "Counter of replies that came after their attempt had been counted as a timeout.", "to"),
			mismatched: counter("mismatched_replies_total", "Counter of packets of an upstream that belong to no query.", "to"),
			conns:      counter("connections_total", "Counter of connections needed per upstream and protocol: reused or dialed.", "to", "proto", "how"),
			ejections:  counter("ejections_total", "Counter of ejections per upstream and reason.", "to", "reason"),
			observed:   newObserved(with, o.Namespace),
			loopVecs:   newLoopVecs(counter),
			disputed:   counter("disputed_denials_total", "Counter of denials by an upstream that another one contradicted.", "to"),
		},
		proxies:    newProxies(reg, o),
		coalesced:  counter("coalesced_queries_total", "Counter of queries that waited for the answer to an equal one.").WithLabelValues(),
		rejects:    counter("max_concurrent_rejects_total", "Counter of queries refused because too many were in flight.").WithLabelValues(),
		panics:     counter("panics_total", "Counter of panics that were recovered.").WithLabelValues(),
		allEjected: counter("all_ejected_queries_total", "Counter of queries that came while all upstreams were ejected.").WithLabelValues(),
		cut:        counter("loop_cut_queries_total", "Counter of queries that had come round, and were answered SERVFAIL.").WithLabelValues(),
		flood:      counter("loop_unanswered_probes_total", "Counter of probes for loops that came in and got no reply, because too many came.").WithLabelValues(),
		lists:      counter("list_reloads_total", "Counter of times that a list of upstreams was read or looked up and had changed, or that this failed, per source and result.", "source", "result"),
		collector:  newCollector(o.Namespace),
		void:       newVoid(),
		upstreams:  make(map[string]*series),
		sources:    make(map[string]*source),
	}
	for r := range queryResults {
		m.queries[r] = queries.WithLabelValues(r.String())
	}
	for e, name := range map[forwarder.HedgeEvent]string{forwarder.HedgeSent: "sent", forwarder.HedgeWon: "won", forwarder.HedgeDenied: "denied"} {
		m.hedges[e] = hedges.WithLabelValues(name)
	}
	for f := outcome.NoFault + 1; f < outcome.FaultCount; f++ {
		m.faults[f] = faults.WithLabelValues(f.String())
	}
	m.collector.metrics = m
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

// label makes a label value of a text that comes from outside: client_golang
// panics on one that is not UTF-8, and the zone of an address in a file may be anything.
func label(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }

// QueryResult is what became of a client's query.
type QueryResult uint8

// The results.
const (
	Answered    QueryResult = iota // an upstream's answer or denial was passed on
	Failed                         // the failure that the upstreams replied with was passed on
	Unanswered                     // no upstream gave a reply that could be passed on
	Rejected                       // too many were in flight
	Unsupported                    // it is of a kind that is not forwarded
	PassedOn                       // it went to the next plugin after the upstream's reply
	Cancelled                      // the client did not wait
	Looped                         // it had come round

	queryResults
)

var queryResultNames = [queryResults]string{
	Answered: "answered", Failed: "failed", Unanswered: "unanswered", Rejected: "rejected",
	Unsupported: "unsupported", PassedOn: "passed_on", Cancelled: "cancelled", Looped: "looped",
}

// String returns the value of the metric label.
func (r QueryResult) String() string { return queryResultNames[r] }

// Query counts a query of a client at its end.
func (m *Metrics) Query(r QueryResult) {
	m.queries[r].Inc()
	switch r { //nolint:exhaustive // the others count once
	case Rejected:
		m.rejects.Inc()
	case Looped:
		m.cut.Inc()
	}
}

// Hedge implements forwarder.Observer.
func (m *Metrics) Hedge(e forwarder.HedgeEvent) { m.hedges[e].Inc() }

// Coalesced implements forwarder.Observer.
func (m *Metrics) Coalesced() { m.coalesced.Inc() }

// AllEjected implements forwarder.Observer.
func (m *Metrics) AllEjected() { m.allEjected.Inc() }

// Panicked counts a panic that was recovered.
func (m *Metrics) Panicked() { m.panics.Inc() }

// Disputed implements forwarder.Observer.
func (m *Metrics) Disputed(to string) {
	m.mu.Lock()
	s := m.upstreams[label(to)]
	m.mu.Unlock()
	if s != nil { // else the reply came after the upstream had gone
		s.disputed.Inc()
	}
}
