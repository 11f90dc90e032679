package upstream

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// TestEstimate feeds round trips.
func TestEstimate(t *testing.T) {
	type step struct {
		n   int
		rtt time.Duration
	}
	for name, tc := range map[string]struct {
		steps    []step
		expected [2]time.Duration // between
		late     [2]time.Duration
	}{
		"nothing known":            {nil, [2]time.Duration{100 * ms, 100 * ms}, [2]time.Duration{100 * ms, 100 * ms}},
		"one reply":                {[]step{{1, 20 * ms}}, [2]time.Duration{20 * ms, 20 * ms}, [2]time.Duration{40 * ms, 80 * ms}},
		"steady":                   {[]step{{100, 20 * ms}}, [2]time.Duration{20 * ms, 20 * ms}, [2]time.Duration{20*ms + time.Microsecond, 30 * ms}},
		"near":                     {[]step{{100, 50 * time.Microsecond}}, [2]time.Duration{50 * time.Microsecond, 50 * time.Microsecond}, [2]time.Duration{ms, 10 * ms}},
		"one slow reply":           {[]step{{100, 20 * ms}, {1, 2 * time.Second}}, [2]time.Duration{20 * ms, 30 * ms}, [2]time.Duration{30 * ms, 500 * ms}},
		"now and then a slow one":  {[]step{{20, 20 * ms}, {1, time.Second}, {20, 20 * ms}, {1, time.Second}, {20, 20 * ms}}, [2]time.Duration{20 * ms, 23 * ms}, [2]time.Duration{20 * ms, 400 * ms}},
		"slower for good":          {[]step{{100, 20 * ms}, {7, 400 * ms}}, [2]time.Duration{40 * ms, 80 * ms}, [2]time.Duration{200 * ms, 600 * ms}},
		"slower for good, in time": {[]step{{100, 20 * ms}, {60, 400 * ms}}, [2]time.Duration{390 * ms, 400 * ms}, [2]time.Duration{390 * ms, 620 * ms}},
		"faster again":             {[]step{{100, 400 * ms}, {50, 20 * ms}}, [2]time.Duration{20 * ms, 25 * ms}, [2]time.Duration{20 * ms, 60 * ms}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, r *rig) {
				for _, s := range tc.steps {
					r.ask(s.n, outcome.OK, s.rtt)
				}
				if d := r.u.Expected(); d < tc.expected[0] || d > tc.expected[1] {
					t.Errorf("expected %s, want %v", d, tc.expected)
				}
				if d := r.u.LateAfter(); d < tc.late[0] || d > tc.late[1] {
					t.Errorf("late after %s, want %v", d, tc.late)
				}
				if tc.steps == nil && r.u.SRTT() != 0 {
					t.Errorf("smoothed %s, want nothing", r.u.SRTT())
				}
			})
		})
	}
}

// TestLoss holds that losses make an upstream look farther, and that failures which are no replies do not make it look nearer.
func TestLoss(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.ask(50, outcome.OK, 20*ms)
		before := r.u.Expected()
		for range 10 {
			r.start(0, never, new(Attempt), nil)
			r.ask(3, outcome.OK, 20*ms)
			time.Sleep(200 * ms)
		}
		s := r.u.Snapshot()
		if s.Loss < 0.1 || s.Loss > 0.5 || r.u.Expected() <= before {
			t.Errorf("loss %v, expected %s (%s before)", s.Loss, r.u.Expected(), before)
		}
		r.ask(100, outcome.OK, 20*ms)
		if s := r.u.Snapshot(); s.Loss > 0.02 {
			t.Errorf("loss %v after a hundred replies", s.Loss)
		}
		at := r.u.Expected()
		r.ask(4, outcome.ServFail, ms)
		r.ask(4, outcome.Refused, ms)
		r.ask(4, outcome.Local, 0)
		if d := r.u.Expected(); d != at {
			t.Errorf("expected %s after quick failures, was %s", d, at)
		}
	})
}

// TestResult holds that an attempt has one result, with its own marks, unless it is abandoned.
func TestResult(t *testing.T) {
	for _, k := range []outcome.Kind{outcome.OK, outcome.NXDomain, outcome.ServFail, outcome.ConnRefused, outcome.Local, outcome.Mismatched} {
		inBubble(t, nil, func(t *testing.T, r *rig) {
			to := make(chan Result, 2)
			sent := time.Now()
			a := r.start(k, 10*ms, &Attempt{Index: 7, Trial: true}, to)
			time.Sleep(20 * ms)
			synctest.Wait()
			if len(to) != 1 {
				t.Fatalf("%s: %d results", k, len(to))
			}
			if got := <-to; got.Attempt != a || got.Reply.Kind != k || a.Upstream != r.u || a.Index != 7 || !a.Trial || !a.SentAt.Equal(sent) {
				t.Errorf("%s: %+v of %+v", k, got, a)
			}
			if r.counted(k) != 1 {
				t.Errorf("%s: counted %v", k, r.kinds)
			}
		})
	}
}

