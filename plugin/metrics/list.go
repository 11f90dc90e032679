package metrics

import (
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// ListResult is what came of reading a file among TO again, or of looking up a
// host name again.
type ListResult uint8

// The results. All but the first two are failures: the last good list stays in use.
const (
	ListUnchanged  ListResult = iota // not counted
	ListChanged                      // the upstreams are others now
	ListMissing                      // the file is not there
	ListUnreadable                   // the file cannot be read, or not be parsed
	ListEmpty                        // it names no upstream
	ListLookup                       // the host name cannot be resolved

	listResults
)

var listResultNames = [listResults]string{
	ListUnchanged: "unchanged", ListChanged: "changed", ListMissing: "missing", ListUnreadable: "unreadable",
	ListEmpty: "empty", ListLookup: "lookup",
}

// String returns the value of the metric label.
func (r ListResult) String() string { return listResultNames[r] }

// Source counts for one source of upstreams, for one of those who watch it.
type Source struct {
	*source
	close sync.Once
}

// source are the series of one source.
type source struct {
	m       *Metrics
	name    string
	reloads [listResults]prometheus.Counter // nil: not counted
	failing atomic.Bool                     // the last reload failed

	users int // guarded by m.mu
}

// Source returns the counters of a source of upstreams, named as among TO: a
// file or a host name. All who ask for the same one share its series, which go
// when the last of them has closed it.
func (m *Metrics) Source(name string) *Source {
	name = label(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sources[name]
	if s == nil {
		s = &source{m: m, name: name}
		for r := ListUnchanged + 1; r < listResults; r++ {
			s.reloads[r] = m.lists.WithLabelValues(name, r.String())
		}
		m.sources[name] = s
	}
	s.users++
	return &Source{source: s}
}

// Listed counts a reload.
func (s *source) Listed(r ListResult) {
	s.failing.Store(r > ListChanged)
	if c := s.reloads[r]; c != nil {
		c.Inc()
	}
}

// Close says that the caller does not watch the source any more.
func (s *Source) Close() {
	s.close.Do(func() {
		s.m.mu.Lock()
		defer s.m.mu.Unlock()
		if s.users--; s.users == 0 {
			delete(s.m.sources, s.name)
			s.m.lists.DeletePartialMatch(prometheus.Labels{"source": s.name})
		}
	})
}
