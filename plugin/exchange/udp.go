package exchange

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// The bounds of a pool of UDP sockets.
const (
	maxSockets  = 64   // open at once, draining ones included
	maxFresh    = 8    // open at once, above which a query that wants a fresh socket takes one that is there
	wantSockets = 4    // to which the pool grows with its load, as long as none is full
	growAt      = 64   // outstanding exchanges of one socket that call for another
	maxOut      = 512  // outstanding exchanges of one socket
	maxQueries  = 2048 // queries after which a socket retires
	maxForged   = 8    // mismatched datagrams after which a socket is given up

	minLifetime = 5 * time.Second // a socket's lifetime is between this and twice this
	linger      = 5 * time.Second // how long a retired socket waits for late replies

	retryOpen = 20 * time.Millisecond // how long the pool makes do with what it has after a failed dial
)

var errNoSocket error = outcome.LimitError("all sockets are in use")

// udpPool sends queries to one address over a rotating pool of connected
// sockets, whose ports the kernel has drawn (RFC 5452, section 9.2).
type udpPool struct {
	cfg    *Config
	base   time.Time // instants are counted from here
	ctx    context.Context
	cancel context.CancelFunc
	active atomic.Pointer[[]*udpSocket] // those that take new queries
	wg     sync.WaitGroup

	mu       sync.Mutex
	all      []*udpSocket  // oldest first
	opening  int           // dials under way
	changing bool          // somebody is replacing or adding an active socket
	failed   time.Duration // when a dial failed last
	failure  error         // why; nil: the last dial succeeded
	closed   bool
}

func newUDPPool(cfg *Config) *udpPool {
	p := &udpPool{cfg: cfg, base: time.Now()}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.active.Store(new([]*udpSocket))
	return p
}

func (p *udpPool) now() time.Duration { return time.Since(p.base) }

// Start sends q from one of the active sockets, or from a new one.
func (p *udpPool) Start(q *Query, opt Options, sink Sink) Handle {
	bits := p.cfg.Rand64()
	now := p.now()
	if opt.Fresh && p.manyOpen() {
		opt.Fresh = false
	}
	s, f, err := p.assign(q, opt, sink, bits, now)
	if err != nil {
		kind := outcome.FromError(err)
		switch {
		case errors.Is(err, errClosed):
			kind = outcome.Cancelled
		case errors.Is(err, errNoSocket):
			p.cfg.tellFault(err)
		}
		return refuse(sink, UDP, kind, p.cfg.about(UDP, err))
	}
	s.send(f, q, opt.NoEDNS)
	return f
}

// manyOpen reports whether there are too many sockets for fresh ones.
func (p *udpPool) manyOpen() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.all)+p.opening >= maxFresh
}

// assign finds the socket for a query, and books the query on it.
func (p *udpPool) assign(q *Query, opt Options, sink Sink, bits uint64, now time.Duration) (*udpSocket, *udpFlight, error) {
	var worn *udpSocket
	if active := *p.active.Load(); len(active) > 0 && !opt.Fresh {
		s := active[(bits>>32)%uint64(len(active))]
		f, state := s.begin(q, sink, bits, now, false)
		switch {
		case state == socketBusy && len(active) < wantSockets:
			p.grow(now)
			return s, f, nil
		case f != nil:
			return s, f, nil
		case state == socketSpare && len(active) > 1:
			s.retire(now) // the pool shrinks with its load, too
			return p.assign(q, opt, sink, bits, now)
		case state == socketWorn || state == socketSpare:
			worn = s
		}
	}
	return p.assignSlow(q, opt, sink, bits, now, worn)
}

// assignSlow opens a socket, or makes do with one that should rather rest.
func (p *udpPool) assignSlow(q *Query, opt Options, sink Sink, bits uint64, now time.Duration, worn *udpSocket) (*udpSocket, *udpFlight, error) {
	var err error
	if opt.Fresh || p.mayChange(now) {
		var s *udpSocket
		s, err = p.open(worn, opt.Fresh)
		if !opt.Fresh {
			p.changed()
		}
		if err == nil {
			if worn != nil {
				worn.retire(now)
			}
			if f, _ := s.begin(q, sink, bits, now, true); f != nil {
				if opt.Fresh {
					s.retire(now)
				}
				return s, f, nil
			}
		}
	}
	for _, s := range p.fallbacks() {
		if f, _ := s.begin(q, sink, bits, now, true); f != nil {
			return s, f, nil
		}
	}
	if err == nil {
		// Nothing to fall back to while another query opens a socket: open one more.
		s, err := p.open(nil, false)
		if err != nil {
			return nil, nil, err
		}
		if f, _ := s.begin(q, sink, bits, now, true); f != nil {
			return s, f, nil
		}
		return nil, nil, errNoSocket
	}
	return nil, nil, err
}

