package observe

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// TestSummary holds when there is a line, and what it says.
func TestSummary(t *testing.T) {
	type group struct {
		at time.Duration
		n  int
		to string
		f  Finding
	}
	const one, two = "192.0.2.1:53", "192.0.2.2:53"
	same := func(at time.Duration, n int) group {
		return group{at, n, one, Finding{Verdict: Same, Kind: outcome.OK}}
	}
	for title, tc := range map[string]struct {
		found []group
		want  []string
	}{
		"nothing":      {nil, nil},
		"all the same": {[]group{same(0, 10), same(time.Hour, 10)}, nil},
		"what no client notices": {[]group{
			{0, 5, one, Finding{Verdict: Verified, Kind: outcome.NXDomain}},
			{0, 5, one, Finding{Verdict: OtherUpstream, Kind: outcome.OK}},
			{0, 5, one, Finding{Verdict: Hedged, Kind: outcome.OK}},
			{0, 5, one, Finding{Verdict: Hopeless, Kind: outcome.ServFail}},
		}, nil},
		"refused": {
			[]group{same(0, 100), {time.Second, 2, one, Finding{Verdict: Retried, Kind: outcome.Refused}}, same(30*time.Second, 7)},
			[]string{"1m1s of 9 queries in 1m0s the guard would have gone on to another upstream after 2 failures (192.0.2.1:53: refused 2)"},
		},
		"all kinds": {
			[]group{
				{0, 1, two, Finding{Verdict: Hedged, Kind: outcome.Timeout}},
				{0, 3, one, Finding{Verdict: Hedged, Kind: outcome.OK}},
				{0, 2, one, Finding{Verdict: Retried, Kind: outcome.Refused}},
				{0, 2, two, Finding{Verdict: Retried, Kind: outcome.Refused}},
				{0, 5, one, Finding{Verdict: Retried, Kind: outcome.ServFail}},
				{0, 4, one, Finding{Verdict: Disputed, Kind: outcome.NXDomain}},
				{0, 1, "none", Finding{Verdict: Hopeless}},
			},
			[]string{"1m0s of 18 queries in 1m0s the guard would have " +
				"gone on to another upstream after 9 failures (192.0.2.1:53: servfail 5, 192.0.2.1:53: refused 2, 192.0.2.2:53: refused 2), " +
				"doubted 4 denials (192.0.2.1:53: nxdomain 4), " +
				"asked once more for 4 late replies (192.0.2.1:53: ok 3, 192.0.2.2:53: timeout 1); " +
				"1 more failed, and no other upstream was known to be better"},
		},
		"many upstreams": {
			[]group{
				{0, 9, "a", Finding{Verdict: Retried, Kind: outcome.Refused}},
				{0, 8, "b", Finding{Verdict: Retried, Kind: outcome.Refused}},
				{0, 7, "c", Finding{Verdict: Retried, Kind: outcome.Refused}},
				{0, 6, "d", Finding{Verdict: Retried, Kind: outcome.Refused}},
				{0, 5, "e", Finding{Verdict: Retried, Kind: outcome.Refused}},
			},
			[]string{"1m0s of 35 queries in 1m0s the guard would have gone on to another upstream after 35 failures (a: refused 9, b: refused 8, c: refused 7, d: refused 6, others)"},
		},
		"again": {
			[]group{
				{0, 1, one, Finding{Verdict: Retried, Kind: outcome.Refused}},
				same(10*time.Minute, 3),
				{20 * time.Minute, 1, one, Finding{Verdict: Disputed, Kind: outcome.NoData}},
			},
			[]string{
				"1m0s of 1 queries in 1m0s the guard would have gone on to another upstream after 1 failures (192.0.2.1:53: refused 1)",
				"21m0s of 1 queries in 1m0s the guard would have doubted 1 denials (192.0.2.1:53: nodata 1)",
			},
		},
	} {
		t.Run(title, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				var mu sync.Mutex
				var got []string
				s := NewSummary(func(line string) {
					mu.Lock()
					defer mu.Unlock()
					got = append(got, time.Since(start).String()+" "+line)
				}, nil)
				for _, g := range tc.found {
					time.Sleep(g.at - time.Since(start))
					for range g.n {
						s.Add(g.f, g.to)
					}
				}
				time.Sleep(2 * SummaryEvery)
				s.Flush()
				synctest.Wait()
				if !slices.Equal(got, tc.want) {
					t.Errorf("got  %q\nwant %q", got, tc.want)
				}
			})
		})
	}
}

// TestSummaryFlush: what has been collected is told at the end, once.
func TestSummaryFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines := 0
		s := NewSummary(func(string) { lines++ }, nil)
		s.Add(Finding{Verdict: Retried, Kind: outcome.Refused}, "192.0.2.1:53")
		time.Sleep(time.Second)
		s.Flush()
		if lines != 1 {
			t.Errorf("%d lines at the end", lines)
		}
		time.Sleep(2 * SummaryEvery)
		s.Flush()
		synctest.Wait()
		if lines != 1 {
			t.Errorf("%d lines later", lines)
		}
	})
}
