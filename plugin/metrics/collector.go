package metrics

import (
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dnsguard/dnsguard/plugin/upstream"
)

// collector reads the states of all pools at the time of a scrape.
type collector struct {
	state, rtt, expected, outstanding *prometheus.Desc

	mu    sync.Mutex
	pools map[*func() []upstream.Snapshot]struct{}
}

func newCollector(namespace string) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName(namespace, subsystem, name), help, labels, nil)
	}
	return &collector{
		state:       desc("upstream_state", "State of an upstream: 1 for the state it is in, 0 for the others.", "to", "state"),
		rtt:         desc("upstream_smoothed_rtt_seconds", "Smoothed round-trip time of an upstream.", "to"),
		expected:    desc("upstream_expected_seconds", "Expected time to an answer of an upstream, losses counted in; what selection compares.", "to"),
		outstanding: desc("upstream_outstanding_attempts", "Attempts without a reply that are still watched.", "to"),
		pools:       make(map[*func() []upstream.Snapshot]struct{}),
	}
}

// Track adds a pool to what is collected, until the returned function is called.
func (m *Metrics) Track(pool func() []upstream.Snapshot) (untrack func()) {
	c, key := m.collector, &pool
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pools[key] = struct{}{}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.pools, key)
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.state
	ch <- c.rtt
	ch <- c.expected
	ch <- c.outstanding
}

// Collect implements prometheus.Collector. An upstream that is in several
// pools is reported once, in its worst state.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	pools := make([]func() []upstream.Snapshot, 0, len(c.pools))
	for p := range c.pools {
		pools = append(pools, *p)
	}
	c.mu.Unlock()
	worst := make(map[string]upstream.Snapshot)
	for _, p := range pools {
		for _, s := range p() {
			if have, ok := worst[s.To]; !ok || badness(s) > badness(have) {
				worst[s.To] = s
			}
		}
	}
	for to, s := range worst {
		for _, name := range upstream.States() {
			v := 0.0
			if name == s.State {
				v = 1
			}
			ch <- prometheus.MustNewConstMetric(c.state, prometheus.GaugeValue, v, to, name)
		}
		ch <- prometheus.MustNewConstMetric(c.rtt, prometheus.GaugeValue, s.SRTT.Seconds(), to)
		ch <- prometheus.MustNewConstMetric(c.expected, prometheus.GaugeValue, s.Expected.Seconds(), to)
		ch <- prometheus.MustNewConstMetric(c.outstanding, prometheus.GaugeValue, float64(s.Outstanding), to)
	}
}

func badness(s upstream.Snapshot) int { return slices.Index(upstream.States(), s.State) }