// grow adds an active socket, unless somebody is at it already.
func (p *udpPool) grow(now time.Duration) {
	if p.mayChange(now) {
		_, _ = p.open(nil, false) // the pool goes on with what it has
		p.changed()
	}
}

// mayChange claims the one place from which the active sockets are changed. It
// is not to be had shortly after a failed dial, lest every query try again.
func (p *udpPool) mayChange(now time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changing || p.failure != nil && now-p.failed < retryOpen && len(p.all) > 0 {
		return false
	}
	p.changing = true
	return true
}

func (p *udpPool) changed() {
	p.mu.Lock()
	p.changing = false
	p.mu.Unlock()
}

// fallbacks returns the open sockets, the best first: the active, then the
// youngest of the retired.
func (p *udpPool) fallbacks() []*udpSocket {
	p.mu.Lock()
	defer p.mu.Unlock()
	active := *p.active.Load()
	list := slices.Clone(active)
	for _, s := range slices.Backward(p.all) {
		if !slices.Contains(active, s) {
			list = append(list, s)
		}
	}
	return list
}

// open dials a socket. It becomes active in the place of worn, if not nil,
// unless it is to be used once.
func (p *udpPool) open(worn *udpSocket, once bool) (*udpSocket, error) {
	if err := p.reserve(); err != nil {
		return nil, err
	}
	conn, err := p.cfg.Dial(p.ctx, "udp", p.cfg.Addr)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opening--
	p.failure = err
	if p.closed {
		if err == nil {
			conn.Close()
		}
		return nil, errClosed
	}
	if err != nil {
		p.failed = p.now()
		return nil, err
	}
	s := newUDPSocket(p, conn)
	p.all = append(p.all, s)
	if !once {
		active := make([]*udpSocket, 0, len(*p.active.Load())+1)
		for _, a := range *p.active.Load() {
			if a != worn {
				active = append(active, a)
			}
		}
		active = append(active, s)
		p.active.Store(&active)
	}
	p.cfg.Recoverer.Go(&p.wg, "reading from a UDP socket", s.read, s.panicked)
	return s, nil
}

// reserve claims a place for one more socket; where there is none, the oldest
// that only waits for late replies has to go.
func (p *udpPool) reserve() error {
	for range 2 {
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return errClosed
		}
		if len(p.all)+p.opening < maxSockets {
			p.opening++
			p.mu.Unlock()
			return nil
		}
		all := slices.Clone(p.all)
		p.mu.Unlock()
		if !slices.ContainsFunc(all, (*udpSocket).closeIfLingering) {
			break
		}
	}
	return fmt.Errorf("%w: %d", errNoSocket, maxSockets)
}

// rest takes a socket out of the active ones.
func (p *udpPool) rest(s *udpSocket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.restLocked(s)
}

func (p *udpPool) restLocked(s *udpSocket) {
	active := *p.active.Load()
	if i := slices.Index(active, s); i >= 0 {
		without := slices.Delete(slices.Clone(active), i, i+1)
		p.active.Store(&without)
	}
}

// forget drops a closed socket.
func (p *udpPool) forget(s *udpSocket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.restLocked(s)
	if i := slices.Index(p.all, s); i >= 0 {
		p.all = slices.Delete(p.all, i, i+1)
	}
}

// Close ends all exchanges and waits for the readers.
func (p *udpPool) Close() {
	p.mu.Lock()
	p.closed = true
	all := slices.Clone(p.all)
	p.mu.Unlock()
	p.cancel()
	for _, s := range all {
		s.fail(outcome.Cancelled, p.cfg.about(UDP, errClosed))
	}
	p.wg.Wait()
}
