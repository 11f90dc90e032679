package exchange

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

var errFrame = errors.New("message shorter than a header")

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
			c.writeFailed(err)
			return
		}
	}
}

// writeFailed ends a connection that takes no more. Where the peer has closed
// it, replies may be there that it had sent before: the reader takes those, and
// ends the connection.
func (c *streamConn) writeFailed(err error) {
	c.pool.cfg.tellFault(err)
	switch kind := outcome.FromError(err); kind {
	case outcome.ConnReset:
		c.pool.mu.Lock()
		c.resting = true
		c.pool.mu.Unlock()
		_ = c.conn.SetReadDeadline(time.Now().Add(stallAfter)) // it fails where there is nothing left to read
	case outcome.Timeout:
		c.lost(kind, fmt.Errorf("%w: %w", errStalled, err))
	default:
		c.lost(kind, err)
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
		buf = f.q.AppendTo(buf, f.id, f.noEDNS)
		binary.BigEndian.PutUint16(buf[at:], uint16(len(buf)-at-2))
		if c.asked == 0 {
			c.asked = max(now, 1)
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

// receive deals with one message. One that makes it panic is lost.
func (c *streamConn) receive(b []byte) {
	p := c.pool
	defer p.cfg.Recoverer.Recover("a message")
	sink, rtt, keep, known := c.match(b)
	switch {
	case !known:
		p.cfg.Events.Mismatched()
		return
	case sink == nil:
		p.cfg.Events.Late(rtt)
		return
	}
	r := Reply{Size: len(b), Proto: p.proto, Local: c.local, RTT: rtt}
	if keep {
		r.Wire = bytes.Clone(b)
	}
	var err error
	if r.Msg, r.Kind, err = parse(b, false); err != nil {
		r.Err = p.cfg.about(p.proto, err)
	}
	sink.Done(r)
}

// match finds the exchange that b belongs to, and ends it. The sink is nil
// where nobody waits any more; keep says that the octets of b are wanted.
func (c *streamConn) match(b []byte) (sink Sink, rtt time.Duration, keep, known bool) {
	p := c.pool
	p.mu.Lock()
	defer p.unlock()
	now := p.now()
	f := c.belongsLocked(b)
	if f == nil {
		return nil, 0, false, false
	}
	delete(c.flights, f.id)
	rtt, sink = now-f.sent, f.sink
	if f.state == cancelled {
		c.owed--
		f.state = late
	} else {
		c.out--
		keep = f.q.Keep
		f.state, f.q, f.sink = answered, nil, nil
	}
	c.replies++
	c.asked = 0
	if c.out > 0 {
		c.asked = max(now, 1)
	}
	c.settleLocked(now)
	p.pumpLocked(now)
	return sink, rtt, keep, true
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
