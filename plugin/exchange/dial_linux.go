package exchange

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// receiveErrors sets IP_RECVERR or IPV6_RECVERR on a UDP socket. Without it
// Linux reports a closed port to a connected socket, but keeps network and host
// unreachable to itself. A socket that cannot have it works without.
func receiveErrors(network, _ string, c syscall.RawConn) error {
	level, opt := unix.SOL_IP, unix.IP_RECVERR
	switch network {
	case "udp4":
	case "udp6":
		level, opt = unix.SOL_IPV6, unix.IPV6_RECVERR
	default:
		return nil
	}
	return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), level, opt, 1) })
}
