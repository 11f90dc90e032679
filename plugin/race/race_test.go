package race

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

const ms = time.Millisecond

// event is a call of a contest's method, with the time since the start.
type event struct {
	at     time.Duration
	result string // "" for Due
}

// contest is over with a result of this name, or at the last due time.
type contest struct {
	start time.Time
	over  string
	due   []time.Duration
	seen  []event
}

func (c *contest) Result(now time.Time, r string) bool {
	c.seen = append(c.seen, event{now.Sub(c.start), r})
	return r == c.over
}

func (c *contest) Due(now time.Time) bool {
	c.seen = append(c.seen, event{now.Sub(c.start), ""})
	c.due = c.due[1:]
	return len(c.due) == 0
}

func (c *contest) Next() time.Time { return c.start.Add(c.due[0]) }

func TestRun(t *testing.T) {
	gone := errors.New("client is gone")
	for name, tc := range map[string]struct {
		due     []time.Duration
		results []event // when they come
		cancel  time.Duration
		stop    time.Duration
		want    []event
		err     error
	}{
		"first result":            {[]time.Duration{time.Second}, []event{{5 * ms, "won"}}, 0, 0, []event{{5 * ms, "won"}}, nil},
		"results in their order":  {[]time.Duration{time.Second}, []event{{5 * ms, "a"}, {7 * ms, "b"}, {9 * ms, "won"}, {11 * ms, "c"}}, 0, 0, []event{{5 * ms, "a"}, {7 * ms, "b"}, {9 * ms, "won"}}, nil},
		"due between results":     {[]time.Duration{6 * ms, time.Second}, []event{{5 * ms, "a"}, {9 * ms, "won"}}, 0, 0, []event{{5 * ms, "a"}, {6 * ms, ""}, {9 * ms, "won"}}, nil},
		"due ends it":             {[]time.Duration{10 * ms, 30 * ms}, []event{{20 * ms, "a"}, {40 * ms, "won"}}, 0, 0, []event{{10 * ms, ""}, {20 * ms, "a"}, {30 * ms, ""}}, nil},
		"due at once":             {[]time.Duration{-ms, 10 * ms}, []event{{5 * ms, "won"}}, 0, 0, []event{{0, ""}, {5 * ms, "won"}}, nil},
		"held up":                 {[]time.Duration{-20 * ms, 10 * ms}, []event{{3 * ms, "won"}}, 0, 0, []event{{3 * ms, "won"}}, nil},
		"held up, and silence":    {[]time.Duration{-20 * ms, 8 * ms, 30 * ms}, []event{{2 * ms, "a"}, {20 * ms, "won"}}, 0, 0, []event{{2 * ms, "a"}, {5 * ms, ""}, {8 * ms, ""}, {20 * ms, "won"}}, nil},
		"context ends":            {[]time.Duration{6 * ms, time.Second}, []event{{5 * ms, "a"}, {9 * ms, "won"}}, 8 * ms, 0, []event{{5 * ms, "a"}, {6 * ms, ""}}, gone},
		"context has ended":       {[]time.Duration{6 * ms}, nil, -1, 0, nil, gone},
		"stopped":                 {[]time.Duration{6 * ms, time.Second}, []event{{5 * ms, "a"}, {9 * ms, "won"}}, 0, 8 * ms, []event{{5 * ms, "a"}, {6 * ms, ""}}, ErrStopped},
		"results wait for nobody": {[]time.Duration{time.Second}, []event{{0, "a"}, {0, "won"}}, 0, 0, []event{{0, "a"}, {0, "won"}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				switch {
				case tc.cancel < 0:
					cancel(gone)
				case tc.cancel > 0:
					time.AfterFunc(tc.cancel, func() { cancel(gone) })
				}
				stop := make(chan struct{})
				if tc.stop > 0 {
					time.AfterFunc(tc.stop, func() { close(stop) })
				}
				results := make(chan string, len(tc.results))
				for _, r := range tc.results {
					if r.at == 0 {
						results <- r.result
						continue
					}
					time.AfterFunc(r.at, func() { results <- r.result })
				}
				c := &contest{start: time.Now(), over: "won", due: tc.due}
				timer := time.NewTimer(time.Hour)
				if err := Run(ctx, c, results, timer, c.start, stop); !errors.Is(err, tc.err) || !slices.Equal(c.seen, tc.want) {
					t.Errorf("%v, %v, want %v, %v", c.seen, err, tc.want, tc.err)
				}
				if timer.Stop() {
					t.Error("the timer still runs")
				}
			})
		})
	}
}

// TestRunAgain holds that a timer serves one race after another, though the last ended with it running.
func TestRunAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		timer, results := time.NewTimer(0), make(chan string, 1)
		for range 3 {
			results <- "won"
			c := &contest{start: time.Now(), over: "won", due: []time.Duration{10 * ms}}
			if err := Run(t.Context(), c, results, timer, c.start, nil); err != nil || len(c.seen) != 1 {
				t.Fatalf("%v, %v", c.seen, err)
			}
			time.Sleep(20 * ms) // past the instant that was due
		}
	})
}
