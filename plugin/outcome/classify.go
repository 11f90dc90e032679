package outcome

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/miekg/dns"
)

// Classify returns what a reply that belongs to its query says. A truncated
// reply counts as Truncated only where it came as a datagram; over a stream
// there is no more to be had, and it is judged by its contents.
func Classify(m *dns.Msg, datagram bool) Kind {
	switch m.Rcode {
	case dns.RcodeSuccess:
		if m.Truncated && datagram {
			return Truncated
		}
		if len(m.Answer) == 0 {
			return NoData
		}
		return OK
	case dns.RcodeNameError:
		return NXDomain
	case dns.RcodeServerFailure:
		return ServFail
	case dns.RcodeRefused, dns.RcodeNotAuth:
		return Refused
	case dns.RcodeNotImplemented:
		return NotImp
	case dns.RcodeFormatError:
		return FormErr
	case dns.RcodeBadVers:
		return BadVers
	case dns.RcodeBadCookie:
		return BadCookie
	case dns.RcodeYXDomain: // RFC 6672, section 2.2: the answer to a name that grew too long
		return OK
	default:
		return ServFail
	}
}

// FromError returns what an error of a dial, a read or a write came to.
// A nil error is Unknown.
func FromError(err error) Kind {
	if err == nil {
		return Unknown
	}
	if k := fromErrno(err); k != Unknown {
		return k
	}
	var (
		cert   *tls.CertificateVerificationError
		alert  tls.AlertError
		record tls.RecordHeaderError
		host   x509.HostnameError
		auth   x509.UnknownAuthorityError
		bad    x509.CertificateInvalidError
		limit  LimitError
	)
	switch {
	case errors.As(err, &limit):
		return Local
	case errors.Is(err, context.Canceled), errors.Is(err, net.ErrClosed):
		return Cancelled
	case errors.As(err, &cert), errors.As(err, &alert), errors.As(err, &record),
		errors.As(err, &host), errors.As(err, &auth), errors.As(err, &bad), isAlert(err):
		return TLS
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return Timeout
	case timedOut(err):
		return Timeout
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.ErrClosedPipe):
		return ConnReset
	}
	return Unreachable
}

// timedOut reports whether err, or one that it wraps, says that it is a
// time-out. An outer one may not know: net.OpError looks at the next alone.
func timedOut(err error) bool {
	var nerr net.Error
	for errors.As(err, &nerr) {
		if nerr.Timeout() {
			return true
		}
		err = errors.Unwrap(nerr)
	}
	return false
}

// isAlert reports whether err is an alert that crypto/tls received or sent: the
// type is its own, but the operation says so.
func isAlert(err error) bool {
	var op *net.OpError
	for errors.As(err, &op) {
		if op.Op == "remote error" || op.Op == "local error" {
			return true
		}
		err = op.Err
	}
	return false
}

func fromErrno(err error) Kind {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return Unknown
	}
	switch errno {
	case syscall.ECONNREFUSED:
		return ConnRefused
	case syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED, syscall.ENOTCONN:
		return ConnReset
	case syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.ENETDOWN, syscall.EPROTO, syscall.ENOPROTOOPT, syscall.EACCES:
		return Unreachable
	case syscall.ETIMEDOUT:
		return Timeout
	case syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EPERM,
		syscall.EADDRNOTAVAIL, syscall.EADDRINUSE, syscall.EAFNOSUPPORT, syscall.EAGAIN, syscall.EINVAL, syscall.EMSGSIZE:
		return Local
	default:
		return Unknown
	}
}
