package exchange

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// udpSocket is a connected socket and the exchanges of its life. It is active,
// then retired (no new queries), then closed.
type udpSocket struct {
	pool     *udpPool
	conn     net.Conn
	raw      syscall.RawConn // of a real socket
	local    net.Addr
	born     time.Duration
	lifetime time.Duration
	timer    *time.Timer // ends its idleness, and its lingering

	mu      sync.Mutex
	flights flightTable
	out     int           // waiting exchanges
	owed    int           // cancelled exchanges whose reply has not come
	forged  int           // mismatched datagrams
	used    time.Duration // when the last exchange began
	lingers time.Duration // until when a retired socket without exchanges stays open; 0: not yet known
	retired bool
	closed  bool
}

// socketState is what begin found.
type socketState uint8

const (
	socketFine  socketState = iota
	socketBusy              // could do with help
	socketWorn              // due to be replaced
	socketSpare             // due to be replaced, but has so little to do that another may take it on
	socketFull              // has too many outstanding exchanges
	socketGone              // takes none any more
)

// newUDPSocket is called with the pool locked.
func newUDPSocket(p *udpPool, conn net.Conn) *udpSocket {
	now := p.now()
	s := &udpSocket{
		pool:     p,
		conn:     conn,
		raw:      rawConn(conn),
		local:    conn.LocalAddr(),
		born:     now,
		used:     now,
		lifetime: minLifetime + time.Duration(p.cfg.Rand64()%uint64(minLifetime)),
	}
	s.mu.Lock() // the timer must not find a socket without a timer
	s.timer = p.cfg.Recoverer.AfterFunc(p.cfg.Expire, "the timer of a UDP socket", s.tick)
	s.mu.Unlock()
	return s
}

// begin books an exchange. With must, a socket that is worn, full or retired
// takes it all the same.
func (s *udpSocket) begin(q *Query, sink Sink, bits uint64, now time.Duration, must bool) (*udpFlight, socketState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.flights.n >= maxInLife {
		return nil, socketGone
	}
	if !must {
		switch {
		case s.retired:
			return nil, socketGone
		case s.flights.n >= maxQueries || now-s.born >= s.lifetime:
			if s.out < growAt/2 {
				return nil, socketSpare
			}
			return nil, socketWorn
		case s.out >= maxOut:
			return nil, socketFull
		}
	}
	f := s.flights.add(bits, s.pool.cfg.Rand64)
	f.sock, f.q, f.sink, f.sent = s, q, sink, now
	s.out++
	s.used, s.lingers = now, 0
	if s.out >= growAt {
		return f, socketBusy
	}
	return f, socketFine
}

// packet is a query to be written.
type packet struct {
	buf   [512]byte
	wire  []byte
	err   error
	write func(fd uintptr) bool
}

// packets outlive their queries.
var packets = sync.Pool{New: func() any {
	p := new(packet)
	p.prepare()
	return p
}}

// send writes the query of f. It does not wait until the socket can be written
// to: a query for which there is no room ends with a fault of this host.
func (s *udpSocket) send(f *udpFlight, q *Query, noEDNS bool) {
	p := packets.Get().(*packet)
	p.wire = q.AppendTo(p.buf[:0], f.id, noEDNS)
	err := p.writeTo(s)
	packets.Put(p)
	if err == nil {
		return
	}
	s.mu.Lock()
	f.held = true
	s.mu.Unlock()
	kind, wrapped := outcome.FromError(err), s.pool.cfg.about(UDP, err)
	switch kind {
	case outcome.Local, outcome.Cancelled:
		// This datagram alone, or the socket was closed and all have been told.
		s.pool.cfg.tellFault(err)
		s.endOne(f, kind, wrapped)
	default:
		s.fail(kind, wrapped)
	}
}

// endOne tells the sink of f, unless it has been told.
func (s *udpSocket) endOne(f *udpFlight, kind outcome.Kind, err error) {
	sink, shut := s.drop(f, answered)
	if sink == nil {
		return
	}
	sink.Done(Reply{Kind: kind, Proto: UDP, Local: s.local, Err: err})
	if shut {
		s.shut()
	}
}

