package exchange

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/recovery"
)

// The bounds of a pool of stream connections.
const (
	maxConns   = 16   // open or dialling at once
	maxDepth   = 128  // outstanding exchanges of one connection
	softDepth  = 16   // outstanding exchanges of every connection that call for one more
	maxQueue   = 1024 // exchanges that wait for a connection
	maxOwed    = 256  // cancelled exchanges of one connection whose reply has not come
	stallAfter = time.Second
	freshDial  = 50 * time.Millisecond // a connection that has been opening for longer may never be there
	depthTime  = time.Minute           // how long a peer that does not like pipelining is spared
	writeTime  = 2 * time.Second       // how long one write may take
)

var (
	errNoConn  error = outcome.LimitError("all connections are in use")
	errStalled       = errors.New("the connection stalled")
)

// streamPool sends queries over pipelined connections (RFC 7766, section
// 6.2.1.1), by TCP or by TLS over TCP. One lock guards the pool with all its
// connections and exchanges; nothing is done under it but bookkeeping.
type streamPool struct {
	cfg    *Config
	proto  Proto
	dial   func(context.Context) (net.Conn, error)
	base   time.Time // instants are counted from here
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	conns  []*streamConn // dialling or open
	queue  []*streamFlight
	depth  int           // outstanding exchanges that a connection may have now
	spared time.Duration // until when depth is less than maxDepth
	closed bool
	after  aftermath
}

// aftermath is what is to be told once the lock has been let go.
type aftermath struct {
	told    []told
	reused  int
	dialled int
	shut    []*streamConn
}

type told struct {
	sink  Sink
	reply Reply
}

// streamFlight is one exchange; pool.mu guards what follows pool.
type streamFlight struct {
	pool *streamPool

	q      *Query // nil once ended
	sink   Sink   // nil once ended
	conn   *streamConn
	sent   time.Duration
	print  uint32 // fingerprint of the question, once cancelled
	size   uint16 // octets of the question, once cancelled
	id     uint16
	state  flightState
	redone uint8 // times that it moved to another connection
	noEDNS bool
	once   bool // is not to be sent again over another connection
	onOpen bool // its connection was open already when it took the exchange
	stale  bool // its connection was closed, as idle ones are
	sentIt bool // it has been written, or is about to be
}

func newStreamPool(cfg *Config, proto Proto, dial func(context.Context) (net.Conn, error)) *streamPool {
	p := &streamPool{cfg: cfg, proto: proto, dial: dial, base: time.Now(), depth: maxDepth}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// dialTCP returns a dial function that keeps the time allowed for connecting.
// The kernel sends a lost SYN again after a second, which is longer than that:
// so further connections are tried meanwhile, and the first to be there is taken.
func dialTCP(cfg *Config) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, cfg.ConnectTimeout)
		defer cancel()
		return dialAgain(ctx, cfg.Recoverer, cfg.ConnectTimeout/dialTries, func(ctx context.Context) (net.Conn, error) {
			return cfg.Dial(ctx, "tcp", cfg.Addr)
		})
	}
}

// dialTries is how many connections are tried at the most.
const dialTries = 3

// dialAgain dials, and once more each time there has been no connection for
// patience. It returns the first connection, or the first error, and closes
// what comes too late.
func dialAgain(ctx context.Context, r *recovery.Recoverer, patience time.Duration, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	type dialled struct {
		conn net.Conn
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan dialled, dialTries)
	var wg sync.WaitGroup
	try := func() {
		r.Go(&wg, "connecting", func() {
			conn, err := dial(ctx)
			results <- dialled{conn, err}
		}, func() { results <- dialled{nil, &dialError{outcome.Local, errPanic}} })
	}
	try()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	first, done := dialled{}, false
	for tries := 1; !done; {
		select {
		case first = <-results:
			done = true
		case <-timer.C:
			if tries++; tries <= dialTries {
				try()
				timer.Reset(patience)
			}
		}
	}
	cancel()
	wg.Wait() // the others end at once, their context being cancelled
	close(results)
	for late := range results {
		if late.conn != nil {
			_ = late.conn.Close()
		}
	}
	return first.conn, first.err
}

func (p *streamPool) now() time.Duration { return time.Since(p.base) }

// unlock lets the lock go, and then tells what there is to tell.
func (p *streamPool) unlock() {
	a := p.after
	p.after = aftermath{}
	p.mu.Unlock()
	for _, c := range a.shut {
		c.shut()
	}
	for range a.reused {
		p.cfg.Events.Conn(p.proto, true)
	}
	for range a.dialled {
		p.cfg.Events.Conn(p.proto, false)
	}
	for _, t := range a.told {
		t.sink.Done(t.reply)
	}
}

// tellLocked ends f without a reply.
func (p *streamPool) tellLocked(f *streamFlight, kind outcome.Kind, local net.Addr, err error) {
	if f.state != waiting {
		return
	}
	p.after.told = append(p.after.told, told{f.sink, Reply{Kind: kind, Proto: p.proto, Local: local, Err: err, Stale: f.stale}})
	f.state, f.q, f.sink = answered, nil, nil
}

// Start gives q to a connection, or has it wait for one.
func (p *streamPool) Start(q *Query, opt Options, sink Sink) Handle {
	f := &streamFlight{pool: p, q: q, sink: sink, noEDNS: opt.NoEDNS, once: opt.NoRedial}
	if full := p.begin(f, opt.Fresh); full {
		p.cfg.tellFault(errNoConn)
	}
	return f
}

