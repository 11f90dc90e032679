package exchange

import "sync/atomic"

// Shared is an Exchanger that several users have, each of whom closes it once
// and has no exchange under way then. The last one closes what is behind it.
type Shared struct {
	Exchanger

	users atomic.Int64
}

// Share returns x for one user.
func Share(x Exchanger) *Shared {
	s := &Shared{Exchanger: x}
	s.users.Store(1)
	return s
}

// Join adds a user, unless the last one has closed it already.
func (s *Shared) Join() bool {
	for {
		n := s.users.Load()
		if n == 0 {
			return false
		}
		if s.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// Users is how many have it.
func (s *Shared) Users() int { return int(s.users.Load()) }

// Close implements Exchanger for one user.
func (s *Shared) Close() {
	if s.users.Add(-1) == 0 {
		s.Exchanger.Close()
	}
}
