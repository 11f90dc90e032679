package observe

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// TestSilence: an upstream that does not reply goes the way it goes with a
// guard, each attempt is counted once, and queries are what brings it back.
func TestSilence(t *testing.T) {
	bubble(t, 2, func(t *testing.T, r *rig) {
		const n = 8
		for i := range n {
			r.ask(fmt.Sprintf("n%d.example.org.", i), "", step{1, outcome.Timeout, readTimeout}, step{0, outcome.OK, 10 * ms})
		}
		pause(time.Second)
		if got := r.state(1); got != "ejected" {
			t.Fatalf("%s after %d attempts without a reply", got, n)
		}
		timeouts := 0
		for _, what := range r.heard() {
			if what == "1 timeout" {
				timeouts++
			}
		}
		if timeouts != n {
			t.Errorf("%d time-outs counted, want %d: %q", timeouts, n, r.heard())
		}
		if f := r.ask(name, "", step{1, outcome.OK, 10 * ms}); f.Verdict != OtherUpstream || f.By != 1 {
			t.Errorf("verdict %v on an answer of the one that is ejected", f.Verdict)
		}
		pause(time.Minute)
		for i := range 5 {
			r.ask(fmt.Sprintf("m%d.example.org.", i), "", step{1, outcome.OK, 10 * ms})
		}
		if got := r.state(1); got != "healthy" {
			t.Errorf("%s after it has answered", got)
		}
		if open := r.ups[1].Snapshot().Outstanding; open != 0 {
			t.Errorf("%d attempts are still watched", open)
		}
	})
}

// TestShortTimeout is about an attempt that ends before the time for a reply: connecting took too long.
func TestShortTimeout(t *testing.T) {
	bubble(t, 2, func(t *testing.T, r *rig) {
		r.ask(name, "", step{1, outcome.Timeout, readTimeout / 2})
		pause(10 * time.Second)
		if !slices.Equal(r.heard(), []string{"1 timeout"}) {
			t.Errorf("told %q", r.heard())
		}
	})
}

// TestLateTimeout is about attempts that end some time after the time for a
// reply, because connecting took time as well: each counts once.
func TestLateTimeout(t *testing.T) {
	for late := 10 * ms; late < 300*ms; late += 10 * ms {
		bubble(t, 2, func(t *testing.T, r *rig) {
			for i := range 3 {
				r.ask(fmt.Sprintf("n%d.example.org.", i), "", step{1, outcome.Timeout, readTimeout + late})
			}
			if got := r.state(1); got != "suspect" {
				t.Errorf("%v: %s after 3 attempts without a reply", late, got)
			}
		})
	}
}

// TestSilentInZone is about an upstream that does not reply in one zone, where another answers.
func TestSilentInZone(t *testing.T) {
	bubble(t, 2, func(t *testing.T, r *rig) {
		for i := range 4 {
			r.ask(fmt.Sprintf("n%d.example.org.", i), "", step{1, outcome.Timeout, readTimeout}, step{0, outcome.OK, 10 * ms})
			for k := range 3 {
				r.ask(fmt.Sprintf("n%d-%d.example.com.", i, k), "", step{1, outcome.OK, 10 * ms})
			}
		}
		if got := r.state(1); got != "healthy" {
			t.Fatalf("it is %s", got)
		}
		for zone, want := range map[string]Verdict{"example.org.": OtherUpstream, "example.com.": Same} {
			if f := r.ask("last."+zone, "", step{1, outcome.OK, 10 * ms}); f.Verdict != want {
				t.Errorf("%s: %v, want %v", zone, f.Verdict, want)
			}
		}
	}, atRandom)
}

