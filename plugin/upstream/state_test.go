package upstream

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// TestState takes an upstream that has answered ten queries in 10 ms each through some trouble.
func TestState(t *testing.T) {
	servfails := func(n int) func(r *rig) {
		return func(r *rig) {
			for range n {
				r.ask(1, outcome.ServFail, ms)
				r.u.Contradicted(time.Now(), outcome.ServFail)
			}
		}
	}
	for name, tc := range map[string]struct {
		do   func(r *rig)
		want State
	}{
		"answers":                   {func(*rig) {}, Healthy},
		"two in a row unanswered":   {func(r *rig) { r.miss(2) }, Healthy},
		"three in a row unanswered": {func(r *rig) { r.miss(3) }, Suspect},
		"three unanswered at once":  {func(r *rig) { r.start(0, never, new(Attempt), nil); r.start(0, never, new(Attempt), nil); r.miss(1) }, Suspect},
		"one in three answered":     {func(r *rig) { r.miss(2); r.ask(1, outcome.OK, ms); r.miss(2) }, Healthy},
		"a later query is answered": {func(r *rig) {
			r.start(0, never, new(Attempt), nil)
			r.start(0, never, new(Attempt), nil)
			r.start(0, never, new(Attempt), nil)
			r.ask(1, outcome.OK, 5*ms)
			time.Sleep(time.Second)
		}, Healthy},
		"probes alone are answered":   {func(r *rig) { r.miss(2); r.probe(outcome.OK, ms); r.miss(1) }, Suspect},
		"unanswered probes alone":     {func(r *rig) { r.probe(0, never); r.probe(0, never); r.probe(0, never) }, Healthy},
		"a reply ends suspicion":      {func(r *rig) { r.miss(3); r.ask(1, outcome.OK, 5*ms) }, Healthy},
		"a late reply ends suspicion": {func(r *rig) { r.start(outcome.OK, 1500*ms, new(Attempt), nil); r.miss(3); time.Sleep(2 * time.Second) }, Healthy},
		"a reply after the time-out ends it": {func(r *rig) {
			r.start(outcome.OK, 3*time.Second, new(Attempt), nil)
			r.miss(3)
			time.Sleep(4 * time.Second)
		}, Healthy},
		"a refusal ends suspicion":     {func(r *rig) { r.miss(3); r.ask(1, outcome.Refused, 5*ms) }, Healthy},
		"suspect, a probe is answered": {func(r *rig) { r.miss(3); r.probe(outcome.OK, ms) }, HalfOpen},
		"four refused connections":     {func(r *rig) { r.ask(4, outcome.ConnRefused, 0) }, Healthy},
		"five refused connections":     {func(r *rig) { r.ask(5, outcome.ConnRefused, 0) }, Ejected},
		"five of different kinds":      {func(r *rig) { r.ask(3, outcome.ConnRefused, 0); r.ask(2, outcome.Unreachable, 0) }, Ejected},
		"an answer in between": {func(r *rig) {
			r.ask(4, outcome.ConnRefused, 0)
			r.ask(1, outcome.NXDomain, 0)
			r.ask(4, outcome.ConnRefused, 0)
		}, Healthy},
		"half of many refused":                {func(r *rig) { alternate(r, 11, outcome.ConnRefused) }, Ejected},
		"half of few refused":                 {func(r *rig) { alternate(r, 4, outcome.ConnRefused) }, Healthy},
		"half of many refused, over long":     {func(r *rig) { slowly(r, 30) }, Healthy},
		"malformed replies":                   {func(r *rig) { r.ask(5, outcome.Malformed, ms) }, Ejected},
		"SERVFAIL for bad zones":              {func(r *rig) { r.ask(100, outcome.ServFail, ms) }, Healthy},
		"SERVFAIL, contradicted a few times":  {servfails(9), Healthy},
		"SERVFAIL, contradicted all the time": {servfails(30), Ejected},
		"denials and refusals": {func(r *rig) {
			r.ask(50, outcome.Refused, ms)
			r.ask(50, outcome.NXDomain, ms)
			r.ask(50, outcome.NoData, ms)
		}, Healthy},
		"truncated replies":                    {func(r *rig) { r.ask(50, outcome.Truncated, ms) }, Healthy},
		"faults of this host":                  {func(r *rig) { r.ask(50, outcome.Local, 0) }, Healthy},
		"cancelled":                            {func(r *rig) { r.ask(50, outcome.Cancelled, 0) }, Healthy},
		"others' packets":                      {func(r *rig) { r.ask(50, outcome.Mismatched, 0) }, Healthy},
		"slow, but within the time":            {func(r *rig) { slow(r, 1900*ms) }, Healthy},
		"slower than the time-out":             {func(r *rig) { slow(r, 3*time.Second) }, Healthy},
		"silent for three seconds":             {func(r *rig) { silent(r, 3*time.Second) }, Suspect},
		"silent for eight seconds":             {func(r *rig) { silent(r, 8*time.Second) }, Ejected},
		"silent to a few queries for long":     {func(r *rig) { r.miss(4); time.Sleep(time.Minute) }, Suspect},
		"one lost of ten for long":             {func(r *rig) { lossy(r, 10) }, Healthy},
		"one lost of three for long":           {func(r *rig) { lossy(r, 3) }, Healthy},
		"TCP fails where UDP works":            {func(r *rig) { overTCP(r, outcome.ConnRefused, 0) }, Healthy},
		"TCP is silent where UDP works":        {func(r *rig) { overTCP(r, 0, never) }, Healthy},
		"ejected, and nothing asked of it":     {func(r *rig) { r.refuse(); time.Sleep(time.Hour) }, Ejected},
		"ejected, answers before the time":     {func(r *rig) { r.refuse(); r.ask(1, outcome.OK, ms) }, Ejected},
		"ejected, probe before the time":       {func(r *rig) { r.refuse(); r.probe(outcome.OK, ms) }, Ejected},
		"ejected, a probe after the time":      {func(r *rig) { r.refuse(); time.Sleep(time.Second); r.probe(outcome.OK, ms) }, HalfOpen},
		"ejected, a query after the time":      {func(r *rig) { r.refuse(); time.Sleep(time.Second); r.ask(1, outcome.OK, ms) }, HalfOpen},
		"ejected for what the probe says":      {func(r *rig) { servfails(30)(r); time.Sleep(time.Second); r.probe(outcome.ServFail, ms) }, Ejected},
		"half-open, two good replies":          {func(r *rig) { halfOpen(r); r.ask(2, outcome.OK, ms) }, HalfOpen},
		"half-open, three good replies":        {func(r *rig) { halfOpen(r); r.ask(3, outcome.OK, ms) }, Healthy},
		"half-open, probes prove nothing":      {func(r *rig) { halfOpen(r); r.probe(outcome.OK, ms); r.probe(outcome.OK, ms); r.probe(outcome.OK, ms) }, HalfOpen},
		"half-open, one failure":               {func(r *rig) { halfOpen(r); r.ask(1, outcome.ConnRefused, 0) }, HalfOpen},
		"half-open, two failures":              {func(r *rig) { halfOpen(r); r.ask(2, outcome.ConnRefused, 0) }, Ejected},
		"half-open, silent twice":              {func(r *rig) { halfOpen(r); r.miss(2) }, Ejected},
		"half-open, faults of this host":       {func(r *rig) { halfOpen(r); r.ask(9, outcome.Local, 0) }, HalfOpen},
		"half-open, the probe gets no reply":   {func(r *rig) { halfOpen(r); r.probe(0, never) }, Suspect},
		"half-open after suspicion, and again": {func(r *rig) { r.miss(3); r.probe(outcome.OK, ms); r.miss(2) }, Ejected},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, r *rig) {
				r.ask(10, outcome.OK, 10*ms)
				r.want(Healthy, "after ten answers")
				tc.do(r)
				r.want(tc.want, name)
			})
		})
	}
}

