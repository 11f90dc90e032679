package dnsguard

import (
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/coredns/coredns/plugin/pkg/transport"
	"github.com/miekg/dns"
)

// optionSeeds are arguments of every option, good and bad.
var optionSeeds = map[string][]string{
	"except":                           {"a b", "10.0.0.0/9 2001:db8::/33", `"" \`},
	"max_fails":                        {"0", "6", "4294967295", "-1", "4294967296"},
	"max_connect_attempts":             {"0", "64", "4294967296"},
	"health_check":                     {"1s no_rec domain .", "0s", "-1s", "1s domain", "1s domain a..b", "1s x"},
	"force_tcp":                        {"", "x"},
	"prefer_udp":                       {"", "x"},
	"tls":                              {"", `""`, "a b c", "a b c d"},
	"mode":                             {"guard", "observe", "x"},
	"tls_servername":                   {"dns.example", "192.0.2.1", "a..b", `""`},
	"expire":                           {"0s", "9223372036854775807ns", "9223372036854775808ns", "1"},
	"max_age":                          {"10s", "1ns"},
	"max_idle_conns":                   {"0", "9223372036854775807", "-1"},
	"read_timeout":                     {"1ns", "0s", "2562047h"},
	"doh_method":                       {"GET", "POST", "get"},
	"policy":                           {"adaptive", "random", "round_robin", "sequential", "x"},
	"max_concurrent":                   {"0", "-1", "1e9"},
	"next":                             {"NXDOMAIN servfail NOERROR", "16"},
	"next_on_nodata":                   {""},
	"failfast_all_unhealthy_upstreams": {""},
	"failover":                         {"SERVFAIL", "NOERROR", "BADVERS"},
	"resolver":                         {"[::1]:53 192.0.2.1", "192.0.2.1:0", "::1%lo"},
	"source_address":                   {"::ffff:192.0.2.1", "fe80::1%eth0", "192.0.2.1:53"},
	"timeout":                          {"100ms", "60s", "99ms"},
	"hedge":                            {"off", "5%", "1", "NaN", "1e-400", "101%", "0x1p-2"},
	"nxdomain":                         {"verify", "trust", "off"},
	"eject":                            {"off", "off off", "failures 3 share 5% base 1s max 1m", "base 1m max 1s", "base", "share 0", "failures 1 failures 1"},
	"private_zones":                    {"a 10.0.0.0/8 at 192.0.2.1", "a at", "at 192.0.2.1", "a at 192.0.2.9", "a a"},
	"edns_options":                     {"all", "ecs 65001", "0", "65536", "all ecs", "NSID"},
	"loop":                             {"on", "off", "key /dev/null", "interval 30s suffix a.example b.example", "suffix .", "suffix", "interval 0s", "on off", "interval 1m interval 1m"},
	"explain":                          {"off", "to ::/0 10.0.0.0/8", "to", "to 192.0.2.1", "to fe80::1%eth0/64", "x"},
}

// placed is how an error of the parser begins: with the file and the line.
var placed = regexp.MustCompile(`^Testfile:[1-9][0-9]* - `)

// FuzzParse holds that no Corefile makes the parser panic, that a mistake is
// reported with its place, and that what the parser lets through is valid and
// can be set to work.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "dnsguard", "dnsguard .", "dnsguard . {", "dnsguard . 192.0.2.1 { policy random }", "dnsguard . ::1%eth0 [::1]:53 {\n}\n}",
		"dnsguard 10.0.0.0/9 tls://[2001:db8::1%dns.example]:853 quic://192.0.2.1%a https://a.example:8443 /dev/null",
		"dnsguard a 192.0.2.1\ndnsguard b 192.0.2.2\nforward c 192.0.2.3", "dnsguard . 192.0.2.1 {\n\n\n", "dnsguard . \"\" \\\n192.0.2.1 # x",
		block("max_age 1s", "max_age 1s"), block("max_fails 1", "eject off"), block("{", "}", "\"\"", "tls \"\"", "eject base"),
	} {
		f.Add(seed)
	}
	for _, option := range slices.Sorted(maps.Keys(options)) {
		for _, args := range optionSeeds[option] {
			f.Add(block(option + " " + args))
		}
	}
	env := Env{ReadFile: func(string) ([]byte, error) { return []byte("nameserver 192.0.2.1\n"), nil }}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "dev") || strings.Contains(text, "proc") { // files without an end
			t.Skip()
		}
		configs, err := parseText(text)
		switch {
		case err != nil && configs != nil:
			t.Errorf("a configuration beside the error %v", err)
		case err != nil && !placed.MatchString(err.Error()):
			t.Errorf("an error without its place: %v", err)
		}
		for _, c := range configs {
			if err := c.Validate(); err != nil {
				t.Errorf("Validate: %v", err)
			}
			g, err := New(c, env)
			if err != nil {
				t.Errorf("New: %v", err)
				continue
			}
			g.Stop()
		}
	})
}

// TestFuzzSeeds holds that each option is among the seeds.
func TestFuzzSeeds(t *testing.T) {
	for option := range options {
		if len(optionSeeds[option]) == 0 {
			t.Errorf("no seed for %s", option)
		}
	}
}

// FuzzTo: a TO is an address, a file or a host name, complete, or an error that
// names it.
func FuzzTo(f *testing.F) {
	for _, seed := range []string{
		"192.0.2.1", "192.0.2.1:5353", "[2001:db8::1]:53", "2001:db8::1", "fe80::1%eth0", "::ffff:192.0.2.1", "dns://a.example", "tls://192.0.2.1%dns.example:853",
		"tls://[2001:db8::1%dns.example]:853", "tls://2001:db8::1%a", "https://192.0.2.1/dns-query", "quic://a.example:0", "grpc://a", "", "/", ".", "192.0.2.256", "tls://%a:1",
		"tls://a%b%c", "[", "]", "[]:1", "a:b:c", "https://[::1%a.]", "dns://192.0.2.1%a", "-.a", "xn--a", "1.2", strings.Repeat("a.", 127) + "b", "\x00",
	} {
		f.Add(seed)
	}
	f.Chdir(f.TempDir())
	f.Fuzz(func(t *testing.T, text string) {
		to, err := parseTo(text)
		if err != nil {
			if !strings.HasPrefix(err.Error(), strconv.Quote(text)+": ") {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		kinds := 0
		for _, is := range []bool{to.Addr.IsValid(), to.Host != "", to.File != ""} {
			if is {
				kinds++
			}
		}
		port, known := defaultPorts[to.Transport]
		switch {
		case kinds != 1 || to.Text != text || !known:
			t.Errorf("%q: %+v", text, to)
		case to.Addr.IsValid() && (to.Addr.Port() == 0 || to.Addr.Addr().Is4In6()), to.Host != "" && (to.Port == 0 || !isHost(to.Host)):
			t.Errorf("%q: no good as an address: %+v", text, to)
		case to.Transport == transport.DNS && to.ServerName != "", to.Transport != transport.DNS && to.File != "":
			t.Errorf("%q: %s with %+v", text, to.Transport, to)
		}
		if to.Addr.IsValid() && to.ServerName == "" { // what it says is what it is
			again, err := parseTo(to.Transport + "://" + to.Addr.String())
			if err != nil || again.Addr != to.Addr || port == 0 {
				t.Errorf("%q: %+v, and again %+v, %v", text, to, again, err)
			}
		}
	})
}

// FuzzAddrs: of a reply to the lookup of an upstream's name, whatever is in it,
// addresses are taken.
func FuzzAddrs(f *testing.F) {
	m := new(dns.Msg)
	m.SetQuestion("a.example.", dns.TypeA)
	for _, s := range []string{"a.example. 1 IN A 192.0.2.1", "a.example. 1 IN AAAA ::ffff:192.0.2.1", "a.example. 1 IN CNAME b.example.", "a.example. 1 IN AAAA 2001:db8::1"} {
		rr, err := dns.NewRR(s)
		if err != nil {
			f.Fatal(err)
		}
		m.Answer = append(m.Answer, rr)
		wire, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
		f.Add(append(wire[:len(wire)-4:len(wire)-4], 0, 0))
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		m := new(dns.Msg)
		if m.Unpack(wire) != nil {
			return
		}
		ttl := uint32(1 << 31)
		addrs := addrsOf(m, &ttl)
		if len(addrs) > len(m.Answer) || len(addrs) > 0 && ttl > m.Answer[0].Header().Ttl || slices.ContainsFunc(addrs, func(a netip.Addr) bool { return !a.IsValid() || a.Is4In6() }) {
			t.Errorf("%v of %v", addrs, m)
		}
	})
}