// TestContradictedFailure is about a server that says SERVFAIL, and others that answer the same questions a little later.
func TestContradictedFailure(t *testing.T) {
	for _, tc := range []struct {
		kind  outcome.Kind
		after time.Duration
		first bool // the failure comes first
		want  string
	}{
		{outcome.ServFail, 100 * ms, true, "ejected"},
		{outcome.ServFail, 100 * ms, false, "ejected"},
		{outcome.NotImp, time.Second, true, "ejected"},
		{outcome.FormErr, time.Second, false, "ejected"},
		{outcome.ServFail, 2 * time.Minute, true, "healthy"}, // it may have passed meanwhile
		{outcome.ServFail, 2 * time.Minute, false, "healthy"},
		{outcome.Refused, time.Second, true, "healthy"}, // a matter of zones
	} {
		t.Run(fmt.Sprint(tc.kind, tc.after, tc.first), func(t *testing.T) {
			bubble(t, 2, func(t *testing.T, r *rig) {
				for i := range 30 { // as many as it takes by the share of failures
					name := fmt.Sprintf("www.zone%d.example.", i)
					steps := []step{{1, tc.kind, 10 * ms}, {0, outcome.OK, 10 * ms}}
					if !tc.first {
						slices.Reverse(steps)
					}
					r.ask(name, "", steps[0])
					pause(tc.after)
					r.ask(name, "", steps[1])
				}
				if got := r.state(1); got != tc.want {
					t.Errorf("%s, want %s", got, tc.want)
				}
			})
		})
	}
}

// TestFailureOfAll: nobody is to blame for a name that all fail.
func TestFailureOfAll(t *testing.T) {
	bubble(t, 3, func(t *testing.T, r *rig) {
		for i := range 60 {
			r.ask(name, "", step{i % 3, outcome.ServFail, 10 * ms})
			pause(time.Second)
		}
		for i := range 3 {
			if got := r.state(i); got != "healthy" {
				t.Errorf("upstream %d is %s", i, got)
			}
		}
	})
}

// TestAgreement: names that do not exist need no check any more once each has
// denied some in the zone.
func TestAgreement(t *testing.T) {
	bubble(t, 3, func(t *testing.T, r *rig) {
		verified := func() (n int) {
			for i := range 300 {
				who := i % 3
				if i/30%2 == 1 {
					who = (i + 1) % 3
				}
				if f := r.ask(fmt.Sprintf("nx%d.example.org.", i%30), "example.org.", step{who, outcome.NXDomain, 10 * ms}); f.Verdict == Verified {
					n++
				} else if f.Verdict != Same {
					t.Fatalf("verdict %v", f.Verdict)
				}
			}
			return n
		}
		if first := verified(); first < 30 {
			t.Errorf("%d of the first 300 denials would have been checked", first)
		}
		verified()
		if n := verified(); n > 300/50+1 {
			t.Errorf("%d of 300 denials would still be checked", n)
		}
	})
}

// TestSplitHorizon: an internal server that denies public names, which an external one
// answers when its turn comes. Both are asked all names in turn, as forward does it.
func TestSplitHorizon(t *testing.T) {
	bubble(t, 2, func(t *testing.T, r *rig) {
		const internal, external = 0, 1
		run := func() map[Finding]int {
			got := make(map[Finding]int)
			for i := range 400 {
				zone, by := "example.org.", i/40%2
				knows := external
				if i%4 == 0 {
					zone, knows = "corp.example.", internal
				}
				k := outcome.NXDomain
				if by == knows {
					k = outcome.OK
				}
				got[r.ask(fmt.Sprintf("n%d.%s", i%40, zone), "", step{by, k, 10 * ms})]++
				pause(100 * ms)
			}
			return got
		}
		run()
		got := run()
		if got[Finding{Disputed, internal, outcome.NXDomain}] != 150 || got[Finding{Disputed, external, outcome.NXDomain}] != 50 {
			t.Errorf("once settled: %v", got)
		}
		if got[Finding{Same, internal, outcome.OK}] != 50 || got[Finding{Same, external, outcome.OK}] != 150 {
			t.Errorf("right answers: %v", got)
		}
		for i := range 2 {
			if s := r.state(i); s != "healthy" {
				t.Errorf("upstream %d is %s", i, s)
			}
		}
	})
}

