package metrics

import (
	"maps"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/upstream"
	"github.com/dnsguard/dnsguard/plugin/zones"
)

// Pool is what a pool of upstreams tells at the time of a scrape. Its methods
// may be called concurrently.
type Pool interface {
	// Snapshot returns what is known of each upstream.
	Snapshot() []upstream.Snapshot
	// Zones returns the sizes of what is known of zones.
	Zones() zones.Stats
	// InFlight returns the number of client queries in flight.
	InFlight() int64
}

// collector reads the states of all pools at the time of a scrape.
type collector struct {
	state, rtt, expected, outstanding, sockets  *prometheus.Desc
	credibility, inFlight, listFailing, looping *prometheus.Desc

	metrics *Metrics

	mu    sync.Mutex
	pools map[*Pool]struct{}
}

func newCollector(namespace string) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName(namespace, subsystem, name), help, labels, nil)
	}
	return &collector{
		state:       desc("upstream_state", "Gauge of the state of an upstream: 1 for the one it is in, 0 for the others.", "to", "state"),
		rtt:         desc("upstream_smoothed_rtt_seconds", "Gauge of the smoothed round-trip time of an upstream.", "to"),
		expected:    desc("upstream_expected_seconds", "Gauge of the expected time to an answer of an upstream, losses counted in; what selection compares.", "to"),
		outstanding: desc("upstream_outstanding_attempts", "Gauge of attempts without a reply that are still watched.", "to"),
		sockets:     desc("open_sockets", "Gauge of open sockets per upstream and protocol.", "to", "proto"),
		credibility: desc("credibility_entries", "Gauge of what is remembered of who is right: zones and single names.", "kind"),
		inFlight:    desc("in_flight_queries", "Gauge of queries of clients in flight."),
		looping:     desc("loop_active", "Gauge that is 1 while queries to an upstream come back, and none are sent, else 0.", "to"),
		listFailing: desc("list_failing", "Gauge that is 1 while the last good list of a source stands in because it cannot be read or looked up, else 0.", "source"),
		pools:       make(map[*Pool]struct{}),
	}
}

// Track adds a pool to what is collected, until the returned function is called.
func (m *Metrics) Track(p Pool) (untrack func()) {
	c, key := m.collector, &p
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
	for _, d := range []*prometheus.Desc{c.state, c.rtt, c.expected, c.outstanding, c.sockets, c.credibility, c.inFlight, c.listFailing, c.looping} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. An upstream that is in several
// pools is reported once, in its worst state.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	pools := make([]Pool, 0, len(c.pools))
	for p := range c.pools {
		pools = append(pools, *p)
	}
	c.mu.Unlock()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	worst := make(map[string]upstream.Snapshot)
	var inFlight int64
	var known zones.Stats
	for _, p := range pools {
		for _, s := range p.Snapshot() {
			to := label(s.To)
			if have, ok := worst[to]; !ok || badness(s) > badness(have) {
				worst[to] = s
			}
		}
		z := p.Zones()
		known.Zones += z.Zones
		known.Names += z.Names
		inFlight += p.InFlight()
	}
	for to, s := range worst {
		for _, name := range upstream.States() {
			v := 0.0
			if name == s.State {
				v = 1
			}
			gauge(c.state, v, to, name)
		}
		looping := 0.0
		if s.State == upstream.Looping.String() {
			looping = 1
		}
		gauge(c.looping, looping, to)
		gauge(c.rtt, s.SRTT.Seconds(), to)
		gauge(c.expected, s.Expected.Seconds(), to)
		gauge(c.outstanding, float64(s.Outstanding), to)
	}
	gauge(c.credibility, float64(known.Zones), "zone")
	gauge(c.credibility, float64(known.Names), "name")
	gauge(c.inFlight, float64(inFlight))
	c.collectOwn(gauge)
}

// collectOwn reads what is told to the counters and is a state.
func (c *collector) collectOwn(gauge func(d *prometheus.Desc, v float64, labels ...string)) {
	m := c.metrics
	m.mu.Lock()
	upstreams, sources := slices.Collect(maps.Values(m.upstreams)), slices.Collect(maps.Values(m.sources))
	m.mu.Unlock()
	for _, s := range upstreams {
		for p := range exchange.ProtoCount {
			if s.socketsEver[p].Load() {
				gauge(c.sockets, float64(s.sockets[p].Load()), s.to, p.String())
			}
		}
	}
	for _, s := range sources {
		v := 0.0
		if s.failing.Load() {
			v = 1
		}
		gauge(c.listFailing, v, s.name)
	}
}

func badness(s upstream.Snapshot) int { return slices.Index(upstream.States(), s.State) }
