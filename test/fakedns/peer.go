package fakedns

import (
	"net"
	"net/netip"
	"syscall"
	"time"
)

// Peer answers at an address of a Net in bytes of its own making, where a
// Server's faults are not bad enough. Its methods may be called concurrently.
type Peer interface {
	// Datagram takes a datagram, and returns what comes back to the socket that
	// sent it, in the order of After.
	Datagram(from netip.AddrPort, wire []byte) []Packet
	// Connect says when an attempt to connect ends, and how; 0: there is a connection.
	Connect() (after time.Duration, errno syscall.Errno)
	// Stream serves a connection. It is closed, or reset, when Stream returns;
	// Stream must return when the client has closed it.
	Stream(c net.Conn) (reset bool)
}

// Packet is a datagram that comes back, or an error in its place.
type Packet struct {
	After time.Duration
	Wire  []byte
	Errno syscall.Errno // what the socket reports in place of Wire; 0: none
}
