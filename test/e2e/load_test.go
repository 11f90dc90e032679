package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	clientTimeout = 5 * time.Second // a stub resolver's
	clientSockets = 32
)

// answer is what came of one question.
type answer struct {
	at    time.Duration // when it was asked, since the load began
	took  time.Duration // up to the reply, or clientTimeout
	wrong string        // why the answer is not the right one; empty: it is
	kind  bool          // wrong, but denied as it should be: NODATA for NXDOMAIN
}

// load asks the questions at a steady rate, in their order, whatever becomes
// of them, from a stub's point of view: one packet each, and five seconds.
func (h *host) load(server string, rate int, questions []question) []answer {
	h.t.Helper()
	return h.loader(server, rate, questions).run()
}

// loader prepares a load.
func (h *host) loader(server string, rate int, questions []question) *loader {
	h.t.Helper()
	return h.loaders([]string{server}, clientSockets, rate, questions)
}

// loaders prepares a load on several servers, which are asked in turn, each
// from a number of sockets. The rate is that of all together.
func (h *host) loaders(servers []string, sockets, rate int, questions []question) *loader {
	h.t.Helper()
	l := &loader{rate: rate, questions: questions, answers: make([]answer, len(questions))}
	for i, q := range questions {
		l.packets = append(l.packets, q.pack(h.t.Fatal, i/len(servers)%2 == 0))
	}
	for i := range sockets * len(servers) {
		c, err := h.dial("udp", servers[i%len(servers)])
		if err != nil {
			h.t.Fatal(err)
		}
		s := &loadSocket{loader: l, conn: c, pending: make(map[uint16]int)}
		l.sockets = append(l.sockets, s)
		_ = c.(*net.UDPConn).SetReadBuffer(1 << 20)
	}
	return l
}

// run asks, and returns when all is answered or out of time.
func (l *loader) run() []answer {
	questions := l.questions
	l.start = time.Now()
	l.left.Add(len(questions))
	for _, s := range l.sockets {
		l.readers.Go(s.read)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for sent := 0; sent < len(questions); {
		<-tick.C
		due := min(len(questions), int(time.Since(l.start)*time.Duration(l.rate)/time.Second)+1)
		for ; sent < due; sent++ {
			l.sockets[sent%len(l.sockets)].send(sent, l.packets[sent])
		}
	}
	done := make(chan struct{})
	go func() { l.left.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(clientTimeout):
	}
	for _, s := range l.sockets {
		s.conn.Close()
	}
	l.readers.Wait()
	for i := range l.answers {
		if a := &l.answers[i]; a.took == 0 || a.took > clientTimeout {
			a.took, a.wrong = clientTimeout, "no answer"
		}
	}
	return l.answers
}

type loader struct {
	rate      int
	packets   [][]byte
	questions []question
	answers   []answer // each written by the one reader that gets the reply
	sockets   []*loadSocket
	start     time.Time
	left      sync.WaitGroup // questions without an answer
	readers   sync.WaitGroup
}

type loadSocket struct {
	*loader
	conn net.Conn

	mu      sync.Mutex
	pending map[uint16]int // ID -> question
}

func (s *loadSocket) send(i int, packet []byte) {
	id := uint16(i) // unique per socket for longer than a question lives
	binary.BigEndian.PutUint16(packet, id)
	s.mu.Lock()
	s.pending[id] = i
	s.answers[i].at = time.Since(s.start)
	s.mu.Unlock()
	_, _ = s.conn.Write(packet) // a closed port shows as no answer
}

func (s *loadSocket) read() {
	buf := make([]byte, 64<<10)
	for {
		n, err := s.conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n < 12 {
			continue
		}
		now := time.Since(s.start)
		id := binary.BigEndian.Uint16(buf)
		s.mu.Lock()
		i, ok := s.pending[id]
		delete(s.pending, id)
		s.mu.Unlock()
		if !ok {
			continue
		}
		a := &s.answers[i]
		a.took = max(now-a.at, 1)
		a.wrong, a.kind = s.questions[i].judge(buf[:n])
		s.left.Done()
	}
}

// pack makes the query as musl (without EDNS) or as a modern stub sends it.
func (q question) pack(fatal func(...any), edns bool) []byte {
	m := new(dns.Msg).SetQuestion(q.name, q.qtype)
	if edns {
		m.SetEdns0(1232, false)
	}
	b, err := m.Pack()
	if err != nil {
		fatal(q.name, err)
	}
	return b
}

// judge says what is wrong with the reply, and whether it is no more than the
// kind of the denial: NODATA for a name that does not exist. The reverse is
// wrong: it denies the name's other types too (RFC 8020), and makes musl fail
// the whole lookup.
func (q question) judge(packet []byte) (wrong string, kind bool) {
	var m dns.Msg
	if err := m.Unpack(packet); err != nil {
		return err.Error(), false
	}
	if len(m.Question) != 1 || m.Question[0].Name != q.name || m.Question[0].Qtype != q.qtype {
		return "not our question", false
	}
	text := dns.RcodeToString[m.Rcode]
	switch {
	case m.Truncated:
		return "truncated", false
	case m.Rcode != q.rcode:
		if o := m.IsEdns0(); o != nil {
			for _, opt := range o.Option {
				if ede, ok := opt.(*dns.EDNS0_EDE); ok {
					text += fmt.Sprintf(" (EDE %d %s)", ede.InfoCode, ede.ExtraText)
				}
			}
		}
		return text, m.Rcode == dns.RcodeSuccess && len(m.Answer) == 0
	case !q.addr.IsValid():
		if len(m.Answer) > 0 {
			return "data for a name without", false
		}
		return "", false
	case len(m.Answer) == 0:
		return "NODATA", false
	}
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			if rr.A.String() == q.addr.String() {
				return "", false
			}
		case *dns.AAAA:
			if rr.AAAA.String() == q.addr.String() {
				return "", false
			}
		}
	}
	return "another address", false
}
