package fakedns

import (
	"bytes"
	"maps"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// Stats is what was sent to a server, whether it answered or not.
type Stats struct {
	Queries   int // all of them
	Probes    int // ". NS" among them
	Malformed int // what was no query
	ByProto   map[Proto]int
	ByType    map[uint16]int
	ByName    map[string]int // canonical names; no further ones after 100,000
	Ports     map[uint16]int // source ports of UDP queries
	IDs       map[uint16]int
	Conns     int // connections attempted
}

// Record is one query as it was received.
type Record struct {
	At       time.Duration // since the server's start
	Proto    Proto
	From     netip.AddrPort
	Question dns.Question // zero where it was no query
	ID       uint16
	RD       bool
	EDNS     bool
	UDPSize  uint16 // as advertised
	Options  []uint16
	Size     int
	Wire     []byte
}

// Probe reports whether the query is one that health checks send, or one that looks for a loop.
func (r *Record) Probe() bool { return isProbe(r.Question) || isLoopProbe(r.Question) }

// LoopProbe reports whether the query is one that looks for a loop.
func (r *Record) LoopProbe() bool { return isLoopProbe(r.Question) }

type stats struct {
	Stats
	log []Record
}

// Stats returns a copy of the counts.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.stats.Stats
	c.ByProto, c.ByType, c.ByName = maps.Clone(c.ByProto), maps.Clone(c.ByType), maps.Clone(c.ByName)
	c.Ports, c.IDs = maps.Clone(c.Ports), maps.Clone(c.IDs)
	return c
}

// Log returns the queries received, oldest first, up to Keep of them.
func (s *Server) Log() []Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Record(nil), s.stats.log...)
}

// Latest returns the newest query that something is true of.
func (s *Server) Latest(is func(r *Record) bool) (Record, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.stats.log) - 1; i >= 0; i-- {
		if r := &s.stats.log[i]; is(r) {
			return *r, true
		}
	}
	return Record{}, false
}

// Reset forgets what was counted and recorded.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats = stats{}
}

func (s *Server) recordLocked(t time.Duration, in arrival, q *dns.Msg) {
	c := &s.stats
	if c.ByProto == nil {
		c.ByProto, c.ByType, c.ByName = make(map[Proto]int), make(map[uint16]int), make(map[string]int)
		c.Ports, c.IDs = make(map[uint16]int), make(map[uint16]int)
	}
	r := Record{At: t, Proto: in.proto, From: in.from, Size: len(in.wire), Wire: bytes.Clone(in.wire)}
	c.Queries++
	c.ByProto[in.proto]++
	if in.proto == UDP {
		c.Ports[in.from.Port()]++
	}
	if q == nil {
		c.Malformed++
	} else {
		c.noteLocked(&r, q)
	}
	limit := s.Keep
	if limit == 0 {
		limit = 100_000
	}
	if len(c.log) < limit {
		c.log = append(c.log, r)
	}
}

func (c *stats) noteLocked(r *Record, q *dns.Msg) {
	r.ID, r.RD, r.Question = q.Id, q.RecursionDesired, q.Question[0]
	if opt := q.IsEdns0(); opt != nil {
		r.EDNS, r.UDPSize = true, opt.UDPSize()
		for _, o := range opt.Option {
			r.Options = append(r.Options, o.Option())
		}
	}
	c.IDs[q.Id]++
	c.ByType[r.Question.Qtype]++
	name := dns.CanonicalName(r.Question.Name)
	if _, known := c.ByName[name]; known || len(c.ByName) < 100_000 {
		c.ByName[name]++
	}
	if isProbe(r.Question) {
		c.Probes++
	}
}
