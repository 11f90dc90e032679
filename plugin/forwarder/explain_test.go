package forwarder

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/selector"
	"github.com/dnsguard/dnsguard/plugin/upstream"
	"github.com/dnsguard/dnsguard/plugin/zones"
)

// story is what happened to a pool before it is explained.
type story struct {
	change func(c *Config)
	before func(r *rig)
	does   []behaviour
}

// told is an explanation in short: who would be asked, at which place and of which rank.
func told(e Explanation) (order []string, barred []int) {
	for _, p := range e.Order {
		order = append(order, fmt.Sprintf("%d: %d %s", p.At, p.Index, p.Rank))
	}
	for _, p := range e.Barred {
		barred = append(barred, p.Index)
	}
	return order, barred
}

// stories are the pools of the tests below, by name.
func stories(t *testing.T) map[string]story {
	policy := func(name string) func(c *Config) {
		p, err := selector.New(name)
		if err != nil {
			t.Fatal(err)
		}
		return func(c *Config) { c.Policy = p }
	}
	corp := within("corp.test.", good, nx)
	public := within("corp.test.", nx, good)
	learn := func(r *rig) {
		for i := range 4 {
			r.ask(request(fmt.Sprintf("n%d.corp.test.", i)))
			r.ask(request(fmt.Sprintf("n%d.example.org.", i)))
		}
	}
	closed := says(outcome.ConnRefused, 0)
	fail := func(r *rig) {
		for i := range 12 {
			r.ask(request(fmt.Sprintf("n%d.example.org.", i)))
		}
	}
	return map[string]story{
		"healthy":                 {nil, nil, []behaviour{good, good, good}},
		"healthy, by round robin": {policy("round_robin"), func(r *rig) { r.ask(request("x.example.org.")) }, []behaviour{good, good, good}},
		"healthy, adaptive":       {policy("adaptive"), nil, []behaviour{good, good}},
		"one is nearer":           {policy("adaptive"), func(r *rig) { r.servers[0].set(says(outcome.OK, 50*ms)); fail(r) }, []behaviour{good, good}},
		"two horizons":            {nil, learn, []behaviour{corp, public}},
		"one is closed":           {nil, fail, []behaviour{closed, good}},
		"one is silent":           {nil, fail, []behaviour{silent, good}},
		"private": {
			func(c *Config) {
				c.Private = []PrivateZone{{"test.", zones.Of(0)}, {"corp.test.", zones.Of(1) | zones.Of(2)}}
			},
			nil,
			[]behaviour{good, good, good},
		},
		"private, nobody":         {func(c *Config) { c.Private = []PrivateZone{{"test.", 0}} }, nil, []behaviour{good, good}},
		"all ejected, failfast":   {func(c *Config) { c.Failfast = true }, fail, []behaviour{closed}},
		"all dead":                {nil, func(r *rig) { fail(r); probeAll(r) }, []behaviour{closed, closed}},
		"all dead, none is taken": {func(c *Config) { c.Eject = false }, func(r *rig) { fail(r); probeAll(r) }, []behaviour{closed, closed}},
		"no upstream":             {nil, nil, nil},
	}
}

func probeAll(r *rig) {
	r.pause(2 * time.Second)
	for _, u := range r.ups {
		for range 3 {
			u.Send(time.Now(), &exchange.Query{Wire: warm()}, &upstream.Attempt{Probe: true}, nil)
			synctest.Wait()
		}
	}
}

