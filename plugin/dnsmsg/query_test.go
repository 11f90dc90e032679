package dnsmsg

import (
	"bytes"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// longest is a name of 255 octets on the wire, which is the limit (RFC 1035, section 2.3.4).
var longest = strings.Repeat(strings.Repeat("a", 63)+".", 3) + strings.Repeat("b", 61) + "."

// TestPack reads what was packed with another parser.
func TestPack(t *testing.T) {
	in := func(k Key) Key { k.Class = dns.ClassINET; return k }
	for name, tc := range map[string]struct {
		key  Key
		name string
	}{
		"plain":         {in(Key{Type: dns.TypeA}), "example.org."},
		"RD":            {in(Key{Type: dns.TypeA, RD: true}), "example.org."},
		"AD":            {in(Key{Type: dns.TypeA, AD: true}), "example.org."},
		"CD":            {in(Key{Type: dns.TypeA, CD: true}), "example.org."},
		"DO":            {in(Key{Type: dns.TypeA, DO: true}), "example.org."},
		"all flags":     {in(Key{Type: dns.TypeDNSKEY, RD: true, AD: true, CD: true, DO: true}), "example.org."},
		"CHAOS":         {Key{Type: dns.TypeTXT, Class: dns.ClassCHAOS}, "version.bind."},
		"unknown type":  {in(Key{Type: 65432}), "example.org."},
		"letter case":   {in(Key{Type: dns.TypeAAAA, Name: "example.org."}), "eXaMpLe.OrG."},
		"root":          {in(Key{Type: dns.TypeNS}), "."},
		"longest":       {in(Key{Type: dns.TypeA}), longest},
		"longest label": {in(Key{Type: dns.TypeA}), strings.Repeat("x", 63) + ".org."},
		"escaped dot":   {in(Key{Type: dns.TypeA}), `a\.b.example.org.`},
		"escaped octet": {in(Key{Type: dns.TypeA}), `\000\255\200.example.org.`},
		"options":       {in(Key{Type: dns.TypeA, Options: "\x00\x03\x00\x02ab"}), "example.org."},
	} {
		t.Run(name, func(t *testing.T) {
			for what, buf := range map[string][]byte{
				"nil": nil, "short": make([]byte, 0, 20), "used": bytes.Repeat([]byte{0xff}, 600), "exact": make([]byte, 0, 12+len(tc.name)+1+4+11+len(tc.key.Options)+1),
			} {
				wire, end, err := Pack(buf, tc.key, tc.name)
				if err != nil {
					t.Fatalf("%s buffer: %v", what, err)
				}
				checkPacked(t, wire, end, tc.key, tc.name)
			}
		})
	}
}

func checkPacked(t *testing.T, wire []byte, end int, k Key, name string) {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(wire); err != nil {
		t.Fatalf("unpack %x: %v", wire, err)
	}
	if want := (dns.MsgHdr{RecursionDesired: k.RD, AuthenticatedData: k.AD, CheckingDisabled: k.CD}); m.MsgHdr != want {
		t.Errorf("header %+v, want %+v", m.MsgHdr, want)
	}
	if q := (dns.Question{Name: name, Qtype: k.Type, Qclass: k.Class}); len(m.Question) != 1 || m.Question[0] != q {
		t.Errorf("question %v, want %v", m.Question, q)
	}
	opt := m.IsEdns0()
	if opt == nil || len(m.Extra) != 1 {
		t.Fatalf("extra %v, want one OPT", m.Extra)
	}
	if opt.UDPSize() != UDPSize || opt.Do() != k.DO || opt.Version() != 0 || opt.ExtendedRcode() != 0 || opt.Hdr.Name != "." {
		t.Errorf("OPT %+v, want size %d, DO %t", opt.Hdr, UDPSize, k.DO)
	}
	if got := PassedOptions(m, func(uint16) bool { return true }); got != k.Options {
		t.Errorf("options %x, want %x", got, k.Options)
	}

	bare := &dns.Msg{Question: m.Question}
	question, err := bare.Pack()
	if err != nil || !bytes.Equal(question[headerLen:], wire[headerLen:end]) {
		t.Errorf("question section %x, want %x (%v)", wire[headerLen:end], question[headerLen:], err)
	}
}

func TestPackErrors(t *testing.T) {
	for _, name := range []string{
		"example.org", "a..org.", strings.Repeat("x", 64) + ".org.", `\`, `a\.`,
	} {
		if wire, _, err := Pack(nil, Key{Type: dns.TypeA, Class: dns.ClassINET}, name); err == nil {
			t.Errorf("Pack(%q) = %x, want an error", name, wire)
		}
	}
}

// TestPackAllocates holds that a buffer with room is used.
func TestPackAllocates(t *testing.T) {
	buf := make([]byte, 0, 96)
	k := Key{Type: dns.TypeA, Class: dns.ClassINET, RD: true}
	if n := testing.AllocsPerRun(100, func() { _, _, _ = Pack(buf, k, "www.example.org.") }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func query(name string, change func(m *dns.Msg)) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(name, dns.TypeA)
	if change != nil {
		change(m)
	}
	return m
}

// TestKeyOf changes one thing at a time and tells whether one reply could still serve both clients.
func TestKeyOf(t *testing.T) {
	type ask struct {
		r       *dns.Msg
		stream  bool
		size    int
		options string
	}
	base := ask{r: query("www.example.org.", nil), size: 1232}
	with := func(change func(a *ask)) ask { a := base; change(&a); return a }
	msg := func(change func(m *dns.Msg)) ask { return ask{r: query("www.example.org.", change), size: 1232} }
	for name, tc := range map[string]struct {
		a    ask
		same bool
	}{
		"ID":            {msg(func(m *dns.Msg) { m.Id++ }), true},
		"letter case":   {ask{r: query("wWw.Example.ORG.", nil), size: 1232}, true},
		"EDNS":          {msg(func(m *dns.Msg) { m.SetEdns0(4096, false) }), true},
		"name":          {ask{r: query("w.example.org.", nil), size: 1232}, false},
		"type":          {msg(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA }), false},
		"class":         {msg(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), false},
		"RD":            {msg(func(m *dns.Msg) { m.RecursionDesired = false }), false},
		"CD":            {msg(func(m *dns.Msg) { m.CheckingDisabled = true }), false},
		"AD":            {msg(func(m *dns.Msg) { m.AuthenticatedData = true }), false},
		"DO":            {msg(func(m *dns.Msg) { m.SetEdns0(4096, true) }), false},
		"stream":        {with(func(a *ask) { a.stream = true }), false},
		"size":          {with(func(a *ask) { a.size = 512 }), false},
		"options":       {with(func(a *ask) { a.options = "\x00\x03\x00\x00" }), false},
		"other options": {with(func(a *ask) { a.options = "\x00\x04\x00\x00" }), false},
	} {
		want := KeyOf(base.r, base.stream, base.size, base.options)
		if got := KeyOf(tc.a.r, tc.a.stream, tc.a.size, tc.a.options); (got == want) != tc.same {
			t.Errorf("%s: keys %+v and %+v, want equal: %t", name, got, want, tc.same)
		}
	}
}

func TestKeyOfSize(t *testing.T) {
	for _, tc := range []struct {
		stream bool
		size   int
		want   uint16
	}{
		{false, 0, 512},
		{false, -1, 512},
		{false, 512, 512},
		{false, 1400, 1400},
		{false, 65535, 65535},
		{false, 1 << 20, 65535},
		{true, 65535, 0},
		{true, 0, 0},
	} {
		if got := KeyOf(query(".", nil), tc.stream, tc.size, "").Size; got != tc.want {
			t.Errorf("size %d, stream %t: %d, want %d", tc.size, tc.stream, got, tc.want)
		}
	}
}

func TestPassedOptions(t *testing.T) {
	nsid := &dns.EDNS0_NSID{Code: dns.EDNS0NSID, Nsid: "aa"}
	local := &dns.EDNS0_LOCAL{Code: 65001, Data: []byte("x")}
	hop := []dns.EDNS0{
		&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"},
		&dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE},
		&dns.EDNS0_PADDING{Padding: []byte{0, 0}},
	}
	all := func(uint16) bool { return true }
	for name, tc := range map[string]struct {
		options []dns.EDNS0
		pass    func(uint16) bool
		want    string
	}{
		"none":               {nil, all, ""},
		"all":                {[]dns.EDNS0{nsid, local}, all, "\x00\x03\x00\x01\xaa\xfd\xe9\x00\x01x"},
		"in their order":     {[]dns.EDNS0{local, nsid}, all, "\xfd\xe9\x00\x01x\x00\x03\x00\x01\xaa"},
		"some":               {[]dns.EDNS0{nsid, local}, func(c uint16) bool { return c == 65001 }, "\xfd\xe9\x00\x01x"},
		"none allowed":       {[]dns.EDNS0{nsid, local}, func(uint16) bool { return false }, ""},
		"never hop by hop":   {hop, all, ""},
		"hop by hop between": {append([]dns.EDNS0{local}, hop...), all, "\xfd\xe9\x00\x01x"},
	} {
		r := query("example.org.", func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().Option = tc.options })
		if got := PassedOptions(r, tc.pass); got != tc.want {
			t.Errorf("%s: %x, want %x", name, got, tc.want)
		}
	}
	if got := PassedOptions(query("example.org.", nil), all); got != "" {
		t.Errorf("without EDNS: %x", got)
	}
}

func TestUnsupported(t *testing.T) {
	ask := func(qtype, class uint16) func(m *dns.Msg) {
		return func(m *dns.Msg) { m.Question[0].Qtype, m.Question[0].Qclass = qtype, class }
	}
	opcode := func(o int) func(m *dns.Msg) { return func(m *dns.Msg) { m.Opcode = o } }
	for name, tc := range map[string]struct {
		change func(m *dns.Msg)
		rcode  int
		ok     bool
	}{
		"A":            {nil, 0, false},
		"HTTPS":        {ask(dns.TypeHTTPS, dns.ClassINET), 0, false},
		"ANY":          {ask(dns.TypeANY, dns.ClassINET), 0, false},
		"unknown type": {ask(65280, dns.ClassINET), 0, false},
		"CHAOS":        {ask(dns.TypeTXT, dns.ClassCHAOS), 0, false},
		"root":         {func(m *dns.Msg) { m.Question[0].Name = "." }, 0, false},
		"status":       {opcode(dns.OpcodeStatus), dns.RcodeNotImplemented, true},
		"notify":       {opcode(dns.OpcodeNotify), dns.RcodeNotImplemented, true},
		"update":       {opcode(dns.OpcodeUpdate), dns.RcodeNotImplemented, true},
		"AXFR":         {ask(dns.TypeAXFR, dns.ClassINET), dns.RcodeNotImplemented, true},
		"IXFR":         {ask(dns.TypeIXFR, dns.ClassINET), dns.RcodeNotImplemented, true},
		"MAILA":        {ask(dns.TypeMAILA, dns.ClassINET), dns.RcodeNotImplemented, true},
		"MAILB":        {ask(dns.TypeMAILB, dns.ClassINET), dns.RcodeNotImplemented, true},
		"type 0":       {ask(dns.TypeNone, dns.ClassINET), dns.RcodeFormatError, true},
		"OPT":          {ask(dns.TypeOPT, dns.ClassINET), dns.RcodeFormatError, true},
		"TSIG":         {ask(dns.TypeTSIG, dns.ClassINET), dns.RcodeFormatError, true},
		"TKEY":         {ask(dns.TypeTKEY, dns.ClassINET), dns.RcodeFormatError, true},
		"class ANY":    {ask(dns.TypeA, dns.ClassANY), dns.RcodeRefused, true},
		"class HESIOD": {ask(dns.TypeA, dns.ClassHESIOD), dns.RcodeRefused, true},
		"class 0":      {ask(dns.TypeA, 0), dns.RcodeRefused, true},
		"a response":   {func(m *dns.Msg) { m.Response = true }, dns.RcodeFormatError, true},
		"no question":  {func(m *dns.Msg) { m.Question = nil }, dns.RcodeFormatError, true},
		"two":          {func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError, true},
		"one OPT":      {func(m *dns.Msg) { m.SetEdns0(1232, false) }, 0, false},
		"two OPT": {func(m *dns.Msg) {
			m.SetEdns0(1232, false)
			m.SetEdns0(1232, false)
		}, dns.RcodeFormatError, true},
		"long name": {func(m *dns.Msg) { m.Question[0].Name = "aaa." + longest }, dns.RcodeFormatError, true},
		"bad name":  {func(m *dns.Msg) { m.Question[0].Name = strings.Repeat("x", 64) + "." }, dns.RcodeFormatError, true},
	} {
		if rcode, ok := Unsupported(query("example.org.", tc.change)); rcode != tc.rcode || ok != tc.ok {
			t.Errorf("%s: %s, %t, want %s, %t", name, dns.RcodeToString[rcode], ok, dns.RcodeToString[tc.rcode], tc.ok)
		}
	}
}
