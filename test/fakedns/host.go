package fakedns

import (
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Host is the machine that the clients of a Net run on, and what is wrong
// with it: faults of the kinds Descriptors to NoRoute.
type Host struct {
	mu     sync.Mutex
	start  time.Time
	faults []Fault
	seed   uint64
	calls  int
}

// Set replaces the schedule of faults. Their times count from start.
func (h *Host) Set(start time.Time, seed uint64, faults ...Fault) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.start, h.seed, h.faults = start, seed, append([]Fault(nil), faults...)
}

// OfHost reports whether the fault is one of the client's own host.
func (k Kind) OfHost() bool { return k >= Descriptors && k <= NoRoute }

// opens returns what the kernel says to a new socket, before anything is
// sent. hang: nothing, because the SYN does not get out.
func (h *Host) opens(network string) (errno syscall.Errno, hang bool) {
	h.each(network, func(k Kind) {
		switch k {
		case Descriptors:
			errno = syscall.EMFILE
		case Ports:
			errno = syscall.EADDRNOTAVAIL
			if network == "udp" {
				errno = syscall.EAGAIN
			}
		case NoRoute:
			errno = syscall.ENETUNREACH
		case Forbidden:
			hang = hang || network == "tcp"
		}
	})
	return errno, hang
}

// sends returns what the kernel says to a datagram.
func (h *Host) sends() (errno syscall.Errno) {
	h.each("udp", func(k Kind) {
		switch k {
		case Forbidden:
			errno = syscall.EPERM
		case Buffers:
			errno = syscall.ENOBUFS
		case NoRoute:
			errno = syscall.ENETUNREACH
		}
	})
	return errno
}

// each calls f for the faults of the moment.
func (h *Host) each(network string, f func(k Kind)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := time.Since(h.start)
	for i := range h.faults {
		fault := &h.faults[i]
		h.calls++
		draw := share(hash(strconv.FormatUint(h.seed, 16), strconv.Itoa(i), strconv.Itoa(h.calls)))
		switch {
		case !fault.active(t), fault.Streams && network == "udp", fault.Datagrams && network == "tcp":
		case fault.Prob > 0 && draw >= fault.Prob:
		default:
			f(fault.Kind)
		}
	}
}
