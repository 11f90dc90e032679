package resolvconf

import (
	"bytes"
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/dnsguard/dnsguard/plugin/recovery"
)

// Config is what a Watcher needs to know.
type Config struct {
	// Path is the file's name.
	Path string
	// Read returns the content of a file. The standard one is Read.
	Read func(path string) ([]byte, error)
	// Good is told a list that is not the last good one, or the same after something had been wrong.
	Good func(servers []netip.Addr)
	// Bad is told why there is no list, once for each cause. The last good list is still to be used.
	Bad func(err error)
	// Recoverer recovers looks at the file; nil: a panic ends the process.
	Recoverer *recovery.Recoverer
}

// How often a file is read. A content counts once it has been read twice: who
// writes a file may not be done with it.
const (
	every    = time.Second
	settle   = 200 * time.Millisecond // between the two
	unending = 2 * time.Second        // the same where the last line has no end
)

// Watcher watches one file. Make it with NewWatcher, and run it.
type Watcher struct {
	cfg   Config
	list  []netip.Addr // the last good one
	taken reading      // what was told last
	next  reading      // what has been read since, and not been told yet
	since time.Time    // when next was first read
	wrong error        // what Bad was told last; nil: Good was told since
}

// reading is what reading the file came to.
type reading struct {
	text []byte
	err  error
}

func (r reading) same(o reading) bool {
	if r.err != nil || o.err != nil {
		return r.err != nil && o.err != nil && r.err.Error() == o.err.Error()
	}
	return bytes.Equal(r.text, o.text)
}

// settled is how long a content must stay before it counts.
func (r reading) settled() time.Duration {
	if n := len(r.text); r.err == nil && n > 0 && r.text[n-1] != '\n' {
		return unending
	}
	return settle
}

// NewWatcher returns a watcher, having read the file: Good or Bad has been told.
func NewWatcher(cfg Config) *Watcher {
	w := &Watcher{cfg: cfg}
	w.next = w.read()
	w.take()
	return w
}

// Run watches until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	timer := time.NewTimer(every)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		timer.Reset(w.safeLook(time.Now()))
	}
}

// safeLook is look. A content that makes it panic leaves the list as it was.
func (w *Watcher) safeLook(now time.Time) (next time.Duration) {
	defer w.cfg.Recoverer.Recover("following a file", func() { next = every })
	return w.look(now)
}

// look reads the file, and returns when to look again.
func (w *Watcher) look(now time.Time) time.Duration {
	r := w.read()
	switch {
	case r.same(w.taken):
		w.since = time.Time{}
		return every
	case w.since.IsZero() || !r.same(w.next):
		w.next, w.since = r, now
		return settle
	case now.Sub(w.since) < r.settled():
		return settle
	}
	w.take()
	return every
}

func (w *Watcher) read() reading {
	text, err := w.cfg.Read(w.cfg.Path)
	return reading{text, err}
}

// take tells what next says.
func (w *Watcher) take() {
	w.taken, w.since = w.next, time.Time{}
	list, err := Parse(w.taken.text)
	if w.taken.err != nil {
		err = w.taken.err
	}
	switch {
	case err != nil && w.wrong != nil && w.wrong.Error() == err.Error():
	case err != nil:
		w.wrong = err
		w.cfg.Bad(err)
	case w.wrong != nil || !slices.Equal(list, w.list):
		w.wrong, w.list = nil, list
		w.cfg.Good(slices.Clone(list))
	}
}