// alternate lets n queries fail in turn with n that are answered.
func alternate(r *rig, n int, k outcome.Kind) {
	time.Sleep(11 * time.Second) // what went before is out of the window
	for range n {
		r.ask(1, outcome.OK, ms)
		r.ask(1, k, 0)
	}
}

// slowly is alternate, a second apart.
func slowly(r *rig, n int) {
	for range n {
		r.ask(1, outcome.OK, ms)
		time.Sleep(2 * time.Second)
		r.ask(1, outcome.ConnRefused, 0)
	}
}

// slow sends queries for 20 s whose replies take d.
func slow(r *rig, d time.Duration) {
	for range 200 {
		r.start(outcome.OK, d, new(Attempt), nil)
		time.Sleep(100 * ms)
	}
	time.Sleep(d)
	synctest.Wait()
}

// silent sends queries for d that get no reply.
func silent(r *rig, d time.Duration) {
	for range d / (100 * ms) {
		r.start(0, never, new(Attempt), nil)
		time.Sleep(100 * ms)
	}
	synctest.Wait()
}

// lossy sends queries for 20 s of which every nth gets no reply.
func lossy(r *rig, n int) {
	for i := range 400 {
		if i%n == 0 {
			r.start(0, never, new(Attempt), nil)
		} else {
			r.start(outcome.OK, 10*ms, new(Attempt), nil)
		}
		time.Sleep(50 * ms)
	}
	synctest.Wait()
}

