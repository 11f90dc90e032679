package metrics

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/dnsguard/dnsguard/plugin/observe"
)

// TestObserved holds the labels of every verdict, on an upstream and on none.
func TestObserved(t *testing.T) {
	m, reg := newMetrics()
	u := m.Upstream("192.0.2.1:53")
	for v := range observe.Verdicts {
		for range int(v) + 1 {
			u.Observed(v)
		}
	}
	m.Observed(observe.Hopeless)
	for v := range observe.Verdicts {
		if got := testutil.ToFloat64(m.observed.WithLabelValues("192.0.2.1:53", v.String())); got != float64(v)+1 {
			t.Errorf("%s: %v, want %d", v, got, v+1)
		}
	}
	if got := testutil.ToFloat64(m.observed.WithLabelValues("", "hopeless")); got != 1 {
		t.Errorf("about no upstream: %v", got)
	}
	if n := testutil.CollectAndCount(m.observed); n != int(observe.Verdicts)+1 {
		t.Errorf("%d series", n)
	}
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}
