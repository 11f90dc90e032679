//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	faultRate     = 300 // queries/s
	clientTimeout = 5 * time.Second
)

// faultClient asks at a steady rate, and judges every reply. Between two
// begins, what it sees goes into one faultResult.
type faultClient struct {
	conn     net.Conn
	rnd      *rand.Rand
	internal bool

	mu      sync.Mutex
	pending map[uint16]question
	nextID  uint16
}

type question struct {
	name string
	due  time.Time
	into *faultResult
}

// faultResult is what became of the queries of one phase. Guarded by the
// client's lock while any is outstanding.
type faultResult struct {
	sent    uint64
	right   uint64
	latency hist          // of all queries; one without a reply counts as clientTimeout
	late    time.Duration // the longest that the client was late with sending
}

func newFaultClient(to netip.AddrPort, internal bool) (*faultClient, error) {
	conn, err := net.Dial("udp4", to.String())
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	c := &faultClient{
		conn:     conn,
		rnd:      rand.New(rand.NewPCG(8914, 9520)), // the same names for every server
		internal: internal,
		pending:  make(map[uint16]question),
	}
	return c, nil
}

// ask sends queries for d, evenly spaced, and returns what they are counted in.
func (c *faultClient) ask(ctx context.Context, d time.Duration) (*faultResult, error) {
	r := new(faultResult)
	const gap = time.Second / faultRate
	begin := time.Now()
	for due := begin; due.Before(begin.Add(d)); due = due.Add(gap) {
		if err := pause(ctx, time.Until(due)); err != nil {
			return nil, err
		}
		r.late = max(r.late, time.Since(due))
		if err := c.send(r, due); err != nil {
			return nil, err
		}
		c.expire(due)
	}
	return r, pause(ctx, time.Until(begin.Add(d)))
}

func (c *faultClient) send(r *faultResult, due time.Time) error {
	name := draw(c.rnd, c.internal)
	m := new(dns.Msg)
	m.SetQuestion(name, dns.TypeA)
	m.SetEdns0(1232, false)

	c.mu.Lock()
	c.nextID++
	m.Id = c.nextID
	c.pending[m.Id] = question{name: name, due: due, into: r}
	r.sent++
	c.mu.Unlock()

	wire, err := m.Pack()
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	// A refused packet is a query without a reply.
	c.conn.Write(wire)
	return nil
}

// read judges replies until the connection is closed.
func (c *faultClient) read() {
	buf := make([]byte, 4096)
	for {
		n, err := c.conn.Read(buf)
		now := time.Now()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		m := new(dns.Msg)
		if err != nil || m.Unpack(buf[:n]) != nil || len(m.Question) != 1 {
			continue
		}
		c.mu.Lock()
		if q, ok := c.pending[m.Id]; ok && q.name == m.Question[0].Name {
			delete(c.pending, m.Id)
			q.into.latency.record(now.Sub(q.due))
			if right(q.name, m) {
				q.into.right++
			}
		}
		c.mu.Unlock()
	}
}

// expire gives up what has been outstanding for too long, and returns how many
// queries still are.
func (c *faultClient) expire(now time.Time) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, q := range c.pending {
		if now.Sub(q.due) >= clientTimeout {
			q.into.latency.record(clientTimeout)
			delete(c.pending, id)
		}
	}
	return len(c.pending)
}

// drain waits until nothing is outstanding.
func (c *faultClient) drain(ctx context.Context) error {
	for c.expire(time.Now()) > 0 {
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}
