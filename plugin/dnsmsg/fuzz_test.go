package dnsmsg

import (
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"
)

func every(uint16) bool { return true }

// packed returns the wire form of a message that can be packed.
func packed(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	wire, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

// clientQueries are seeds: what clients send, and ought not to send.
func clientQueries(t testing.TB) [][]byte {
	t.Helper()
	var seeds [][]byte
	for _, change := range []func(m *dns.Msg){
		func(*dns.Msg) {},
		func(m *dns.Msg) { m.SetEdns0(1232, true); m.CheckingDisabled, m.AuthenticatedData = true, true },
		func(m *dns.Msg) {
			m.SetEdns0(512, false)
			m.IsEdns0().Option = []dns.EDNS0{
				&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"},
				&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: net.IPv4(192, 0, 2, 0).To4()},
				&dns.EDNS0_LOCAL{Code: 65001, Data: []byte("x")},
			}
		},
		func(m *dns.Msg) { m.SetEdns0(0, false); m.Extra = append(m.Extra, m.Extra[0]) },
		func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) },
		func(m *dns.Msg) { m.Question = nil },
		func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify; m.Response = true },
		func(m *dns.Msg) { m.Question[0] = dns.Question{Name: ".", Qtype: dns.TypeAXFR, Qclass: dns.ClassANY} },
		func(m *dns.Msg) { m.Question[0].Name = longest },
		func(m *dns.Msg) { m.Question[0].Name = `\000\.\\\ .eXample.` },
	} {
		seeds = append(seeds, packed(t, query("www.example.org.", change)))
	}
	return append(seeds, nil, seeds[0][:12], seeds[1][:len(seeds[1])-3])
}

// FuzzPack: a name that is none is an error, and what is packed can be read.
func FuzzPack(f *testing.F) {
	for _, s := range []string{".", "example.org.", longest, `a\.b.org.`, `\000.org.`, `\999.`, "a..b.", "no-dot", "", strings.Repeat("x", 64) + ".", `\\.`, `ü.org.`} {
		f.Add(s, "", true)
	}
	f.Add("example.org.", "\x00\x03\x00\x00", false)
	f.Fuzz(func(t *testing.T, name, options string, do bool) {
		k := Key{Name: name, Type: dns.TypeA, Class: dns.ClassINET, DO: do, Options: options}
		if _, valid := dns.IsDomainName(name); !valid || name == "" || len(options) > 1<<15 {
			return // Unsupported keeps them away
		}
		wire, end, err := Pack(nil, k, name)
		if err != nil {
			return
		}
		if end-headerLen-4 > 255 {
			return // IsDomainName is generous by an octet or two; no parser gives such a name
		}
		if end < headerLen+5 || len(wire) != end+11+len(options) {
			t.Fatalf("Pack(%q): %d octets, question ends at %d", name, len(wire), end)
		}
		m := new(dns.Msg)
		if err := m.Unpack(wire[:end+11]); err != nil && options == "" {
			t.Fatalf("unpack %x: %v", wire, err)
		}
	})
}

// FuzzQuery: whatever a client sends is refused, or becomes a query with its
// question, our OPT record and nothing else.
func FuzzQuery(f *testing.F) {
	for _, wire := range clientQueries(f) {
		f.Add(wire, uint16(1232))
	}
	f.Fuzz(func(t *testing.T, wire []byte, size uint16) {
		r := new(dns.Msg)
		if r.Unpack(wire) != nil {
			return
		}
		rcode, unsupported := Unsupported(r)
		reply := Failure(r, rcode, EDE{Code: 1, Text: strings.Repeat("why", 300)})
		checkReply(t, reply, r, false)
		if unsupported {
			return
		}
		options := PassedOptions(r, every)
		k := KeyOf(r, size == 0, int(size), options)
		if k.Size < dns.MinMsgSize && !k.Stream {
			t.Errorf("a client takes %d octets", k.Size)
		}
		out, end, err := Pack(nil, k, r.Question[0].Name)
		if err != nil {
			t.Fatalf("Pack: %v", err)
		}
		if len(out) > 12+255+4+11+len(options) {
			t.Errorf("%d octets", len(out))
		}
		checkPacked(t, out, end, k, r.Question[0].Name)
	})
}

// FuzzReply makes the reply to any client of any message that an upstream may
// have sent.
func FuzzReply(f *testing.F) {
	queries := clientQueries(f)
	for i, change := range []func(m *dns.Msg){
		func(*dns.Msg) {},
		func(m *dns.Msg) { m.Rcode = dns.RcodeBadVers },
		func(m *dns.Msg) { m.Truncated = true; m.Answer = nil },
		func(m *dns.Msg) { m.Extra = append(m.Extra, m.IsEdns0()) },
		func(m *dns.Msg) { m.IsEdns0().Option = slices.Repeat(m.IsEdns0().Option, 20) },
		func(m *dns.Msg) { m.Answer = slices.Repeat(m.Answer, 60) },
		func(m *dns.Msg) {
			m.Answer = slices.Repeat(m.Answer, 60)
			m.Extra = append(m.Extra, &dns.TSIG{
				Hdr:       dns.RR_Header{Name: "key.", Rrtype: dns.TypeTSIG, Class: dns.ClassANY},
				Algorithm: dns.HmacSHA256, MAC: "00", MACSize: 1,
			})
		},
		func(m *dns.Msg) { m.Answer = append(m.Answer, m.IsEdns0()) },
	} {
		m := upstreamReply(f, dns.RcodeSuccess)
		change(m)
		wire := packed(f, m)
		f.Add(wire, queries[i%3], true)
		f.Add(wire, queries[(i+1)%3], false)
	}
	f.Fuzz(func(t *testing.T, upstream, client []byte, pass bool) {
		m, r := new(dns.Msg), new(dns.Msg)
		if r.Unpack(client) != nil || m.Unpack(upstream) != nil {
			return
		}
		if _, unsupported := Unsupported(r); unsupported {
			return
		}
		if _, err := m.Copy().Pack(); err != nil {
			return // the parser takes what the packer does not
		}
		passes := func(uint16) bool { return false }
		if pass {
			passes = every
		}
		Filtered(m)
		if soa := SOA(m); soa != strings.ToLower(soa) {
			t.Errorf("SOA %q", soa)
		}
		Finish(m, r, passes)
		AddEDE(m, r, EDE{Code: 22, Text: strings.Repeat("ü", 300)})
		if opt := m.IsEdns0(); opt != nil {
			for _, o := range opt.Option {
				if c := o.Option(); ofHop(c) || (c != dns.EDNS0EDE && !pass) {
					t.Errorf("option %d was passed on", c)
				}
			}
		}
		checkReply(t, m, r, true)
	})
}