// overTCP sends queries for 10 s by TCP that fail, and others by UDP that are answered.
func overTCP(r *rig, k outcome.Kind, after time.Duration) {
	for range 100 {
		r.start(k, after, &Attempt{Options: exchange.Options{TCP: true}}, nil)
		r.start(outcome.OK, 10*ms, new(Attempt), nil)
		time.Sleep(100 * ms)
	}
	synctest.Wait()
	if !r.u.TCPDown(time.Now()) {
		r.t.Error("want TCP known as broken")
	}
}

// halfOpen gets the upstream ejected and back to half-open by a probe.
func halfOpen(r *rig) {
	r.refuse()
	time.Sleep(time.Second)
	r.probe(outcome.OK, ms)
	r.want(HalfOpen, "ejected, and probed")
}

// TestStateOff holds that nothing ejects where ejection is off.
func TestStateOff(t *testing.T) {
	inBubble(t, func(c *Config) { c.Eject.Off = true }, func(t *testing.T, r *rig) {
		r.ask(100, outcome.ConnRefused, 0)
		r.want(Unknown, "refused")
		silent(r, 10*time.Second)
		r.want(Suspect, "silent")
		r.probe(outcome.OK, ms)
		r.miss(3)
		r.want(Suspect, "half-open, then silent")
	})
}

func TestStateTCPOnly(t *testing.T) {
	inBubble(t, func(c *Config) { c.TCPOnly = true }, func(t *testing.T, r *rig) {
		for range 5 {
			r.start(outcome.ConnRefused, 0, &Attempt{Options: exchange.Options{TCP: true}}, nil)
			synctest.Wait()
		}
		r.want(Ejected, "refused by TCP, where there is nothing else")
	})
}

// TestSuspectSoon holds that silence is noticed within a few round trips.
func TestSuspectSoon(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.ask(20, outcome.OK, 10*ms)
		begin := time.Now()
		for range 3 {
			r.start(0, never, new(Attempt), nil)
		}
		for r.u.State() != Suspect && time.Since(begin) < time.Second {
			time.Sleep(ms)
			synctest.Wait()
		}
		if d := time.Since(begin); d > 100*ms {
			t.Errorf("suspect after %s", d)
		}
		c := r.last()
		if c.To != "192.0.2.1:53" || c.From != Healthy || c.Now != Suspect || c.Kind != outcome.Timeout || c.Reason == "" || c.Silence < 30*ms || c.Silence > 100*ms {
			t.Errorf("%+v", c)
		}
	})
}

// TestNew holds what two unanswered probes say of an upstream that has never replied.
func TestNew(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.want(Unknown, "at first")
		if r.u.EverHeard() || r.u.Silent() || !r.u.WantsProbe(time.Now()) {
			t.Error("want nothing known, and a probe wanted")
		}
		r.probe(0, never)
		r.want(Unknown, "a probe unanswered")
		if !r.u.Silent() {
			t.Error("want no reply expected")
		}
		r.probe(0, never)
		r.want(Suspect, "two probes unanswered")
		time.Sleep(10 * time.Second) // their late replies do not come
		for range 3 {
			r.probe(outcome.ConnRefused, 0)
		}
		r.want(Ejected, "five probes unanswered")
	})
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.probe(outcome.ServFail, 20*ms)
		if r.want(Unknown, "a probe answered"); !r.u.EverHeard() || r.u.Silent() || r.u.WantsProbe(time.Now()) {
			t.Error("want it heard, and no further probe")
		}
		r.ask(1, outcome.NXDomain, ms)
		r.want(Healthy, "a query answered")
	})
}

// TestFaultBlurs holds that silence just after a fault of this host does not eject an upstream that is on its way back, and later silence does.
func TestFaultBlurs(t *testing.T) {
	for wait, want := range map[time.Duration]State{100 * ms: Suspect, 3 * time.Second: Ejected} {
		inBubble(t, nil, func(_ *testing.T, r *rig) {
			r.ask(20, outcome.OK, ms)
			r.ask(3, outcome.OK, never)
			time.Sleep(10 * time.Second)
			r.want(Suspect, "three queries unanswered")
			r.probe(outcome.OK, ms)
			r.want(HalfOpen, "probed")
			r.ask(1, outcome.Local, 0)
			time.Sleep(wait)
			r.ask(2, outcome.OK, never)
			time.Sleep(time.Second)
			r.want(want, "silent again, after "+wait.String())
		})
	}
}

