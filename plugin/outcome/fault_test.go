package outcome

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"syscall"
	"testing"
)

// TestFaultOf holds that a fault is found exactly where FromError says Local.
func TestFaultOf(t *testing.T) {
	tests := map[error]Fault{
		LimitError("too many"): FaultLimit,
		context.Canceled:       NoFault, io.EOF: NoFault, os.ErrDeadlineExceeded: NoFault, errors.New("other"): NoFault,
	}
	for errno := syscall.Errno(1); errno < 134; errno++ {
		tests[errno] = NoFault
	}
	for fault, errnos := range map[Fault][]syscall.Errno{
		FaultDescriptors: {syscall.EMFILE, syscall.ENFILE},
		FaultBuffers:     {syscall.ENOBUFS, syscall.ENOMEM},
		FaultPermission:  {syscall.EPERM},
		FaultPorts:       {syscall.EADDRNOTAVAIL, syscall.EADDRINUSE, syscall.EAGAIN},
		FaultOther:       {syscall.EAFNOSUPPORT, syscall.EINVAL, syscall.EMSGSIZE},
	} {
		for _, errno := range errnos {
			tests[errno] = fault
		}
	}
	for err, want := range tests {
		for how, err := range map[string]error{
			"plain":   err,
			"wrapped": fmt.Errorf("udp 192.0.2.1:53: %w", err),
			"OpError": &net.OpError{Op: "dial", Net: "udp", Err: os.NewSyscallError("connect", err)},
		} {
			if got := FaultOf(err); got != want {
				t.Errorf("FaultOf(%s %v) = %s, want %s", how, err, got, want)
			}
			if local := FromError(err) == Local; local != (want != NoFault) {
				t.Errorf("%s %v is local: %t, and its fault %s", how, err, local, want)
			}
		}
	}
	if got := FaultOf(nil); got != NoFault {
		t.Errorf("FaultOf(nil) = %s", got)
	}
}

func TestFaultString(t *testing.T) {
	seen := make(map[string]bool)
	for f := range FaultCount {
		if name := f.String(); seen[name] || !regexp.MustCompile(`^[a-z]+$`).MatchString(name) {
			t.Errorf("Fault(%d) is %q", f, name)
		}
		seen[f.String()] = true
	}
	if got := FaultCount.String(); got != "invalid" {
		t.Errorf("%q", got)
	}
}