// TestTypes: that a server has no data of a rare type says nothing of its zones.
func TestTypes(t *testing.T) {
	bubble(t, 2, func(t *testing.T, r *rig) {
		for i := range 20 {
			name := fmt.Sprintf("n%d.example.org.", i)
			r.askType(name, dns.TypeHTTPS, "", step{1, outcome.NoData, 10 * ms})
			r.askType(name, dns.TypeHTTPS, "", step{0, outcome.OK, 10 * ms})
			r.askType(name, dns.TypeHTTPS, "", step{1, outcome.NoData, 10 * ms})
		}
		if f := r.ask(name, "", step{1, outcome.OK, 10 * ms}); f.Verdict != Same {
			t.Errorf("address: %v", f.Verdict)
		}
		if f := r.askType(name, dns.TypeHTTPS, "", step{1, outcome.NoData, 10 * ms}); f.Verdict != Verified {
			t.Errorf("the type: %v", f.Verdict)
		}
	})
}

// TestFiltered: a denial that says that it filters is believed.
func TestFiltered(t *testing.T) {
	bubble(t, 2, func(t *testing.T, r *rig) {
		r.ask(name, "", step{0, outcome.OK, 10 * ms})
		q := r.model.Begin(time.Now(), Question{Name: name, Type: dns.TypeA})
		q.Sent(time.Now(), 1, false)
		q.Ended(time.Now(), filtered())
		if f := q.End(false); f.Verdict != Same {
			t.Errorf("%v", f.Verdict)
		}
	})
}

// TestMemory is about how long what was replied to a question counts.
func TestMemory(t *testing.T) {
	q := Question{Name: name, Type: dns.TypeA}
	now := time.Now()
	m := newMemory()
	m.answer(now, q, 0)
	for _, tc := range []struct {
		after time.Duration
		by    int
		want  bool
	}{{time.Second, 1, true}, {answersFor - 1, 1, true}, {answersFor, 1, false}} {
		if l := m.denial(now.Add(tc.after), q, tc.by, false); l.right != tc.want {
			t.Errorf("%v later: contradicted: %t", tc.after, l.right)
		}
	}
	if l := m.answer(now.Add(2*answersFor-1), q, 0); l.absent == 0 {
		t.Error("the denial is forgotten")
	}
	m.denial(now, Question{Name: other, Type: dns.TypeA}, 1, false)
	if l := m.answer(now.Add(answersFor), Question{Name: other, Type: dns.TypeA}, 0); l.absent != 0 {
		t.Error("the denial is not forgotten")
	}
	if l := m.answer(now, Question{Name: other, Type: dns.TypeAAAA}, 0); l.absent|l.noData != 0 {
		t.Error("of another type")
	}
}

// TestMemoryAgreement: each reply counts once towards an agreement.
func TestMemoryAgreement(t *testing.T) {
	q, now := Question{Name: name, Type: dns.TypeA}, time.Now()
	m := newMemory()
	for i, tc := range []struct {
		by     int
		agreed bool
	}{{0, false}, {0, false}, {1, true}, {1, false}, {1, false}, {0, true}, {2, true}, {2, false}} {
		if l := m.denial(now, q, tc.by, false); l.agreement != tc.agreed {
			t.Errorf("denial %d, by %d: agreement %t", i, tc.by, l.agreement)
		}
	}
}

// TestMemoryBound: it does not grow with the number of names.
func TestMemoryBound(t *testing.T) {
	m := newMemory()
	for i := range 3 * remembered {
		m.answer(time.Now(), Question{Name: fmt.Sprint(i)}, 0)
	}
	if n := m.cache.Len(); n != remembered {
		t.Errorf("%d questions, want %d", n, remembered)
	}
}
