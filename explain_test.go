package dnsguard

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/coredns/coredns/plugin/pkg/dnstest"
	"github.com/coredns/coredns/plugin/test"
	"github.com/coredns/coredns/request"

	"github.com/miekg/dns"
)

// chaosTXT makes a query one for TXT in class CH.
func chaosTXT(m *dns.Msg) { m.Question[0].Qtype, m.Question[0].Qclass = dns.TypeTXT, dns.ClassCHAOS }

// texts returns the strings of each TXT record, joined. In strings of the library a backslash is escaped.
func texts(m *dns.Msg) []string {
	var all []string
	for _, rr := range m.Answer {
		all = append(all, strings.ReplaceAll(strings.Join(rr.(*dns.TXT).Txt, "|"), `\\`, `\`))
	}
	return all
}

// value returns what a text of an answer says of a key.
func value(text, key string) string {
	for pair := range strings.SplitSeq(text, "|") {
		if v, ok := strings.CutPrefix(pair, key+"="); ok {
			return v
		}
	}
	return ""
}

// explained asks from a client, and returns the reply as it would leave the server.
func explained(t *testing.T, g *Guard, client string, r *dns.Msg) *dns.Msg {
	t.Helper()
	w := dnstest.NewRecorder(&test.ResponseWriter{RemoteIP: client})
	if _, err := g.ServeDNS(t.Context(), request.NewScrubWriter(r, w), r); err != nil || w.Msg == nil {
		t.Fatalf("%s: %v, %v", r.Question[0].Name, w.Msg, err)
	}
	wire, err := w.Msg.Pack()
	if err != nil {
		t.Fatal(err)
	}
	size := dns.MinMsgSize
	if opt := r.IsEdns0(); opt != nil {
		size = max(size, int(opt.UDPSize()))
	}
	if len(wire) > size {
		t.Errorf("%s: %d octets for a buffer of %d", r.Question[0].Name, len(wire), size)
	}
	m := new(dns.Msg)
	if err := m.Unpack(wire); err != nil {
		t.Fatal(err)
	}
	return m
}

// ownAddrs is a host's.
func ownAddrs(own ...string) Env {
	return Env{OwnAddrs: func() ([]netip.Addr, error) { return ips(own...), nil }}
}

// code18 returns the code and the text of the Extended DNS Error.
func code18(m *dns.Msg) (code uint16, text string) {
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				return e.InfoCode, e.ExtraText
			}
		}
	}
	return 0, ""
}

// TestExplainWho holds who is told, and that nothing is forwarded for the others either.
func TestExplainWho(t *testing.T) {
	s := listen(t, answers)
	for _, tc := range []struct {
		option, client string
		told           bool
	}{
		{"", "127.0.0.1", true},
		{"", "::1", true},
		{"", "192.0.2.9", true}, // the host's own
		{"", "::ffff:192.0.2.9", true},
		{"", "192.0.2.10", false},
		{"", "10.240.0.1", false},
		{"explain to 10.240.0.0/16 2001:db8::/64", "10.240.0.1", true},
		{"explain to 10.240.0.0/16 2001:db8::/64", "2001:db8::1", true},
		{"explain to 10.240.0.0/16 2001:db8::/64", "127.0.0.1", true},
		{"explain to 10.240.0.0/16 2001:db8::/64", "192.0.2.9", true},
		{"explain to 10.240.0.0/16 2001:db8::/64", "10.241.0.1", false},
		{"explain to 10.240.0.0/16 2001:db8::/64", "2001:db8:0:1::1", false},
	} {
		g := guard(t, ownAddrs("192.0.2.9"), ".", s.addr, tc.option)
		for _, name := range []string{"upstreams.dnsguard.", "www.example.org.upstreams.dnsguard.", "dnsguard.", "x.dnsguard."} {
			m := explained(t, g, tc.client, query(name, chaosTXT, edns))
			code, why := code18(m)
			if told := m.Rcode != dns.RcodeRefused; told != tc.told || !told && (code != dns.ExtendedErrorCodeProhibited || why == "" || len(m.Answer) > 0) {
				t.Errorf("%q, %s from %s: %v, want told: %t", tc.option, name, tc.client, m, tc.told)
			}
		}
	}
	if n := s.asked.Load(); n != 0 {
		t.Errorf("the upstream was asked %d times", n)
	}
}

// TestExplainNoAddrs holds that a host whose addresses cannot be found still tells its loopback, and starts.
func TestExplainNoAddrs(t *testing.T) {
	g := guard(t, Env{OwnAddrs: func() ([]netip.Addr, error) { return nil, errors.New("no descriptors") }}, ".", "127.0.0.1:1")
	for client, want := range map[string]int{"127.0.0.1": dns.RcodeSuccess, "192.0.2.1": dns.RcodeRefused} {
		if m := explained(t, g, client, query("upstreams.dnsguard.", chaosTXT)); m.Rcode != want {
			t.Errorf("%s: %v", client, m)
		}
	}
}

// TestExplainKinds holds which names, types and classes are answered, and how.
func TestExplainKinds(t *testing.T) {
	s := listen(t, answers)
	g := guard(t, Env{}, "corp.example", s.addr) // whatever its zone
	n := &next{name: "file"}
	g.Next = n
	kind := func(qtype uint16) func(m *dns.Msg) {
		return func(m *dns.Msg) { chaosTXT(m); m.Question[0].Qtype = qtype }
	}
	for _, tc := range []struct {
		name    string
		change  func(m *dns.Msg)
		rcode   int
		records int
	}{
		{"upstreams.dnsguard.", chaosTXT, dns.RcodeSuccess, 1},
		{"UPstreams.DNSguard.", chaosTXT, dns.RcodeSuccess, 1},
		{"upstreams.dnsguard.", kind(dns.TypeANY), dns.RcodeSuccess, 1},
		{"upstreams.dnsguard.", kind(dns.TypeA), dns.RcodeSuccess, 0},
		{"upstreams.dnsguard.", kind(dns.TypeSOA), dns.RcodeSuccess, 0},
		{"upstreams.dnsguard.", kind(65280), dns.RcodeSuccess, 0},
		{"x.corp.example.upstreams.dnsguard.", chaosTXT, dns.RcodeSuccess, 2},
		{"x.corp.example.upstreams.dnsguard.", kind(dns.TypeANY), dns.RcodeSuccess, 2},
		{"x.corp.example.upstreams.dnsguard.", kind(dns.TypeAAAA), dns.RcodeSuccess, 0},
		{"x.example.org.upstreams.dnsguard.", chaosTXT, dns.RcodeSuccess, 1},
		{"dnsguard.", chaosTXT, dns.RcodeSuccess, 0},
		{"zones.dnsguard.", chaosTXT, dns.RcodeNameError, 0},
		{"zones.dnsguard.", kind(dns.TypeANY), dns.RcodeNameError, 0},
		{"upstreams.dnsguard.", kind(dns.TypeAXFR), dns.RcodeNotImplemented, 0},
		{"upstreams.dnsguard.", kind(dns.TypeOPT), dns.RcodeFormatError, 0},
		{"upstreams.dnsguard.", func(m *dns.Msg) { chaosTXT(m); m.Opcode = dns.OpcodeNotify }, dns.RcodeNotImplemented, 0},
		{"upstreams.dnsguard.", func(m *dns.Msg) { chaosTXT(m); m.Question[0].Qclass = dns.ClassHESIOD }, dns.RcodeNotZone, 0}, // the next plugin's
		{"upstreams.dnsguard.", func(m *dns.Msg) { chaosTXT(m); m.Question[0].Qclass = dns.ClassINET }, dns.RcodeNotZone, 0},
		{"upstreams.dnsguard.", func(m *dns.Msg) { chaosTXT(m); m.Question[0].Qclass = dns.ClassANY }, dns.RcodeNotZone, 0},
		{"version.bind.", chaosTXT, dns.RcodeNotZone, 0},
		{"xdnsguard.", chaosTXT, dns.RcodeNotZone, 0},
		{".", chaosTXT, dns.RcodeNotZone, 0},
	} {
		r := query(tc.name, tc.change)
		m := explained(t, g, "127.0.0.1", r)
		if m.Rcode != tc.rcode || len(m.Answer) != tc.records || len(m.Ns) != 0 {
			t.Errorf("%s: %v, want %s with %d records", &r.Question[0], m, dns.RcodeToString[tc.rcode], tc.records)
		}
		if m.Authoritative || m.Id != r.Id || !slices.Equal(m.Question, r.Question) {
			t.Errorf("%s: %v, want no AA, and the question as it was", &r.Question[0], m)
		}
		for _, rr := range m.Answer {
			if h := rr.Header(); h.Name != tc.name || h.Ttl != 0 || h.Class != dns.ClassCHAOS || h.Rrtype != dns.TypeTXT {
				t.Errorf("%s: %v", &r.Question[0], h)
			}
		}
	}
	if n := s.asked.Load(); n != 0 {
		t.Errorf("the upstream was asked %d times", n)
	}
}

// TestExplainNames holds that any name that fits is told of, by its own letters.
func TestExplainNames(t *testing.T) {
	g := guard(t, Env{}, ".", "127.0.0.1:1")
	label := strings.Repeat("a", 63) + "."
	for asked, want := range map[string]string{
		"example.org.upstreams.dnsguard.":                                                      "example.org.",
		"WWW.Example.ORG.upstreams.dnsguard.":                                                  "www.example.org.",
		`\..upstreams.dnsguard.`:                                                               ".",
		`a\.b.example.org.upstreams.dnsguard.`:                                                 `a\.b.example.org.`,
		`a\\\"\;\000\255.upstreams.dnsguard.`:                                                  `a\\\"\;\000\255.`,
		label + label + label + "bc.de.upstreams.dnsguard.":                                    label + label + label + "bc.de.",
		strings.Repeat(`\001`, 63) + "." + strings.Repeat(`\001`, 63) + ".upstreams.dnsguard.": (strings.Repeat(`\001`, 63) + ".")[:255-len("name=")-3] + "...",
	} {
		all := texts(explained(t, g, "127.0.0.1", query(asked, chaosTXT, func(m *dns.Msg) { m.SetEdns0(4096, false) })))
		if len(all) != 2 || value(all[0], "name") != unescaped(want) || value(all[0], "forwarded") != "yes" || value(all[1], "to") != "127.0.0.1:1" {
			t.Errorf("%s: %q, want name=%s", asked, all, want)
		}
	}
}

// unescaped is what the library makes of octets that texts has left in presentation format.
func unescaped(s string) string { return strings.ReplaceAll(s, `"`, `\"`) }

// TestExplainOff holds that names are forwarded as any others where nobody is to be told.
func TestExplainOff(t *testing.T) {
	s := listen(t, code(dns.RcodeNameError))
	g := guard(t, Env{}, ".", s.addr, "explain off")
	if m := explained(t, g, "127.0.0.1", query("upstreams.dnsguard.", chaosTXT)); m.Rcode != dns.RcodeNameError || s.asked.Load() != 1 {
		t.Errorf("%v, the upstream was asked %d times", m, s.asked.Load())
	}
	if z := g.CacheBypassZones(); slices.Contains(z, "dnsguard.") {
		t.Errorf("%q is not to be cached", z)
	}
}

// TestExplainAtTheLimit holds that max_concurrent does not keep anybody from asking.
func TestExplainAtTheLimit(t *testing.T) {
	release := make(chan struct{})
	s := listen(t, func(m, q *dns.Msg) { <-release; answers(m, q) })
	g := guard(t, Env{}, ".", s.addr, "max_concurrent 1")
	var wg sync.WaitGroup
	wg.Go(func() { serve(t, g, query("www.example.org.")) })
	for g.inFlight.Load() < 1 {
		runtime.Gosched()
	}
	if m := serve(t, g, query("ftp.example.org.")); m.Rcode != dns.RcodeRefused {
		t.Errorf("%v, want the limit reached", m)
	}
	if m := explained(t, g, "127.0.0.1", query("upstreams.dnsguard.", chaosTXT)); m.Rcode != dns.RcodeSuccess || len(m.Answer) != 1 {
		t.Errorf("%v", m)
	}
	close(release)
	wg.Wait()
}

// TestExplainLarge holds that what does not fit is cut between records, and said to be.
func TestExplainLarge(t *testing.T) {
	var to []string
	for i := range 15 {
		to = append(to, fmt.Sprintf("127.0.0.%d:1", i+1))
	}
	g := guard(t, Env{}, ".", strings.Join(to, " "))
	whole := 0
	for _, size := range []int{0, 512, 1232, 4096, 65535} {
		r := query("upstreams.dnsguard.", chaosTXT)
		if size > 0 {
			r.SetEdns0(uint16(size), false)
		}
		m := explained(t, g, "127.0.0.1", r)
		if m.Truncated != (len(m.Answer) < 15) || len(m.Answer) < whole || size > 512 && len(m.Answer) == 0 {
			t.Errorf("buffer %d: %d records, TC %t", size, len(m.Answer), m.Truncated)
		}
		whole = len(m.Answer)
		for i, x := range texts(m) {
			if value(x, "to") != to[i] || value(x, "outstanding") == "" {
				t.Errorf("buffer %d: record %d is %q, want all of %s", size, i, x, to[i])
			}
		}
	}
	if whole != 15 {
		t.Errorf("%d records in the largest buffer", whole)
	}
}

// TestExplainConcurrent asks while queries are forwarded and the host's addresses change.
func TestExplainConcurrent(t *testing.T) {
	s := listen(t, answers)
	g := guard(t, ownAddrs("192.0.2.9"), ".", s.addr+" 127.0.0.1:1", "policy round_robin")
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 50 {
				serve(t, g, query(fmt.Sprintf("n%d.n%d.example.org.", i, j)))
			}
		})
		wg.Go(func() {
			for j := range 50 {
				for _, name := range []string{"upstreams.dnsguard.", fmt.Sprintf("n%d.n%d.example.org.upstreams.dnsguard.", i, j)} {
					r := query(name, chaosTXT, func(m *dns.Msg) { m.SetEdns0(4096, false) })
					if m := explained(t, g, "192.0.2.9", r); m.Rcode != dns.RcodeSuccess || len(m.Answer) < 2 {
						t.Errorf("%v", m)
					}
				}
			}
		})
	}
	wg.Wait()
}
