package forwardlike

import (
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// TestNext is about several directives in a server block, each with an upstream of its own.
func TestNext(t *testing.T) {
	for _, tc := range []struct {
		name       string
		faults     [3]string
		directives string
		want       verdict
	}{
		{"NXDOMAIN", [3]string{"nxdomain"}, "PLUGIN . $0 {\nnext NXDOMAIN\n}\nPLUGIN . $1", same("NOERROR by 1")},
		{"not given", [3]string{"nxdomain"}, "PLUGIN . $0\nPLUGIN . $1", same("NXDOMAIN")},
		{"another code", [3]string{"refused"}, "PLUGIN . $0 {\nnext NXDOMAIN\n}\nPLUGIN . $1", same("REFUSED")},
		{"several codes", [3]string{"refused", "servfail"}, "PLUGIN . $0 {\nnext NXDOMAIN REFUSED\n}\nPLUGIN . $1 {\nnext SERVFAIL\n}\nPLUGIN . $2", same("NOERROR by 2")},
		{"one passes on, one does not", [3]string{"nxdomain", "nxdomain"}, "PLUGIN . $0 {\nnext NXDOMAIN\n}\nPLUGIN . $1\nPLUGIN . $2", same("NXDOMAIN")},
		{"nobody is left", [3]string{"nxdomain"}, "PLUGIN . $0 {\nnext NXDOMAIN\n}", same("NXDOMAIN")},
		{"a failure of its own", [3]string{"drop"}, "PLUGIN . $0 {\nnext SERVFAIL\nread_timeout 100ms\n?timeout 200ms\n}\nPLUGIN . $1", same("SERVFAIL")},
		{"an answer", [3]string{}, "PLUGIN . $0 {\nnext NXDOMAIN\nnext_on_nodata\n}\nPLUGIN . $1", same("NOERROR by 0")},
		{"NODATA", [3]string{"nodata"}, "PLUGIN . $0 {\nnext_on_nodata\n}\nPLUGIN . $1", same("NOERROR by 1")},
		{"NODATA, not given", [3]string{"nodata"}, "PLUGIN . $0\nPLUGIN . $1", same("NOERROR")},
		{"NXDOMAIN is no NODATA", [3]string{"nxdomain"}, "PLUGIN . $0 {\nnext_on_nodata\n}\nPLUGIN . $1", same("NXDOMAIN")},
		{"NODATA, and a code", [3]string{"nodata", "nxdomain"}, "PLUGIN . $0 {\nnext_on_nodata\n}\nPLUGIN . $1 {\nnext NXDOMAIN\n}\nPLUGIN . $2", same("NOERROR by 2")},
		{"NODATA everywhere", [3]string{"nodata", "nodata"}, "PLUGIN . $0 {\nnext_on_nodata\n}\nPLUGIN . $1 {\nnext_on_nodata\n}", same("NOERROR")},
		{"NOERROR", [3]string{"nodata"}, "PLUGIN . $0 {\nnext NOERROR\n}\nPLUGIN . $1", same("NOERROR by 1")},
		{"NOERROR, with data", [3]string{}, "PLUGIN . $0 {\nnext NOERROR\n}\nPLUGIN . $1", same("NOERROR by 1")},
		{"another zone", [3]string{}, "PLUGIN example.net $0\nPLUGIN example.org $1\nPLUGIN . $2", same("NOERROR by 1")},
		{"the first zone that fits", [3]string{}, "PLUGIN . $0\nPLUGIN example.org $1", same("NOERROR by 0")},
		{"an exception", [3]string{}, "PLUGIN . $0 {\nexcept example.org\n}\nPLUGIN . $1", same("NOERROR by 1")},
		{"an exception above", [3]string{}, "PLUGIN . $0 {\nexcept org example.net\n}\nPLUGIN . $1", same("NOERROR by 1")},
		{"another exception", [3]string{}, "PLUGIN . $0 {\nexcept example.net ample.org\n}\nPLUGIN . $1", same("NOERROR by 0")},
		{"an exception for all but the zone", [3]string{}, "PLUGIN www.example.org $0 {\nexcept www.example.org\n}\nPLUGIN . $1", same("NOERROR by 0")},
		{"an exception, and another plugin", [3]string{}, "PLUGIN . $0 {\nexcept example.org\n}\nwhoami", same("NOERROR")},
		{"no zone that fits", [3]string{}, "PLUGIN example.net $0", same("SERVFAIL")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			play(t, tc.want, func(s *scene) string {
				for _, fault := range tc.faults {
					if fault == "" {
						s.upstream()
						continue
					}
					s.upstream("except probes " + fault)
				}
				s.serve(tc.directives)
				return s.ask("www.example.org.")
			})
		})
	}
}

