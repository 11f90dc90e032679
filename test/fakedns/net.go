package fakedns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Net is a network in memory. It may be created inside a synctest bubble, and
// must be where its connections are used in one.
type Net struct {
	// Missing is what an address without a server does: Drop (the default), Refuse or Unreachable.
	Missing Kind
	// Host is what the clients run on.
	Host Host

	mu      sync.Mutex
	servers map[netip.AddrPort]endpoint
	open    map[net.Conn]string
	dialled map[string]int
	port    uint16
}

type endpoint struct {
	server *Server // nil where there is a peer
	peer   Peer
	tls    bool
}

// NewNet returns a network without servers.
func NewNet() *Net {
	return &Net{
		servers: make(map[netip.AddrPort]endpoint),
		open:    make(map[net.Conn]string),
		dialled: make(map[string]int),
		port:    10_000,
	}
}

// Add puts a server at the address, for UDP and TCP.
func (n *Net) Add(addr netip.AddrPort, s *Server) { n.add(addr, endpoint{server: s}) }

// AddTLS puts a server at the address, for TLS (RFC 7858). The same server
// may be at other addresses too.
func (n *Net) AddTLS(addr netip.AddrPort, s *Server) { n.add(addr, endpoint{server: s, tls: true}) }

// AddPeer puts a peer at the address, for UDP and TCP.
func (n *Net) AddPeer(addr netip.AddrPort, p Peer) { n.add(addr, endpoint{peer: p}) }

func (n *Net) add(addr netip.AddrPort, e endpoint) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.servers[addr] = e
}

// Remove takes the server at the address away.
func (n *Net) Remove(addr netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.servers, addr)
}

// Open returns the connections and sockets that clients have not closed, as
// "udp 10.0.0.100:10001->10.0.0.1:53", sorted.
func (n *Net) Open() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []string
	for _, s := range n.open {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

// Dialled returns how many sockets were opened so far for "udp" or "tcp".
func (n *Net) Dialled(network string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dialled[network]
}

// Close closes all connections that clients have left open.
func (n *Net) Close() {
	n.mu.Lock()
	var all []net.Conn
	for c := range n.open {
		all = append(all, c)
	}
	n.mu.Unlock()
	for _, c := range all {
		c.Close()
	}
}

// Dial is an exchange.DialFunc: network is "udp" or "tcp".
func (n *Net) Dial(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	errno, hang := n.Host.opens(network)
	if errno != 0 {
		return nil, dialError(network, addr, os.NewSyscallError("connect", errno))
	}
	if err := ctx.Err(); err != nil {
		return nil, dialError(network, addr, err)
	}
	local := n.nextLocal(network, addr.Addr())
	switch network {
	case "udp":
		c := newPacketConn(n, local, addr)
		n.remember(c, network, local, addr)
		return c, nil
	case "tcp":
		return n.connect(ctx, local, addr, hang)
	}
	return nil, dialError(network, addr, errors.New("unknown network"))
}

// connect makes a TCP connection, and starts the goroutine that serves it.
// With hang no SYN gets there.
func (n *Net) connect(ctx context.Context, local, addr netip.AddrPort, hang bool) (net.Conn, error) {
	e, ok := n.at(addr)
	w := n.missing()
	switch {
	case hang:
		w = welcome{hang: true}
	case ok && e.peer != nil:
		w.hang = false
		w.after, w.errno = e.peer.Connect()
	case ok:
		w = e.server.connect()
	}
	wait := w.after
	if w.hang {
		wait, w.errno = 127*time.Second, syscall.ETIMEDOUT // Linux gives up then
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return nil, dialError("tcp", addr, ctx.Err())
	case <-t.C:
	}
	if w.errno != 0 {
		return nil, dialError("tcp", addr, os.NewSyscallError("connect", w.errno))
	}
	client, server := newStream(local, addr)
	client.onClose = func() { n.forget(client) }
	n.remember(client, "tcp", local, addr)
	if e.peer != nil {
		go func() {
			if e.peer.Stream(server) {
				reset(server)
			}
			server.Close()
		}()
		return client, nil
	}
	proto := TCP
	if e.tls {
		proto = TLS
	}
	go e.server.serveStream(server, proto, local)
	return client, nil
}

// datagram hands a datagram to the server at the address.
func (n *Net) datagram(wire []byte, from, to netip.AddrPort) verdict {
	e, ok := n.at(to)
	if !ok || e.tls {
		w := n.missing()
		return verdict{errno: w.errno, after: w.after}
	}
	if e.peer != nil {
		var v verdict
		for _, p := range e.peer.Datagram(from, wire) {
			v.packets = append(v.packets, packet{after: p.After, wire: p.Wire, errno: p.Errno})
		}
		return v
	}
	return e.server.receive(arrival{wire: wire, proto: UDP, from: from})
}

func (n *Net) at(addr netip.AddrPort) (endpoint, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	e, ok := n.servers[addr]
	return e, ok
}

// missing is what becomes of packets to an address without a server.
func (n *Net) missing() welcome {
	switch n.Missing {
	case Refuse:
		return welcome{after: time.Millisecond, errno: syscall.ECONNREFUSED}
	case Unreachable:
		return welcome{after: time.Millisecond, errno: syscall.EHOSTUNREACH}
	}
	return welcome{hang: true}
}

// nextLocal gives every socket a port of its own, as long as there are enough.
func (n *Net) nextLocal(network string, to netip.Addr) netip.AddrPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dialled[network]++
	n.port++
	if n.port < 10_000 {
		n.port = 10_000
	}
	if to.Is6() && !to.Is4In6() {
		return netip.AddrPortFrom(netip.MustParseAddr("fd00::100"), n.port)
	}
	return netip.AddrPortFrom(netip.MustParseAddr("10.0.0.100"), n.port)
}

func (n *Net) remember(c net.Conn, network string, from, to netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open[c] = fmt.Sprintf("%s %s->%s", network, from, to)
}

func (n *Net) forget(c net.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.open, c)
}

func dialError(network string, addr netip.AddrPort, err error) error {
	var a net.Addr = net.TCPAddrFromAddrPort(addr)
	if network == "udp" {
		a = net.UDPAddrFromAddrPort(addr)
	}
	return &net.OpError{Op: "dial", Net: network, Addr: a, Err: err}
}
