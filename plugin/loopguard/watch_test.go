package loopguard

import (
	"testing"
	"time"
)

var origin = time.Unix(1e9, 0)

func at(s float64) time.Time { return origin.Add(time.Duration(s * float64(time.Second))) }

// taken sends what is due at an instant, and fails where nothing is.
func taken(t *testing.T, w *Watch, now time.Time) {
	t.Helper()
	if !w.Take(now, 0) {
		t.Fatalf("nothing is due %v after the beginning; due %v", now.Sub(origin), w.Due().Sub(origin))
	}
}

// wantDue holds when the next probe is due; negative: not without a reason.
func wantDue(t *testing.T, w *Watch, s float64) {
	t.Helper()
	switch due := w.Due(); {
	case s < 0 && !due.IsZero(), s >= 0 && !due.Equal(at(s)):
		t.Errorf("due %v, want %v s", due.Sub(origin), s)
	}
}

// TestWatchRests follows an upstream that nothing is wrong with.
func TestWatchRests(t *testing.T) {
	w := NewWatch(at(0), time.Minute)
	for _, s := range []float64{0, 1, 4, 64, 124} {
		wantDue(t, w, s)
		if w.Take(at(s-0.001), 0) {
			t.Error("too early")
		}
		taken(t, w, at(s))
		if v := w.Ended(at(s+0.1), at(s), false); v != Unchanged {
			t.Errorf("%v", v)
		}
	}
	w.Take(at(184), 1)
	wantDue(t, w, 229) // a quarter sooner at the most
	public := NewWatch(at(0), 0)
	for _, s := range []float64{0, 1, 4} {
		taken(t, public, at(s))
	}
	wantDue(t, public, -1)
}

// TestWatchSuspects holds how soon a reason leads to a probe, and how often.
func TestWatchSuspects(t *testing.T) {
	settled := func(every time.Duration) *Watch {
		w := NewWatch(at(0), every)
		for _, s := range []float64{0, 1, 4} {
			taken(t, w, at(s))
		}
		return w
	}
	w := settled(time.Minute)
	if !w.Suspect(at(4.5), Returned) || w.Suspect(at(4.6), Returned) {
		t.Error("once is enough")
	}
	wantDue(t, w, 4.5)
	taken(t, w, at(4.5))
	for i, s := range []float64{4.6, 4.7, 5.7, 6.7} { // a few soon, and then one a second
		w.Suspect(at(4.51+float64(i)/100), Returned)
		wantDue(t, w, s)
		taken(t, w, at(s))
	}
	w.Suspect(at(17), Coincidence) // after a rest as at first
	wantDue(t, w, 17)
	public := settled(0)
	public.Suspect(at(4.5), Returned)
	wantDue(t, public, 5)
	early := NewWatch(at(0), time.Minute)
	taken(t, early, at(0))
	early.Suspect(at(0.01), Failure)
	wantDue(t, early, 0.1)
	taken(t, early, at(0.1))
	early.Suspect(at(0.15), Returned)
	wantDue(t, early, 0.2)
	for _, r := range []Reason{Returned, Changed} {
		w := settled(time.Minute)
		probes := 0
		for s := 10.0; s < 110; s += 0.1 {
			w.Suspect(at(s), r)
			if w.Take(at(s), 0) {
				probes++
			}
		}
		if probes < 90 || probes > 104 {
			t.Errorf("%v: %d probes in 100 s", r, probes)
		}
	}
	for _, every := range []time.Duration{100 * time.Millisecond, 1100 * time.Millisecond, 2 * time.Second, 5 * time.Second} { // however often there is a weak one
		w := settled(time.Minute)
		probes := 0
		for s := 10.0; s < 610; s += every.Seconds() {
			w.Suspect(at(s), Failure)
			if w.Take(at(s), 0) {
				probes++
				w.Ended(at(s), at(s), false)
			}
		}
		if probes < 10 || probes > 25 {
			t.Errorf("SERVFAIL every %v: %d probes in 10 minutes", every, probes)
		}
	}
	for _, divided := range []bool{false, true} { // a zone that comes back, and servers some of which lead back
		w := settled(time.Minute)
		probes := 0
		for s := 10.0; s < 610; s += 0.1 {
			w.Suspect(at(s), Returned)
			if !w.Take(at(s), 0) {
				continue
			}
			probes++
			if divided {
				w.Divided(at(s), at(s))
			} else {
				w.Ended(at(s), at(s), false)
			}
		}
		if want := map[bool]int{false: 50, true: 545}[divided]; probes < want-5 || probes > want+60 {
			t.Errorf("divided %t: %d probes in 10 minutes, want some %d", divided, probes, want)
		}
	}
	for every, want := range map[time.Duration][2]int{time.Minute: {24, 34}, 0: {6, 9}} {
		w := settled(every)
		probes := 0
		for s := 10.0; s < 110; s += 0.1 {
			w.Suspect(at(s), Silence)
			w.Suspect(at(s), Failure)
			if w.Take(at(s), 0) {
				probes++
			}
		}
		if probes < want[0] || probes > want[1] {
			t.Errorf("every %v: %d probes in 100 s of silence, want %v", every, probes, want)
		}
		w.Take(at(999), 0)
		w.Suspect(at(2000), Silence) // after a long rest at once
		if due := w.Due(); due.After(at(2000)) {
			t.Errorf("due %v", due.Sub(origin))
		}
	}
}

