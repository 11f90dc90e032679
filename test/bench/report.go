package main

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
)

// report writes all that was measured as tables, with the targets beside it.
func report(w io.Writer, all samples) {
	reportCosts(w, all)
	reportFaults(w, all)
	if n := disturbed(all); n > 0 {
		fmt.Fprintf(w, "\n%d of %d measurements were disturbed: the load was more than %d ms late, or the server had less than %g of its CPU.\n",
			n, len(all), lateLoad/1000, busyServer)
	}
}

// What makes a measurement say more of the machine than of the server.
const (
	lateLoad   = 10_000 // us: so late was the load with sending
	busyServer = 0.9    // so little of its CPU had a server that was to be saturated
)

// disturbed returns how many of the measurements were.
func disturbed(all samples) int {
	n := 0
	for _, s := range all {
		if s.Late > lateLoad || s.Measurement == "saturation" && s.Busy < busyServer {
			n++
		}
	}
	return n
}

// cost is one row of the cost table.
type cost struct {
	name   string
	unit   string
	value  func(samples, kind) (float64, bool)
	target target
}

// target is a bound on a figure. The zero value asks for nothing.
type target struct {
	atMost, atLeast float64 // whichever is set
	ratio           bool    // on the ratio to forward, not on the value
}

// String returns the bound as it is read.
func (t target) String() string {
	var s string
	switch {
	case t.atMost > 0:
		s = fmt.Sprintf("<= %g", t.atMost)
	case t.atLeast > 0:
		s = fmt.Sprintf(">= %g", t.atLeast)
	default:
		return ""
	}
	if t.ratio {
		s += " x"
	}
	return s
}

// verdict says whether v keeps to the bound.
func (t target) verdict(v float64) string {
	switch {
	case t == target{}:
		return ""
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "?"
	case t.atMost > 0 && v <= t.atMost, t.atLeast > 0 && v >= t.atLeast:
		return "met"
	}
	return "NOT MET"
}

// of takes one figure from the samples of a measurement.
func of(measurement string, value func(sample) float64) func(samples, kind) (float64, bool) {
	return func(all samples, k kind) (float64, bool) {
		return all.median(measurement, string(k), "", value)
	}
}

// beyond takes what a figure is more than whoami's.
func beyond(f func(samples, kind) (float64, bool)) func(samples, kind) (float64, bool) {
	return func(all samples, k kind) (float64, bool) {
		own, ok := f(all, k)
		base, baseOK := f(all, whoami)
		return own - base, ok && baseOK && k != whoami
	}
}

const mib = 1 << 20

var (
	saturationCPU = of("saturation", func(s sample) float64 { return s.CPU })
	errorsAt      = func(m string) func(samples, kind) (float64, bool) {
		return of(m, func(s sample) float64 { return float64(s.Errors) })
	}
)

var costTable = []cost{
	{"saturation: queries", "/s", of("saturation", func(s sample) float64 { return s.QPS }), target{atLeast: 1.4, ratio: true}},
	{"saturation: CPU per query", "us", saturationCPU, target{}},
	{"saturation: CPU beyond whoami", "us", beyond(saturationCPU), target{atMost: 0.5, ratio: true}},
	{"saturation: share of its CPU used", "", of("saturation", func(s sample) float64 { return s.Busy }), target{}},
	{"saturation: errors", "", errorsAt("saturation"), target{}},
	{"5,000/s: CPU per query", "us", of("rate", func(s sample) float64 { return s.CPU }), target{atMost: 0.85, ratio: true}},
	{"5,000/s: p50", "us", of("rate", func(s sample) float64 { return s.P50 }), target{}},
	{"5,000/s: p99", "us", of("rate", func(s sample) float64 { return s.P99 }), target{atMost: 1, ratio: true}},
	{"5,000/s: p99.9", "us", of("rate", func(s sample) float64 { return s.P999 }), target{}},
	{"5,000/s: errors", "", errorsAt("rate"), target{}},
	{"5,000/s: load late, at worst", "us", of("rate", func(s sample) float64 { return s.Late }), target{}},
	{"memory: idle", "MiB", of("saturation", func(s sample) float64 { return float64(s.Idle) / mib }), target{}},
	{"memory: peak at saturation", "MiB", of("saturation", func(s sample) float64 { return float64(s.Peak) / mib }), target{}},
	{"memory: 10,000 in flight, over idle", "MiB", of("inflight", func(s sample) float64 { return float64(s.Peak-s.Idle) / mib }), target{atMost: 64}},
	{"10,000 in flight: errors", "", errorsAt("inflight"), target{}},
	{"allocations per query", "", of("allocs", func(s sample) float64 { return s.Allocs }), target{}},
	{"allocations per query, in the plugin", "", of("allocs", func(s sample) float64 { return s.PluginAllocs }), target{atMost: 10}},
}

