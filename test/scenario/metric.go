package scenario

import (
	"math"
	"strings"

	model "github.com/prometheus/client_model/go"
)

// metric adds up the series that name{label="value",...} selects. The
// quotes may be left out. 0 where there is none; NaN where they cannot be gathered.
func metric(v view, c *clause) float64 {
	name, rest, _ := strings.Cut(c.argument, "{")
	want := make(map[string]string)
	for pair := range strings.SplitSeq(strings.TrimSuffix(rest, "}"), ",") {
		if k, val, ok := strings.Cut(pair, "="); ok {
			want[k] = strings.Trim(val, `"`)
		}
	}
	families, err := v.world.registry.Gather()
	if err != nil {
		return math.NaN()
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if selects(want, m) {
				sum += value(m)
			}
		}
	}
	return sum
}

func selects(want map[string]string, m *model.Metric) bool {
	found := 0
	for _, l := range m.GetLabel() {
		if v, ok := want[l.GetName()]; ok {
			if v != l.GetValue() {
				return false
			}
			found++
		}
	}
	return found == len(want)
}

func value(m *model.Metric) float64 {
	switch {
	case m.GetCounter() != nil:
		return m.GetCounter().GetValue()
	case m.GetGauge() != nil:
		return m.GetGauge().GetValue()
	case m.GetHistogram() != nil:
		return float64(m.GetHistogram().GetSampleCount())
	}
	return m.GetUntyped().GetValue()
}