// TestEjectionGrows holds that each further ejection is twice as long, up to the longest, and that calm minutes are credited.
func TestEjectionGrows(t *testing.T) {
	relapse := func(r *rig) time.Duration {
		time.Sleep(r.last().For)
		r.probe(outcome.OK, 0)
		r.want(HalfOpen, "probed after the ejection")
		r.ask(2, outcome.ConnRefused, 0)
		r.want(Ejected, "failed again")
		return r.last().For
	}
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.refuse()
		if d := r.last().For; d != time.Second {
			t.Errorf("first ejection for %s", d)
		}
		for _, want := range []time.Duration{2, 4, 8, 16, 30, 30} {
			if got := relapse(r); got != want*time.Second {
				t.Errorf("ejected for %s, want %ds", got, want)
			}
		}
		time.Sleep(30 * time.Second)
		r.probe(outcome.OK, 0)
		r.ask(3, outcome.OK, ms)
		r.want(Healthy, "back")
		time.Sleep(8 * time.Minute)
		r.refuse()
		if d := r.last().For; d != time.Second {
			t.Errorf("after calm minutes ejected for %s, want %s", d, time.Second)
		}
	})
	// The time that an ejection lasts is no calm time.
	inBubble(t, func(c *Config) { c.Eject.Base, c.Eject.Max = 40*time.Second, 10*time.Minute }, func(t *testing.T, r *rig) {
		r.refuse()
		for _, want := range []time.Duration{80, 160, 320, 600, 600} {
			if got := relapse(r); got != want*time.Second {
				t.Errorf("ejected for %s, want %ds", got, want)
			}
		}
	})
}

// TestFlapping holds that an upstream which falls silent again and again stays suspect for longer each time, though it replies in between.
func TestFlapping(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.ask(10, outcome.OK, 10*ms)
		away := func() time.Duration {
			r.miss(3)
			r.want(Suspect, "silent")
			begin := time.Now()
			for r.u.State() != Healthy && time.Since(begin) < time.Minute {
				r.ask(1, outcome.OK, 10*ms)
			}
			return time.Since(begin)
		}
		for i, least := range []time.Duration{0, 600 * ms, 1600 * ms, 3600 * ms} {
			if d := away(); d < least || d > 2*least+time.Second {
				t.Errorf("time %d: suspect for %s, want at least %s", i+1, d, least)
			}
		}
		time.Sleep(5 * time.Minute)
		if d := away(); d > 100*ms {
			t.Errorf("after calm minutes suspect for %s", d)
		}
	})
}

// TestProbesOnly holds that an upstream which answers probes and no query is not taken back.
func TestProbesOnly(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.ask(10, outcome.OK, 10*ms)
		for range 600 {
			r.start(0, never, new(Attempt), nil)
			time.Sleep(50 * ms)
			if r.u.WantsProbe(time.Now()) {
				r.probe(outcome.OK, 10*ms)
			}
			time.Sleep(40 * ms)
		}
		r.want(Ejected, "after a minute")
		healthy, ejected := 0, 0
		for _, c := range r.changes[1:] {
			switch c.Now {
			case Healthy:
				healthy++
			case Ejected:
				ejected++
			}
		}
		if healthy != 0 || ejected == 0 || ejected > 8 {
			t.Errorf("%d times healthy again, %d times ejected", healthy, ejected)
		}
		if r.u.Dead(time.Now()) {
			t.Error("dead, though it answers probes")
		}
	})
}

func TestDead(t *testing.T) {
	for name, tc := range map[string]struct {
		do   func(r *rig)
		want bool
	}{
		"healthy":                    {func(r *rig) { r.ask(1, outcome.OK, ms) }, false},
		"ejected":                    {func(r *rig) { r.ask(1, outcome.OK, ms); r.refuse() }, false},
		"ejected, one probe refused": {func(r *rig) { r.refuse(); time.Sleep(2 * time.Second); r.probe(outcome.ConnRefused, 0) }, false},
		"ejected, two probes refused": {func(r *rig) {
			r.refuse()
			time.Sleep(2 * time.Second)
			r.probe(outcome.ConnRefused, 0)
			r.probe(outcome.ConnRefused, 0)
		}, true},
		"ejected, answers a probe": {func(r *rig) {
			r.refuse()
			r.probe(0, never)
			r.probe(0, never)
			r.probe(outcome.OK, ms)
			time.Sleep(10 * ms)
		}, false},
		"suspect, two probes lost": {func(r *rig) { r.ask(1, outcome.OK, ms); r.miss(3); r.probe(0, never); r.probe(0, never) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, r *rig) {
				tc.do(r)
				if got := r.u.Dead(time.Now()); got != tc.want {
					t.Errorf("dead: %t (%s), want %t", got, r.u.State(), tc.want)
				}
			})
		})
	}
}

func TestStateNames(t *testing.T) {
	for s := Unknown; s <= Ejected; s++ {
		if States()[s] != s.String() || s.String() == "" {
			t.Errorf("state %d: %q", s, s)
		}
	}
}
