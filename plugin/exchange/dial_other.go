//go:build !linux

package exchange

import "syscall"

// receiveErrors does nothing outside Linux.
func receiveErrors(_, _ string, _ syscall.RawConn) error { return nil }
