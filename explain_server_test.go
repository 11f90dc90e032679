package dnsguard

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	_ "github.com/coredns/coredns/plugin/chaos"

	"github.com/miekg/dns"
)

// TestExplainBlocks holds which directives of a Corefile are explained.
func TestExplainBlocks(t *testing.T) {
	s := listen(t, answers)
	corefile := func(lines ...string) string {
		return strings.ReplaceAll(strings.Join(lines, "\n"), "UP", s.addr)
	}
	for name, tc := range map[string]struct {
		corefile string
		want     []string // directive and zone of each text
		rcode    int
	}{
		"one":                         {corefile(". {", "bind 127.0.0.1", "dnsguard . UP", "}"), []string{" ."}, dns.RcodeSuccess},
		"of a narrower zone":          {corefile(". {", "bind 127.0.0.1", "dnsguard corp.example UP", "}"), []string{" corp.example."}, dns.RcodeSuccess},
		"several, in their order":     {corefile(". {", "bind 127.0.0.1", "dnsguard corp.example UP", "dnsguard . UP 127.0.0.1:1", "}"), []string{"1 corp.example.", "2 .", "2 ."}, dns.RcodeSuccess},
		"off is left out":             {corefile(". {", "bind 127.0.0.1", "dnsguard corp.example UP {", "explain off", "}", "dnsguard . UP", "}"), []string{"2 ."}, dns.RcodeSuccess},
		"all off":                     {corefile(". {", "bind 127.0.0.1", "dnsguard corp.example UP {", "explain off", "}", "dnsguard . UP {", "explain off", "prefer_udp", "}", "}"), []string{"upstream"}, dns.RcodeSuccess},
		"two server blocks":           {corefile("corp.example {", "bind 127.0.0.1", "dnsguard corp.example UP", "}", ". {", "bind 127.0.0.1", "dnsguard . UP", "}"), []string{" ."}, dns.RcodeSuccess},
		"no server block for the dot": {corefile("corp.example {", "bind 127.0.0.1", "dnsguard corp.example UP", "}"), nil, dns.RcodeRefused},
		"which also has our zone":     {corefile("corp.example dnsguard {", "bind 127.0.0.1", "dnsguard corp.example UP", "}"), []string{" corp.example."}, dns.RcodeSuccess},
		"our zone in a block apart": {
			corefile("dnsguard {", "bind 127.0.0.1", "dnsguard dnsguard UP", "}", ". {", "bind 127.0.0.1", "dnsguard . UP", "}"), []string{" dnsguard."}, dns.RcodeSuccess,
		},
	} {
		t.Run(name, func(t *testing.T) {
			ask := server(t, tc.corefile)
			before := s.asked.Load()
			m := ask("tcp", query("upstreams.dnsguard.", chaosTXT))
			var got []string
			if s.asked.Load() > before {
				got = []string{"upstream"}
			} else {
				for _, x := range texts(m) {
					got = append(got, value(x, "directive")+" "+value(x, "from"))
				}
			}
			if m.Rcode != tc.rcode || !slices.Equal(got, tc.want) {
				t.Errorf("%s, %q; want %q", dns.RcodeToString[m.Rcode], got, tc.want)
			}
		})
	}
}