// TestLateResult holds that a reply after the read time-out still comes, and that the attempt is counted once.
func TestLateResult(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		to := make(chan Result, 2)
		r.start(outcome.OK, 3*time.Second, new(Attempt), to)
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if len(to) != 1 || r.counted(outcome.Timeout) != 1 || r.counted(outcome.OK) != 0 {
			t.Errorf("%d results, counted %v", len(to), r.kinds)
		}
		if d := r.u.SRTT(); d != 3*time.Second {
			t.Errorf("smoothed %s, want the late reply's time", d)
		}
	})
}

// TestWatchedToTheEnd holds that abandoned attempts blame and credit as others do, and that all of them end.
func TestWatchedToTheEnd(t *testing.T) {
	for name, tc := range map[string]struct {
		k     outcome.Kind
		after time.Duration
		want  State
		count outcome.Kind
		told  outcome.Kind // what is heard of the end
		early int          // how many have ended after 4 s
	}{
		"answered":           {outcome.OK, 20 * ms, Healthy, outcome.OK, outcome.OK, 5},
		"answered late":      {outcome.OK, 1500 * ms, Healthy, outcome.OK, outcome.OK, 5},
		"answered very late": {outcome.OK, 3 * time.Second, Healthy, outcome.Timeout, outcome.OK, 5},
		"refused":            {outcome.ConnRefused, ms, Ejected, outcome.ConnRefused, outcome.ConnRefused, 5},
		"silent":             {outcome.Unknown, never, Suspect, outcome.Timeout, outcome.Timeout, 0},
		"a local fault":      {outcome.Local, ms, Unknown, outcome.Local, outcome.Local, 5},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, r *rig) {
				to := make(chan Result, 10)
				var told atomic.Int64
				for range 5 {
					a := r.start(tc.k, tc.after, new(Attempt), to)
					a.Abandon(func(reply exchange.Reply) {
						if told.Add(1); reply.Kind != tc.told {
							t.Errorf("told of %s", reply.Kind)
						}
					})
				}
				if n := r.u.Snapshot().Outstanding; n != 5 {
					t.Errorf("%d outstanding, want 5", n)
				}
				time.Sleep(4 * time.Second)
				synctest.Wait()
				r.want(tc.want, name)
				if len(to) != 0 || int(told.Load()) != tc.early || r.counted(tc.count) != 5 {
					t.Errorf("%d results, told %d times, counted %v", len(to), told.Load(), r.kinds)
				}
				time.Sleep(2 * time.Second)
				synctest.Wait()
				if n := r.u.Snapshot().Outstanding; n != 0 || len(r.s.open) != 0 || told.Load() != 5 {
					t.Errorf("%d outstanding, %d exchanges open, want none; told %d times", n, len(r.s.open), told.Load())
				}
			})
		})
	}
}

