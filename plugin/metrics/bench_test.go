package metrics

import (
	"testing"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/upstream"
)

// benchMetrics are as in the server.
func benchMetrics() *Metrics {
	return New(prometheus.NewRegistry(), Options{
		Namespace: plugin.Namespace, Buckets: plugin.TimeBuckets, NativeFactor: plugin.NativeHistogramBucketFactor,
	})
}

// BenchmarkQuery is what one query with one attempt counts.
func BenchmarkQuery(b *testing.B) {
	m := benchMetrics()
	u := m.Upstream(one)
	count := func(next func() bool) {
		for d := time.Microsecond; next(); d = (5*d + 7) % (100 * time.Millisecond) {
			u.Attempt(upstream.End{Kind: outcome.OK, RTT: d})
			m.Query(Answered)
		}
	}
	b.Run("alone", func(b *testing.B) {
		b.ReportAllocs()
		count(b.Loop)
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) { count(pb.Next) })
	})
}

// BenchmarkScrape gathers the metrics of a pool of 64.
func BenchmarkScrape(b *testing.B) {
	reg := prometheus.NewRegistry()
	m := New(reg, Options{Namespace: plugin.Namespace, Buckets: plugin.TimeBuckets, NativeFactor: plugin.NativeHistogramBucketFactor})
	var p pool
	for i := range 64 {
		to := "192.0.2." + string(rune('0'+i)) + ":53"
		p.snapshots = append(p.snapshots, upstream.Snapshot{To: to, State: "healthy"})
		u := m.Upstream(to)
		for _, k := range []outcome.Kind{outcome.OK, outcome.NXDomain, outcome.NoData, outcome.Timeout} {
			u.Attempt(upstream.End{Kind: k, RTT: time.Millisecond})
		}
	}
	m.Track(p)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := reg.Gather(); err != nil {
			b.Fatal(err)
		}
	}
}
