package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/dnsguard/dnsguard/plugin/observe"
)

// What mode observe counts.

func newObserved(with promauto.Factory, namespace string) *prometheus.CounterVec {
	return with.NewCounterVec(prometheus.CounterOpts{
		Namespace: namespace, Subsystem: subsystem, Name: "observed_queries_total",
		Help: "Counter of queries in mode observe by what mode guard would have made of them, and the upstream that this is about.",
	}, []string{"to", "verdict"})
}

// Observed counts a verdict that is about no upstream.
func (m *Metrics) Observed(v observe.Verdict) { m.observed.WithLabelValues("", v.String()).Inc() }

// Observed counts a verdict that is about this upstream.
func (u *Upstream) Observed(v observe.Verdict) {
	s := u.use()
	slot := &s.observed[v]
	c := slot.Load()
	if c == nil {
		c = s.counter(slot, s.m.vecs.observed, s.to, v.String())
	}
	(*c).Inc()
}
