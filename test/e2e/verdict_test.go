package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// verdict is what is wrong in one try, and whether the machine may be why.
type verdict struct {
	problems  []string
	soft      []string // those that a busy machine can bring about: late lookups, queries sent again because of them
	stalled   bool     // it did not answer at all for a while
	disturbed bool     // it was too busy for soft problems to count
}

func (v *verdict) errorf(format string, args ...any) {
	v.problems = append(v.problems, fmt.Sprintf(format, args...))
}

func (v *verdict) softf(format string, args ...any) {
	v.soft = append(v.soft, fmt.Sprintf(format, args...))
}

// right notes the wrong answers of a load.
func (v *verdict) right(when string, f figures) {
	v.stalled = v.stalled || f.stalled()
	if f.wrong > 0 {
		v.errorf("%s: %d of %d wrong: %s", when, f.wrong, f.total, f.why())
	}
}

// control takes notice of what became of lookups that nothing was wrong with,
// and which did not depend on the plugin.
func (v *verdict) control(f figures) {
	v.stalled = v.stalled || f.wrong > 0 || f.max > time.Second
	v.disturbed = v.disturbed || v.stalled || f.max > settlingMax || f.p99 > 5*roundTrip
}

// judged runs the test, and repeats it where it failed while the machine
// stalled, or has soft problems alone: they must be gone in one of the tries,
// unless the machine was seen to be busy, when they are but logged.
func judged(t *testing.T, test func(v *verdict)) {
	t.Helper()
	for try := 1; ; try++ {
		var v verdict
		test(&v)
		all := strings.Join(append(v.problems, v.soft...), "\n")
		switch {
		case all == "":
			return
		case try < tries && (v.stalled || len(v.problems) == 0):
			t.Logf("again. It was:\n%s", all)
			continue
		case len(v.problems) == 0 && v.disturbed:
			t.Logf("the machine was busy all the time; no failures but:\n%s", all)
		default:
			t.Error(all)
		}
		return
	}
}
