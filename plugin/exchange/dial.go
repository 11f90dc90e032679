package exchange

import (
	"context"
	"net"
	"net/netip"
)

// NetDial returns the standard DialFunc: real sockets, bound to source where it
// is valid, whose port the kernel draws at random. UDP sockets also report the
// ICMP errors that only concern them (Linux).
func NetDial(source netip.Addr) DialFunc {
	// No local address at all, rather than an unspecified one: that would be
	// bound, and a bound TCP port is not shared between destinations.
	udp := &net.Dialer{Control: receiveErrors}
	tcp := &net.Dialer{}
	if source.IsValid() {
		local := netip.AddrPortFrom(source, 0)
		udp.LocalAddr = net.UDPAddrFromAddrPort(local)
		tcp.LocalAddr = net.TCPAddrFromAddrPort(local)
	}
	return func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
		dialer := tcp
		if network == "udp" {
			dialer = udp
		}
		return dialer.DialContext(ctx, network, addr.String())
	}
}
