package fakedns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Listener is a server on real sockets: UDP and TCP on one port, or TLS.
type Listener struct {
	addr   netip.AddrPort
	server *Server
	proto  Proto
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	sockets *sockets // nil while the port is closed
	conns   map[net.Conn]struct{}
	closed  bool
}

// sockets are what one address listens on.
type sockets struct {
	udp   *net.UDPConn // nil for TLS
	tcp   *net.TCPListener
	other *net.UDPConn // where strays come from
}

func (s *sockets) close() {
	if s.udp != nil {
		s.udp.Close()
		s.other.Close()
	}
	s.tcp.Close()
}

// Listen serves UDP and TCP at the address; port 0 chooses one that is free.
// The fault Refuse, where it is for all queries, closes the port while it is on.
func Listen(addr string, srv *Server) (*Listener, error) { return listen(addr, srv, TCP) }

// ListenTLS serves TLS at the address. The server needs a Key.
func ListenTLS(addr string, srv *Server) (*Listener, error) { return listen(addr, srv, TLS) }

func listen(addr string, srv *Server, proto Proto) (*Listener, error) {
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fmt.Errorf("fakedns: listen: %w", err)
	}
	l := &Listener{server: srv, proto: proto, conns: make(map[net.Conn]struct{})}
	s, err := l.bind(at)
	if err != nil {
		return nil, err
	}
	l.addr = s.tcp.Addr().(*net.TCPAddr).AddrPort()
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	l.serve(s)
	l.wg.Go(func() { l.watch(ctx) })
	return l, nil
}

// Addr returns the address, with the port that was chosen.
func (l *Listener) Addr() netip.AddrPort { return l.addr }

// Close ends all connections and waits for the goroutines.
func (l *Listener) Close() error {
	l.cancel()
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.shut()
	l.wg.Wait()
	return nil
}

// bind opens the sockets. With port 0 the one that TCP got may be taken for
// UDP: then another is tried.
func (l *Listener) bind(at netip.AddrPort) (*sockets, error) {
	var errs error
	for range 20 {
		s, err := l.bindOnce(at)
		if err == nil {
			return s, nil
		}
		errs = err
		if at.Port() != 0 {
			break
		}
	}
	return nil, fmt.Errorf("fakedns: listen at %s: %w", at, errs)
}

func (l *Listener) bindOnce(at netip.AddrPort) (*sockets, error) {
	s := new(sockets)
	var err error
	if s.tcp, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at)); err != nil {
		return nil, err
	}
	if l.proto == TLS {
		return s, nil
	}
	port := s.tcp.Addr().(*net.TCPAddr).AddrPort().Port()
	if s.udp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at.Addr(), port))); err != nil {
		s.tcp.Close()
		return nil, err
	}
	s.udp.SetReadBuffer(4 << 20)
	if s.other, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at.Addr(), 0))); err != nil {
		s.udp.Close()
		s.tcp.Close()
		return nil, err
	}
	return s, nil
}

// watch closes the port while Refuse is on, and opens it again.
func (l *Listener) watch(ctx context.Context) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		l.mu.Lock()
		up := l.sockets != nil
		l.mu.Unlock()
		switch refuse := l.server.on(Refuse); {
		case refuse && up:
			l.shut()
		case !refuse && !up:
			if s, err := l.bind(l.addr); err == nil {
				l.serve(s)
			}
		}
	}
}

// shut closes the sockets and the connections.
func (l *Listener) shut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sockets != nil {
		l.sockets.close()
		l.sockets = nil
	}
	for c := range l.conns {
		c.Close()
	}
}

// serve starts the goroutines that read from the sockets.
func (l *Listener) serve(s *sockets) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		s.close()
		return
	}
	l.sockets = s
	if s.udp != nil {
		l.wg.Go(func() { l.serveUDP(s) })
	}
	l.wg.Go(func() { l.accept(s.tcp) })
}

func (l *Listener) serveUDP(s *sockets) {
	buf := make([]byte, 65_535)
	for {
		n, from, err := s.udp.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error for an earlier reply
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		v := l.server.receive(arrival{wire: append([]byte(nil), buf[:n]...), proto: UDP, from: from})
		for _, p := range v.packets {
			out := s.udp
			if p.stray {
				out = s.other
			}
			after(p.after, func() { out.WriteToUDPAddrPort(p.wire, from) })
		}
	}
}

// accept takes connections. The kernel has answered the SYN already, so a
// connection that ought to hang, or to be refused by a fault of TCP alone,
// is one that is never read, or reset at once.
func (l *Listener) accept(tcp *net.TCPListener) {
	for {
		c, err := tcp.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		l.mu.Lock()
		if l.closed {
			l.mu.Unlock()
			c.Close()
			return
		}
		l.conns[c] = struct{}{}
		l.mu.Unlock()
		l.wg.Go(func() {
			defer l.drop(c)
			switch w := l.server.connect(); {
			case w.hang:
				var one [1]byte
				for err := error(nil); err == nil; _, err = c.Read(one[:]) {
				}
			case w.errno != 0:
				reset(c)
			default:
				l.server.serveStream(c, l.proto, c.RemoteAddr().(*net.TCPAddr).AddrPort())
			}
		})
	}
}

func (l *Listener) drop(c net.Conn) {
	c.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}
