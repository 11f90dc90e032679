package fakedns

import (
	"slices"
	"time"

	"github.com/miekg/dns"
)

// relay hands a query on after half of the round trip, and its reply back after the other half.
func (s *Server) relay(p *plan, send func(wire []byte)) {
	f, q := p.relay, p.q.Copy()
	if opt := q.IsEdns0(); opt != nil && f.Strip {
		opt.Option = nil
	}
	back := func(m *dns.Msg) {
		if m == nil {
			return
		}
		m = m.Copy()
		m.Id, m.Question = p.q.Id, p.q.Question
		m.Truncate(p.max)
		if wire, err := m.Pack(); err == nil {
			wait := p.delay / 2
			if f.Keep {
				wait += keepFor
			}
			after(wait, func() { send(wire) })
		}
	}
	if f.Merge && !s.leads(question(q), back) {
		return
	}
	hand := func(reply func(*dns.Msg)) {
		s.Relay(f.Via, p.in.proto, q.Copy(), reply)
	}
	time.AfterFunc(p.delay/2, func() {
		hand(func(m *dns.Msg) {
			if !f.Merge {
				back(m)
				return
			}
			for _, b := range s.landed(question(q)) {
				b(m)
			}
		})
	})
	if f.Twice {
		time.AfterFunc(p.delay/2+resendAfter, func() { hand(func(*dns.Msg) {}) })
	}
}

// resendAfter is when a server that hands queries on does so again, whether there is a reply or not.
const resendAfter = 2 * time.Millisecond

// keepFor is how long a server that validates may wait for keys.
const keepFor = 4 * time.Second

// leads has back called with the reply to a question, and reports whether nobody asks for it yet.
func (s *Server) leads(question string, back func(*dns.Msg)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.merged == nil {
		s.merged = make(map[string][]func(*dns.Msg))
	}
	s.merged[question] = append(s.merged[question], back)
	return len(s.merged[question]) == 1
}

// landed returns who waits for the reply to a question.
func (s *Server) landed(question string) []func(*dns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Clone(s.merged[question])
	delete(s.merged, question)
	return all
}