// TestToForward holds that dnsguard passes on to a forward after it, as forward does.
func TestToForward(t *testing.T) {
	play(t, same("NOERROR by 1"), func(s *scene) string {
		s.upstream("except probes nxdomain")
		s.upstream()
		s.serve("PLUGIN . $0 {\nnext NXDOMAIN\n}\nforward . $1")
		return s.ask("www.example.org.")
	})
}

// TestOtherPlugins is about plugins that ask the server themselves, or change queries and replies on their way.
func TestOtherPlugins(t *testing.T) {
	for _, tc := range []struct {
		name  string
		block string
		ask   string
		want  string
	}{
		{"cache", "cache 30\nPLUGIN . $0", "www.example.org.", "NOERROR by 0, then NOERROR by 0"},
		{"cache of a denial", "cache 30\nPLUGIN . $0", "nx.example.org.", "NXDOMAIN, then NXDOMAIN"},
		{"no cache", "PLUGIN . $0", "www.example.org.", "NOERROR by 0, then REFUSED"},
		{"rewrite", "rewrite name exact alias.example www.example.org\nPLUGIN . $0", "alias.example.", "NOERROR with data, then REFUSED"},
		{"an alias in a zone file", "file ZONE example.net\nPLUGIN . $0", "alias.example.net.", "NOERROR with data of www.example.org., then NOERROR with data"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			play(t, same(tc.want), func(s *scene) string {
				up := s.upstream()
				zone := s.file("zone", "@ 3600 IN SOA ns.example.net. host.example.net. 1 7200 3600 1209600 3600\n@ 3600 IN NS ns.example.net.\nalias 3600 IN CNAME www.example.org.\n")
				s.serve(strings.ReplaceAll(tc.block, "ZONE", zone))
				ask := func() string {
					m := s.send("udp", query(tc.ask))
					words := s.describe(m)
					if m != nil && len(m.Answer) == 2 && m.Answer[1].Header().Rrtype == dns.TypeA {
						words += " of " + m.Answer[1].Header().Name
					}
					return words
				}
				words := ask()
				s.fail(up, "refused")
				return words + ", then " + ask()
			})
		})
	}
}

// TestZones is about server blocks for zones on one port, which share an upstream.
func TestZones(t *testing.T) {
	play(t, same("NOERROR by 0, NOERROR by 1, REFUSED"), func(s *scene) string {
		s.upstream("zone example.net nxdomain")
		s.upstream()
		const block = "%s:0 {\nbind 127.0.0.1\nPLUGIN . %s\n}\n"
		s.start(s.expand(fmt.Sprintf(block, "example.org", "$0") + fmt.Sprintf(block, "example.net", "$1")))
		return strings.Join([]string{s.ask("www.example.org."), s.ask("www.example.net."), s.ask("www.example.com.")}, ", ")
	})
}

// TestBlocks is about servers that share an upstream.
func TestBlocks(t *testing.T) {
	play(t, same("NOERROR by 0, NOERROR by 0, NOERROR by 1"), func(s *scene) string {
		s.upstream()
		s.upstream()
		s.serve("PLUGIN . $0", "PLUGIN . $0 {\nforce_tcp\n}", "PLUGIN example.org $1\nPLUGIN . $0")
		var got []string
		for i := range 3 {
			got = append(got, s.describe(s.sendTo(i, "udp", query(fmt.Sprintf("n%d.example.org.", i)))))
		}
		return strings.Join(got, ", ")
	})
}