// checkReply writes m, a reply to r, as CoreDNS does, and reads what a client gets.
func checkReply(t *testing.T, m, r *dns.Msg, whole bool) {
	t.Helper()
	client := r.Copy()
	for _, w := range []*writer{{remote: &net.UDPAddr{IP: net.IPv4(10, 0, 0, 1)}}, {remote: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)}}} {
		in := r.Copy()
		if err := request.NewScrubWriter(in, w).WriteMsg(m.Copy()); err != nil {
			t.Fatalf("a reply that cannot be packed: %v\n%v", err, m)
		}
		got := new(dns.Msg)
		if err := got.Unpack(w.wire); err != nil {
			t.Fatalf("a reply that cannot be read: %v\n%x", err, w.wire)
		}
		limit := dns.MaxMsgSize
		if w.remote.Network() == "udp" {
			limit = dns.MinMsgSize
			if opt := client.IsEdns0(); opt != nil {
				limit = max(limit, int(opt.UDPSize()))
			}
		}
		if len(w.wire) > limit {
			t.Errorf("%d octets for a client that takes %d\n%v", len(w.wire), limit, got)
		}
		if got.Id != client.Id || !got.Response || got.Opcode != client.Opcode {
			t.Errorf("header %+v in reply to %+v", got.MsgHdr, client.MsgHdr)
		}
		if n := len(client.Question); n > 0 && (len(got.Question) != 1 || got.Question[0] != client.Question[0]) || n == 0 && len(got.Question) > 0 {
			t.Errorf("question %v in reply to %v", got.Question, client.Question)
		}
		if whole && w.remote.Network() == "tcp" && !m.Truncated && (got.Truncated || len(got.Answer) != len(m.Answer)) {
			t.Errorf("%d records of %d by TCP", len(got.Answer), len(m.Answer))
		}
		checkMeta(t, got, client.IsEdns0() != nil)
	}
}

// checkMeta holds that what belongs to one hop stays there.
func checkMeta(t *testing.T, m *dns.Msg, edns bool) {
	t.Helper()
	opts := 0
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			switch rr.Header().Rrtype {
			case dns.TypeOPT:
				opts++
			case dns.TypeTSIG:
				t.Errorf("a TSIG record was passed on: %v", rr)
			}
		}
	}
	if opts > 1 || opts == 1 && !edns {
		t.Errorf("%d OPT records, client with EDNS: %t\n%v", opts, edns, m)
	}
}

// writer is a client's dns.ResponseWriter.
type writer struct {
	dns.ResponseWriter // nil: what is not below is not called
	remote             net.Addr
	wire               []byte
}

func (w *writer) RemoteAddr() net.Addr { return w.remote }

func (w *writer) WriteMsg(m *dns.Msg) (err error) {
	w.wire, err = m.Pack()
	return err
}

// FuzzNames: names as they come from the wire fall into domains at their dots
// alone, and not at dots within labels.
func FuzzNames(f *testing.F) {
	for _, s := range []string{".", "org.", "www.example.co.uk.", `x\.y.com.`, `\\.com.`, `a\\\.b.kawasaki.jp.`, `\000\255.github.io.`, longest} {
		wire := make([]byte, 300)
		n, err := dns.PackDomainName(s, wire, 0, nil, false)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire[:n], wire[:n])
		f.Add(wire[:n], []byte("\x01y\x03com\x00"))
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		name, _, err := dns.UnpackDomainName(a, 0)
		if err != nil {
			return
		}
		name = lower(name)
		checkDomains(t, name)
		if zone, _, err := dns.UnpackDomainName(b, 0); err == nil {
			zone = lower(zone)
			if got, want := Within(name, zone), dns.IsSubDomain(zone, name); got != want {
				t.Errorf("Within(%q, %q) = %t", name, zone, got)
			}
		}
	})
}

func checkDomains(t *testing.T, name string) {
	t.Helper()
	above := []string{name}
	for n := name; n != "."; {
		p := Parent(n)
		if dns.CountLabel(p) != dns.CountLabel(n)-1 || !dns.IsSubDomain(p, n) {
			t.Fatalf("Parent(%q) = %q", n, p)
		}
		n = p
		above = append(above, n)
	}
	domain := Registrable(name)
	if !slices.Contains(above, domain) {
		t.Errorf("Registrable(%q) = %q, which is not above it", name, domain)
	}
	if again := Registrable(domain); again != domain {
		t.Errorf("Registrable(%q) = %q, and of that %q", name, domain, again)
	}
}
