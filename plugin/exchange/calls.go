package exchange

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// maxCalls is the number of exchanges under way at once over a transport that
// spends a goroutine on each.
const maxCalls = 1000

// calls runs exchanges that take a goroutine each, and can be waited for.
type calls struct {
	cfg    *Config
	proto  Proto
	do     exchangeFunc
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	running int
	closed  bool
}

// exchangeFunc makes one exchange. It says by call.begins when the query has a
// connection to go out over, and by call.wrote when it has been written.
type exchangeFunc func(context.Context, *Query, Options, *call) Reply

func newCalls(cfg *Config, proto Proto, do exchangeFunc) *calls {
	c := &calls{cfg: cfg, proto: proto, do: do}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// call is one exchange. Whoever sets ended first has the last word.
type call struct {
	cancel context.CancelFunc
	ended  atomic.Bool

	mu    sync.Mutex
	begun time.Time // zero until there is a connection
	sent  Sent      // At is zero until the query has been written
}

// over says which connection the query goes over.
func (c *call) over(local net.Addr) {
	c.mu.Lock()
	c.sent.Local = local
	c.mu.Unlock()
}

// begins says that the query need not wait for a connection.
func (c *call) begins(at time.Time) {
	c.mu.Lock()
	c.begun = at
	c.mu.Unlock()
}

// wrote says when the query had been written.
func (c *call) wrote(at time.Time) {
	c.mu.Lock()
	c.begun, c.sent.At = at, at
	c.mu.Unlock()
}

// Begun tells when the query had a connection to go out over.
func (c *call) Begun() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.begun
}

// Sent tells how the query went out.
func (c *call) Sent() (Sent, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent, !c.sent.At.IsZero()
}

// Cancel gives the exchange up.
func (c *call) Cancel() bool {
	if !c.ended.CompareAndSwap(false, true) {
		return false
	}
	c.cancel()
	return true
}

// start runs one exchange.
func (c *calls) start(q *Query, opt Options, sink Sink) Handle {
	c.mu.Lock()
	switch {
	case c.closed:
		c.mu.Unlock()
		return refuse(sink, c.proto, outcome.Cancelled, c.cfg.about(c.proto, errClosed))
	case c.running >= maxCalls:
		c.mu.Unlock()
		c.cfg.tellFault(errNoConn)
		return refuse(sink, c.proto, outcome.Local, c.cfg.about(c.proto, errNoConn))
	}
	c.running++
	ctx, cancel := context.WithCancel(c.ctx)
	h := &call{cancel: cancel}
	c.cfg.Recoverer.Go(&c.wg, c.proto.String(), func() {
		r := c.run(ctx, q, opt, h)
		cancel()
		c.mu.Lock()
		c.running--
		c.mu.Unlock()
		if h.ended.CompareAndSwap(false, true) {
			sink.Done(c.finish(r))
		}
	})
	c.mu.Unlock()
	return h
}

// run makes one exchange. A reply that makes it panic is malformed.
func (c *calls) run(ctx context.Context, q *Query, opt Options, h *call) (r Reply) {
	defer c.cfg.Recoverer.Recover("an exchange by "+c.proto.String(), func() {
		r = Reply{Kind: outcome.Malformed, Err: errPanic}
	})
	return c.do(ctx, q, opt, h)
}

// finish fills in what all replies of a transport have in common.
func (c *calls) finish(r Reply) Reply {
	r.Proto = c.proto
	if c.ctx.Err() != nil && r.Msg == nil {
		r.Kind, r.Err = outcome.Cancelled, errClosed
	}
	if r.Err != nil {
		r.Err = c.cfg.about(c.proto, r.Err)
	}
	return r
}

// close ends all exchanges and waits for them.
func (c *calls) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.wg.Wait()
}

// message returns q as a message of its own, with ID 0.
func message(q *Query, noEDNS bool) (*dns.Msg, error) {
	return unpack(q.AppendTo(nil, 0, noEDNS))
}

// repeatsQuestion is answers for a reply that has been unpacked already.
func repeatsQuestion(m *dns.Msg, q *dns.Msg) bool {
	if !m.Response || m.Opcode != dns.OpcodeQuery {
		return false
	}
	if len(m.Question) == 0 {
		switch m.Rcode & 0x0f {
		case dns.RcodeFormatError, dns.RcodeServerFailure, dns.RcodeNotImplemented, dns.RcodeRefused:
			return true
		}
		return false
	}
	got, want := m.Question[0], q.Question[0]
	return len(m.Question) == 1 && got.Qtype == want.Qtype && got.Qclass == want.Qclass &&
		len(got.Name) == len(want.Name) && equalFold([]byte(got.Name), []byte(want.Name))
}
