package exchange

import (
	"net"
	"time"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// streamConn is one connection with a reader and a writer; pool.mu guards what
// follows done.
type streamConn struct {
	pool *streamPool
	wake chan struct{} // there is something to write
	done chan struct{} // closed with the connection

	conn    net.Conn // nil while dialling
	local   net.Addr
	timer   *time.Timer // ends an idle connection
	flights map[uint16]*streamFlight
	pending []*streamFlight // to be written
	born    time.Duration
	used    time.Duration // when the last exchange ended
	asked   time.Duration // since when the peer owes us an answer; 0: it does not
	out     int           // waiting exchanges
	owed    int           // cancelled exchanges whose reply has not come
	replies int
	resting bool // takes no more exchanges
	closed  bool
}

func (c *streamConn) wornLocked(now time.Duration) bool {
	return c.pool.cfg.MaxAge > 0 && now-c.born >= c.pool.cfg.MaxAge
}

// takeLocked books f on c.
func (c *streamConn) takeLocked(f *streamFlight, now time.Duration) {
	p := c.pool
	id := uint16(p.cfg.Rand64())
	for c.flights[id] != nil {
		id = uint16(p.cfg.Rand64())
	}
	f.id, f.conn, f.onOpen, f.sent, f.sentIt = id, c, c.conn != nil, now, false
	c.flights[id] = f
	c.pending = append(c.pending, f)
	c.out++
	if f.onOpen {
		p.after.reused++
		c.wakeWriter()
	} else {
		p.after.dialled++
	}
}

func (c *streamConn) wakeWriter() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// cancelLocked takes a waiting exchange off c.
func (c *streamConn) cancelLocked(f *streamFlight, now time.Duration) {
	c.out--
	if !f.sentIt {
		delete(c.flights, f.id)
	} else {
		question := f.q.Wire[headerLen:f.q.QuestionEnd]
		f.print, f.size = fingerprint(question), uint16(len(question))
		c.owed++
		if c.owed > maxOwed || c.asked > 0 && now-c.asked >= stallAfter {
			c.resting = true // the path may be dead; others are not to wait for it
		}
	}
	c.settleLocked(now)
}

// settleLocked closes a connection that is done.
func (c *streamConn) settleLocked(now time.Duration) {
	c.used = now
	if c.out > 0 || c.closed || c.conn == nil {
		return
	}
	if c.resting || c.wornLocked(now) || c.pool.tooManyIdleLocked() {
		c.pool.dropLocked(c)
	}
}

func (p *streamPool) tooManyIdleLocked() bool {
	if p.cfg.MaxIdle <= 0 {
		return false
	}
	idle := 0
	for _, c := range p.conns {
		if c.out == 0 && c.conn != nil {
			idle++
		}
	}
	return idle > p.cfg.MaxIdle
}

// run dials, and then reads until the connection ends.
func (c *streamConn) run() {
	p := c.pool
	conn, err := p.dial(p.ctx)
	if err != nil {
		c.dialFailed(err)
		return
	}
	if !c.open(conn) {
		conn.Close()
		return
	}
	p.cfg.Events.Sockets(p.proto, 1)
	defer p.cfg.Events.Sockets(p.proto, -1)
	c.lost(c.read())
}

// open has c use its connection, and reports whether anybody still wants it.
func (c *streamConn) open(conn net.Conn) bool {
	p := c.pool
	p.mu.Lock()
	defer p.unlock()
	if c.closed {
		return false
	}
	c.conn, c.local = conn, conn.LocalAddr()
	c.born = p.now()
	c.used = c.born
	c.timer = p.cfg.Recoverer.AfterFunc(p.cfg.Expire, "the timer of a connection", c.tick)
	if len(c.pending) > 0 {
		c.wakeWriter()
	}
	p.cfg.Recoverer.Go(&p.wg, "writing to a connection", c.write, func() { c.lost(outcome.Local, errPanic) })
	p.pumpLocked(c.born)
	return true
}

// dialFailed tells those who wait for c. Those in the queue wait on only if
// another connection may take them.
func (c *streamConn) dialFailed(err error) {
	p := c.pool
	kind := dialKind(err)
	err = p.cfg.about(p.proto, err)
	p.mu.Lock()
	defer p.unlock()
	if c.closed {
		return
	}
	p.dropLocked(c)
	for _, f := range c.flights {
		p.tellLocked(f, kind, nil, err)
	}
	if len(p.conns) > 0 {
		return
	}
	for _, f := range p.queue {
		p.tellLocked(f, kind, nil, err)
	}
	p.queue = nil
}

// lost ends a connection that broke, or that the peer closed. What was
// outstanding goes once more over a new one, if this one had been in use
// before: then the peer has only closed an idle connection, or does not
// answer as many queries in one as we had sent.
func (c *streamConn) lost(kind outcome.Kind, err error) {
	p := c.pool
	err = p.cfg.about(p.proto, err)
	p.mu.Lock()
	defer p.unlock()
	if c.closed {
		return
	}
	now := p.now()
	if kind == outcome.ConnReset {
		p.spareLocked(c, now)
	}
	p.dropLocked(c)
	again := false
	for _, f := range c.flights {
		if f.state != waiting {
			continue
		}
		f.stale = kind == outcome.ConnReset && c.mayRedoLocked(f)
		again = again || f.stale
		if f.stale && !f.once {
			f.redone++
			f.conn = nil
			if p.placeLocked(f, now, true) || p.queueLocked(f) {
				continue
			}
		}
		p.tellLocked(f, kind, c.local, err)
	}
	if again && len(p.conns) == 0 && !p.closed {
		p.dialLocked(now) // it was in use, so there will be more to send
	}
	p.pumpLocked(now)
}

func (c *streamConn) mayRedoLocked(f *streamFlight) bool {
	if c.replies > 0 {
		return f.redone < 2
	}
	return f.redone < 1 && f.onOpen
}

// shut closes the socket of a connection that has been dropped.
func (c *streamConn) shut() {
	close(c.done)
	if c.conn != nil {
		c.timer.Stop()
		c.conn.Close()
	}
}

// tick closes an idle connection.
func (c *streamConn) tick() {
	p := c.pool
	p.mu.Lock()
	defer p.unlock()
	if c.closed {
		return
	}
	now := p.now()
	rest := p.cfg.Expire
	if c.out == 0 {
		rest = c.used + p.cfg.Expire - now
	}
	if rest <= 0 {
		p.dropLocked(c)
		return
	}
	c.timer.Reset(rest)
}