// TestTold holds that each attempt is told of once: a query or a probe, waited for or not, that times out is a timeout whatever comes
// later, and what comes later is told of as late.
func TestTold(t *testing.T) {
	for name, tc := range map[string]struct {
		k     outcome.Kind
		after time.Duration
		want  End
		late  time.Duration // 0: not told of
	}{
		"answered":                {outcome.OK, 20 * ms, End{Kind: outcome.OK, RTT: 20 * ms}, 0},
		"overdue":                 {outcome.OK, 1900 * ms, End{Kind: outcome.OK, RTT: 1900 * ms}, 0},
		"in the last millisecond": {outcome.OK, 1999 * ms, End{Kind: outcome.OK, RTT: 1999 * ms}, 0},
		"late":                    {outcome.OK, 3 * time.Second, End{Kind: outcome.Timeout, Rcode: -1}, 3 * time.Second},
		"late, and a failure":     {outcome.ServFail, 3 * time.Second, End{Kind: outcome.Timeout, Rcode: -1}, 3 * time.Second},
		"broken late":             {outcome.ConnReset, 3 * time.Second, End{Kind: outcome.Timeout, Rcode: -1}, 0},
		"after its end":           {outcome.OK, 7 * time.Second, End{Kind: outcome.Timeout, Rcode: -1}, 0}, // the exchanger tells of that
		"never":                   {outcome.Unknown, never, End{Kind: outcome.Timeout, Rcode: -1}, 0},
		"no connection":           {outcome.ConnRefused, ms, End{Kind: outcome.ConnRefused, Rcode: -1}, 0},
	} {
		for how, start := range map[string]func(r *rig){
			"waited for": func(r *rig) { r.start(tc.k, tc.after, new(Attempt), make(chan Result, 1)) },
			"overtaken":  func(r *rig) { r.start(tc.k, tc.after, new(Attempt), make(chan Result, 1)).Abandon(nil) },
			"probe":      func(r *rig) { r.start(tc.k, tc.after, &Attempt{Probe: true}, nil) },
			"trial":      func(r *rig) { r.start(tc.k, tc.after, &Attempt{Trial: true}, nil) },
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				inBubble(t, nil, func(t *testing.T, r *rig) {
					start(r)
					time.Sleep(10 * time.Second)
					synctest.Wait()
					want := tc.want
					want.Probe = how == "probe"
					if len(r.ends) != 1 || r.ends[0] != want {
						t.Errorf("told %+v, want %+v", r.ends, want)
					}
					if wantLate := tc.late != 0; len(r.late) > 1 || (len(r.late) == 1) != wantLate || wantLate && r.late[0] != tc.late {
						t.Errorf("late %v, want %v", r.late, tc.late)
					}
				})
			})
		}
	}
}

// TestSentOf holds that an attempt knows how it went out.
func TestSentOf(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		for proto, a := range map[exchange.Proto]*Attempt{exchange.UDP: {}, exchange.TCP: {Options: exchange.Options{TCP: true}}} {
			r.start(outcome.OK, ms, a, nil)
			if sent, ok := a.Sent(); !ok || sent.ID != 7 || a.Proto() != proto {
				t.Errorf("sent %v, %+v by %s, want %s", ok, sent, a.Proto(), proto)
			}
		}
	})
}

// TestMerelySecond holds that an upstream whose replies always come second is not blamed.
func TestMerelySecond(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		for range 100 {
			r.start(outcome.OK, 40*ms, new(Attempt), make(chan Result, 1)).Abandon(nil)
			time.Sleep(50 * ms)
		}
		if r.want(Healthy, "second"); r.u.Snapshot().Loss > 0.01 {
			t.Errorf("%+v", r.u.Snapshot())
		}
	})
}

func TestClose(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.ask(1, outcome.OK, ms)
		to := make(chan Result, 100)
		told := 0
		for i := range 100 {
			if a := r.start(0, never, new(Attempt), to); i%2 == 0 {
				a.Abandon(func(reply exchange.Reply) {
					if told++; reply.Kind != outcome.Cancelled {
						t.Errorf("told of %s", reply.Kind)
					}
				})
			}
		}
		r.u.Close()
		synctest.Wait()
		r.want(Healthy, "closed")
		if n := r.u.Snapshot().Outstanding; n != 0 || len(to) != 50 || told != 50 || r.counted(outcome.Cancelled) != 100 {
			t.Errorf("%d outstanding, %d results, told %d times, counted %v", n, len(to), told, r.kinds)
		}
		if _, sent := r.start(0, never, new(Attempt), to).Sent(); sent {
			t.Error("sent after Close")
		}
		time.Sleep(time.Minute) // no timer is left that blames anybody
		r.want(Healthy, "long closed")
	})
}

func TestTrials(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		n := 0
		for range 1000 {
			if r.u.TryTrial(time.Now(), 100*ms) {
				n++
			}
			time.Sleep(ms)
		}
		if n != 10 {
			t.Errorf("%d trials in a second, want 10", n)
		}
	})
}

func TestHeard(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.ask(1, outcome.OK, 10*ms)
		begin := time.Now()
		time.Sleep(10 * ms)
		if r.u.Heard(begin) || !r.u.Heard(begin.Add(-ms)) || r.u.Stale(time.Now(), 10*ms) || !r.u.Stale(time.Now(), 9*ms) {
			t.Error("want the reply heard, and nothing since")
		}
		if r.probe(outcome.ServFail, ms); !r.u.Heard(begin) {
			t.Error("a reply to a probe was not heard")
		}
		if !r.u.Stale(time.Now(), 9*ms) {
			t.Error("a failure renews no estimate")
		}
		r.u.AskProbe()
		r.u.AskProbe()
		if !r.u.WantsProbe(time.Now()) || !r.u.Wanted() || r.wakes != 1 {
			t.Errorf("asked for a probe, woken %d times", r.wakes)
		}
		if r.u.Probed(); r.u.WantsProbe(time.Now()) {
			t.Error("a healthy upstream wants a probe")
		}
		r.start(0, never, new(Attempt), nil)
		time.Sleep(400 * ms)
		synctest.Wait()
		if !r.u.WantsProbe(time.Now()) || r.wakes < 2 {
			t.Error("want a probe after a query without a reply")
		}
	})
}

