package exchange

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

var errFrame = errors.New("message shorter than a header")

// streamConn is one connection with a reader and a writer; pool.mu guards what
// follows done.
type streamConn struct {
	pool *streamPool
	wake chan struct{} // there is something to write
	done chan struct{} // closed with the connection

	conn    net.Conn // nil while dialing
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
func (c *streamConn) takeLocked(f *streamFlight) {
	p := c.pool
	id := uint16(p.cfg.Rand64())
	for c.flights[id] != nil {
		id = uint16(p.cfg.Rand64())
	}
	f.id, f.conn, f.onOpen, f.sentIt = id, c, c.conn != nil, false
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
	p.mu.Lock()
	if c.closed {
		p.mu.Unlock()
		conn.Close()
		return
	}
	c.conn, c.local = conn, conn.LocalAddr()
	c.born = p.now()
	c.used = c.born
	c.timer = time.AfterFunc(p.cfg.Expire, c.tick)
	if len(c.pending) > 0 {
		c.wakeWriter()
	}
	p.wg.Go(c.write)
	p.pumpLocked(c.born)
	p.unlock()
	p.cfg.Events.Sockets(p.proto, 1)
	defer p.cfg.Events.Sockets(p.proto, -1)
	c.lost(c.read())
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
	for _, f := range c.flights {
		if f.state != waiting {
			continue
		}
		if kind == outcome.ConnReset && c.mayRedoLocked(f) {
			f.redone++
			f.conn = nil
			if p.placeLocked(f, now, true) || p.queueLocked(f) {
				continue
			}
		}
		p.tellLocked(f, kind, c.local, err)
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

// write sends what is pending, as much as there is in one go.
func (c *streamConn) write() {
	var buf []byte
	for {
		select {
		case <-c.done:
			return
		case <-c.wake:
		}
		buf = c.collect(buf[:0])
		if len(buf) == 0 {
			continue
		}
		_ = c.conn.SetWriteDeadline(time.Now().Add(writeTime)) // fails with the write
		if _, err := c.conn.Write(buf); err != nil {
			kind := outcome.FromError(err)
			if kind == outcome.Timeout {
				err = fmt.Errorf("%w: %w", errStalled, err)
			}
			c.lost(kind, err)
			return
		}
	}
}

// collect appends the frames of all pending queries to buf.
func (c *streamConn) collect(buf []byte) []byte {
	p := c.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	for i, f := range c.pending {
		c.pending[i] = nil
		if f.state != waiting || f.conn != c {
			continue
		}
		f.sent, f.sentIt = now, true
		at := len(buf)
		buf = append(buf, 0, 0)
		buf = appendQuery(buf, f.q, f.id, f.noEDNS)
		binary.BigEndian.PutUint16(buf[at:], uint16(len(buf)-at-2))
		if c.asked == 0 {
			c.asked = now
		}
	}
	c.pending = c.pending[:0]
	return buf
}

// read hands out the replies until the connection ends, and says why it did.
func (c *streamConn) read() (outcome.Kind, error) {
	r := bufio.NewReaderSize(c.conn, 4096)
	var buf []byte
	for {
		var err error
		buf, err = readFrame(r, buf)
		if errors.Is(err, errFrame) {
			return outcome.Malformed, err
		}
		if err != nil {
			return outcome.FromError(err), err
		}
		c.receive(buf)
	}
}

// readFrame reads one message into buf, or a larger one (RFC 1035, section 4.2.2).
func readFrame(r *bufio.Reader, buf []byte) ([]byte, error) {
	head, err := r.Peek(2)
	if err != nil {
		return buf, err
	}
	n := int(binary.BigEndian.Uint16(head))
	if n < headerLen {
		return buf, errFrame
	}
	_, _ = r.Discard(2) // it was peeked at
	if cap(buf) < n {
		buf = make([]byte, n, max(n, 2048))
	}
	buf = buf[:n]
	_, err = io.ReadFull(r, buf)
	return buf, err
}

// receive deals with one message.
func (c *streamConn) receive(b []byte) {
	p := c.pool
	p.mu.Lock()
	now := p.now()
	f := c.belongsLocked(b)
	if f == nil {
		p.mu.Unlock()
		p.cfg.Events.Mismatched()
		return
	}
	delete(c.flights, f.id)
	rtt := now - f.sent
	sink := f.sink
	isLate := f.state == cancelled
	if isLate {
		c.owed--
		f.state = late
	} else {
		c.out--
		f.state, f.q, f.sink = answered, nil, nil
	}
	c.replies++
	c.asked = 0
	if c.out > 0 {
		c.asked = now
	}
	c.settleLocked(now)
	p.pumpLocked(now)
	local := c.local
	p.unlock()
	if isLate {
		p.cfg.Events.Late(rtt)
		return
	}
	r := Reply{Size: len(b), Proto: p.proto, Local: local, RTT: rtt}
	var err error
	if r.Msg, r.Kind, err = parse(b, false); err != nil {
		r.Err = p.cfg.about(p.proto, err)
	}
	sink.Done(r)
}

// belongsLocked returns the exchange that b is a reply to.
func (c *streamConn) belongsLocked(b []byte) *streamFlight {
	if !isResponse(b) {
		return nil
	}
	f := c.flights[messageID(b)]
	switch {
	case f == nil || !f.sentIt:
		return nil
	case f.state == waiting && answers(b, f.q), f.state == cancelled && repeats(b, int(f.size), f.print):
		return f
	}
	return nil
}
