package dnsguard

import (
	"fmt"
	"sync"
	"time"

	"github.com/dnsguard/dnsguard/plugin/upstream"
)

// stateLog writes one line for a change of an upstream's state, and few of
// them when it changes often; and seldom one on faults of this host.
type stateLog struct {
	logf func(level Level, format string, args ...any)

	mu     sync.Mutex
	last   map[string]*logged
	faults logged // of this host
}

type logged struct {
	at     time.Time
	muted  int  // changes that were not told
	trying bool // the last line said that the upstream was in trouble

	looped  time.Time // when a line told of a loop
	looping bool      // and none of its end
}

// How often an upstream may have a line: changes between healthy and suspect
// are told seldom, ejections and their end at once.
const (
	logSeldom = 30 * time.Second
	logOften  = time.Second
)

func newStateLog(logf func(level Level, format string, args ...any)) *stateLog {
	return &stateLog{logf: logf, last: make(map[string]*logged)}
}

func (l *stateLog) state(now time.Time, c upstream.Change) {
	line, muted, ok := l.admit(now, c)
	if !ok {
		return
	}
	level := LevelWarning
	if c.Now == upstream.Healthy || c.From == upstream.Looping {
		level = LevelInfo
	}
	if muted > 0 {
		line += fmt.Sprintf(" (%d changes not logged)", muted)
	}
	l.logf(level, "%s", line)
}

// local tells of an attempt that a fault of this host ended.
func (l *stateLog) local(now time.Time, err error) {
	l.mu.Lock()
	e := &l.faults
	if !e.at.IsZero() && now.Sub(e.at) < logSeldom {
		e.muted++
		l.mu.Unlock()
		return
	}
	muted := e.muted
	e.at, e.muted = now, 0
	l.mu.Unlock()
	more := ""
	if muted > 0 {
		more = fmt.Sprintf(" (%d more before)", muted)
	}
	l.logf(LevelWarning, "a fault of this host, for which no upstream is blamed: %v%s", err, more)
}

// admit tells whether a change is worth a line now, and which.
func (l *stateLog) admit(now time.Time, c upstream.Change) (line string, muted int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.last[c.To]
	if e == nil {
		e = &logged{}
		l.last[c.To] = e
	}
	if c.Now == upstream.Looping || c.From == upstream.Looping {
		ok = e.admitLoop(now, c)
		return describe(c), 0, ok
	}
	every := logSeldom
	switch {
	case c.Now == upstream.HalfOpen, c.Now == upstream.Healthy && !e.trying:
		return "", 0, false
	case c.Now == upstream.Ejected:
		every = logOften
	case c.Now == upstream.Healthy:
		every = 0 // the last line must not stay that of a trouble which is over
	}
	if !e.at.IsZero() && now.Sub(e.at) < every {
		e.muted++
		return "", 0, false
	}
	muted = e.muted
	e.at, e.muted, e.trying = now, 0, c.Now != upstream.Healthy
	return describe(c), muted, true
}

// admitLoop tells whether the beginning or the end of a loop is worth a line:
// seldom, but whatever else has been told, and the end of each that was told.
func (e *logged) admitLoop(now time.Time, c upstream.Change) bool {
	if c.Now != upstream.Looping {
		told := e.looping
		e.looping = false
		return told
	}
	if !e.looped.IsZero() && now.Sub(e.looped) < logSeldom {
		return false
	}
	e.looped, e.looping, e.at, e.trying = now, true, now, true
	return true
}

func describe(c upstream.Change) string {
	const unit = time.Millisecond
	if c.From == upstream.Looping {
		return fmt.Sprintf("queries to upstream %s do not come back any more, after %s", c.To, c.Lasted.Round(unit))
	}
	switch c.Now {
	case upstream.Looping:
		return fmt.Sprintf("upstream %s is out, because queries to it come back: %s", c.To, c.Reason)
	case upstream.Healthy:
		return fmt.Sprintf("upstream %s is healthy again after %s", c.To, c.Lasted.Round(unit))
	case upstream.Ejected:
		return fmt.Sprintf("upstream %s is ejected for %s: %s; last reply %s", c.To, c.For.Round(unit), c.Reason, ago(c.Silence))
	default:
		return fmt.Sprintf("upstream %s is %s: %s; last reply %s", c.To, c.Now, c.Reason, ago(c.Silence))
	}
}

func ago(d time.Duration) string {
	if d == 0 {
		return "never"
	}
	return d.Round(time.Millisecond).String() + " ago"
}
