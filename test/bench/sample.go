package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// kind is what a measured server does with a query.
type kind string

const (
	whoami  kind = "whoami"  // answers by itself: what CoreDNS spends without forwarding
	forward kind = "forward" // stock forward
	guard   kind = "dnsguard"
)

const capacityServer = "stub" // nothing between the load and a stub

// sample is one measurement of one server, and one line of the JSON file.
// Times are in microseconds, memory in bytes. What was not measured is 0, and
// is not written.
type sample struct {
	Measurement  string  `json:"measurement"` // saturation, rate, inflight, allocs, profile, or a fault
	Server       string  `json:"server"`      // whoami, forward, dnsguard; stub: the load and a stub, whose own CPU time it is
	Round        int     `json:"round"`
	Phase        string  `json:"phase,omitempty"` // of a fault: settling or settled
	Queries      uint64  `json:"queries"`
	Errors       uint64  `json:"errors"` // wrong, late by more than the time-out, or without an answer
	QPS          float64 `json:"qps"`
	CPU          float64 `json:"cpu_us_per_query,omitempty"`
	Busy         float64 `json:"cpu_busy,omitempty"` // share of the time that the server was on its CPU, 0 to 1
	P50          float64 `json:"p50_us"`
	P99          float64 `json:"p99_us"`
	P999         float64 `json:"p999_us"`
	Max          float64 `json:"max_us"`
	Late         float64 `json:"load_late_us,omitempty"` // how late the load was with sending, at worst
	Idle         int64   `json:"rss_idle_bytes,omitempty"`
	Peak         int64   `json:"rss_peak_bytes,omitempty"`
	Allocs       float64 `json:"allocs_per_query,omitempty"`
	PluginAllocs float64 `json:"plugin_allocs_per_query,omitempty"`    // of Allocs, the plugin's
	Right        float64 `json:"right,omitempty"`                      // share of queries, 0 to 1
	Upstream     float64 `json:"upstream_queries_per_query,omitempty"` // probes included
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// writeJSON writes s as one line.
func (s sample) writeJSON(w io.Writer) error {
	line, err := json.Marshal(s)
	if err != nil {
		return err
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

// line returns s for whoever watches the run.
func (s sample) line() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-12s %-8s %-8s round %d: %7.0f q/s, %d errors, p50 %.0f us, p99 %.0f us",
		s.Measurement, s.Server, s.Phase, s.Round, s.QPS, s.Errors, s.P50, s.P99)
	if s.CPU > 0 {
		fmt.Fprintf(&b, ", %.1f us CPU, %.0f%% busy", s.CPU, 100*s.Busy)
	}
	if s.Upstream > 0 {
		fmt.Fprintf(&b, ", %.2f upstream", s.Upstream)
	}
	return b.String()
}

// samples are all that one run has measured.
type samples []sample

// median returns the median, over the rounds, of what value takes from the
// samples of one measurement, server and phase; ok is false without any.
func (all samples) median(measurement, server, phase string, value func(sample) float64) (m float64, ok bool) {
	var vs []float64
	for _, s := range all {
		if s.Measurement == measurement && s.Server == server && s.Phase == phase {
			vs = append(vs, value(s))
		}
	}
	return median(vs), len(vs) > 0
}

// median returns the median of vs; 0 without any.
func median(vs []float64) float64 {
	if len(vs) == 0 {
		return 0
	}
	vs = slices.Sorted(slices.Values(vs))
	mid := len(vs) / 2
	if len(vs)%2 == 1 {
		return vs[mid]
	}
	return (vs[mid-1] + vs[mid]) / 2
}
