package main

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		in   []float64
		want float64
	}{
		{nil, 0},
		{[]float64{3}, 3},
		{[]float64{9, 1, 2}, 2},
		{[]float64{4, 1, 2, 100}, 3},
	} {
		if got := median(tt.in); got != tt.want {
			t.Errorf("median(%v) = %v, want %v", tt.in, got, tt.want)
		}
	}
}

// three rounds of a saturation, of which one was disturbed.
func saturation(server kind, qps, cpu float64) samples {
	s := sample{Measurement: "saturation", Server: string(server), QPS: qps, CPU: cpu}
	disturbed := s
	disturbed.QPS, disturbed.CPU = qps/10, cpu*10
	return samples{s, disturbed, s}
}

func TestBeyondWhoami(t *testing.T) {
	all := append(saturation(whoami, 143_000, 6.9), saturation(forward, 60_000, 16.4)...)
	if got, ok := beyond(saturationCPU)(all, forward); !ok || math.Abs(got-9.5) > 1e-9 {
		t.Errorf("forward beyond whoami = %v, %v; want 9.5", got, ok)
	}
	if _, ok := beyond(saturationCPU)(all, guard); ok {
		t.Error("dnsguard was not measured, and has a figure")
	}
	if _, ok := beyond(saturationCPU)(all[3:], forward); ok {
		t.Error("whoami was not measured, and forward is compared with it")
	}
}

func TestVerdict(t *testing.T) {
	for _, tt := range []struct {
		target target
		v      float64
		want   string
	}{
		{target{}, 3, ""},
		{target{atMost: 0.5, ratio: true}, 0.5, "met"},
		{target{atMost: 0.5, ratio: true}, 0.51, "NOT MET"},
		{target{atLeast: 1.4, ratio: true}, 1.4, "met"},
		{target{atLeast: 1.4, ratio: true}, 1.39, "NOT MET"},
		{target{atMost: 1, ratio: true}, math.NaN(), "?"},
	} {
		if got := tt.target.verdict(tt.v); got != tt.want {
			t.Errorf("%q.verdict(%v) = %q, want %q", tt.target, tt.v, got, tt.want)
		}
	}
}

func TestReportCosts(t *testing.T) {
	all := append(saturation(whoami, 143_000, 6.9), saturation(forward, 60_000, 16.4)...)
	all = append(all, saturation(guard, 90_000, 11.9)...)
	var b strings.Builder
	report(&b, all)
	for _, want := range []string{
		"saturation: queries, /s", "143000  60000", "90000", "1.50", ">= 1.4 x  met",
		"<= 0.5 x", "NOT MET", // 5.0 of 9.5 us is more than a half
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, &b)
		}
	}
	if strings.Contains(b.String(), "5,000/s") {
		t.Errorf("a row for what was not measured:\n%s", &b)
	}
}

func TestMissed(t *testing.T) {
	base := sample{Measurement: "healthy", Server: "dnsguard", Phase: "settled", P50: 6000, P99: 7000, Right: 1, Upstream: 1}
	for _, tt := range []struct {
		name string
		s    sample
		want string
	}{
		{"good", sample{Measurement: "nodata", Phase: "settled", P50: 6500, P99: 14_000, Right: 1, Upstream: 1.1}, "met"},
		{
			"all missed",
			sample{Measurement: "nodata", Phase: "settled", P50: 7000, P99: 15_000, Right: 0.999, Upstream: 1.2},
			"right 100, p50 <= 1.1, p99 <= 2, upstream <= 1.1",
		},
		{"loss may take longer", sample{Measurement: "loss", Phase: "settled", P50: 7000, P99: 28_000, Right: 1, Upstream: 1.3}, "met"},
		{"healthy", sample{Measurement: "healthy", Phase: "settled", P50: 6000, P99: 7000, Right: 1, Upstream: 1.06}, "upstream <= 1.05"},
		{"settling", sample{Measurement: "drop", Phase: "settling", P50: 7000, Max: 256_000, Right: 1, Upstream: 2}, "met"},
		{"settling slowly", sample{Measurement: "drop", Phase: "settling", P50: 7000, Max: 257_000, Right: 1}, "max <= 256"},
	} {
		tt.s.Server = "dnsguard"
		if got := missed(tt.s, base); got != tt.want {
			t.Errorf("%s: missed = %q, want %q", tt.name, got, tt.want)
		}
	}
	if got := missed(sample{Server: "forward", Phase: "settled"}, base); got != "" {
		t.Errorf("forward is judged: %q", got)
	}
}

func TestJSONIsOneLineEach(t *testing.T) {
	var b bytes.Buffer
	for _, s := range saturation(forward, 60_000, 16.4) {
		if err := s.writeJSON(&b); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for line := range bytes.Lines(b.Bytes()) {
		var s sample
		if err := json.Unmarshal(line, &s); err != nil || s.Server != "forward" {
			t.Errorf("%s: %+v, %v", line, s, err)
		}
		n++
	}
	if n != 3 {
		t.Errorf("%d lines, want 3", n)
	}
}