// TestExplainPassed holds what is told of names that a directive does not take.
func TestExplainPassed(t *testing.T) {
	ask := server(t, `. {
		bind 127.0.0.1
		dnsguard corp.example 127.0.0.1:1 {
			except lab.corp.example
		}
		dnsguard hidden.example 127.0.0.1:1 {
			explain off
		}
		dnsguard example 127.0.0.1:1 127.0.0.2:1
		dnsguard . 127.0.0.1:1 {
			except lab.corp.example
		}
	}`)
	const one, three, four = "1 corp.example. no: ", "3 example. no: ", "4 . no: "
	for name, want := range map[string][]string{
		"www.corp.example.": {"1 corp.example. yes: ", three + "dnsguard corp.example. comes before, and takes it", four + "dnsguard corp.example. comes before, and takes it"},
		"corp.example.":     {"1 corp.example. yes: ", three + "dnsguard corp.example. comes before, and takes it", four + "dnsguard corp.example. comes before, and takes it"},
		"www.example.":      {one + "not in corp.example.", "3 example. yes: ", four + "dnsguard example. comes before, and takes it"},
		"x.lab.corp.example.": {
			one + "in lab.corp.example., which is excepted: passed to the next plugin", "3 example. yes: ",
			four + "in lab.corp.example., which is excepted: passed to the next plugin",
		},
		"x.hidden.example.": {one + "not in corp.example.", three + "another directive comes before, and takes it", four + "another directive comes before, and takes it"},
		"example.org.":      {one + "not in corp.example.", three + "not in example.", "4 . yes: "},
		`\..`:               {one + "not in corp.example.", three + "not in example.", "4 . yes: "},
	} {
		m := ask("tcp", query(strings.TrimSuffix(name, ".")+".upstreams.dnsguard.", chaosTXT))
		var got []string
		for _, x := range texts(m) {
			if value(x, "forwarded") != "" {
				got = append(got, fmt.Sprintf("%s %s %s: %s", value(x, "directive"), value(x, "from"), value(x, "forwarded"), value(x, "why")))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// TestExplainBesideOthers holds that neither the cache nor chaos comes between, that names of class CH are forwarded as forward does it,
// and that the same names of class IN are none of our business.
func TestExplainBesideOthers(t *testing.T) {
	s := listen(t, func(m, q *dns.Msg) {
		if q.Question[0].Qclass == dns.ClassCHAOS {
			m.Answer = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassCHAOS, Ttl: 60}, Txt: []string{"from the upstream"}}}
			return
		}
		answers(m, q)
	})
	for name, plugins := range map[string]string{"bare": "", "cache": "cache 30", "cache that keeps": "cache 30 {\nserve_stale\nsuccess 100 3600 60\ndenial 100 3600 60\n}", "chaos and cache": "chaos v1 me\ncache"} {
		t.Run(name, func(t *testing.T) {
			ask := server(t, ". {\nbind 127.0.0.1\n"+plugins+"\ndnsguard . "+s.addr+"\n}\n")
			attempts := func(network string) int {
				m := ask(network, query("upstreams.dnsguard.", chaosTXT))
				if len(m.Answer) != 1 || m.Answer[0].Header().Ttl != 0 || m.Authoritative || !m.RecursionAvailable {
					t.Fatalf("%v", m)
				}
				n, err := strconv.Atoi(value(texts(m)[0], "attempts_1m"))
				if err != nil {
					t.Error(err)
				}
				return n
			}
			for i, before := 0, -1; i < 3; i++ {
				udp, tcp := attempts("udp"), attempts("tcp")
				if udp < i || udp <= before || tcp < udp { // more than one for a query, where this host is busy
					t.Errorf("%d attempts by udp and %d by tcp after %d queries; %d before the last", udp, tcp, i, before)
				}
				before = tcp
				if m := ask("udp", query(fmt.Sprintf("n%d.example.org.", i))); len(m.Answer) != 1 {
					t.Errorf("%v", m)
				}
			}
			for range 2 {
				if m := ask("udp", query("zones.dnsguard.", chaosTXT)); m.Rcode != dns.RcodeNameError {
					t.Errorf("%v", m)
				}
			}
			before := s.asked.Load()
			if m := ask("udp", query("upstreams.dnsguard.")); len(m.Answer) != 1 || s.asked.Load() != before+1 {
				t.Errorf("class IN: %v, forwarded %d times", m, s.asked.Load()-before)
			}
			want := "from the upstream"
			if strings.HasPrefix(plugins, "chaos") {
				want = "v1"
			}
			if got := texts(ask("udp", query("version.bind.", chaosTXT))); !slices.Equal(got, []string{want}) {
				t.Errorf("version.bind: %q, want %q", got, want)
			}
		})
	}
}
