package e2e

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// figures are what one load came to.
type figures struct {
	scenario string
	server   string // the directive, and a word on the load
	total    int
	wrong    int // answers that no client can use
	kind     int // denials of the wrong kind, but no worse
	reasons  map[string]int

	p50First time.Duration // of the questions asked for the first time, which no cache hides
	p50      time.Duration
	p99      time.Duration
	max      time.Duration
	// control is the same of a thin load from the client to the good upstream
	// itself at the same time: what the machine adds, busy as it is.
	control, controlWrong  int
	controlP99, controlMax time.Duration

	misses   float64 // queries that reached the plugin
	upstream int64   // queries that it sent upstream
	each     []int64 // to each of the upstreams, in the order of resolv.conf
	cpu      time.Duration
}

func (f figures) perQuery() float64 {
	if f.misses == 0 {
		return 0
	}
	return float64(f.upstream) / f.misses
}

// disturbed reports whether the machine was too busy for the times and the
// number of queries to say anything about the server.
func (f figures) disturbed() bool { return f.controlP99 > 5*roundTrip || f.stalled() }

// stalled reports whether it was so busy that answers went missing. Less is
// no excuse for a wrong answer.
func (f figures) stalled() bool { return f.controlWrong > 0 || f.controlMax > time.Second }

// measure sums the answers up.
func measure(questions []question, answers []answer) figures {
	f := figures{total: len(answers), reasons: make(map[string]int)}
	var all, first []time.Duration
	for i, a := range answers {
		all = append(all, a.took)
		if !questions[i].again {
			first = append(first, a.took)
		}
		switch {
		case a.kind:
			f.kind++
		case a.wrong != "":
			f.wrong++
		default:
			continue
		}
		f.reasons[a.wrong]++
	}
	f.p50First = quantile(first, 0.5)
	f.p50, f.p99, f.max = quantile(all, 0.5), quantile(all, 0.99), quantile(all, 1)
	return f
}

// quantile is by the nearest rank. It sorts the times.
func quantile(times []time.Duration, q float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return times[min(len(times)-1, int(q*float64(len(times))))]
}

// why lists the commonest reasons for wrong answers.
func (f figures) why() string {
	keys := slices.SortedFunc(maps.Keys(f.reasons), func(a, b string) int { return cmp.Compare(f.reasons[b], f.reasons[a]) })
	var out []string
	for _, k := range keys[:min(4, len(keys))] {
		out = append(out, fmt.Sprintf("%s x %d", k, f.reasons[k]))
	}
	return strings.Join(out, ", ")
}

// table prints figures side by side.
type table struct {
	mu   sync.Mutex
	rows []figures
}

// summary has the rows of all tests.
var summary table

func (t *table) add(f figures) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows = append(t.rows, f)
}

func (t *table) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.rows) == 0 {
		return ""
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "scenario\tserver\tlookups\twrong\tkind\tp50 first\tp50\tp99\tmax\tcontrol p99, max\tupstream/query\tcpu/lookup\twhy")
	ms := func(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d)/1e6) }
	for _, f := range t.rows {
		per := "-"
		if f.misses > 0 {
			per = fmt.Sprintf("%.3f %v", f.perQuery(), f.each)
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%d us\t%s\n", f.scenario, f.server, f.total, f.wrong, f.kind,
			ms(f.p50First), ms(f.p50), ms(f.p99), ms(f.max), ms(f.controlP99)+", "+ms(f.controlMax), per, f.cpu.Microseconds()/int64(max(1, f.total)), f.why())
	}
	w.Flush()
	return b.String()
}
