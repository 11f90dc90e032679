package exchange

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/coredns/coredns/plugin/pkg/doh"
	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/test/hostile"
	"github.com/dnsguard/dnsguard/test/tape"
)

// queryOf packs the question that begins b, with an OPT record; nil where there is none.
func queryOf(b []byte) *Query {
	_, off, err := dns.UnpackDomainName(b, 0)
	if err != nil || off+4 > len(b) {
		return nil
	}
	m := new(dns.Msg)
	if err := m.Unpack(append([]byte{0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, b[:off+4]...)); err != nil || len(m.Question) != 1 {
		return nil
	}
	head, err := m.Pack()
	if err != nil {
		return nil
	}
	m.SetEdns0(1232, false)
	wire, err := m.Pack()
	if err != nil {
		return nil
	}
	return &Query{Wire: wire, QuestionEnd: len(head)}
}

// FuzzMatch: what is taken for a reply has the question, as another parser reads
// it; to parse it takes memory in proportion; and what comes of it can be packed,
// and read by a client.
func FuzzMatch(f *testing.F) {
	for _, name := range []string{"www.example.org", ".", `a\.b.example.org`, strings.Repeat("x", 63) + ".org"} {
		q := query(name)
		for _, b := range badReplies(q) {
			f.Add(q.Wire[headerLen:], b)
		}
		f.Add(q.Wire[headerLen:], record(q, dns.TypeHTTPS, "\x00\x01\x00\x00\x01\x00\x01\x00"))
		f.Add(q.Wire[headerLen:], record(q, dns.TypeSOA, ""))
		f.Add(q.Wire[headerLen:], record(q, dns.TypeNSEC3, "\x02\x00\x72\x7e\x3b"))
	}
	f.Fuzz(func(t *testing.T, question, b []byte) {
		q := queryOf(question)
		if q == nil || !isResponse(b) || !answers(b, q) {
			return
		}
		part := q.Wire[headerLen:q.QuestionEnd]
		if !repeats(b, len(part), fingerprint(part)) {
			t.Error("not known again once the query is over")
		}
		head, err := unpackHead(b)
		if err != nil {
			t.Fatalf("taken for a reply, and cannot be read: %v", err)
		}
		ours := new(dns.Msg)
		if err := ours.Unpack(q.Wire); err != nil {
			t.Fatal(err)
		}
		if !head.Response || head.Opcode != dns.OpcodeQuery || !repeatsQuestion(head, ours) {
			t.Errorf("taken for a reply to %v: %v", ours.Question, head)
		}
		for _, datagram := range []bool{false, true} {
			checkParsed(t, b, datagram)
		}
	})
}

// checkParsed parses a reply.
func checkParsed(t *testing.T, b []byte, datagram bool) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	m, kind, err := parse(b, datagram)
	runtime.ReadMemStats(&after)
	if spent, most := after.TotalAlloc-before.TotalAlloc, uint64(64<<10+1000*len(b)); spent > most {
		t.Errorf("%d octets for a reply of %d", spent, len(b))
	}
	if (m == nil) != (err != nil) || (m == nil) != (kind == outcome.Malformed) || m != nil && !kind.Answered() {
		t.Fatalf("%s, %v: %v", kind, err, m)
	}
	if m == nil {
		return
	}
	for _, compress := range []bool{false, true} {
		m.Compress = compress
		wire, err := m.Pack()
		if err != nil {
			t.Fatalf("cannot be packed: %v\n%v", err, m)
		}
		got, err := hostile.Read(wire)
		if err != nil {
			t.Fatalf("cannot be read by a client: %v\n%v", err, m)
		}
		if want, err := hostile.Read(b); kind != outcome.Truncated && (err != nil || !slices.Equal(got.Answer, want.Answer) || !slices.Equal(got.Ns, want.Ns)) {
			t.Fatalf("is passed on as\n%+v\nwant\n%+v, %v", got, want, err)
		}
	}
}

// inPieces reads the octets of a stream in pieces of some lengths, and then fails.
type inPieces struct {
	rest  []byte
	sizes *tape.Tape
	err   error
}

