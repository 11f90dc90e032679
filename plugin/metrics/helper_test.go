package metrics

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/dnsguard/dnsguard/plugin/upstream"
	"github.com/dnsguard/dnsguard/plugin/zones"
)

// pool is a Pool that does not change.
type pool struct {
	snapshots []upstream.Snapshot
	zones     zones.Stats
	inFlight  int64
}

func (p pool) Snapshot() []upstream.Snapshot { return p.snapshots }
func (p pool) Zones() zones.Stats            { return p.zones }
func (p pool) InFlight() int64               { return p.inFlight }

func gather(t *testing.T, reg prometheus.Gatherer) []*dto.MetricFamily {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// scrape is what a scrape of reg returns.
func scrape(t *testing.T, reg prometheus.Gatherer) string {
	t.Helper()
	var b strings.Builder
	for _, f := range gather(t, reg) {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// wants fails a test where a scrape lacks one of the lines.
func wants(t *testing.T, reg prometheus.Gatherer, lines string) {
	t.Helper()
	got := "\n" + scrape(t, reg)
	for line := range strings.Lines(lines) {
		if line = strings.TrimSpace(line); line != "" && !strings.Contains(got, "\n"+line+"\n") {
			name, _, _ := strings.Cut(line, "{")
			t.Errorf("no %q in:\n%s", line, about(got, name))
		}
	}
}

// about returns the lines of a text that have something in them.
func about(text, something string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, something) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// lacks fails a test where a scrape has one of the texts.
func lacks(t *testing.T, reg prometheus.Gatherer, texts ...string) {
	t.Helper()
	got := scrape(t, reg)
	for _, text := range texts {
		if strings.Contains(got, text) {
			t.Errorf("%q in:\n%s", text, about(got, text))
		}
	}
}
