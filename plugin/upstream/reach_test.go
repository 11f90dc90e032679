package upstream

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// TestOptions holds how queries are sent while something is avoided.
func TestOptions(t *testing.T) {
	const d = 5 * time.Minute
	plain, tcp := exchange.Options{NoEDNS: true}, exchange.Options{TCP: true}
	ask := func(r *rig, n int, o exchange.Options, k outcome.Kind) {
		for range n {
			r.start(k, ms, &Attempt{Options: o}, nil)
			time.Sleep(2 * ms)
			synctest.Wait()
		}
	}
	for name, tc := range map[string]struct {
		do   func(r *rig)
		want exchange.Options
	}{
		"as asked":                      {func(*rig) {}, exchange.Options{}},
		"EDNS avoided":                  {func(r *rig) { r.u.AvoidEDNS(time.Now(), d) }, plain},
		"EDNS avoided, not for ever":    {func(r *rig) { r.u.AvoidEDNS(time.Now(), d); time.Sleep(d) }, exchange.Options{}},
		"UDP avoided":                   {func(r *rig) { r.u.AvoidUDP(time.Now(), d) }, tcp},
		"UDP avoided, not for ever":     {func(r *rig) { r.u.AvoidUDP(time.Now(), d); time.Sleep(d) }, exchange.Options{}},
		"only plain ones answered":      {func(r *rig) { r.miss(3); time.Sleep(time.Second); ask(r, 3, plain, outcome.OK) }, plain},
		"plain ones for a moment":       {func(r *rig) { ask(r, 9, plain, outcome.OK) }, exchange.Options{}},
		"some plain ones answered":      {func(r *rig) { r.miss(3); ask(r, 2, plain, outcome.OK) }, exchange.Options{}},
		"both answered":                 {func(r *rig) { ask(r, 2, plain, outcome.OK); r.ask(1, outcome.OK, ms); ask(r, 2, plain, outcome.OK) }, exchange.Options{}},
		"plain probes prove nothing":    {func(r *rig) { r.probe(outcome.OK, ms); r.probe(outcome.OK, ms); r.probe(outcome.OK, ms) }, exchange.Options{}},
		"plain ones unanswered":         {func(r *rig) { ask(r, 9, plain, outcome.ConnRefused) }, exchange.Options{}},
		"TCP fails, UDP as it was":      {func(r *rig) { ask(r, 3, tcp, outcome.ConnRefused) }, exchange.Options{}},
		"only plain ones, and a minute": {func(r *rig) { r.miss(3); time.Sleep(time.Second); ask(r, 3, plain, outcome.OK); time.Sleep(d) }, exchange.Options{}},
		"EDNS answered in the end": {func(r *rig) {
			r.miss(3)
			ask(r, 3, plain, outcome.OK)
			time.Sleep(d)
			r.ask(1, outcome.OK, ms)
			ask(r, 1, plain, outcome.OK)
		}, exchange.Options{}},
		"EDNS unanswered still, then": {func(r *rig) { r.miss(3); ask(r, 3, plain, outcome.OK); time.Sleep(d); ask(r, 1, plain, outcome.OK) }, plain},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, r *rig) {
				r.ask(1, outcome.OK, ms)
				tc.do(r)
				r.ask(1, outcome.OK, ms)
				if got := r.options(); got != tc.want {
					t.Errorf("sent with %+v, want %+v", got, tc.want)
				}
			})
		})
	}
}

// TestUDPLeftOut holds when queries go by TCP because nothing comes back by UDP.
func TestUDPLeftOut(t *testing.T) {
	tcp := func(r *rig) {
		r.start(outcome.OK, ms, &Attempt{Options: exchange.Options{TCP: true}}, nil)
		time.Sleep(2 * ms)
		synctest.Wait()
	}
	silent := func(r *rig) { r.miss(3); tcp(r) }
	back := func(r *rig) { time.Sleep(time.Second); r.probe(outcome.OK, ms) }
	for name, tc := range map[string]struct {
		do  func(r *rig)
		tcp bool
	}{
		"UDP silent, TCP answered":         {silent, true},
		"UDP silent, TCP not asked":        {func(r *rig) { r.miss(9) }, false},
		"UDP silent, TCP too":              {func(r *rig) { r.miss(3); r.start(0, never, &Attempt{Options: exchange.Options{TCP: true}}, nil) }, false},
		"two lost":                         {func(r *rig) { r.miss(2); tcp(r) }, false},
		"some answered":                    {func(r *rig) { r.miss(2); r.ask(1, outcome.OK, ms); r.miss(2); tcp(r) }, false},
		"answered a moment ago":            {func(r *rig) { r.miss(3); r.ask(1, outcome.OK, ms); tcp(r) }, false},
		"UDP refused, TCP answered":        {func(r *rig) { r.ask(3, outcome.ConnRefused, ms); tcp(r) }, true},
		"UDP alone asked, many by TCP":     {func(r *rig) { tcp(r); tcp(r); tcp(r); tcp(r) }, false},
		"a probe by UDP answered":          {func(r *rig) { silent(r); back(r) }, false},
		"answered too soon":                {func(r *rig) { silent(r); r.probe(outcome.OK, ms) }, true},
		"a probe by UDP unanswered":        {func(r *rig) { silent(r); time.Sleep(29 * time.Second); r.probe(0, never); time.Sleep(29 * time.Second) }, true},
		"no probes, and some time":         {func(r *rig) { silent(r); time.Sleep(31 * time.Second) }, false},
		"in vain, so that it lasts longer": {func(r *rig) { silent(r); back(r); silent(r); back(r) }, true},
		"in vain, long ago":                {func(r *rig) { silent(r); back(r); time.Sleep(2 * time.Minute); silent(r); back(r) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, r *rig) {
				r.ask(1, outcome.OK, ms)
				tc.do(r)
				if r.start(outcome.OK, ms, new(Attempt), nil); r.options().TCP != tc.tcp {
					t.Errorf("sent with %+v, want TCP %t", r.options(), tc.tcp)
				}
				r.start(outcome.OK, ms, &Attempt{Probe: true}, nil)
				if r.options().TCP {
					t.Error("a probe by TCP, which cannot tell that UDP is back")
				}
				if got := r.u.WantsProbe(time.Now()); tc.tcp && !got {
					t.Error("no probe wanted while UDP is left out")
				}
			})
		})
	}
}

// TestTCPDown holds that TCP counts as broken until it works or some time has gone by.
func TestTCPDown(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		tcp := func(k outcome.Kind, after time.Duration) {
			r.start(k, after, &Attempt{Options: exchange.Options{TCP: true}}, nil)
			time.Sleep(max(after, 0) + time.Second)
			synctest.Wait()
		}
		r.ask(1, outcome.OK, ms)
		for _, step := range []struct {
			k     outcome.Kind
			after time.Duration
			want  bool
		}{
			{outcome.OK, ms, false},
			{outcome.ConnRefused, 0, true},
			{outcome.OK, ms, false},
			{outcome.Unknown, never, false}, // one packet may be lost
			{outcome.Unknown, never, false},
			{outcome.Unknown, never, true},
			{outcome.Local, 0, true},
		} {
			if tcp(step.k, step.after); r.u.TCPDown(time.Now()) != step.want {
				t.Errorf("after %s: want down: %t", step.k, step.want)
			}
		}
		time.Sleep(time.Minute)
		if r.u.TCPDown(time.Now()) {
			t.Error("still down after a minute")
		}
		if tcp(outcome.Local, 0); r.u.TCPDown(time.Now()) {
			t.Error("down for a fault of this host")
		}
	})
}

// TestTrials holds that TryTrial lets one in per interval.
