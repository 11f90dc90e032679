package forwarder

import (
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/selector"
)

// TestTrialIsSecond holds when the reply of a trial, which comes first, is
// taken. The last upstream is the one that is tried beside the first; it replies in 2 ms.
func TestTrialIsSecond(t *testing.T) {
	trust := func(c *Config) { c.Trust = true }
	adaptive := func(c *Config) { c.Policy, _ = selector.New("adaptive") }
	failover := func(c *Config) { c.Trust, c.Failover = true, []int{dns.RcodeNameError} }
	quick := func(k outcome.Kind) behaviour { return says(k, 2*ms) }
	fails := says(outcome.ServFail, 5*ms)
	for name, tc := range map[string]struct {
		change func(c *Config)
		does   []behaviour
		want   outcome.Kind
		by     int
		within [2]time.Duration
		asked  []int
	}{
		"the first answers":               {nil, []behaviour{good, quick(outcome.OK)}, outcome.OK, 0, [2]time.Duration{10 * ms, 10 * ms}, []int{1, 1}},
		"the first is late":               {nil, []behaviour{silent, quick(outcome.OK)}, outcome.OK, 1, [2]time.Duration{10 * ms, 20 * ms}, []int{1, 1}},
		"the first fails":                 {nil, []behaviour{fails, quick(outcome.OK)}, outcome.OK, 1, [2]time.Duration{5 * ms, 5 * ms}, []int{1, 1}},
		"the first fails at once":         {nil, []behaviour{says(outcome.ConnRefused, ms), quick(outcome.OK)}, outcome.OK, 1, [2]time.Duration{2 * ms, 2 * ms}, []int{1, 1}},
		"the first's port is closed":      {nil, []behaviour{says(outcome.ConnRefused, 5*ms), quick(outcome.OK)}, outcome.OK, 1, [2]time.Duration{5 * ms, 5 * ms}, []int{1, 1}},
		"the first fails, not the second": {nil, []behaviour{fails, good, quick(outcome.OK)}, outcome.OK, 1, [2]time.Duration{15 * ms, 15 * ms}, []int{1, 1, 1}},
		"two fail":                        {nil, []behaviour{fails, fails, quick(outcome.OK)}, outcome.OK, 2, [2]time.Duration{10 * ms, 10 * ms}, []int{1, 1, 1}},
		"the second is late":              {nil, []behaviour{fails, silent, quick(outcome.OK)}, outcome.OK, 2, [2]time.Duration{15 * ms, 25 * ms}, []int{1, 1, 1}},
		"truncated":                       {nil, []behaviour{good, quick(outcome.Truncated)}, outcome.OK, 0, [2]time.Duration{10 * ms, 10 * ms}, []int{1, 1}},
		"truncated, the first fails":      {nil, []behaviour{fails, quick(outcome.Truncated)}, outcome.Truncated, 1, [2]time.Duration{5 * ms, 5 * ms}, []int{1, 1}},
		"denied":                          {nil, []behaviour{good, quick(outcome.NXDomain)}, outcome.OK, 0, [2]time.Duration{10 * ms, 10 * ms}, []int{1, 1}},
		"denied by both":                  {nil, []behaviour{nx, quick(outcome.NXDomain)}, outcome.NXDomain, 0, [2]time.Duration{10 * ms, 10 * ms}, []int{1, 1}},
		"the first denies":                {nil, []behaviour{nx, quick(outcome.OK)}, outcome.OK, 1, [2]time.Duration{10 * ms, 10 * ms}, []int{1, 1}},
		"the trial fails":                 {nil, []behaviour{good, quick(outcome.Refused)}, outcome.OK, 0, [2]time.Duration{10 * ms, 10 * ms}, []int{1, 1}},
		"whoever is first":                {adaptive, []behaviour{good, quick(outcome.OK)}, outcome.OK, 1, [2]time.Duration{2 * ms, 2 * ms}, []int{1, 1}},
		"trust, the first answers":        {trust, []behaviour{good, quick(outcome.NXDomain)}, outcome.OK, 0, [2]time.Duration{10 * ms, 10 * ms}, []int{1, 1}},
		"trust, the first denies":         {trust, []behaviour{nx, quick(outcome.OK)}, outcome.NXDomain, 0, [2]time.Duration{10 * ms, 10 * ms}, []int{1, 1}},
		"trust, the first fails":          {trust, []behaviour{fails, quick(outcome.NXDomain)}, outcome.NXDomain, 1, [2]time.Duration{5 * ms, 5 * ms}, []int{1, 1}},
		"trust, the first is late":        {trust, []behaviour{silent, quick(outcome.NXDomain)}, outcome.NXDomain, 1, [2]time.Duration{10 * ms, 20 * ms}, []int{1, 1}},
		"trust, all others fail":          {trust, []behaviour{fails, fails, quick(outcome.NXDomain)}, outcome.NXDomain, 2, [2]time.Duration{10 * ms, 10 * ms}, []int{1, 1, 1}},
		"trust, and no attempt is left": {
			func(c *Config) { c.Trust, c.MaxAttempts = true, 2 },
			[]behaviour{fails, good, quick(outcome.NXDomain)},
			outcome.NXDomain, 2,
			[2]time.Duration{5 * ms, 5 * ms},
			[]int{1, 0, 1},
		},
		"failover, the first answers": {failover, []behaviour{good, quick(outcome.NXDomain)}, outcome.OK, 0, [2]time.Duration{10 * ms, 10 * ms}, []int{1, 1}},
		"failover, the first denies":  {failover, []behaviour{nx, quick(outcome.OK)}, outcome.OK, 1, [2]time.Duration{10 * ms, 10 * ms}, []int{1, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, tc.change, func(t *testing.T, r *rig) {
				r.pause(3 * time.Second) // what is known of all is stale
				a, took := r.ask(request("www.example.org."))
				if a.Kind != tc.want || a.Upstream != to(tc.by) || took < tc.within[0] || took > tc.within[1] {
					t.Errorf("%s by %s after %s, want %s by %s within %v", a.Kind, a.Upstream, took, tc.want, to(tc.by), tc.within)
				}
				if got := r.counts(); !slices.Equal(got, tc.asked) {
					t.Errorf("asked %v, want %v", got, tc.asked)
				}
				if r.hedges[HedgeSent] != 0 {
					t.Errorf("hedges %v, want the trial's reply used", r.hedges)
				}
			}, tc.does...)
		})
	}
}

// TestTrialLearned holds that a trial's reply teaches what it would otherwise: here, that its upstream denies what the first knows.
func TestTrialLearned(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.pause(3 * time.Second)
		r.ask(request("www.example.org."))
		if got := r.counts(); r.disputed != 1 || !slices.Equal(got, []int{1, 1}) {
			t.Errorf("%d disputes, asked %v", r.disputed, got)
		}
		if v := r.f.table.View(time.Now(), "www.example.org."); !v.Bad.Has(1) || !v.Good.Has(0) {
			t.Errorf("%+v, want the first right and the second wrong", v)
		}
	}, good, says(outcome.NXDomain, 2*ms))
}
