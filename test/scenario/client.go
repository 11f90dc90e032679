package scenario

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/test/fakedns"
)

// patience is how long a client waits; an answer after that is no answer.
const patience = 5 * time.Second

// client is how a query is sent.
type client struct {
	size      int // its EDNS UDP size; 0: without EDNS
	tcp       bool
	fallback  bool // asks again by TCP when the reply is truncated
	cancel    time.Duration
	opcode    int
	class     uint16
	questions int // -1: none; 0: one
	view      string
	asks      string        // the Corefile whose server it asks; "": the main one
	options   bool          // it sends options at random
	resend    time.Duration // it sends the query again so often until there is a reply; 0: once
	replay    string        // an upstream: whoever sees the queries to it sends them here again
}

func (c *client) option(word string, words *words) (err error) {
	switch word {
	case "size":
		c.size, err = words.number()
	case "plain":
		c.size = 0
	case "tcp":
		c.tcp = true
	case "fallback":
		c.fallback = true
	case "cancel":
		c.cancel, err = words.duration()
	case "view":
		c.view = words.next()
	case "asks":
		c.asks = words.next()
	case "options":
		c.options = true
	case "resend":
		if c.resend, err = words.duration(); err == nil && c.resend <= 0 {
			err = errors.New("resend: must be more than 0")
		}
	case "replay":
		c.replay = withPort(words.next())
	case "questions":
		if c.questions, err = words.number(); c.questions == 0 {
			c.questions = -1
		}
	case "opcode":
		name := strings.ToUpper(words.next())
		code, ok := dns.StringToOpcode[name]
		if !ok {
			err = fmt.Errorf("unknown opcode %q", name)
		}
		c.opcode = code
	case "class":
		name := strings.ToUpper(words.next())
		code, ok := dns.StringToClass[name]
		if !ok {
			err = fmt.Errorf("unknown class %q", name)
		}
		c.class = code
	default:
		err = fmt.Errorf("unexpected %q", word)
	}
	return err
}

// message makes the query.
func (c *client) message(name string, qtype, id uint16) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(name, qtype)
	m.Id = id
	m.Opcode = c.opcode
	if c.class != 0 {
		m.Question[0].Qclass = c.class
	}
	switch {
	case c.questions < 0:
		m.Question = nil
	case c.questions > 1:
		m.Question = slices.Repeat(m.Question, c.questions)
	}
	if c.size > 0 {
		m.SetEdns0(uint16(c.size), false)
	}
	return m
}

// result is what one query came to.
type result struct {
	at, took time.Duration // since the start; until the reply, or until nobody waited
	name     string
	asks     int // queries it took: two where the client came again by TCP
	replies  int
	rcode    int
	right    bool
	tc       bool
	answers  int
	ede      []int
	size     int
}

// ask sends one query to the plugin and waits for its return.
func (w *world) ask(c *client, name string, qtype uint16, n int) result {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if c.cancel > 0 {
		stop := time.AfterFunc(c.cancel, cancel)
		defer stop.Stop()
	}
	r := w.askOnce(ctx, c, name, qtype, n)
	if r.tc && c.fallback && !c.tcp {
		again := *c
		again.tcp = true
		second := w.askOnce(ctx, &again, name, qtype, n)
		second.at, second.took, second.asks = r.at, r.took+second.took, 2
		return second
	}
	return r
}

func (w *world) askOnce(ctx context.Context, c *client, name string, qtype uint16, n int) result {
	q := c.message(name, qtype, uint16(n*40503))
	if c.options {
		w.addOptions(q, n)
	}
	reply := &recorder{tcp: c.tcp, n: n}
	began := time.Now()
	stop := w.resend(ctx, c, q, n)
	in := q.Copy()
	rcode, _ := w.asked(c).ServeDNS(ctx, request.NewScrubWriter(in, reply), in) // as CoreDNS's server does
	stop()
	w.replay(ctx, c, q, n)
	return reply.result(c, q, began, began.Sub(w.start), rcode)
}

// recorder is the dns.ResponseWriter of one query.
type recorder struct {
	tcp bool
	n   int

	mu      sync.Mutex
	wire    []byte
	at      time.Time
	replies int
	err     error
}

// result judges what was written; without a reply, CoreDNS would write the
// code that ServeDNS returned.
func (r *recorder) result(c *client, q *dns.Msg, began time.Time, at time.Duration, rcode int) result {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := result{at: at, took: time.Since(began), rcode: rcode, asks: 1, replies: r.replies, size: len(r.wire)}
	if len(q.Question) > 0 {
		out.name = q.Question[0].Name
	}
	m := new(dns.Msg)
	if r.replies == 0 || r.err != nil || m.Unpack(r.wire) != nil {
		return out
	}
	out.took, out.rcode, out.tc, out.answers = r.at.Sub(began), m.Rcode, m.Truncated, len(m.Answer)
	limit := dns.MaxMsgSize
	if !c.tcp {
		limit = max(c.size, dns.MinMsgSize)
	}
	belongs := m.Response && m.Id == q.Id && slices.Equal(m.Question, q.Question)
	out.right = belongs && r.replies == 1 && len(r.wire) <= limit && out.took <= patience && fakedns.Right(c.view, m)
	if opt := m.IsEdns0(); opt != nil {
		out.right = out.right && c.size > 0 // RFC 6891, section 7: no OPT where none was sent
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				out.ede = append(out.ede, int(e.InfoCode))
			}
		}
	}
	return out
}

func (r *recorder) WriteMsg(m *dns.Msg) error {
	wire, err := m.Pack()
	if err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.err = err
		return err
	}
	_, err = r.Write(wire)
	return err
}

func (r *recorder) Write(wire []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wire, r.at = slices.Clone(wire), time.Now()
	r.replies++
	return len(wire), nil
}

func (r *recorder) RemoteAddr() net.Addr {
	ip := net.IPv4(10, 1, byte(r.n>>8), byte(r.n))
	if r.tcp {
		return &net.TCPAddr{IP: ip, Port: 40_000 + r.n%10_000}
	}
	return &net.UDPAddr{IP: ip, Port: 40_000 + r.n%10_000}
}

func (r *recorder) LocalAddr() net.Addr {
	if r.tcp {
		return &net.TCPAddr{IP: net.IPv4(10, 96, 0, 10), Port: 53}
	}
	return &net.UDPAddr{IP: net.IPv4(10, 96, 0, 10), Port: 53}
}

func (r *recorder) Close() error        { return nil }
func (r *recorder) TsigStatus() error   { return nil }
func (r *recorder) TsigTimersOnly(bool) {}
func (r *recorder) Hijack()             {}

var _ dns.ResponseWriter = (*recorder)(nil)