// begin gives f to a connection, or has it wait for one; full: there is no room for it.
func (p *streamPool) begin(f *streamFlight, fresh bool) (full bool) {
	p.mu.Lock()
	defer p.unlock()
	switch {
	case p.closed:
		p.tellLocked(f, outcome.Cancelled, nil, p.cfg.about(p.proto, errClosed))
	case !p.placeLocked(f, p.now(), fresh) && !p.queueLocked(f):
		p.tellLocked(f, outcome.Local, nil, p.cfg.about(p.proto, errNoConn))
		return true
	}
	return false
}

// placeLocked gives f to the open connection with the fewest exchanges, else to
// one that is being dialled, else to a new one. A redone or fresh exchange does
// not go over an open connection, nor does it wait for one that should be there
// by now.
func (p *streamPool) placeLocked(f *streamFlight, now time.Duration, fresh bool) bool {
	if p.depth < maxDepth && now >= p.spared {
		p.depth = maxDepth
	}
	open, dialling := p.emptiestLocked(now, fresh)
	more := len(p.conns) < maxConns
	if open != nil && (!fresh || dialling == nil && !more) {
		if open.out >= softDepth && dialling == nil && more {
			p.dialLocked(now)
		}
		open.takeLocked(f, now)
		return true
	}
	if dialling == nil && more {
		dialling = p.dialLocked(now)
	}
	if dialling == nil {
		return false
	}
	dialling.takeLocked(f, now)
	return true
}

// emptiestLocked returns the connections that can take an exchange and have the
// fewest, one that is open and one that is being dialled; nil where there is
// none. A worn one makes room, if it is idle.
func (p *streamPool) emptiestLocked(now time.Duration, fresh bool) (open, dialling *streamConn) {
	fewer := func(c, than *streamConn) bool { return than == nil || c.out < than.out }
	var worn *streamConn
	for _, c := range p.conns {
		switch {
		case c.wornLocked(now):
			worn = c
		case c.resting || c.out >= p.depth:
		case c.conn == nil && fresh && now-c.born >= freshDial:
		case c.conn == nil && fewer(c, dialling):
			dialling = c
		case c.conn != nil && fewer(c, open):
			open = c
		}
	}
	if worn != nil {
		worn.settleLocked(now)
	}
	return open, dialling
}

// queueLocked has f wait for a connection.
func (p *streamPool) queueLocked(f *streamFlight) bool {
	if len(p.queue) >= maxQueue {
		p.queue = slices.DeleteFunc(p.queue, func(f *streamFlight) bool { return f.state != waiting })
	}
	if len(p.queue) >= maxQueue {
		return false
	}
	p.queue = append(p.queue, f)
	return true
}

// pumpLocked places exchanges that wait for a connection.
func (p *streamPool) pumpLocked(now time.Duration) {
	for len(p.queue) > 0 && !p.closed {
		f := p.queue[0]
		if f.state == waiting && !p.placeLocked(f, now, f.redone > 0) {
			return
		}
		p.queue[0] = nil
		p.queue = p.queue[1:]
	}
}

// dialLocked begins to open a connection.
func (p *streamPool) dialLocked(now time.Duration) *streamConn {
	c := &streamConn{
		pool:    p,
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),
		flights: make(map[uint16]*streamFlight),
		born:    now,
		used:    now,
	}
	p.conns = append(p.conns, c)
	p.cfg.Recoverer.Go(&p.wg, "a connection", c.run, func() { c.lost(outcome.Malformed, errPanic) })
	return c
}

// dropLocked takes c out of the pool.
func (p *streamPool) dropLocked(c *streamConn) {
	c.closed = true
	p.conns = slices.DeleteFunc(p.conns, func(o *streamConn) bool { return o == c })
	p.after.shut = append(p.after.shut, c)
}

// spareLocked learns from a peer that closed c while exchanges were outstanding:
// it may take so many in one connection, and no more.
func (p *streamPool) spareLocked(c *streamConn, now time.Duration) {
	if c.out > 1 {
		p.depth = min(max(c.replies, 1), maxDepth)
		p.spared = now + depthTime
	}
}

// Cancel gives the exchange up.
func (f *streamFlight) Cancel() bool {
	p := f.pool
	p.mu.Lock()
	defer p.unlock()
	if f.state != waiting {
		return false
	}
	now := p.now()
	if c := f.conn; c != nil {
		c.cancelLocked(f, now)
	}
	f.state, f.q, f.sink = cancelled, nil, nil
	p.pumpLocked(now)
	return true
}

// Begun tells when the query was given to an open connection.
func (f *streamFlight) Begun() time.Time {
	p := f.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := f.conn; c != nil && c.conn != nil {
		return p.base.Add(max(f.sent, c.born))
	}
	return time.Time{}
}

// Sent tells how the query went out.
func (f *streamFlight) Sent() (Sent, bool) {
	p := f.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if !f.sentIt || f.conn == nil {
		return Sent{}, false
	}
	return Sent{At: ago(p.now() - f.sent), ID: f.id, Local: f.conn.local}, true
}

// Close ends all exchanges and waits for the goroutines.
func (p *streamPool) Close() {
	p.mu.Lock()
	p.closed = true
	err := p.cfg.about(p.proto, errClosed)
	for _, f := range p.queue {
		p.tellLocked(f, outcome.Cancelled, nil, err)
	}
	p.queue = nil
	for _, c := range slices.Clone(p.conns) {
		for _, f := range c.flights {
			p.tellLocked(f, outcome.Cancelled, c.local, err)
		}
		p.dropLocked(c)
	}
	p.unlock()
	p.cancel()
	p.wg.Wait()
}
