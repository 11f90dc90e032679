package dnsguard

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/upstream"
)

// TestStateLog holds which changes have a line, and what it says.
func TestStateLog(t *testing.T) {
	type change struct {
		at  time.Duration
		to  string
		now upstream.State
	}
	const one, two = "192.0.2.1:53", "192.0.2.2:53"
	suspect := "W upstream " + one + " is suspect: why; last reply 50ms ago"
	ejected := "W upstream " + one + " is ejected for 2s: why; last reply 50ms ago"
	healthy := "I upstream " + one + " is healthy again after 3s"
	for name, tc := range map[string]struct {
		changes []change
		want    []string
	}{
		"healthy at first":        {[]change{{0, one, upstream.Healthy}}, nil},
		"suspect":                 {[]change{{0, one, upstream.Suspect}}, []string{suspect}},
		"ejected":                 {[]change{{0, one, upstream.Ejected}}, []string{ejected}},
		"half-open":               {[]change{{0, one, upstream.Ejected}, {time.Minute, one, upstream.HalfOpen}}, []string{ejected}},
		"there and back":          {[]change{{0, one, upstream.Suspect}, {3 * time.Second, one, upstream.Healthy}}, []string{suspect, healthy}},
		"worse":                   {[]change{{0, one, upstream.Suspect}, {4 * time.Second, one, upstream.Ejected}}, []string{suspect, ejected}},
		"two upstreams":           {[]change{{0, one, upstream.Suspect}, {0, two, upstream.Suspect}}, []string{suspect, strings.Replace(suspect, one, two, 1)}},
		"suspect again and again": {[]change{{0, one, upstream.Suspect}, {time.Second, one, upstream.Suspect}, {29 * time.Second, one, upstream.Suspect}, {30 * time.Second, one, upstream.Suspect}}, []string{suspect, suspect + " (2 changes not logged)"}},
		"ejected again and again": {[]change{{0, one, upstream.Ejected}, {time.Second / 2, one, upstream.Ejected}, {time.Second, one, upstream.Ejected}}, []string{ejected, ejected + " (1 changes not logged)"}},
	} {
		var got []string
		l := newStateLog(func(level Level, format string, args ...any) {
			got = append(got, string("IW"[level])+" "+fmt.Sprintf(format, args...))
		})
		start := time.Now()
		for _, c := range tc.changes {
			l.state(start.Add(c.at), upstream.Change{
				To: c.to, Now: c.now, Kind: outcome.Timeout, Reason: "why", For: 2 * time.Second, Lasted: 3 * time.Second, Silence: 50 * time.Millisecond,
			})
		}
		if strings.Join(got, "\n") != strings.Join(tc.want, "\n") {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

func TestStateLogNever(t *testing.T) {
	var line string
	l := newStateLog(func(_ Level, format string, args ...any) { line = fmt.Sprintf(format, args...) })
	l.state(time.Now(), upstream.Change{To: "192.0.2.1:53", Now: upstream.Ejected, Reason: "100% lost", For: time.Second})
	if want := "upstream 192.0.2.1:53 is ejected for 1s: 100% lost; last reply never"; line != want {
		t.Errorf("%q, want %q", line, want)
	}
}

// TestLocalLog holds that faults of this host have a line, and seldom one.
func TestLocalLog(t *testing.T) {
	var got []string
	l := newStateLog(func(level Level, format string, args ...any) {
		got = append(got, string("IW"[level])+" "+fmt.Sprintf(format, args...))
	})
	start := time.Now()
	for i := range 200 { // for 40 s
		l.local(start.Add(time.Duration(i)*200*time.Millisecond), errors.New("udp 192.0.2.1:53: too many open files"))
	}
	line := "W a fault of this host, for which no upstream is blamed: udp 192.0.2.1:53: too many open files"
	if want := []string{line, line + " (149 more before)"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestStateLogIsQuiet holds the number of lines of an upstream that is in trouble all the time, and that the last of them says how it is.
func TestStateLogIsQuiet(t *testing.T) {
	var mu sync.Mutex
	lines := 0
	var last string
	l := newStateLog(func(_ Level, format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		lines++
		last = fmt.Sprintf(format, args...)
	})
	start := time.Now()
	at := start
	for at.Sub(start) < 10*time.Minute {
		for _, s := range []upstream.State{upstream.Suspect, upstream.HalfOpen, upstream.Suspect, upstream.Healthy} {
			l.state(at, upstream.Change{To: "192.0.2.1:53", Now: s})
			at = at.Add(50 * time.Millisecond)
		}
	}
	if lines > 45 || lines < 20 {
		t.Errorf("%d lines in ten minutes of flapping", lines)
	}
	l.state(at.Add(time.Minute), upstream.Change{To: "192.0.2.1:53", Now: upstream.Suspect})
	l.state(at.Add(2*time.Minute), upstream.Change{To: "192.0.2.1:53", Now: upstream.Healthy})
	if !strings.Contains(last, "healthy again") {
		t.Errorf("the last line is %q", last)
	}
}

// TestLoopLog holds that a loop is told of whatever has been told before, with its end, and seldom where it flaps.
func TestLoopLog(t *testing.T) {
	var got []string
	l := newStateLog(func(level Level, format string, args ...any) {
		got = append(got, string("IW"[level])+" "+fmt.Sprintf(format, args...))
	})
	const to = "192.0.2.1:53"
	start := time.Now()
	at := func(s int, from, now upstream.State) {
		l.state(start.Add(time.Duration(s)*time.Second), upstream.Change{To: to, From: from, Now: now, Reason: "why", Lasted: 3 * time.Second})
	}
	at(0, upstream.Unknown, upstream.Suspect)
	for s := 0; s < 60; s += 6 {
		at(s, upstream.Suspect, upstream.Looping)
		at(s+3, upstream.Looping, upstream.HalfOpen)
	}
	begins, ends := "W upstream "+to+" is out, because queries to it come back: why", "I queries to upstream "+to+" do not come back any more, after 3s"
	if want := []string{"W upstream " + to + " is suspect: why; last reply never", begins, ends, begins, ends}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