// TestExplain holds who would be asked for a name.
func TestExplain(t *testing.T) {
	all := stories(t)
	for _, tc := range []struct {
		story, name string
		prospect    Prospect
		order       []string
		barred      []int
		private     string
		zone        string
	}{
		{"healthy", "www.example.org.", Hopeful, []string{"1: 0 fit", "2: 1 fit", "3: 2 fit"}, nil, "", ""},
		{"healthy, by round robin", "www.example.org.", Hopeful, []string{"1: 2 fit", "2: 0 fit", "3: 1 fit"}, nil, "", ""},
		{"healthy, adaptive", "www.example.org.", Hopeful, []string{"1: 0 fit", "1: 1 fit"}, nil, "", ""},
		{"one is nearer", "www.example.org.", Hopeful, []string{"1: 1 fit", "2: 0 fit"}, nil, "", "example.org."}, // it was late there
		{"two horizons", "www.corp.test.", Hopeful, []string{"1: 0 fit", "2: 1 fit"}, nil, "", "corp.test."},      // the other was never asked
		{"two horizons", "www.example.org.", Hopeful, []string{"1: 1 fit", "2: 0 unfit"}, nil, "", "example.org."},
		{"two horizons", "n0.example.org.", Hopeful, []string{"1: 1 fit", "2: 0 unfit"}, nil, "", "example.org."},
		{"two horizons", "www.example.com.", Hopeful, []string{"1: 0 fit", "2: 1 fit"}, nil, "", ""},
		{"one is closed", "www.example.org.", Hopeful, []string{"1: 1 fit", "2: 0 out"}, nil, "", ""},
		{"one is silent", "www.example.org.", Hopeful, []string{"1: 1 fit", "2: 0 failing"}, nil, "", "example.org."},
		{"private", "www.corp.test.", Hopeful, []string{"1: 1 fit", "2: 2 fit"}, []int{0}, "corp.test.", ""},
		{"private", "corp.test.", Hopeful, []string{"1: 1 fit", "2: 2 fit"}, []int{0}, "corp.test.", ""},
		{"private", "www.notcorp.test.", Hopeful, []string{"1: 0 fit"}, []int{1, 2}, "test.", ""},
		{"private", "www.example.org.", Hopeful, []string{"1: 0 fit", "2: 1 fit", "3: 2 fit"}, nil, "", ""},
		{"private, nobody", "www.test.", NotAllowed, nil, []int{0, 1}, "test.", ""},
		{"all ejected, failfast", "www.example.org.", AllEjected, []string{"1: 0 out"}, nil, "", ""},
		{"all dead", "www.example.org.", AllDead, []string{"1: 0 out", "2: 1 out"}, nil, "", ""},
		{"all dead, none is taken", "www.example.org.", Hopeful, []string{"1: 0 out", "2: 1 out"}, nil, "", ""},
		{"no upstream", "www.example.org.", NoUpstream, nil, nil, "", ""},
		{"healthy", ".", Hopeful, []string{"1: 0 fit", "2: 1 fit", "3: 2 fit"}, nil, "", ""},
	} {
		t.Run(tc.story+", "+tc.name, func(t *testing.T) {
			s := all[tc.story]
			inBubble(t, s.change, func(t *testing.T, r *rig) {
				if s.before != nil {
					s.before(r)
				}
				e := r.f.Explain(time.Now(), tc.name)
				order, barred := told(e)
				if e.Prospect != tc.prospect || !slices.Equal(order, tc.order) || !slices.Equal(barred, tc.barred) {
					t.Errorf("prospect %d, %q, not %v; want %d, %q, not %v", e.Prospect, order, barred, tc.prospect, tc.order, tc.barred)
				}
				if (e.Empty != "") != (tc.prospect == NoUpstream) {
					t.Errorf("empty because %q", e.Empty)
				}
				if e.Private != tc.private || e.Known.Zone != tc.zone || e.Policy != r.f.cfg.Policy.Name() {
					t.Errorf("private zone %q, known zone %q, policy %s; want %q, %q", e.Private, e.Known.Zone, e.Policy, tc.private, tc.zone)
				}
				for _, p := range append(slices.Clone(e.Order), e.Barred...) {
					if p.Upstream != r.ups[p.Index].Snapshot() {
						t.Errorf("the place of %d has the snapshot %+v", p.Index, p.Upstream)
					}
				}
			}, s.does...)
		})
	}
}

// TestExplainIsWhatHappens holds that the one who is said to come first is asked first.
func TestExplainIsWhatHappens(t *testing.T) {
	for name, s := range stories(t) {
		t.Run(name, func(t *testing.T) {
			inBubble(t, s.change, func(t *testing.T, r *rig) {
				if s.before != nil {
					s.before(r)
				}
				r.counts()
				for i := range 7 {
					name := fmt.Sprintf("www%d.corp.test.", i)
					e := r.f.Explain(time.Now(), name)
					w := newWalk(r.f)
					w.req = request(name)
					w.rank(time.Now())
					var firsts, order []int
					for _, p := range e.Order {
						if order = append(order, p.Index); p.At == 1 {
							firsts = append(firsts, p.Index)
						}
					}
					if e.Prospect != r.f.prospect(time.Now(), w.order) || len(order) != len(w.order) {
						t.Fatalf("%+v, a query finds %v", e, w.order)
					}
					if len(order) > 0 && !slices.Contains(firsts, w.order[0].Index) {
						t.Errorf("first %v, a query begins with %d", firsts, w.order[0].Index)
					}
					for j, c := range w.order {
						if len(firsts) == 1 && order[j] != c.Index {
							t.Errorf("order %v, that of a query %v", order, w.order)
						}
					}
				}
			}, s.does...)
		})
	}
}

// TestExplainChangesNothing holds that nothing is sent, and that the next queries go as they would have gone.
func TestExplainChangesNothing(t *testing.T) {
	for name, s := range stories(t) {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(c *Config) {
				if s.change != nil {
					s.change(c)
				}
				c.Draw = func(int) int { return 0 }
			}, func(t *testing.T, r *rig) {
				if s.before != nil {
					s.before(r)
				}
				r.pause(5 * time.Second) // so that trials are due
				r.counts()
				state := func() string {
					text := fmt.Sprintf("%+v %+v %+v", r.f.hedges, r.f.trials, r.f.table.Stats())
					for _, u := range r.ups {
						text += fmt.Sprintf(" %+v", u.Snapshot())
					}
					return text
				}
				drawn := false
				r.f.cfg.Draw = func(int) int { drawn = true; return 0 }
				before := state()
				for i := range 50 {
					r.f.Explain(time.Now(), fmt.Sprintf("n%d.corp.test.", i%5))
				}
				synctest.Wait()
				if after := state(); after != before || drawn {
					t.Errorf("was\n%s\nis\n%s\ndrawn: %t", before, after, drawn)
				}
				if n := r.counts(); slices.Max(append(n, 0)) != 0 {
					t.Errorf("asked %v", n)
				}
				for i, u := range r.ups {
					if !u.TryTrial(time.Now(), trialSuspect) {
						t.Errorf("upstream %d: no trial is due any more", i)
					}
				}
			}, s.does...)
		})
	}
}
