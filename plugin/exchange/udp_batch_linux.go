//go:build amd64 || arm64

package exchange

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batchLen is the number of datagrams that one system call fetches.
const batchLen = 8

// mmsghdr is struct mmsghdr of recvmmsg(2) on 64-bit Linux.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

// batch is what recvmmsg fills.
type batch struct {
	msgs [batchLen]mmsghdr
	iovs [batchLen]unix.Iovec
	bufs [batchLen][readSize + 1]byte
}

// batches outlive their sockets.
var batches = sync.Pool{New: func() any {
	b := new(batch)
	for i := range b.msgs {
		b.iovs[i].Base = &b.bufs[i][0]
		b.iovs[i].SetLen(len(b.bufs[i]))
		b.msgs[i].hdr.Iov = &b.iovs[i]
		b.msgs[i].hdr.SetIovlen(1)
	}
	return b
}}

// readBatches hands out the replies that come to a real socket, until the
// socket fails or is shut. It reports whether it could.
//
// It never leaves the read of the raw connection in between, so that it may go
// to sleep as soon as a call has fetched fewer datagrams than it had room for:
// what comes later wakes it. That saves the call that would find nothing, which
// is every other one when replies come one by one.
func (s *udpSocket) readBatches() (bool, error) {
	conn, ok := s.conn.(*net.UDPConn)
	if !ok {
		return false, nil
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return false, nil
	}
	b := batches.Get().(*batch)
	defer batches.Put(b)
	var failure error
	err = raw.Read(func(fd uintptr) bool {
		for {
			n, errno := b.receive(fd)
			switch errno {
			case 0:
			case syscall.EINTR:
				continue
			case syscall.EAGAIN:
				return false
			default:
				failure = os.NewSyscallError("recvmmsg", errno)
				return true
			}
			now := s.pool.now()
			for i := range n {
				s.receive(b.bufs[i][:b.msgs[i].n], now)
			}
			if n < batchLen {
				return false
			}
		}
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = net.ErrClosed // shut
	}
	if failure != nil {
		err = failure
	}
	return true, err
}

func (b *batch) receive(fd uintptr) (int, syscall.Errno) {
	n, _, errno := syscall.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.msgs[0])), batchLen, unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}