// TestWatchLoops follows a loop: its end is noticed within 30 s, whether probes are answered or time out after 4 s.
func TestWatchLoops(t *testing.T) {
	for _, lasts := range []float64{0.5, 3, 10, 100, 1000} {
		for _, patience := range []float64{0.001, 4} {
			w := NewWatch(at(0), time.Minute)
			taken(t, w, at(0))
			if v := w.CameBack(at(0.001)); v != Begins || w.CameBack(at(0.002)) != Unchanged {
				t.Fatalf("%v", v)
			}
			if w.Suspect(at(0.1), Returned) {
				t.Error("a loop that is known is suspected")
			}
			var ends []float64 // of probes under way that do not come back
			for s := 0.01; ; s += 0.01 {
				if s > lasts+30 {
					t.Fatalf("a loop of %v s has not ended %v s later", lasts, s-lasts)
				}
				if w.Take(at(s), 0) {
					if s < lasts {
						w.CameBack(at(s))
					} else {
						ends = append(ends, s+patience)
					}
				}
				if len(ends) == 0 || s < ends[0] {
					continue
				}
				sent := ends[0] - patience
				ends = ends[1:]
				if w.Ended(at(s), at(sent), false) == Ends {
					break
				}
			}
			if looping, _ := w.Looping(); looping {
				t.Error("looping")
			}
		}
	}
}

// TestWatchLoopsOn holds that one probe that is lost does not end a loop.
func TestWatchLoopsOn(t *testing.T) {
	w := NewWatch(at(0), 0)
	taken(t, w, at(0))
	w.CameBack(at(0))
	for range 100 {
		for _, back := range []bool{false, true} {
			due := w.Due()
			taken(t, w, due)
			if back {
				w.CameBack(due)
			} else if w.Ended(due, due, false) != Unchanged {
				t.Fatal("ended")
			}
		}
	}
	if looping, since := w.Looping(); !looping || !since.Equal(at(0)) {
		t.Errorf("%v since %v", looping, since)
	}
}

// TestWatchCertain holds that one probe ends a loop where it is certain that it did not come back.
func TestWatchCertain(t *testing.T) {
	w := NewWatch(at(0), 0)
	w.CameBack(at(0))
	if v := w.Ended(at(1), at(0.5), true); v != Ends {
		t.Errorf("%v", v)
	}
}

// TestWatchEarlier holds that probes which were sent before one came back do not end a loop.
func TestWatchEarlier(t *testing.T) {
	w := NewWatch(at(0), 0)
	w.CameBack(at(1))
	w.CameBack(at(3))
	for _, sent := range []float64{0, 0.3, 2.9} {
		if v := w.Ended(at(4), at(sent), true); v != Unchanged {
			t.Errorf("sent at %v: %v", sent, v)
		}
	}
	if v := w.Ended(at(4), at(3), true); v != Ends {
		t.Errorf("%v", v)
	}
}

// TestWatchWeak holds that what is there for ever, and no loop, costs a probe a minute in the end; and that it is at once after a rest.
func TestWatchWeak(t *testing.T) {
	for _, r := range []Reason{Failure, Coincidence} {
		w := NewWatch(at(0), 0)
		for _, s := range []float64{0, 1, 4} {
			taken(t, w, at(s))
		}
		probes := 0
		for s := 10.0; s < 3610; s++ {
			w.Suspect(at(s), r)
			if w.Take(at(s), 0) {
				probes++
			}
		}
		if probes < 60 || probes > 67 {
			t.Errorf("%v: %d probes in an hour", r, probes)
		}
		w.Take(at(3800), 0)
		w.Suspect(at(4000), r)
		wantDue(t, w, 4000)
	}
}

func TestRate(t *testing.T) {
	r := NewRate(10)
	done := 0
	for s := 0.0; s < 10; s += 0.01 {
		if r.Take(at(s)) {
			done++
		}
	}
	if done < 100 || done > 111 {
		t.Errorf("%d in 10 s", done)
	}
	if r.Take(at(5)) { // the clock of another goroutine may lag
		t.Error("an instant that is past gave more")
	}
}
