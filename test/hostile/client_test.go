package hostile

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns/coredns/plugin/pkg/edns"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
	"github.com/dnsguard/dnsguard/plugin/explain"
	"github.com/dnsguard/dnsguard/test/tape"
)

// errand is one query of a client.
type errand struct {
	after  time.Duration // after the one before
	msg    *dns.Msg
	tcp    bool
	cancel time.Duration // after which the client is gone; 0: it waits
	reload bool          // the directive's place is taken by another before
}

// longest is a name of 255 octets.
var longest = strings.Repeat(strings.Repeat("a", 63)+".", 3) + strings.Repeat("b", 61) + "."

// readErrands reads what clients ask, one query at least. A tape of zeros asks
// for the address of www.example.org.
func readErrands(x *tape.Tape) []errand {
	var all []errand
	for range 6 {
		e := errand{}
		how := x.Byte()
		if how&1 != 0 {
			e.after = x.Wait()
		}
		e.tcp, e.reload = how&2 != 0, how&16 != 0
		if how&4 != 0 {
			e.cancel = x.Wait()
		}
		if how&8 != 0 {
			e.msg = new(dns.Msg)
			if e.msg.Unpack(x.Bytes(255)) != nil || len(e.msg.Question) == 0 {
				continue // the server answers it by itself
			}
		} else {
			e.msg = readQuestion(x)
		}
		if _, err := edns.Version(e.msg); err == nil { // likewise
			all = append(all, e)
		}
		if x.Done() {
			break
		}
	}
	return all
}

// readQuestion reads a query as clients make them, well and less so.
func readQuestion(x *tape.Tape) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(tape.Of(x, "www.example.org.", "wWw.Example.org.", "nx.example.org.", "a.sub.example.org.", "b.private.example.org.",
		"example.org.", "www.example.com.", "com.", ".", longest, `x\.y.example.org.`, `\000\255.example.org.`, "upstreams.dnsguard.", `x\.y.example.org.upstreams.dnsguard.`), dns.TypeA)
	if explained(m.Question[0].Name) {
		m.Question[0].Qtype, m.Question[0].Qclass = dns.TypeTXT, dns.ClassCHAOS
	}
	m.Id = uint16(x.Byte())
	flags := x.Byte()
	if flags&1 != 0 {
		m.Question[0].Qtype = tape.Of(x, dns.TypeAAAA, dns.TypeTXT, dns.TypeNS, dns.TypeHTTPS, dns.TypeANY, dns.TypeAXFR, dns.TypeDS, x.Uint16())
	}
	m.RecursionDesired = flags&2 == 0
	m.CheckingDisabled = flags&4 != 0
	m.AuthenticatedData = flags&8 != 0
	if flags&16 != 0 {
		m.SetEdns0(tape.Of(x, 1232, 512, 0, 4096, 65535, x.Uint16()), flags&32 != 0)
		if b := x.Bytes(40); len(b) > 0 {
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: x.Uint16(), Data: b}}
		}
	}
	if flags&64 != 0 {
		m.Opcode = x.Pick(16)
		m.Question[0].Qclass = x.Uint16()
		if x.Yes() {
			m.Question = append(m.Question, m.Question[0])
		}
	}
	return m
}

// errands are seeds of clients.
var errands = []string{
	"",                         // A of www.example.org.
	"\x02\x00\x07\x10\x00\x00", // by TCP, with EDNS
	"\x00\x02\x01\x00" + "\x01\x04\x02\x01\x00",         // nx, twice
	"\x00\x00\x01\x30\x01\x00" + "\x04\x02\x00\x01\x00", // EDNS with 512 octets; one that gives up
	"\x00\x03\x01\x00" + "\x00\x04\x01\x00" + "\x02\x05\x01\x01\x01",
	"\x00\x00\x01\x40\x05\x00\x01\x00" + "\x00\x09\x01\x10\x02\x04abcd\xfd\xe9",
	"\x00\x00\x01\x00" + "\x10\x00\x01\x00" + "\x11\x03\x00\x01\x00" + "\x00\x0c\x01\x00" + "\x00\x0d\x01\x10\x00\x00", // reloads; what the plugin tells of itself
	"\x08\x15\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01",
}

