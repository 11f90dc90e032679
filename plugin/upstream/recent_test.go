package upstream

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
)

func TestRecentCount(t *testing.T) {
	for name, tc := range map[string]struct {
		adds []time.Duration // ten each
		at   time.Duration
		want int
	}{
		"nothing":                              {nil, time.Hour, 0},
		"at once":                              {[]time.Duration{0}, 0, 10},
		"the end of the first window":          {[]time.Duration{time.Second}, 59 * time.Second, 10},
		"half of the window before":            {[]time.Duration{time.Second}, 90 * time.Second, 5},
		"the window before and this one":       {[]time.Duration{time.Second, 61 * time.Second}, 75 * time.Second, 18},
		"two windows later":                    {[]time.Duration{time.Second}, 2 * time.Minute, 0},
		"an hour later":                        {[]time.Duration{time.Second, time.Minute}, time.Hour, 0},
		"after a long pause":                   {[]time.Duration{time.Second, time.Hour}, time.Hour + time.Second, 10},
		"an instant before the last":           {[]time.Duration{61 * time.Second, 59 * time.Second}, 61 * time.Second, 20},
		"read before the window that it is in": {[]time.Duration{61 * time.Second}, 59 * time.Second, 10},
	} {
		var r recent
		for _, at := range tc.adds {
			for range 10 {
				r.add(int64(at))
			}
		}
		before := r
		if got := r.count(int64(tc.at)); got != tc.want {
			t.Errorf("%s: %d, want %d", name, got, tc.want)
		}
		if r != before {
			t.Errorf("%s: reading changed it", name)
		}
	}
}

// TestSnapshotRecent holds what is counted as an attempt.
func TestSnapshotRecent(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.ask(7, outcome.OK, 10*ms)
		r.ask(2, outcome.ServFail, 10*ms)
		r.probe(outcome.OK, 10*ms)
		r.start(outcome.OK, 0, &Attempt{Trial: true}, nil)
		r.miss(1)
		if got := r.u.Snapshot().Recent; got != 11 {
			t.Errorf("%d attempts, want 11: no probe", got)
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if got := r.u.Snapshot().Recent; got != 0 {
			t.Errorf("%d attempts three minutes later", got)
		}
	})
}

// TestSnapshotTimes holds what a snapshot tells of instants.
func TestSnapshotTimes(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		began := time.Now()
		if s := r.u.Snapshot(); !s.Since.Equal(began) || !s.LastReply.IsZero() || !s.Until.IsZero() {
			t.Errorf("new: since %v, last reply %v, until %v", s.Since, s.LastReply, s.Until)
		}
		r.ask(1, outcome.OK, 10*ms)
		if s := r.u.Snapshot(); !s.Since.Equal(began.Add(10*ms)) || !s.LastReply.Equal(began.Add(10*ms)) {
			t.Errorf("healthy: since %v, last reply %v", s.Since.Sub(began), s.LastReply.Sub(began))
		}
		time.Sleep(time.Second)
		r.refuse()
		out := time.Now()
		if s := r.u.Snapshot(); s.State != "ejected" || !s.Since.Equal(out) || !s.Until.Equal(out.Add(time.Second)) || !s.LastReply.Equal(began.Add(10*ms)) {
			t.Errorf("%s since %v until %v, last reply %v", s.State, s.Since.Sub(out), s.Until.Sub(out), s.LastReply.Sub(began))
		}
		time.Sleep(time.Second)
		if s := r.u.Snapshot(); s.State != "ejected" || !s.Until.IsZero() {
			t.Errorf("%s until %v, when the way back is open", s.State, s.Until.Sub(out))
		}
	})
}

// TestSnapshotWays holds that a snapshot tells which ways are left out.
func TestSnapshotWays(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		if s := r.u.Snapshot(); s.NoEDNS || s.NoUDP || s.NoTCP {
			t.Errorf("%+v", s)
		}
		r.u.AvoidEDNS(time.Now(), time.Minute)
		r.u.AvoidUDP(time.Now(), time.Minute)
		r.start(outcome.ConnRefused, 0, &Attempt{Options: exchange.Options{TCP: true}}, nil)
		time.Sleep(time.Second)
		if s := r.u.Snapshot(); !s.NoEDNS || !s.NoUDP || s.NoTCP {
			t.Errorf("%+v, want no EDNS and no UDP; TCP is the only way", s)
		}
		time.Sleep(time.Minute)
		if s := r.u.Snapshot(); s.NoEDNS || s.NoUDP {
			t.Errorf("a minute later: %+v", s)
		}
	})
}

// TestSnapshotInherited holds that whoever takes an upstream's place tells the same.
func TestSnapshotInherited(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.ask(7, outcome.OK, 10*ms)
		time.Sleep(time.Second)
		r.refuse()
		time.Sleep(100 * ms)
		cfg := r.u.cfg
		cfg.Predecessor = r.u
		heir := New(cfg, time.Now())
		if got, want := heir.Snapshot(), r.u.Snapshot(); got != want || got.Recent != 12 {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}
