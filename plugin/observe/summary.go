package observe

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/recovery"
)

// Summary makes one line for the log of many findings: a minute after the first
// one that a client would have noticed, and no line while there is none. Its
// methods may be called concurrently. Make it with NewSummary.
type Summary struct {
	log       func(line string)
	recoverer *recovery.Recoverer

	mu     sync.Mutex
	timer  *time.Timer // nil: nothing to tell
	began  time.Time
	counts [Verdicts]int
	by     map[culprit]int
}

// culprit is an upstream, and what it did.
type culprit struct {
	verdict Verdict
	to      string
	kind    outcome.Kind
}

// SummaryEvery is how long findings are collected.
const SummaryEvery = time.Minute

// NewSummary returns a summary that gives its lines to log, which must not
// call back. r recovers the timer; nil: a panic ends the process.
func NewSummary(log func(line string), r *recovery.Recoverer) *Summary {
	return &Summary{log: log, recoverer: r, by: make(map[culprit]int)}
}

// noticed reports whether a client would have noticed the difference. Some
// replies are late everywhere; those are told of beside others.
func (f Finding) noticed() bool {
	return f.Verdict == Retried || f.Verdict == Disputed || f.Verdict == Hedged && f.Kind == outcome.Timeout
}

// Add takes a finding; to names the upstream that it is about.
func (s *Summary) Add(f Finding, to string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer == nil {
		if !f.noticed() {
			return
		}
		s.began = time.Now()
		s.timer = s.recoverer.AfterFunc(SummaryEvery, "the summary", s.Flush)
	}
	s.counts[f.Verdict]++
	if _, told := phrases[f.Verdict]; told {
		s.by[culprit{f.Verdict, to, f.Kind}]++
	}
}

// Flush writes what has been collected, if there is anything to tell.
func (s *Summary) Flush() {
	line := s.take(time.Now())
	if line != "" {
		s.log(line)
	}
}

// take returns the line, "" where there is none, and begins anew.
func (s *Summary) take(now time.Time) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer == nil {
		return ""
	}
	s.timer.Stop()
	line := s.lineLocked(now)
	s.timer, s.counts = nil, [Verdicts]int{}
	clear(s.by)
	return line
}

// phrases say what a guard would have done, with the number of queries. Never
// written to.
var phrases = map[Verdict]string{
	Retried:  "gone on to another upstream after %d failures",
	Disputed: "doubted %d denials",
	Hedged:   "asked once more for %d late replies",
}

func (s *Summary) lineLocked(now time.Time) string {
	total := 0
	for _, n := range s.counts {
		total += n
	}
	var parts []string
	for _, v := range []Verdict{Retried, Disputed, Hedged} {
		if n := s.counts[v]; n > 0 {
			parts = append(parts, fmt.Sprintf(phrases[v], n)+" ("+s.culpritsLocked(v)+")")
		}
	}
	line := fmt.Sprintf("of %d queries in %s the guard would have %s", total, now.Sub(s.began).Round(time.Second), strings.Join(parts, ", "))
	if n := s.counts[Hopeless]; n > 0 {
		line += fmt.Sprintf("; %d more failed, and no other upstream was known to be better", n)
	}
	return line
}

// culpritsMost is how many upstreams and kinds a line names for each verdict.
const culpritsMost = 4

// culpritsLocked lists who did what, the most frequent first.
func (s *Summary) culpritsLocked(v Verdict) string {
	var of []culprit
	for c := range maps.Keys(s.by) {
		if c.verdict == v {
			of = append(of, c)
		}
	}
	slices.SortFunc(of, func(a, b culprit) int {
		return cmp.Or(cmp.Compare(s.by[b], s.by[a]), cmp.Compare(a.to, b.to), cmp.Compare(a.kind, b.kind))
	})
	var parts []string
	for i, c := range of {
		if i == culpritsMost {
			parts = append(parts, "others")
			break
		}
		parts = append(parts, fmt.Sprintf("%s: %s %d", c.to, c.kind, s.by[c]))
	}
	return strings.Join(parts, ", ")
}
