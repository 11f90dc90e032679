package scenario

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// view is what a clause looks at: the queries and the sends of a time.
type view struct {
	world    *world
	results  []result
	from, to time.Duration
}

// view returns the window of step i, or else the last work done before or in
// it, and what was sent from then until the step ended.
func (w *world) view(i int) view {
	st := &w.scenario.steps[i]
	if st.to == 0 {
		e := w.episodes[i]
		return view{world: w, results: e.results, from: e.from, to: e.to}
	}
	v := view{world: w, from: st.from, to: st.to}
	for _, e := range w.episodes {
		if e.again {
			continue
		}
		for _, r := range e.results {
			if r.at >= st.from && r.at < st.to {
				v.results = append(v.results, r)
			}
		}
	}
	return v
}

// check holds the clauses of the step against what happened.
func (w *world) check(t *testing.T, step int, healthy *world) {
	t.Helper()
	st := &w.scenario.steps[step]
	v := w.view(step)
	for i := range st.want {
		c := &st.want[i]
		q := quantities[c.quantity]
		if q.word {
			if got := q.text(v, c); !matches(got, c.bound.word) {
				t.Errorf("%s: expected %s; got %s%s", st.where, c.text, got, v.where())
			}
			continue
		}
		got := q.number(v, c)
		base := 0.0
		if c.bound.healthy != 0 {
			base = q.number(healthy.view(step), c)
		}
		line := fmt.Sprintf("%s: %s: got %s", st.where, c.text, q.format(got))
		if c.bound.healthy != 0 {
			line += fmt.Sprintf(" (healthy %s)", q.format(base))
		}
		if !c.holds(got, base) {
			t.Errorf("%s%s", line, v.where())
		} else if testing.Verbose() {
			t.Log(line)
		}
	}
}

// where tells of some of the queries that went wrong, and what was sent for
// them, for people.
func (v view) where() string {
	var b strings.Builder
	n := 0
	for _, r := range v.results {
		if r.right {
			continue
		}
		if n++; n <= 3 {
			fmt.Fprintf(&b, "\n\tat %v after %v: %s rcode %d, tc %v, ede %v, %d replies%s", r.at, r.took, r.name, r.rcode, r.tc, r.ede, r.replies, v.trace(r))
		}
	}
	if n > 3 {
		fmt.Fprintf(&b, "\n\tand %d more of %d", n-3, len(v.results))
	}
	return b.String()
}

// trace is what upstreams received for a query, in the order of time.
func (v view) trace(r result) string {
	type sent struct {
		after time.Duration
		to    string
	}
	var all []sent
	for addr, server := range v.world.servers {
		for _, rec := range server.Log() {
			if rec.At >= r.at && rec.At <= r.at+r.took && strings.EqualFold(rec.Question.Name, r.name) {
				all = append(all, sent{rec.At - r.at, addr + "/" + string(rec.Proto)})
			}
		}
	}
	slices.SortFunc(all, func(a, b sent) int { return cmp.Compare(a.after, b.after) })
	var out strings.Builder
	for _, s := range all {
		fmt.Fprintf(&out, "; to %s after %v", s.to, s.after)
	}
	return out.String()
}

// matches compares words; a|b means either, and any everything but none.
func matches(got, want string) bool {
	if want == "any" {
		return got != "" && !strings.Contains(got, "none")
	}
	for w := range strings.SplitSeq(want, "|") {
		if got == w {
			return true
		}
	}
	return false
}