func TestSnapshot(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		begin := time.Now()
		r.ask(10, outcome.OK, 10*ms)
		time.Sleep(time.Second)
		r.refuse()
		r.start(0, never, new(Attempt), nil)
		got := r.u.Snapshot()
		if !got.Since.Equal(begin.Add(1100 * ms)) {
			t.Errorf("since %s", got.Since.Sub(begin))
		}
		got.Since, got.Until, got.LastReply, got.LateAfter = time.Time{}, time.Time{}, time.Time{}, 0 // see TestSnapshotTimes
		want := Snapshot{
			To: "192.0.2.1:53", Transport: "dns", State: "ejected", Reason: "conn_refused: 5 failures in a row",
			SRTT: 10 * ms, Expected: 10 * ms, Recent: 16, Outstanding: 1, Ejections: 1,
		}
		if got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}

// TestConcurrent sends from many goroutines to an upstream that does all kinds of things.
func TestConcurrent(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		const workers, each = 20, 100
		var wg sync.WaitGroup
		for w := range workers {
			rnd := rand.New(rand.NewPCG(uint64(w), 1))
			wg.Go(func() {
				for range each {
					after := time.Duration(rnd.IntN(3000)) * ms
					if rnd.IntN(10) == 0 {
						after = never
					}
					to := make(chan Result, 1)
					a := r.start(outcome.Kind(1+rnd.IntN(int(outcome.Count)-1)), after, &Attempt{Probe: rnd.IntN(10) == 0}, to)
					time.Sleep(time.Duration(rnd.IntN(100)) * ms)
					if rnd.IntN(2) == 0 {
						a.Abandon(nil)
					}
					_ = fmt.Sprint(r.u.State(), r.u.Snapshot(), r.u.WantsProbe(time.Now()), r.u.Dead(time.Now()))
				}
			})
		}
		wg.Wait()
		time.Sleep(6 * time.Second)
		synctest.Wait()
		total := 0
		for _, n := range r.kinds {
			total += n
		}
		if n := r.u.Snapshot().Outstanding; n != 0 || total != workers*each || len(r.s.open) != 0 {
			t.Errorf("%d outstanding, %d counted, %d open; want 0, %d, 0", n, total, len(r.s.open), workers*each)
		}
	})
}

// TestHeldUp holds that time in which this process did not run makes no
// attempt overdue: a sweep that comes late shows it.
func TestHeldUp(t *testing.T) {
	const held = 500 * ms
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.ask(20, outcome.OK, 20*ms)
		time.Sleep(time.Second) // the sweeps are over
		r.s.after = never
		since := time.Now()
		results := make(chan Result, suspectAfter)
		for range suspectAfter {
			r.u.Send(time.Now(), &exchange.Query{}, &Attempt{}, results)
		}
		r.u.mu.Lock()
		due := time.Duration(r.u.watched.at - r.u.since(since))
		r.u.watched.at -= int64(held)
		r.u.mu.Unlock()
		time.Sleep(due + held - ms)
		if s := r.u.State(); s != Healthy {
			t.Errorf("%s, though it was this process that did not run", s)
		}
		time.Sleep(sweepFresh)
		if s := r.u.State(); s != Suspect {
			t.Errorf("%s, though nothing came when it ran again", s)
		}
	})
}

// TestHeardSame holds that a reply by TCP is no sign that one by UDP will come, nor the reverse.
func TestHeardSame(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		for _, tcp := range []bool{false, true} {
			open := map[bool]*Attempt{}
			for _, by := range []bool{false, true} {
				open[by] = r.start(outcome.OK, never, &Attempt{Options: exchange.Options{TCP: by}}, make(chan Result, 1))
			}
			time.Sleep(ms)
			r.start(outcome.OK, ms, &Attempt{Options: exchange.Options{TCP: tcp}}, make(chan Result, 1))
			time.Sleep(2 * ms)
			if !r.u.HeardSame(open[tcp]) || r.u.HeardSame(open[!tcp]) {
				t.Errorf("a reply, by TCP: %t: %t for one sent so, %t for the other", tcp, r.u.HeardSame(open[tcp]), r.u.HeardSame(open[!tcp]))
			}
		}
	})
}
