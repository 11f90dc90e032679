package e2e

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// loopFigures are those of all hops, for the table.
var loopFigures hopFigures

type hopFigures struct {
	mu sync.Mutex
	m  map[*hop]*hopRow
}

// hopRow is what became of loops through one hop.
type hopRow struct {
	stock   *storm
	guarded []*guarded
}

func (f *hopFigures) row(p *hop, do func(r *hopRow)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.m == nil {
		f.m = make(map[*hop]*hopRow)
	}
	if f.m[p] == nil {
		f.m[p] = new(hopRow)
	}
	do(f.m[p])
}

func (f *hopFigures) add(p *hop, g *guarded) {
	f.row(p, func(r *hopRow) {
		r.guarded = slices.DeleteFunc(r.guarded, func(old *guarded) bool { return old.String() == g.String() })
		r.guarded = append(r.guarded, g)
	})
}

// Marks around the tables in a file, which has what else there is to say.
const (
	tableBegins = "<!-- The tables are written by test/e2e with DNSGUARD_LOOPS_TABLE. -->\n"
	tableEnds   = "<!-- End of the tables. -->\n"
)

// write replaces the tables in a file, or makes it.
func (f *hopFigures) write(path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if path == "" || len(f.m) == 0 {
		return nil
	}
	old, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	before, rest, found := strings.Cut(string(old), tableBegins)
	_, after, ended := strings.Cut(rest, tableEnds)
	if found != ended {
		return fmt.Errorf("%s: the marks around the tables do not match", path)
	}
	text := before + tableBegins + f.tables() + tableEnds + after
	return os.WriteFile(path, []byte(text), 0o644)
}

func (f *hopFigures) tables() string {
	var b strings.Builder
	b.WriteString("\nStock CoreDNS, `forward` with `loop`, 2 replicas:\n\n| hop | replicas that ended, of 2, with the loop at the start | one query: came round; answer; memory, descriptors | the same without `max_concurrent 1000` |\n|---|---|---|---|\n")
	kinds := make(map[string]string)
	for _, p := range hops {
		r := f.m[p]
		if r == nil {
			continue
		}
		if st := r.stock; st != nil {
			ended := fmt.Sprint(st.endedAtStart)
			if st.hopsEndedAtStart > 0 {
				ended += fmt.Sprintf(", and %d hops", st.hopsEndedAtStart)
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", p.name, ended, st.limited.short(), st.free.short())
		}
		for _, g := range r.guarded {
			kinds[g.String()] += g.line(p)
		}
	}
	names := make([]string, 0, len(kinds))
	for name := range kinds {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Compare(a, b) })
	for _, name := range names {
		fmt.Fprintf(&b, "\n`dnsguard`, %s:\n\n| hop | loop at the start: one query came round; answer; found by all after | begun by the hop | begun by resolv.conf | a minute of 100 queries/s: came round, p50, slowest | end noticed: hop, resolv.conf | most memory, descriptors |\n|---|---|---|---|---|---|---|\n%s", name, kinds[name])
	}
	b.WriteString("\n")
	return b.String()
}

func (g *guarded) line(p *hop) string {
	b := g.start.burden
	for _, r := range []*loopRun{&g.hop, &g.file} {
		b.memory, b.descriptors = max(b.memory, r.burden.memory), max(b.descriptors, r.burden.descriptors)
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s, %s, %s | %s, %s | %d MB, %d |\n", p.name, g.start.short(), g.hop.short(), g.file.short(),
		thousands(g.hop.loaded.returned), milliseconds(g.hop.load.p50), milliseconds(g.hop.load.max), seconds(g.hopEnd), seconds(g.fileEnd), b.memory, b.descriptors)
}

// short is what came round for the first query, until it was cut and in all, the answer to it, and when the last replica had found the loop.
func (r *loopRun) short() string {
	return fmt.Sprintf("%d/%d; %s; %s", r.round.early, r.round.returned, r.first.short(), milliseconds(r.cut))
}

// short is what came round for a query, the answer to it, and what the busiest replica had then.
func (b *blow) short() string {
	text := fmt.Sprintf("%s; %s; %d MB, %s descriptors", thousands(b.round.returned), b.answer.short(), b.burden.memory, thousands(int64(b.burden.descriptors)))
	if b.hopEnded > 0 {
		text += fmt.Sprintf("; %d of 2 hops ended", b.hopEnded)
	}
	return text
}

func (a answer) short() string {
	what, _, _ := strings.Cut(cmp.Or(a.wrong, "right"), " (")
	return what + ", " + milliseconds(a.took)
}

func milliseconds(d time.Duration) string {
	if d >= time.Second {
		return seconds(d)
	}
	if d >= 10*time.Millisecond {
		return fmt.Sprintf("%.0f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.1f ms", float64(d)/1e6)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

func thousands(n int64) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%d,%03d", n/1000, n%1000)
}
