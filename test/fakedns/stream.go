package fakedns

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// half is one direction of a stream: bytes in flight, without bound, so that
// writing never blocks.
type half struct {
	read waiter
	// Guarded by read.mu.
	buf   []byte
	eof   bool
	errno syscall.Errno
}

// streamConn is one end of a TCP connection in memory.
type streamConn struct {
	in, out       *half
	local, remote netip.AddrPort
	closed        atomic.Bool
	late          atomic.Bool // the write deadline has passed
	onClose       func()
}

// newStream returns the two ends of a connection.
func newStream(client, server netip.AddrPort) (*streamConn, *streamConn) {
	up, down := new(half), new(half)
	up.read.init()
	down.read.init()
	return &streamConn{in: down, out: up, local: client, remote: server},
		&streamConn{in: up, out: down, local: server, remote: client}
}

func (c *streamConn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

func (c *streamConn) Read(b []byte) (int, error) {
	h := c.in
	h.read.mu.Lock()
	defer h.read.mu.Unlock()
	for {
		switch {
		case c.closed.Load():
			return 0, c.fail("read", net.ErrClosed)
		case h.read.expired:
			return 0, c.fail("read", os.ErrDeadlineExceeded)
		case h.errno != 0:
			return 0, c.fail("read", os.NewSyscallError("read", h.errno))
		case len(h.buf) > 0:
			n := copy(b, h.buf)
			h.buf = h.buf[n:]
			return n, nil
		case h.eof:
			return 0, io.EOF
		}
		h.read.cond.Wait()
	}
}

func (c *streamConn) Write(b []byte) (int, error) {
	if c.closed.Load() {
		return 0, c.fail("write", net.ErrClosed)
	}
	if c.late.Load() {
		return 0, c.fail("write", os.ErrDeadlineExceeded)
	}
	h := c.out
	h.read.mu.Lock()
	defer h.read.mu.Unlock()
	if h.read.closed || h.errno != 0 { // the peer has gone: the kernel's answer is a reset
		return 0, c.fail("write", os.NewSyscallError("write", syscall.EPIPE))
	}
	h.buf = append(h.buf, b...)
	h.read.cond.Broadcast()
	return len(b), nil
}

// Close ends both directions; the peer reads the rest, then EOF.
func (c *streamConn) Close() error {
	if c.closed.Swap(true) {
		return c.fail("close", net.ErrClosed)
	}
	c.in.read.mu.Lock()
	c.in.buf = nil
	c.in.read.closeLocked()
	c.in.read.mu.Unlock()
	c.out.read.mu.Lock()
	c.out.eof = true
	c.out.read.cond.Broadcast()
	c.out.read.mu.Unlock()
	if c.onClose != nil {
		c.onClose()
	}
	return nil
}

// reset is a RST: the peer loses what it has not read.
func (c *streamConn) reset() {
	for _, h := range []*half{c.in, c.out} {
		h.read.mu.Lock()
		h.errno = syscall.ECONNRESET
		h.buf = nil
		h.read.cond.Broadcast()
		h.read.mu.Unlock()
	}
	c.Close()
}

func (c *streamConn) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(c.local) }
func (c *streamConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

func (c *streamConn) SetDeadline(t time.Time) error {
	c.SetWriteDeadline(t)
	return c.SetReadDeadline(t)
}

func (c *streamConn) SetReadDeadline(t time.Time) error {
	c.in.read.setDeadline(t)
	return nil
}

// SetWriteDeadline only tells deadlines that have passed: writing never blocks.
func (c *streamConn) SetWriteDeadline(t time.Time) error {
	c.late.Store(!t.IsZero() && time.Until(t) <= 0)
	return nil
}
