//go:build unix

package exchange

import (
	"errors"
	"os"
	"syscall"
	"time"
)

// rawConn returns what write needs of a real socket; nil: it is none.
func rawConn(conn any) syscall.RawConn {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// prepare makes the function that writes the packet to a socket. It is made
// once for each packet, so that writing allocates nothing.
func (p *packet) prepare() {
	p.write = func(fd uintptr) bool {
		for {
			// The sockets of package net do not block: one whose buffer is full says EAGAIN.
			_, p.err = syscall.Write(int(fd), p.wire)
			if !errors.Is(p.err, syscall.EINTR) {
				return true // whatever it says, so that nobody waits until the socket can be written to
			}
		}
	}
}

// A full buffer, which is one of a saturated link, is given a moment.
const (
	writeTries = 5
	writePause = time.Millisecond
)

// errFull is what EAGAIN comes to: it is told as the fault that it is, not as
// that of a connect.
var errFull = os.NewSyscallError("write", syscall.ENOBUFS)

// writeTo writes the packet. A buffer that stays full is an error.
func (p *packet) writeTo(s *udpSocket) error {
	if s.raw == nil {
		_, err := s.conn.Write(p.wire)
		return err
	}
	for try := 1; ; try++ {
		if err := s.raw.Write(p.write); err != nil {
			return err
		}
		if !errors.Is(p.err, syscall.EAGAIN) {
			return os.NewSyscallError("write", p.err)
		}
		if try == writeTries {
			return errFull
		}
		time.Sleep(writePause)
	}
}