// explained reports whether a name is the plugin's own, in class CH.
func explained(name string) bool { return dnsmsg.Within(strings.ToLower(name), explain.Zone) }

// visit is what became of an errand.
type visit struct {
	errand
	took      time.Duration
	cancelled bool
	passed    bool // the next plugin was asked
	rcode     int  // what ServeDNS returned

	mu      sync.Mutex
	replies [][]byte
	errs    []error
}

// handler is the plugin.
type handler interface {
	ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error)
}

// call sends the query as CoreDNS's server does, and waits for the return.
func (v *visit) call(h handler) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if v.cancel > 0 {
		defer time.AfterFunc(v.cancel, cancel).Stop()
	}
	began := time.Now()
	in := v.msg.Copy()
	v.rcode, _ = h.ServeDNS(context.WithValue(ctx, visitKey{}, v), request.NewScrubWriter(in, v), in)
	v.took = time.Since(began)
	v.cancelled = ctx.Err() != nil
}

type visitKey struct{}

// check holds what every client is promised, and returns the reply, nil where
// there need not be one.
func (v *visit) check(t *testing.T) *Message {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.passed:
		return nil
	case len(v.errs) > 0:
		t.Errorf("a reply that could not be written: %v\nto %v", v.errs, v.msg)
		return nil
	case len(v.replies) == 0 && v.cancelled:
		return nil
	case len(v.replies) != 1 || v.rcode != dns.RcodeSuccess:
		t.Errorf("%d replies and code %d after %v\nto %v", len(v.replies), v.rcode, v.took, v.msg)
		return nil
	}
	wire, q := v.replies[0], v.msg
	m, err := Read(wire)
	if err != nil {
		t.Errorf("a reply that cannot be read: %v\n%x\nto %v", err, wire, q)
		return nil
	}
	if m.ID != q.Id || !m.Response(q.Opcode) || len(m.Questions) != 1 || m.Questions[0] != q.Question[0] {
		t.Errorf("no reply to the query:\n%+v\n%v", m, q)
	}
	if limit := v.limit(); len(wire) > limit {
		t.Errorf("%d octets to a client that takes %d:\n%+v", len(wire), limit, m)
	}
	if m.OPT > 1 || m.OPT == 1 && q.IsEdns0() == nil || m.TSIG > 0 { // what belongs to the upstream's hop
		t.Errorf("%d OPT and %d TSIG records to\n%v", m.OPT, m.TSIG, q)
	}
	return m
}

func (v *visit) limit() int {
	if v.tcp {
		return dns.MaxMsgSize
	}
	if opt := v.msg.IsEdns0(); opt != nil {
		return max(dns.MinMsgSize, int(opt.UDPSize()))
	}
	return dns.MinMsgSize
}

// WriteMsg implements dns.ResponseWriter.
func (v *visit) WriteMsg(m *dns.Msg) error {
	wire, err := m.Pack()
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil {
		v.errs = append(v.errs, err)
		return err
	}
	v.replies = append(v.replies, wire)
	return nil
}

// Write implements dns.ResponseWriter.
func (v *visit) Write(wire []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.replies = append(v.replies, slices.Clone(wire))
	return len(wire), nil
}

// client is where all queries come from.
var client = netip.MustParseAddr("10.1.0.1")

// RemoteAddr implements dns.ResponseWriter.
func (v *visit) RemoteAddr() net.Addr {
	if v.tcp {
		return net.TCPAddrFromAddrPort(netip.AddrPortFrom(client, 40_000))
	}
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(client, 40_000))
}

// LocalAddr implements dns.ResponseWriter.
func (v *visit) LocalAddr() net.Addr { return v.RemoteAddr() }

// The rest of dns.ResponseWriter.
func (v *visit) Close() error        { return nil }
func (v *visit) TsigStatus() error   { return nil }
func (v *visit) TsigTimersOnly(bool) {}
func (v *visit) Hijack()             {}
