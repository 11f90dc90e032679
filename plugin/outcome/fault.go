package outcome

import (
	"errors"
	"syscall"
)

// Fault is what this host lacked where an outcome is Local.
type Fault uint8

// The faults. Their names are the values of the metric label "kind".
const (
	NoFault          Fault = iota // the outcome is another
	FaultDescriptors              // no file descriptor is left, to the process or to the system
	FaultBuffers                  // no buffer space or memory
	FaultPermission               // forbidden: a packet filter, a full table of connections, a security module
	FaultPorts                    // no free port, or the source address is not there
	FaultLimit                    // a bound of our own on what is open or under way
	FaultOther

	FaultCount // number of faults
)

var faultNames = [FaultCount]string{
	NoFault: "none", FaultDescriptors: "descriptors", FaultBuffers: "buffers", FaultPermission: "permission",
	FaultPorts: "ports", FaultLimit: "limit", FaultOther: "other",
}

// String returns the value of the metric label.
func (f Fault) String() string {
	if f >= FaultCount {
		return "invalid"
	}
	return faultNames[f]
}

// LimitError says that a bound of our own is reached. It is Local.
type LimitError string

// Error implements error.
func (e LimitError) Error() string { return string(e) }

// FaultOf returns what is behind an error for which FromError says Local, and
// NoFault for any other.
func FaultOf(err error) Fault {
	if FromError(err) != Local {
		return NoFault
	}
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		return FaultLimit
	}
	switch errno {
	case syscall.EMFILE, syscall.ENFILE:
		return FaultDescriptors
	case syscall.ENOBUFS, syscall.ENOMEM:
		return FaultBuffers
	case syscall.EPERM:
		return FaultPermission
	case syscall.EADDRNOTAVAIL, syscall.EADDRINUSE, syscall.EAGAIN: // the last is what connect says of UDP
		return FaultPorts
	default:
		return FaultOther
	}
}