func (r *inPieces) Read(b []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, r.err
	}
	n := min(len(b), len(r.rest), max(int(r.sizes.Byte()), 1))
	copy(b, r.rest[:n])
	r.rest = r.rest[n:]
	return n, nil
}

// FuzzReadFrame: frames are the same in whatever pieces they come, and no
// buffer is larger than a message.
func FuzzReadFrame(f *testing.F) {
	good := answer(query("www.example.org").Wire)
	frame := append(binary.BigEndian.AppendUint16(nil, uint16(len(good))), good...)
	f.Add(append(append([]byte(nil), frame...), frame...), []byte{1, 1, 200, 3})
	f.Add(frame[:20], []byte{})
	f.Add([]byte{0xff, 0xff, 1, 2, 3}, []byte{2})
	f.Add([]byte{0, 11, 1, 2, 3}, []byte{})
	f.Add([]byte{0}, []byte{})
	f.Fuzz(func(t *testing.T, stream, sizes []byte) {
		r := bufio.NewReaderSize(&inPieces{rest: stream, sizes: tape.New(sizes), err: os.ErrDeadlineExceeded}, 4096)
		var buf []byte
		for rest := stream; ; {
			var err error
			buf, err = readFrame(r, buf)
			whole := len(rest) >= 2 && len(rest) >= 2+int(binary.BigEndian.Uint16(rest))
			short := len(rest) >= 2 && int(binary.BigEndian.Uint16(rest)) < headerLen
			switch {
			case short != errors.Is(err, errFrame), whole && !short && err != nil, !whole && err == nil:
				t.Fatalf("%v, with %d octets left", err, len(rest))
			case cap(buf) > 1<<16:
				t.Fatalf("a buffer of %d octets", cap(buf))
			case err != nil:
				if !short && !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatalf("%v, want the connection's error", err)
				}
				return
			}
			if n := 2 + len(buf); !bytes.Equal(buf, rest[2:n]) {
				t.Fatalf("read %x, want %x", buf, rest[2:n])
			}
			rest = rest[2+len(buf):]
		}
	})
}

// body is the body of a response, which may break off, and knows whether it was closed.
type body struct {
	io.Reader
	closed bool
	read   int
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.read += n
	return n, err
}

func (b *body) Close() error { b.closed = true; return nil }

// FuzzDoHReply: whatever a web server replies comes to an outcome, and to a
// message only where it is a reply to the question.
func FuzzDoHReply(f *testing.F) {
	q := query("www.example.org")
	for _, b := range badReplies(q) {
		f.Add(200, doh.MimeType, b, uint16(0), false)
	}
	f.Add(200, doh.MimeType+"; charset=utf-8", answer(q.Wire), uint16(0), true)
	f.Add(200, "text/html", []byte("<html>"), uint16(0), false)
	f.Add(200, doh.MimeType, answer(q.Wire), uint16(900), false)
	for _, code := range []int{-1, 100, 204, 301, 403, 429, 502, 1000} {
		f.Add(code, "", []byte{}, uint16(0), true)
	}
	ours, err := message(q, false)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, status int, mime string, content []byte, times uint16, breaks bool) {
		var r io.Reader = bytes.NewReader(bytes.Repeat(content, 1+int(times)%1024))
		if breaks {
			r = io.MultiReader(r, &inPieces{sizes: tape.New(nil), err: io.ErrUnexpectedEOF})
		}
		b := &body{Reader: r}
		resp := &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {mime}}, Body: b}
		m, kind, err := dohReply(resp, ours)
		switch {
		case !b.closed:
			t.Error("the body was left open")
		case b.read > dns.MaxMsgSize+1024:
			t.Errorf("%d octets were read", b.read)
		case kind == outcome.Unknown || kind >= outcome.Count || (m == nil) != (err != nil):
			t.Errorf("%s, %v: %v", kind, err, m)
		case m != nil && (status != http.StatusOK || breaks || !kind.Answered() || !repeatsQuestion(m, ours)):
			t.Errorf("status %d, breaks off: %t: %s, %v", status, breaks, kind, m)
		}
	})
}
