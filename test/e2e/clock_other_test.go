//go:build !amd64

package e2e

import "time"

// jumpClock does nothing here.
func (s *server) jumpClock(time.Duration) { s.t.Log("the clock of a process can be set on amd64 only") }