// reportCosts writes the cost table: a row a figure.
func reportCosts(w io.Writer, all samples) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	rows := 0
	for _, c := range costTable {
		g, ok := c.value(all, guard)
		if !ok {
			continue
		}
		if rows++; rows == 1 {
			fmt.Fprintln(tw, "cost\twhoami\tforward\tdnsguard\t/forward\t/whoami\ttarget\tverdict")
		}
		f, hasForward := c.value(all, forward)
		who, hasWhoami := c.value(all, whoami)
		judged := g
		if c.target.ratio {
			judged = ratio(g, f)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", strings.TrimSuffix(c.name+", "+c.unit, ", "),
			figure(who, hasWhoami), figure(f, hasForward), figure(g, true),
			figure(ratio(g, f), hasForward && f > 0), figure(ratio(g, who), hasWhoami && who > 0),
			c.target, c.target.verdict(judged))
	}
	tw.Flush()
	for _, s := range all {
		if s.Server == capacityServer {
			fmt.Fprintf(w, "load to stub, with nothing between: %.0f queries/s, %.1f us CPU for both\n", s.QPS, s.CPU)
		}
	}
}

// ratio returns a / b; NaN where there is nothing to compare with.
func ratio(a, b float64) float64 {
	if b <= 0 {
		return math.NaN()
	}
	return a / b
}

// figure prints v with three significant digits or none behind the point; "-" if it is not there.
func figure(v float64, ok bool) string {
	switch {
	case !ok || math.IsNaN(v):
		return "-"
	case v != 0 && math.Abs(v) < 10:
		return fmt.Sprintf("%.2f", v)
	case math.Abs(v) < 100 && v != math.Trunc(v):
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// bounds are the targets of a fault, all for dnsguard once settled; times as
// multiples of its own healthy run.
type bounds struct {
	p50, p99 float64
	upstream float64
}

// faultBounds are the bounds of the faults, by name; "" stands for the others.
var faultBounds = map[string]bounds{
	"":        {p50: 1.1, p99: 2, upstream: 1.1},
	"healthy": {upstream: 1.05},
	"loss":    {p99: 4, upstream: 1.3},
}

// lateWhileSettling is what a query may take beyond a healthy one's p50 until settled.
const lateWhileSettling = 250_000 // us

// reportFaults writes the fault table: a row a scenario, server and phase.
func reportFaults(w io.Writer, all samples) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	rows := 0
	for _, s := range all {
		if s.Phase == "" {
			continue
		}
		if rows++; rows == 1 {
			fmt.Fprintln(tw, "\nfault\tphase\tserver\tright %\tp50 ms\tp99 ms\tmax ms\tupstream/query\tp50 /healthy\tp99 /healthy\tmissed")
		}
		base := healthyRun(all, s)
		fmt.Fprintf(tw, "%s\t%s\t%s\t%.2f\t%.1f\t%.1f\t%.0f\t%.2f\t%s\t%s\t%s\n", s.Measurement, s.Phase, s.Server,
			100*s.Right, s.P50/1000, s.P99/1000, s.Max/1000, s.Upstream,
			figure(ratio(s.P50, base.P50), true), figure(ratio(s.P99, base.P99), true), missed(s, base))
	}
	tw.Flush()
}

// healthyRun returns the settled healthy run of the server of s.
func healthyRun(all samples, s sample) sample {
	for _, h := range all {
		if h.Measurement == "healthy" && h.Server == s.Server && h.Phase == "settled" {
			return h
		}
	}
	return sample{}
}

// missed names the bounds that a dnsguard sample does not keep to; "met"
// without any, "" for other servers.
func missed(s, base sample) string {
	if s.Server != string(guard) {
		return ""
	}
	b, ok := faultBounds[s.Measurement]
	if !ok {
		b = faultBounds[""]
	}
	var out []string
	over := func(name string, v, bound float64) {
		if bound > 0 && v > bound {
			out = append(out, fmt.Sprintf("%s <= %g", name, bound))
		}
	}
	if s.Right < 1 {
		out = append(out, "right 100")
	}
	if s.Phase == "settled" {
		over("p50", ratio(s.P50, base.P50), b.p50)
		over("p99", ratio(s.P99, base.P99), b.p99)
		over("upstream", s.Upstream, b.upstream)
	} else if base.P50 > 0 {
		over("max", s.Max/1000, math.Round((base.P50+lateWhileSettling)/1000))
	}
	return cmp.Or(strings.Join(out, ", "), "met")
}
