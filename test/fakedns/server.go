package fakedns

import (
	"strconv"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Server is one upstream. Its zero value knows nothing and denies all names.
type Server struct {
	// Name is for people; it takes part in all draws.
	Name string
	// Zones are what the server knows: all existing names below them. "." is everything.
	Zones []string
	// Except are zones below Zones that it does not know.
	Except []string
	// Else is what it says of names it does not know: a fault without time or filter.
	// None: NXDOMAIN with the SOA of the root.
	Else Fault
	// View chooses the data of its names (split horizon).
	View string
	// RTT is the round trip of a query and its reply, and of connecting. Default 0.
	RTT time.Duration
	// Jitter is added to it, up to this much, drawn for each query. Default 0.
	Jitter time.Duration
	// MaxUDP bounds the replies by UDP, as the size that the server itself advertises. Default 1232.
	MaxUDP int
	// Seed is the seed of all draws.
	Seed uint64
	// Keep bounds the record of queries. Default 100,000.
	Keep int
	// Relay hands a query on, and calls reply with the answer, which is nil where there is none. For faults of that kind.
	Relay func(to string, proto Proto, q *dns.Msg, reply func(*dns.Msg))
	// Key is what TLS connections are served with; nil: handshakes fail.
	Key *CA
	// CertNames are the names and addresses in its certificate; empty: 10.0.0.1 and dns.example.
	CertNames []string

	mu     sync.Mutex
	start  time.Time
	faults []Fault
	seen   map[string]int
	stats  stats
	merged map[string][]func(*dns.Msg) // those who wait for the reply to a question
}

// Set replaces the schedule of faults. Their times count from the server's start.
func (s *Server) Set(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append([]Fault(nil), faults...)
}

// Start sets the instant from which the schedule counts. Without it that is
// the instant of the first use.
func (s *Server) Start(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.start = at
}

// sinceLocked returns the time after the start.
func (s *Server) sinceLocked(now time.Time) time.Duration {
	if s.start.IsZero() {
		s.start = now
	}
	return now.Sub(s.start)
}

// drawsLocked returns the source of chance for this query: draw i is the
// same whenever the same question is asked for the n-th time. The question
// is stored once for each different one, until there are very many.
func (s *Server) drawsLocked(question string) func(i int) float64 {
	if s.seen == nil || len(s.seen) > 1<<18 {
		s.seen = make(map[string]int)
	}
	s.seen[question]++
	seed := hash(strconv.FormatUint(s.Seed, 16), s.Name, question, strconv.Itoa(s.seen[question]))
	return func(i int) float64 {
		x := seed + uint64(i+1)*0x9e3779b97f4a7c15
		x ^= x >> 30
		x *= 0xbf58476d1ce4e5b9
		x ^= x >> 27
		x *= 0x94d049bb133111eb
		return share(x ^ x>>31)
	}
}

// The draws that do not belong to a fault of the schedule.
const (
	drawJitter = -2 - iota
	drawElse
)

// receive decides what becomes of one query.
func (s *Server) receive(in arrival) verdict {
	now := time.Now()
	q := new(dns.Msg)
	if err := q.Unpack(in.wire); err != nil || len(q.Question) != 1 || q.Response {
		s.mu.Lock()
		s.recordLocked(s.sinceLocked(now), in, nil)
		s.mu.Unlock()
		return s.unreadable(in)
	}
	s.mu.Lock()
	t := s.sinceLocked(now)
	s.recordLocked(t, in, q)
	draw := s.drawsLocked(question(q))
	faults := s.faults
	s.mu.Unlock()

	p := newPlan(s, in, q)
	p.delay = s.RTT + time.Duration(draw(drawJitter)*float64(s.Jitter))
	s.answer(p)
	for i := range faults {
		f := &faults[i]
		if f.active(t) && f.matches(q.Question[0], in.proto, draw(2*i)) {
			p.apply(f, draw(2*i+1))
		}
	}
	if p.relay != nil && !p.silent {
		return verdict{relayed: func(send func(wire []byte)) { s.relay(p, send) }}
	}
	return p.verdict()
}

// answer makes the true reply of this server.
func (s *Server) answer(p *plan) {
	q := p.q.Question[0]
	switch {
	case q.Name != "." && (!within(s.Zones, q.Name) || within(s.Except, q.Name)):
		if s.Else.Kind == None {
			p.deny(dns.RcodeNameError, ".")
		} else {
			p.apply(&s.Else, 0)
		}
	case !Exists(q.Name):
		p.deny(dns.RcodeNameError, apex(q.Name))
	case !HasType(q.Name, q.Qtype):
		p.deny(dns.RcodeSuccess, apex(q.Name))
	default:
		p.m.Answer = data(s.View, q)
	}
}

// unreadable answers what is no query: with FORMERR where there is a header, else not at all.
func (s *Server) unreadable(in arrival) verdict {
	if len(in.wire) < 12 || in.wire[2]&0x80 != 0 {
		return verdict{}
	}
	reply := make([]byte, 12)
	copy(reply, in.wire[:4])
	reply[2] |= 0x80
	reply[3] = dns.RcodeFormatError
	return verdict{packets: []packet{{after: s.RTT, wire: reply}}}
}

// question is the key of a question.
func question(q *dns.Msg) string {
	return dns.CanonicalName(q.Question[0].Name) + " " + dns.Type(q.Question[0].Qtype).String()
}
