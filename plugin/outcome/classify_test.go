package outcome

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"syscall"
	"testing"

	"github.com/miekg/dns"
)

func TestClassify(t *testing.T) {
	data := []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "a.example.", Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(192, 0, 2, 1)}}
	for _, tc := range []struct {
		name      string
		rcode     int
		truncated bool
		answer    []dns.RR
		datagram  bool
		want      Kind
	}{
		{"data", dns.RcodeSuccess, false, data, true, OK},
		{"data by a stream", dns.RcodeSuccess, false, data, false, OK},
		{"no data", dns.RcodeSuccess, false, nil, true, NoData},
		{"truncated", dns.RcodeSuccess, true, nil, true, Truncated},
		{"truncated with some data", dns.RcodeSuccess, true, data, true, Truncated},
		{"truncated by a stream, no data", dns.RcodeSuccess, true, nil, false, NoData},
		{"truncated by a stream, data", dns.RcodeSuccess, true, data, false, OK},
		{"NXDOMAIN", dns.RcodeNameError, false, nil, true, NXDomain},
		{"NXDOMAIN behind a CNAME", dns.RcodeNameError, false, data, true, NXDomain},
		{"NXDOMAIN truncated", dns.RcodeNameError, true, nil, true, NXDomain},
		{"SERVFAIL", dns.RcodeServerFailure, false, nil, true, ServFail},
		{"REFUSED", dns.RcodeRefused, false, nil, true, Refused},
		{"NOTAUTH", dns.RcodeNotAuth, false, nil, true, Refused},
		{"NOTIMP", dns.RcodeNotImplemented, false, nil, true, NotImp},
		{"FORMERR", dns.RcodeFormatError, false, nil, true, FormErr},
		{"BADVERS", dns.RcodeBadVers, false, nil, true, BadVers},
		{"BADCOOKIE", dns.RcodeBadCookie, false, nil, true, BadCookie},
		{"YXDOMAIN", dns.RcodeYXDomain, false, nil, true, OK},
		{"NOTZONE", dns.RcodeNotZone, false, nil, true, ServFail},
		{"unassigned", 12, false, nil, true, ServFail},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: tc.rcode, Truncated: tc.truncated}, Answer: tc.answer}
			if got := Classify(m, tc.datagram); got != tc.want {
				t.Errorf("Classify = %s, want %s", got, tc.want)
			}
		})
	}
}

// timeoutError is a net.Error that is none of the known ones.
type timeoutError bool

func (e timeoutError) Error() string   { return "timeout" }
func (e timeoutError) Timeout() bool   { return bool(e) }
func (e timeoutError) Temporary() bool { return false }

func TestFromError(t *testing.T) {
	tests := []struct {
		err  error
		want Kind
	}{
		{context.Canceled, Cancelled},
		{net.ErrClosed, Cancelled},
		{context.DeadlineExceeded, Timeout},
		{os.ErrDeadlineExceeded, Timeout},
		{timeoutError(true), Timeout},
		{&net.DNSError{IsTimeout: true}, Timeout},
		{timeoutError(false), Unreachable},
		{errors.New("connection refused"), Unreachable}, // nobody reads error text
		{io.EOF, ConnReset},
		{io.ErrUnexpectedEOF, ConnReset},
		{io.ErrClosedPipe, ConnReset},
		{&tls.CertificateVerificationError{Err: errors.New("x")}, TLS},
		{tls.AlertError(40), TLS},
		{&net.OpError{Op: "remote error", Err: errors.New("tls: bad certificate")}, TLS},
		{tls.RecordHeaderError{Msg: "x"}, TLS},
		{x509.HostnameError{Certificate: &x509.Certificate{}, Host: "dns.example"}, TLS},
		{x509.UnknownAuthorityError{}, TLS},
		{x509.CertificateInvalidError{Reason: x509.Expired}, TLS},
	}
	for kind, errnos := range map[Kind][]syscall.Errno{
		ConnRefused: {syscall.ECONNREFUSED},
		ConnReset:   {syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED, syscall.ENOTCONN},
		Unreachable: {
			syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.ENETDOWN,
			syscall.EPROTO, syscall.ENOPROTOOPT, syscall.EACCES,
			syscall.ENOTTY, // any other
		},
		Timeout: {syscall.ETIMEDOUT},
		Local: {
			syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EPERM, syscall.EADDRNOTAVAIL,
			syscall.EADDRINUSE, syscall.EAFNOSUPPORT, syscall.EAGAIN, syscall.EINVAL, syscall.EMSGSIZE,
		},
	} {
		for _, errno := range errnos {
			tests = append(tests, struct {
				err  error
				want Kind
			}{errno, kind})
		}
	}

	for _, tc := range tests {
		for how, err := range map[string]error{
			"plain":   tc.err,
			"wrapped": fmt.Errorf("udp 192.0.2.1:53: %w", tc.err),
			"joined":  errors.Join(errors.New("first"), tc.err),
			"URL":     &url.Error{Op: "Post", Err: &net.OpError{Op: "read", Err: fmt.Errorf("h2: %w", tc.err)}},
			"OpError": &net.OpError{Op: "read", Net: "udp", Err: os.NewSyscallError("recvmsg", tc.err)},
		} {
			if got := FromError(err); got != tc.want {
				t.Errorf("FromError(%s %v) = %s, want %s", how, tc.err, got, tc.want)
			}
		}
	}
	if got := FromError(nil); got != Unknown {
		t.Errorf("FromError(nil) = %s, want %s", got, Unknown)
	}
}

// TestFromErrorReal asks the system for the errors, where it gives them without a network.
func TestFromErrorReal(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	listener.Close()
	if _, err := net.Dial("tcp", addr); FromError(err) != ConnRefused {
		t.Errorf("closed port: %v is %s", err, FromError(err))
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := new(net.Dialer).DialContext(ctx, "tcp", addr); FromError(err) != Cancelled {
		t.Errorf("cancelled dial: %v is %s", err, FromError(err))
	}

	a, b := net.Pipe()
	b.Close()
	if err := tls.Client(a, &tls.Config{InsecureSkipVerify: true}).Handshake(); FromError(err) != ConnReset {
		t.Errorf("handshake with nobody: %v is %s", err, FromError(err))
	}
	if _, err := a.Read(nil); FromError(err) != ConnReset {
		t.Errorf("read after the end: %v is %s", err, FromError(err))
	}
}
