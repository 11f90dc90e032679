//go:build !unix

package exchange

import "syscall"

// rawConn is for unix.
func rawConn(any) syscall.RawConn { return nil }

func (p *packet) prepare() {}

// writeTo writes the packet.
func (p *packet) writeTo(s *udpSocket) error {
	_, err := s.conn.Write(p.wire)
	return err
}
