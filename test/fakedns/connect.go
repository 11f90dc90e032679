package fakedns

import (
	"net"
	"syscall"
	"time"
)

// welcome is what becomes of an attempt to connect.
type welcome struct {
	after time.Duration
	errno syscall.Errno // the connection fails with it
	hang  bool          // nothing ever comes back
}

// connect decides about a new connection. Faults that are for certain
// questions only do not concern it.
func (s *Server) connect() welcome {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.sinceLocked(now)
	s.stats.Conns++
	draw := s.drawsLocked("connect")
	w := welcome{after: s.RTT + time.Duration(draw(drawJitter)*float64(s.Jitter))}
	for i := range s.faults {
		f := &s.faults[i]
		if !f.active(t) || f.perQuery() || f.Datagrams || f.Prob > 0 && draw(2*i) >= f.Prob {
			continue
		}
		switch f.Kind {
		case Drop, TCPDropSYN:
			w.hang = true
		case Refuse, TCPRefuse:
			w.errno = syscall.ECONNREFUSED
		case Unreachable:
			w.errno = syscall.EHOSTUNREACH
		case Delay:
			w.after += f.D
		case Jitter:
			w.after += time.Duration(draw(2*i+1) * float64(f.D))
		case Loss:
			if draw(2*i+1) < f.P {
				w.after += time.Second // a SYN is sent again after one second
			}
		}
	}
	return w
}

// idle returns after how long without a query a connection is closed; 0: never.
func (s *Server) idle() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.sinceLocked(time.Now())
	for i := range s.faults {
		if f := &s.faults[i]; f.Kind == TCPCloseIdle && f.active(t) {
			return f.D
		}
	}
	return 0
}

// on reports whether a fault of the kind, and for all queries, is active.
func (s *Server) on(k Kind) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.sinceLocked(time.Now())
	for i := range s.faults {
		if f := &s.faults[i]; f.Kind == k && f.active(t) && !f.perQuery() && f.Prob == 0 {
			return true
		}
	}
	return false
}

// reset ends a connection by a RST.
func reset(c net.Conn) {
	switch c := c.(type) {
	case *streamConn:
		c.reset()
	case *net.TCPConn:
		c.SetLinger(0)
		c.Close()
	default:
		c.Close()
	}
}
