//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	ringSize  = 1 << 15 // replies that can wait
	ringReply = 128     // bytes of the longest reply that can wait
)

// answer is the record that every A query is answered with: the name of the
// question, A, IN, 30 s, 192.0.2.1.
var answer = [...]byte{0xc0, headerLen, 0, typeA, 0, 1, 0, 0, 0, 30, 0, 4, 192, 0, 2, 1}

// stub is the cheapest upstream there can be: it turns the query into its own
// reply, in place. It knows one record, and no EDNS. It is driven by the
// engine's thread; only delay may be set by another.
type stub struct {
	fd   int
	addr netip.AddrPort
	in   *batch

	delay   atomic.Int64 // ns before each reply; what waits keeps the delay it came with
	waiting ring
	out     *batch
	dropped uint64 // replies for which the ring had no room
}

// ring holds the replies that wait, in the order in which they are due.
type ring struct {
	entries    []delayed
	head, tail uint32 // head is the oldest; both only grow
}

type delayed struct {
	due  int64
	to   unix.RawSockaddrInet4
	size uint8
	msg  [ringReply]byte
}

// newStub opens a stub at addr; port 0 takes any.
func newStub(addr netip.AddrPort) (*stub, error) {
	fd, err := udpSocket(addr, netip.AddrPort{})
	if err != nil {
		return nil, fmt.Errorf("stub %s: %w", addr, err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("stub %s: %w", addr, err)
	}
	port := sa.(*unix.SockaddrInet4).Port
	return &stub{
		fd:      fd,
		addr:    netip.AddrPortFrom(addr.Addr(), uint16(port)),
		in:      newBatch(true),
		out:     newBatch(true),
		waiting: ring{entries: make([]delayed, ringSize)},
	}, nil
}

func (s *stub) close() { unix.Close(s.fd) }

// readable answers one batch of queries, now or later.
func (s *stub) readable(now int64) {
	n := s.in.recv(s.fd)
	kept, delay := 0, s.delay.Load()
	for i := range n {
		size := patch(&s.in.bufs[i], int(s.in.hdrs[i].len))
		switch {
		case size == 0:
		case delay > 0:
			s.keep(i, size, now+delay)
		default:
			// The sender's address stays in its place; a hole left by a
			// query that gets no reply is filled from behind it.
			if kept != i {
				s.in.bufs[kept], s.in.names[kept] = s.in.bufs[i], s.in.names[i]
			}
			s.in.setLen(kept, size)
			kept++
		}
	}
	s.in.send(s.fd, kept)
}

// keep puts reply i into the ring.
func (s *stub) keep(i, size int, due int64) {
	r := &s.waiting
	if size > ringReply || r.tail-r.head == ringSize {
		s.dropped++
		return
	}
	e := &r.entries[r.tail%ringSize]
	r.tail++
	e.due, e.to, e.size = due, s.in.names[i], uint8(size)
	copy(e.msg[:], s.in.bufs[i][:size])
}

// flush sends the replies that are due.
func (s *stub) flush(now int64) {
	r := &s.waiting
	n := 0
	for ; r.head != r.tail && n < batchSize; n++ {
		e := &r.entries[r.head%ringSize]
		if e.due > now {
			break
		}
		r.head++
		copy(s.out.bufs[n][:], e.msg[:e.size])
		s.out.names[n] = e.to
		s.out.setLen(n, int(e.size))
	}
	s.out.send(s.fd, n)
}

// next returns when the next reply is due, or never.
func (s *stub) next(never int64) int64 {
	if s.waiting.head == s.waiting.tail {
		return never
	}
	return s.waiting.entries[s.waiting.head%ringSize].due
}

// patch turns the query of n bytes in buf into its reply, and returns the
// reply's size; 0 if it is no query. Other types than A get an empty answer.
func patch(buf *[packetSize]byte, n int) int {
	if n < headerLen || be16(buf[:], 2)&flagQR != 0 || be16(buf[:], 4) != 1 {
		return 0
	}
	end := questionEnd(buf[:n])
	if end == 0 || end+len(answer) > packetSize {
		return 0
	}
	putBE16(buf[:], 2, flagQR|flagRA|be16(buf[:], 2)&flagRD)
	putBE16(buf[:], 6, 0)
	putBE16(buf[:], 8, 0)
	putBE16(buf[:], 10, 0)
	if be16(buf[:], end-4) != typeA {
		return end
	}
	putBE16(buf[:], 6, 1)
	return end + copy(buf[end:], answer[:])
}
