package fakedns

import (
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// maxQueue is how many datagrams a socket holds; further ones are lost.
const maxQueue = 4096

// packetConn is a connected UDP socket in memory.
type packetConn struct {
	net           *Net
	local, remote netip.AddrPort

	read waiter
	// Guarded by read.mu.
	queue   [][]byte
	pending syscall.Errno // an ICMP error not yet reported
	late    bool          // the write deadline has passed
}

func newPacketConn(n *Net, local, remote netip.AddrPort) *packetConn {
	c := &packetConn{net: n, local: local, remote: remote}
	c.read.init()
	return c
}

func (c *packetConn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "udp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// Read takes one datagram; what does not fit is lost, as with a socket.
func (c *packetConn) Read(b []byte) (int, error) {
	w := &c.read
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		switch {
		case w.closed:
			return 0, c.fail("read", net.ErrClosed)
		case w.expired:
			return 0, c.fail("read", os.ErrDeadlineExceeded)
		case c.pending != 0:
			return 0, c.fail("read", c.icmpLocked("read"))
		case len(c.queue) > 0:
			n := copy(b, c.queue[0])
			c.queue = c.queue[1:]
			return n, nil
		}
		w.cond.Wait()
	}
}

// Write sends one datagram to the server at the remote address.
func (c *packetConn) Write(b []byte) (int, error) {
	w := &c.read
	w.mu.Lock()
	var err error
	switch {
	case w.closed:
		err = c.fail("write", net.ErrClosed)
	case c.late:
		err = c.fail("write", os.ErrDeadlineExceeded)
	case c.pending != 0:
		err = c.fail("write", c.icmpLocked("write"))
	}
	w.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if errno := c.net.Host.sends(); errno != 0 {
		return 0, c.fail("write", os.NewSyscallError("sendto", errno))
	}
	v := c.net.datagram(append([]byte(nil), b...), c.local, c.remote)
	if v.relayed != nil {
		v.relayed(func(wire []byte) { c.push([]packet{{wire: wire}}) })
	}
	if v.errno != 0 {
		after(v.after, func() { c.icmp(v.errno) })
	}
	for first := 0; first < len(v.packets); { // what comes at one instant comes by one timer
		end := first + 1
		for end < len(v.packets) && v.packets[end].after == v.packets[first].after {
			end++
		}
		burst := v.packets[first:end]
		after(burst[0].after, func() { c.push(burst) })
		first = end
	}
	return len(b), nil
}

// ReadFrom and WriteTo make it a net.PacketConn, by which miekg/dns tells
// datagrams from streams.
func (c *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, err := c.Read(b)
	return n, c.RemoteAddr(), err
}

// WriteTo fails, as with any connected socket.
func (c *packetConn) WriteTo([]byte, net.Addr) (int, error) {
	return 0, c.fail("write", net.ErrWriteToConnected)
}

// after calls f after d, at once where d is 0.
func after(d time.Duration, f func()) {
	if d <= 0 {
		f()
		return
	}
	time.AfterFunc(d, f)
}

// push delivers packets, but for strays: a connected socket sees none but its peer's.
func (c *packetConn) push(burst []packet) {
	c.read.mu.Lock()
	defer c.read.mu.Unlock()
	for _, p := range burst {
		if p.errno != 0 {
			c.pending = p.errno
		} else if !p.stray && !c.read.closed && len(c.queue) < maxQueue {
			c.queue = append(c.queue, p.wire)
		}
	}
	c.read.cond.Broadcast()
}

func (c *packetConn) icmp(errno syscall.Errno) {
	c.read.mu.Lock()
	defer c.read.mu.Unlock()
	c.pending = errno
	c.read.cond.Broadcast()
}

// icmpLocked takes the pending error, which a socket reports once.
func (c *packetConn) icmpLocked(call string) error {
	errno := c.pending
	c.pending = 0
	return os.NewSyscallError(call, errno)
}

func (c *packetConn) Close() error {
	c.read.mu.Lock()
	defer c.read.mu.Unlock()
	if c.read.closed {
		return c.fail("close", net.ErrClosed)
	}
	c.read.closeLocked()
	c.queue = nil
	c.net.forget(c)
	return nil
}

func (c *packetConn) LocalAddr() net.Addr  { return net.UDPAddrFromAddrPort(c.local) }
func (c *packetConn) RemoteAddr() net.Addr { return net.UDPAddrFromAddrPort(c.remote) }

func (c *packetConn) SetDeadline(t time.Time) error {
	c.SetWriteDeadline(t)
	return c.SetReadDeadline(t)
}

func (c *packetConn) SetReadDeadline(t time.Time) error {
	c.read.setDeadline(t)
	return nil
}

// SetWriteDeadline only tells deadlines that have passed: writing never blocks.
func (c *packetConn) SetWriteDeadline(t time.Time) error {
	c.read.mu.Lock()
	defer c.read.mu.Unlock()
	c.late = !t.IsZero() && time.Until(t) <= 0
	return nil
}
