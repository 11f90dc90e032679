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

	"github.com/dnsguard/dnsguard/test/tape"
)

// FuzzClassify: every message is a reply of some kind.
func FuzzClassify(f *testing.F) {
	for _, rcode := range []int{dns.RcodeSuccess, dns.RcodeNameError, dns.RcodeNotZone, dns.RcodeBadVers, 4095} {
		m := new(dns.Msg)
		m.SetQuestion("www.example.org.", dns.TypeA)
		m.SetRcode(m, rcode)
		if rcode == dns.RcodeSuccess {
			m.Truncated = true
		}
		m.SetEdns0(1232, false)
		wire, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire, true)
		f.Add(wire, false)
	}
	f.Fuzz(func(t *testing.T, wire []byte, datagram bool) {
		m := new(dns.Msg)
		if m.Unpack(wire) != nil {
			return
		}
		k := Classify(m, datagram)
		switch {
		case !k.Answered() || k.Blameless() || k.String() == "invalid":
			t.Errorf("a reply is %s", k)
		case k == Truncated && (!datagram || !m.Truncated):
			t.Errorf("%s: TC %t, datagram %t", k, m.Truncated, datagram)
		case k.Denied() && m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError:
			t.Errorf("%s: code %d", k, m.Rcode)
		}
	})
}

// FuzzFromError: every error is of some kind that is no reply, and wrapping it
// changes nothing.
func FuzzFromError(f *testing.F) {
	for i := range byte(22) {
		f.Add([]byte{i, byte(syscall.ECONNREFUSED), 1, 4, 3})
	}
	f.Add([]byte{0, byte(syscall.EMFILE), 5, 14, 6, 0, 7, 13})
	f.Fuzz(func(t *testing.T, script []byte) {
		x := tape.New(script)
		err := someError(x)
		for range 8 {
			k := FromError(err)
			if k == Unknown || k.Answered() || k == Loop || k >= Count {
				t.Fatalf("%v is %s", err, k)
			}
			wrapped := wrap(x, err)
			if got := FromError(wrapped); got != k {
				t.Fatalf("%v is %s, and wrapped as %#v %s", err, k, wrapped, got)
			}
			err = wrapped
			if x.Yes() { // where there are two, one of them counts
				other := someError(x)
				joined := errors.Join(err, other)
				if got := FromError(joined); got != FromError(err) && got != FromError(other) {
					t.Fatalf("%v is %s", joined, got)
				}
				err = joined
			}
		}
	})
}

func someError(x *tape.Tape) error {
	return tape.Of[func() error](
		x,
		func() error { return syscall.Errno(x.Byte()) },
		func() error { return errors.New(string(x.Bytes(20))) },
		func() error { return io.EOF },
		func() error { return io.ErrUnexpectedEOF },
		func() error { return io.ErrClosedPipe },
		func() error { return net.ErrClosed },
		func() error { return context.Canceled },
		func() error { return context.DeadlineExceeded },
		func() error { return os.ErrDeadlineExceeded },
		func() error { return os.ErrPermission },
		func() error { return timeoutError(x.Yes()) },
		func() error { return &net.DNSError{IsTimeout: x.Yes(), IsNotFound: x.Yes()} },
		func() error { return &net.AddrError{Err: "x"} },
		func() error { return tls.AlertError(x.Byte()) },
		func() error { return tls.RecordHeaderError{Msg: "x"} },
		func() error { return &tls.CertificateVerificationError{Err: errors.New("x")} },
		func() error { return x509.HostnameError{Certificate: &x509.Certificate{}, Host: "a"} },
		func() error { return x509.UnknownAuthorityError{} },
		func() error { return x509.CertificateInvalidError{Reason: x509.InvalidReason(x.Byte())} },
		func() error { return &net.OpError{Op: "remote error", Err: errors.New("x")} },
		func() error { return dns.ErrBuf },
		func() error { return &net.OpError{Op: "dial", Net: "tcp"} }, // nothing in it
	)()
}

func wrap(x *tape.Tape, err error) error {
	return tape.Of[func() error](
		x,
		func() error { return fmt.Errorf("udp 192.0.2.1:53: %w", err) },
		func() error { return errors.Join(err) },
		func() error { return &net.OpError{Op: "read", Net: "udp", Err: err} },
		func() error { return os.NewSyscallError("recvmsg", err) },
		func() error { return &url.Error{Op: "Post", URL: "https://192.0.2.1", Err: err} },
		func() error { return &os.PathError{Op: "open", Path: "x", Err: err} },
	)()
}
