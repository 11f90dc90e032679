package upstream

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// TestLoops holds that nothing is sent to an upstream that queries come back from, and what is under way ends at once, for which nobody is blamed.
func TestLoops(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.ask(10, outcome.OK, 10*ms)
		results := make(chan Result, 4)
		r.start(outcome.Unknown, never, new(Attempt), results)
		late := r.start(outcome.Unknown, never, new(Attempt), results)
		time.Sleep(500 * ms)
		r.start(outcome.Unknown, never, &Attempt{Anyway: true}, results)
		var after []outcome.Kind
		late.Abandon(func(e exchange.Reply) { after = append(after, e.Kind) })
		r.u.Loops(time.Now(), "why")
		synctest.Wait()
		r.want(Looping, "looping")
		if c := r.last(); c.From != Healthy || c.Reason != "why" || c.Kind != outcome.Loop {
			t.Errorf("%+v", c)
		}
		if len(results) != 1 || (<-results).Reply.Kind != outcome.Loop || len(after) != 1 || after[0] != outcome.Loop {
			t.Errorf("%d results, %v", len(results), after)
		}
		sent := len(r.s.sent)
		r.start(outcome.OK, ms, new(Attempt), results)
		if (<-results).Reply.Kind != outcome.Loop || len(r.s.sent) != sent || r.counted(outcome.Loop) != 3 {
			t.Errorf("%d sent, %d counted", len(r.s.sent)-sent, r.counted(outcome.Loop))
		}
		r.start(outcome.OK, ms, &Attempt{Anyway: true}, results)
		time.Sleep(ms)
		if (<-results).Reply.Kind != outcome.OK {
			t.Error("another server's probe was not sent")
		}
		for range 20 { // nothing else ends it
			r.start(outcome.ConnRefused, 0, &Attempt{Anyway: true}, nil)
			r.start(outcome.OK, 0, &Attempt{Anyway: true}, nil)
			r.u.Contradicted(time.Now(), outcome.ServFail)
			synctest.Wait()
		}
		time.Sleep(time.Minute)
		r.want(Looping, "a minute later")
		if r.u.WantsProbe(time.Now()) || r.u.Dead(time.Now()) {
			t.Error("it is to be probed")
		}
		r.u.LoopEnded(time.Now())
		r.want(HalfOpen, "when the loop has ended")
		r.ask(halfOpenNeeds, outcome.OK, 10*ms)
		r.want(Healthy, "after some replies")
		r.u.LoopEnded(time.Now())
		r.want(Healthy, "when there is no loop")
		if s := r.u.Snapshot(); s.Ejections != 0 || s.Outstanding != 1 { // the one that was sent anyway lingers
			t.Logf("%+v", s)
		}
	})
}

// TestLoopInherited holds that a loop is known after a reload.
func TestLoopInherited(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.u.Loops(time.Now(), "why")
		next := New(Config{To: "192.0.2.1:53", Exchanger: r.s, Observer: r, Predecessor: r.u}, time.Now())
		if s := next.Snapshot(); s.State != "looping" || s.Reason != "why" {
			t.Errorf("%+v", s)
		}
	})
}

// TestLoopRaces holds that all attempts end whose sending, sweeping and ending go on at the same time.
func TestLoopRaces(t *testing.T) {
	inBubble(t, nil, func(_ *testing.T, r *rig) {
		r.s.after = never
		for range 200 {
			for range 20 {
				go r.u.Send(time.Now(), &exchange.Query{}, new(Attempt), nil)
			}
			go r.u.sweep()
			go r.u.Loops(time.Now(), "why")
			time.Sleep(30 * ms)
			synctest.Wait()
			r.u.sweep()
			if n := r.u.Snapshot().Outstanding; n != 0 {
				t.Fatalf("%d attempts are open", n)
			}
			r.u.LoopEnded(time.Now())
		}
	})
}

// TestWaits holds which attempts are clients' that have waited for long enough.
func TestWaits(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		want := func(when string, d time.Duration, want bool) {
			t.Helper()
			if got := r.u.Waits(time.Now(), d); got != want {
				t.Errorf("%s, for %v: %t", when, d, got)
			}
		}
		want("nothing was asked", 0, false)
		r.ask(1, outcome.OK, 10*ms)
		want("all is answered", 0, false)
		r.start(outcome.Unknown, never, &Attempt{Probe: true}, nil)
		time.Sleep(100 * ms)
		want("a probe", 0, false)
		r.start(outcome.Unknown, never, new(Attempt), nil)
		time.Sleep(20 * ms)
		want("a query", 20*ms, true)
		want("a query", 21*ms, false)
		time.Sleep(480 * ms)
		want("one that is overdue", 500*ms, true)
		time.Sleep(2 * time.Second)
		want("one that has timed out", 0, false)
	})
}

// TestDoubt holds what may be a loop.
func TestDoubt(t *testing.T) {
	var doubts []outcome.Kind
	inBubble(t, func(c *Config) { c.Doubt = func(k outcome.Kind) { doubts = append(doubts, k) } }, func(t *testing.T, r *rig) {
		want := func(when string, n int, k outcome.Kind) {
			t.Helper()
			if len(doubts) != n || n > 0 && doubts[n-1] != k {
				t.Errorf("%s: %v", when, doubts)
			}
			doubts = nil
		}
		r.ask(5, outcome.OK, 10*ms)
		r.ask(5, outcome.NXDomain, 10*ms)
		r.ask(5, outcome.Refused, 10*ms)
		r.probe(outcome.ServFail, 10*ms)
		r.probe(outcome.Unknown, never)
		want("nothing", 0, 0)
		r.ask(2, outcome.ServFail, 10*ms)
		want("SERVFAIL", 2, outcome.ServFail)
		r.miss(5)
		want("silence", 1, outcome.Timeout)
		r.ask(1, outcome.OK, 10*ms)
		r.miss(1)
		want("silence again", 1, outcome.Timeout)
	})
}
