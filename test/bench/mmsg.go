//go:build linux

package main

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	batchSize  = 64
	packetSize = 1500
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// batch is a set of packets that one system call sends or receives. Nothing is
// allocated after newBatch.
type batch struct {
	hdrs  [batchSize]mmsghdr
	iovs  [batchSize]unix.Iovec
	names [batchSize]unix.RawSockaddrInet4
	bufs  [batchSize][packetSize]byte
}

// newBatch returns a batch for connected sockets, or, if named, for sockets
// whose packets carry addresses.
func newBatch(named bool) *batch {
	b := new(batch)
	for i := range b.hdrs {
		b.iovs[i].Base = &b.bufs[i][0]
		b.iovs[i].SetLen(packetSize)
		b.hdrs[i].hdr.Iov = &b.iovs[i]
		b.hdrs[i].hdr.SetIovlen(1)
		if named {
			b.hdrs[i].hdr.Name = (*byte)(unsafe.Pointer(&b.names[i]))
			b.hdrs[i].hdr.Namelen = unix.SizeofSockaddrInet4
		}
	}
	return b
}

// packet returns the bytes of packet i as received.
func (b *batch) packet(i int) []byte { return b.bufs[i][:b.hdrs[i].len] }

// setLen sets how many bytes of packet i are sent.
func (b *batch) setLen(i, n int) { b.iovs[i].SetLen(n) }

// recv receives what is there, and returns how many packets that was; 0 when
// there was none, or an error was pending on the socket.
func (b *batch) recv(fd int) int {
	for i := range b.iovs {
		b.iovs[i].SetLen(packetSize)
	}
	n, _, errno := syscall.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.hdrs[0])),
		batchSize, unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// send sends the first n packets. A packet that the kernel refuses three times
// is lost, as it would be on a wire.
func (b *batch) send(fd, n int) {
	for i, tries := 0, 0; i < n; {
		sent, _, errno := syscall.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.hdrs[i])),
			uintptr(n-i), unix.MSG_DONTWAIT, 0, 0)
		if errno == 0 {
			i, tries = i+int(sent), 0
		} else if tries++; tries == 3 {
			i, tries = i+1, 0
		}
	}
}

// udpSocket opens a non-blocking IPv4 socket with large buffers, bound to bind
// or connected to connect, whichever is valid.
func udpSocket(bind, connect netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	// Beyond the kernel's limit these are cut to it, without an error.
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20)
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<20)
	if bind.IsValid() {
		err = unix.Bind(fd, &unix.SockaddrInet4{Port: int(bind.Port()), Addr: bind.Addr().As4()})
	}
	if err == nil && connect.IsValid() {
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(connect.Port()), Addr: connect.Addr().As4()})
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// The parts of a DNS message (RFC 1035, section 4.1) that the load and the
// stub need: both see only messages with one uncompressed question.
const (
	headerLen = 12
	flagQR    = 0x8000
	flagTC    = 0x0200
	flagRD    = 0x0100
	flagRA    = 0x0080
	rcodeMask = 0x000f
	typeA     = 1
)

func be16(b []byte, i int) uint16       { return binary.BigEndian.Uint16(b[i:]) }
func putBE16(b []byte, i int, v uint16) { binary.BigEndian.PutUint16(b[i:], v) }

// questionEnd returns the offset behind the first question of msg, or 0 if
// there is none that can be read.
func questionEnd(msg []byte) int {
	for i := headerLen; i < len(msg); i += int(msg[i]) + 1 {
		switch {
		case msg[i] > 63:
			return 0
		case msg[i] == 0:
			if i+5 > len(msg) {
				return 0
			}
			return i + 5
		}
	}
	return 0
}