// drop ends f, and returns its sink, nil where it has ended already, and
// whether the socket is done.
func (s *udpSocket) drop(f *udpFlight, state flightState) (sink Sink, shut bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.state != waiting {
		return nil, false
	}
	sink = f.sink
	f.end(state)
	s.out--
	if state == cancelled {
		s.owed++
	}
	return sink, s.settleLocked(s.pool.now())
}

// Cancel gives the exchange up.
func (f *udpFlight) Cancel() bool {
	sink, shut := f.sock.drop(f, cancelled)
	if shut {
		f.sock.shut()
	}
	return sink != nil
}

// Begun tells when the query was booked on the socket, which is when it was written.
func (f *udpFlight) Begun() time.Time { return f.sock.pool.base.Add(f.sent) }

// Sent tells how the query went out.
func (f *udpFlight) Sent() (Sent, bool) {
	s := f.sock
	s.mu.Lock()
	defer s.mu.Unlock()
	return Sent{At: ago(s.pool.now() - f.sent), ID: f.id, Local: s.local}, !f.held
}

// retire lets the socket take no more queries. It closes once nothing is
// outstanding, and no late reply is to be expected.
func (s *udpSocket) retire(now time.Duration) {
	s.mu.Lock()
	s.retired = true
	shut := s.settleLocked(now)
	s.mu.Unlock()
	s.pool.rest(s)
	if shut {
		s.shut()
	}
}

// settleLocked reports whether the socket is done, having marked it closed; the
// caller then calls shut without the lock.
func (s *udpSocket) settleLocked(now time.Duration) bool {
	if !s.retired || s.closed || s.out > 0 {
		return false
	}
	if s.owed == 0 || s.lingers > 0 && now >= s.lingers {
		s.closed = true
		return true
	}
	if s.lingers == 0 {
		s.lingers = now + linger
		s.timer.Reset(linger)
	}
	return false
}

// tick retires a socket that is idle, and ends its lingering. An old one is
// retired by the query that has found another: where none can be opened, it is
// used on.
func (s *udpSocket) tick() {
	now := s.pool.now()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	rest := s.used + s.pool.cfg.Expire - now
	if !s.retired && rest > 0 {
		s.timer.Reset(rest)
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	s.retire(now)
}

// closeIfLingering closes a socket that only waits for late replies.
func (s *udpSocket) closeIfLingering() bool {
	s.mu.Lock()
	if s.closed || !s.retired || s.out > 0 {
		s.mu.Unlock()
		return false
	}
	s.closed = true
	s.mu.Unlock()
	s.shut()
	return true
}

// past is a deadline that has gone by.
var past = time.Unix(1, 0)

// shut ends a socket that has been marked closed. A real one is closed by its
// reader, which a deadline wakes: Close would wait for the reader, and we may be
// called by it.
func (s *udpSocket) shut() {
	s.timer.Stop()
	if c, ok := s.conn.(*net.UDPConn); !ok || c.SetReadDeadline(past) != nil {
		s.conn.Close()
	}
	s.pool.forget(s)
}

// fail closes the socket and tells all who wait.
func (s *udpSocket) fail(kind outcome.Kind, err error) {
	sinks, now := s.close()
	if !now {
		return
	}
	s.shut()
	for _, sink := range sinks {
		sink.Done(Reply{Kind: kind, Proto: UDP, Local: s.local, Err: err})
	}
}

// close marks the socket closed, and returns the sinks of all who wait;
// now is false where it was closed before.
func (s *udpSocket) close() (sinks []Sink, now bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false
	}
	s.closed, s.retired = true, true
	for _, f := range s.flights.waiting() {
		sinks = append(sinks, f.sink)
		f.end(answered)
	}
	s.out = 0
	return sinks, true
}

// failed turns a read error into the end of the socket.
func (s *udpSocket) failed(err error) {
	if errors.Is(err, net.ErrClosed) { // as all sockets end
		s.fail(outcome.Cancelled, s.pool.cfg.about(UDP, errClosed))
		return
	}
	s.pool.cfg.tellFault(err)
	s.fail(outcome.FromError(err), s.pool.cfg.about(UDP, err))
}

// panicked ends the socket after a panic of its reader.
func (s *udpSocket) panicked() {
	defer s.conn.Close()
	s.fail(outcome.Local, s.pool.cfg.about(UDP, errPanic))
}
