package dnsmsg

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/miekg/dns"
)

func rr(t testing.TB, s string) dns.RR {
	t.Helper()
	r, err := dns.NewRR(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// edesOf returns the Extended DNS Errors of a message.
func edesOf(m *dns.Msg) []EDE {
	var es []EDE
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				es = append(es, EDE{e.InfoCode, e.ExtraText})
			}
		}
	}
	return es
}

// upstreamReply is a reply with everything that must not reach the client as it is.
func upstreamReply(t testing.TB, rcode int) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion("www.example.org.", dns.TypeA)
	m.Id, m.Opcode = 4711, dns.OpcodeStatus
	m.Authoritative, m.Truncated, m.RecursionAvailable, m.AuthenticatedData, m.Zero = true, true, true, true, true
	m.Answer = []dns.RR{rr(t, "www.example.org. 60 IN A 192.0.2.1")}
	opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
	opt.SetUDPSize(4096)
	opt.SetDo()
	opt.Option = []dns.EDNS0{
		&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"},
		&dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeStaleAnswer, ExtraText: "old"},
		&dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeOther},
	}
	m.Extra = []dns.RR{rr(t, "ns.example.org. 60 IN A 192.0.2.2"), opt, rr(t, "ns2.example.org. 60 IN A 192.0.2.3")}
	m.Rcode = rcode
	return m
}

func TestFinish(t *testing.T) {
	type want struct {
		rcode int
		opt   bool
		edes  []EDE
	}
	both := []EDE{{dns.ExtendedErrorCodeStaleAnswer, "old"}, {Code: dns.ExtendedErrorCodeOther}}
	for name, tc := range map[string]struct {
		r     func(m *dns.Msg)
		m     func(m *dns.Msg)
		rcode int
		want  want
	}{
		"client without EDNS":           {nil, nil, 0, want{}},
		"failure to one without EDNS":   {nil, nil, dns.RcodeServerFailure, want{rcode: dns.RcodeServerFailure}},
		"extended code without EDNS":    {nil, nil, dns.RcodeBadVers, want{rcode: dns.RcodeServerFailure}},
		"client with EDNS":              {func(m *dns.Msg) { m.SetEdns0(1400, false) }, nil, 0, want{opt: true, edes: both}},
		"client with DO":                {func(m *dns.Msg) { m.SetEdns0(1400, true) }, nil, dns.RcodeNameError, want{rcode: dns.RcodeNameError, opt: true, edes: both}},
		"upstream without EDE":          {func(m *dns.Msg) { m.SetEdns0(1400, false) }, func(m *dns.Msg) { m.IsEdns0().Option = nil }, 0, want{}},
		"upstream without EDNS":         {func(m *dns.Msg) { m.SetEdns0(1400, false) }, func(m *dns.Msg) { m.Extra = []dns.RR{m.Extra[0], m.Extra[2]} }, 0, want{}},
		"neither RD nor CD, CHAOS":      {func(m *dns.Msg) { m.RecursionDesired = false; m.Question[0].Qclass = dns.ClassCHAOS }, nil, 0, want{}},
		"CD, another case of the name":  {func(m *dns.Msg) { m.CheckingDisabled = true; m.Question[0].Name = "WWW.example.org." }, nil, 0, want{}},
		"two OPT records, against rule": {nil, func(m *dns.Msg) { m.Extra = append(m.Extra, m.Extra[1]) }, 0, want{}},
	} {
		t.Run(name, func(t *testing.T) {
			r, m := query("www.example.org.", tc.r), upstreamReply(t, tc.rcode)
			if tc.m != nil {
				tc.m(m)
			}
			Finish(m, r, nil)
			hdr := dns.MsgHdr{
				Id: r.Id, Response: true, Opcode: dns.OpcodeQuery, Authoritative: true, Truncated: true, RecursionDesired: r.RecursionDesired,
				RecursionAvailable: true, AuthenticatedData: name == "client with DO", CheckingDisabled: r.CheckingDisabled, Rcode: tc.want.rcode,
			}
			if m.MsgHdr != hdr {
				t.Errorf("header %+v, want %+v", m.MsgHdr, hdr)
			}
			if !slices.Equal(m.Question, r.Question) || len(m.Answer) != 1 {
				t.Errorf("question %v, answer %v", m.Question, m.Answer)
			}
			checkOPT(t, m, r, tc.want.opt, tc.want.edes)
			extra := slices.DeleteFunc(slices.Clone(m.Extra), func(r dns.RR) bool { return r.Header().Rrtype == dns.TypeOPT })
			if len(extra) != 2 || extra[0].Header().Name != "ns.example.org." || extra[1].Header().Name != "ns2.example.org." {
				t.Errorf("extra %v, want the two addresses", extra)
			}
			if _, err := m.Pack(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestFinishExtended holds that the reply can be sent whatever code an upstream used.
func TestFinishExtended(t *testing.T) {
	for _, rcode := range []int{dns.RcodeBadVers, dns.RcodeBadCookie, 4095} {
		for _, edns := range []bool{false, true} {
			r, m := query("www.example.org.", nil), upstreamReply(t, rcode)
			m.IsEdns0().Option = nil
			if edns {
				r.SetEdns0(1232, false)
			}
			Finish(m, r, nil)
			if _, err := m.Pack(); err != nil {
				t.Errorf("code %d, client with EDNS: %t: %v", rcode, edns, err)
			}
		}
	}
}

// TestFinishMeta holds that what is about the upstream's message and its hop ends there.
func TestFinishMeta(t *testing.T) {
	m, r := upstreamReply(t, dns.RcodeSuccess), query("www.example.org.", nil)
	tsig := &dns.TSIG{Hdr: dns.RR_Header{Name: "key.", Rrtype: dns.TypeTSIG, Class: dns.ClassANY}}
	sig0 := &dns.SIG{RRSIG: dns.RRSIG{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeSIG, Class: dns.ClassANY}}}
	sig := &dns.SIG{RRSIG: dns.RRSIG{Hdr: dns.RR_Header{Name: "a.", Rrtype: dns.TypeSIG, Class: dns.ClassINET}, TypeCovered: dns.TypeA}}
	m.Answer = append(m.Answer, m.IsEdns0(), sig)
	m.Ns = append(m.Ns, tsig)
	m.Extra = append(m.Extra, sig0, tsig)
	Finish(m, r, nil)
	if len(m.Answer) != 2 || m.Answer[1] != sig || len(m.Ns) != 0 || len(m.Extra) != 2 {
		t.Errorf("left:\n%v", m)
	}
}

// TestFinishRoom holds that the OPT record leaves the reply small enough for the client, however much an upstream put into its own.
func TestFinishRoom(t *testing.T) {
	for _, size := range []uint16{0, 512, 600, 4096, 65535} {
		m, r := upstreamReply(t, dns.RcodeSuccess), query(longest, func(m *dns.Msg) { m.SetEdns0(size, false) })
		for range 10_000 {
			m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_NSID{Code: dns.EDNS0NSID, Nsid: "00"}, &dns.EDNS0_EDE{ExtraText: strings.Repeat("x", 300)})
		}
		Finish(m, r, func(uint16) bool { return true })
		AddEDE(m, r, EDE{Text: strings.Repeat("x", 200)})
		most := max(dns.MinMsgSize, int(size))
		m.Truncate(most)
		wire, err := m.Pack()
		if err != nil || len(wire) > most || len(edesOf(m)) == 0 {
			t.Errorf("%d octets with %d errors, want at most %d: %v", len(wire), len(edesOf(m)), most, err)
		}
	}
}

// checkOPT holds that m has at most one OPT record, our own, with these errors and no other option.
func checkOPT(t *testing.T, m, r *dns.Msg, want bool, edes []EDE) {
	t.Helper()
	n := 0
	for _, x := range m.Extra {
		if x.Header().Rrtype == dns.TypeOPT {
			n++
		}
	}
	if got := edesOf(m); !slices.Equal(got, edes) || (n == 1) != want || n > 1 {
		t.Errorf("%d OPT with %v, want %t with %v", n, got, want, edes)
	}
	if opt := m.IsEdns0(); opt != nil && (opt.UDPSize() != UDPSize || opt.Do() != r.IsEdns0().Do() || len(opt.Option) != len(edes)) {
		t.Errorf("OPT %v, want ours", opt)
	}
}

func TestTakeOPT(t *testing.T) {
	a := rr(t, "a. 1 IN A 192.0.2.1")
	one, two := new(dns.OPT), new(dns.OPT)
	one.Hdr.Rrtype, two.Hdr.Rrtype = dns.TypeOPT, dns.TypeOPT
	for name, tc := range map[string]struct {
		extra, left []dns.RR
		want        *dns.OPT
	}{
		"nothing":    {nil, nil, nil},
		"none":       {[]dns.RR{a}, []dns.RR{a}, nil},
		"only":       {[]dns.RR{one}, nil, one},
		"among":      {[]dns.RR{a, one, a}, []dns.RR{a, a}, one},
		"first":      {[]dns.RR{one, a, two}, []dns.RR{a}, one},
		"not as OPT": {[]dns.RR{&dns.ANY{Hdr: dns.RR_Header{Rrtype: dns.TypeOPT}}}, []dns.RR{&dns.ANY{Hdr: dns.RR_Header{Rrtype: dns.TypeOPT}}}, nil},
	} {
		m := &dns.Msg{Extra: slices.Clone(tc.extra)}
		if got := TakeOPT(m); got != tc.want || len(m.Extra) != len(tc.left) {
			t.Errorf("%s: %v, %v left, want %v, %v", name, got, m.Extra, tc.want, tc.left)
		}
	}
}

func TestFailure(t *testing.T) {
	edns := func(m *dns.Msg) { m.SetEdns0(4096, true) }
	e := EDE{dns.ExtendedErrorCodeNetworkError, "why"}
	for name, tc := range map[string]struct {
		r    func(m *dns.Msg)
		e    EDE
		opt  bool
		edes []EDE
	}{
		"with EDNS":    {edns, e, true, []EDE{e}},
		"without EDNS": {nil, e, false, nil},
		"without text": {edns, EDE{Code: 1}, false, nil},
	} {
		r := query("WWW.example.org.", tc.r)
		m := Failure(r, dns.RcodeServerFailure, tc.e)
		if m.Id != r.Id || !m.Response || !m.RecursionAvailable || !m.RecursionDesired || m.Rcode != dns.RcodeServerFailure || !slices.Equal(m.Question, r.Question) {
			t.Errorf("%s: not a reply to the query: %v", name, m)
		}
		checkOPT(t, m, r, tc.opt, tc.edes)
		if r.IsEdns0() != nil && len(r.IsEdns0().Option) > 0 {
			t.Errorf("%s: the query was changed: %v", name, r)
		}
	}
	if m := Failure(&dns.Msg{}, dns.RcodeFormatError, e); m.Rcode != dns.RcodeFormatError || len(m.Question) != 0 {
		t.Errorf("without a question: %v", m)
	}
}

func TestAddEDE(t *testing.T) {
	r := query("example.org.", func(m *dns.Msg) { m.SetEdns0(4096, false) })
	m := new(dns.Msg)
	m.SetReply(r)
	AddEDE(m, r, EDE{1, strings.Repeat("x", 199) + "yz"})
	AddEDE(m, r, EDE{2, "x" + strings.Repeat("ü", 150)})
	es := edesOf(m)
	if len(es) != 2 || len(m.Extra) != 1 || es[0] != (EDE{1, strings.Repeat("x", 199) + "y"}) || es[1].Code != 2 {
		t.Fatalf("%v in %v, want two in one OPT, cut at 200 octets", es, m.Extra)
	}
	if s := es[1].Text; len(s) > 200 || len(s) < 198 || !utf8.ValidString(s) { // RFC 8914, section 2
		t.Errorf("a text of %d octets, valid UTF-8: %t", len(s), utf8.ValidString(s))
	}
}

func TestSOA(t *testing.T) {
	soa := "Example.ORG. 60 IN SOA ns.example.org. host.example.org. 1 2 3 4 5"
	for _, tc := range []struct {
		ns   []string
		want string
	}{
		{nil, ""},
		{[]string{"example.org. 60 IN NS ns.example.org."}, ""},
		{[]string{soa}, "example.org."},
		{[]string{"example.org. 60 IN NS ns.example.org.", soa, "com. 60 IN SOA a. b. 1 2 3 4 5"}, "example.org."},
	} {
		m := new(dns.Msg)
		for _, s := range tc.ns {
			m.Ns = append(m.Ns, rr(t, s))
		}
		m.Answer = []dns.RR{rr(t, "net. 60 IN SOA a. b. 1 2 3 4 5")} // not where a denial has it
		if got := SOA(m); got != tc.want {
			t.Errorf("SOA of %q = %q, want %q", tc.ns, got, tc.want)
		}
	}
}
