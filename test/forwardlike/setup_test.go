package forwardlike

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/forward"
	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard"
)

// setup sets the directives of a server block up, and says which upstreams they have, or that they are refused. A Guard looks host names
// up when it is started: with max_fails 0, when it asks nobody but the resolver, it is, and has some time to come to what is wanted.
func setup(t *testing.T, name, corefile, want string) string {
	t.Helper()
	register()
	c := caddy.NewTestController("dns", strings.ReplaceAll(corefile, "PLUGIN", name))
	action, err := caddy.DirectiveAction("dns", name)
	if err != nil {
		t.Fatal(err)
	}
	if err := action(c); err != nil {
		t.Log(err)
		return "refused"
	}
	var handlers []plugin.Handler
	for _, add := range dnsserver.GetConfig(c).Plugin {
		h := add(nil)
		if g, ok := h.(*dnsguard.Guard); ok {
			if strings.Contains(corefile, "max_fails 0\n") {
				g.Start()
			}
			defer g.Stop()
		}
		handlers = append(handlers, h)
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Second); upstreams(handlers) != want && time.Now().Before(end); {
		<-tick.C
	}
	return upstreams(handlers)
}

// upstreams returns the addresses that handlers ask, in the order of letters: forward's may be random.
func upstreams(handlers []plugin.Handler) string {
	var directives []string
	for _, h := range handlers {
		var addrs []string
		switch h := h.(type) {
		case *forward.Forward:
			for _, p := range h.List() {
				addrs = append(addrs, p.Addr())
			}
		case *dnsguard.Guard:
			for _, u := range h.Snapshot() {
				addrs = append(addrs, u.To)
			}
		}
		slices.Sort(addrs)
		directives = append(directives, strings.Join(addrs, " "))
	}
	return strings.Join(directives, "; ")
}

func checkSetup(t *testing.T, name, corefile string, want verdict) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		for _, plugin := range plugins {
			words := want.forward
			if plugin == "dnsguard" {
				words = want.dnsguard
			}
			if got := setup(t, plugin, corefile, words); got != words {
				t.Errorf("%s: %s\ngot  %s\nwant %s", plugin, corefile, got, words)
			}
		}
	})
}

// TestTo is about FROM and TO: what is taken, and what it stands for.
func TestTo(t *testing.T) {
	s := &scene{t: t}
	resolver := s.handle(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		switch q.Question[0].Name {
		case "one.example.":
			m.Answer = records("one.example. 60 IN A 192.0.2.1", "one.example. 60 IN A 192.0.2.2", "one.example. 60 IN AAAA 2001:db8::1")
		case "two.example.":
			m.Answer = records("two.example. 60 IN A 192.0.2.2", "two.example. 60 IN A 192.0.2.3")
		default:
			m.Rcode = dns.RcodeNameError
		}
		m.Answer = slices.DeleteFunc(m.Answer, func(rr dns.RR) bool { return rr.Header().Rrtype != q.Question[0].Qtype })
		_ = w.WriteMsg(m)
	})
	files := strings.NewReplacer(
		"RESOLV", s.file("resolv.conf", "nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch example.org\n"),
		"NULL", s.file("null.conf", ""), "COMMENTS", s.file("comments.conf", "# nameserver 192.0.2.1\n; nameserver 192.0.2.2\n"),
		"ZONED", s.file("zoned.conf", "nameserver fe80::1%en0\n"), "MANY", s.file("many.conf", strings.Repeat("nameserver 192.0.2.1\n", 20)),
	)
	for _, tc := range []struct {
		args string
		want verdict
	}{
		{"", same("refused")},
		{".", same("refused")},
		{". 127.0.0.1", same("127.0.0.1:53")},
		{". 127.0.0.1:53", same("127.0.0.1:53")},
		{". 127.0.0.1:8080", same("127.0.0.1:8080")},
		{". ::1", same("[::1]:53")},
		{". [::1]", same("[::1]:53")},
		{". [::1]:53", same("[::1]:53")},
		{". [2003::1]:5353", same("[2003::1]:5353")},
		{". dns://127.0.0.1", same("127.0.0.1:53")},
		{". dns://127.0.0.1:5353", same("127.0.0.1:5353")},
		{". dns://[::1]:5353", same("[::1]:5353")},
		{"example.org 127.0.0.1", same("127.0.0.1:53")},
		{"10.9.3.0/18 127.0.0.1", same("127.0.0.1:53")},
		{"10.0.0.0/8 127.0.0.1", same("127.0.0.1:53")},
		{"dns://example.org:53 127.0.0.1", same("127.0.0.1:53")},
		{strings.Repeat("x", 64) + " 127.0.0.1", same("refused")},
		{". 127.0.0.1 127.0.0.2", same("127.0.0.1:53 127.0.0.2:53")},
		{". 127.0.0.1 127.0.0.1:53 dns://127.0.0.1", same("127.0.0.1:53")},
		{". tls://127.0.0.1", same("127.0.0.1:853")},
		{". tls://127.0.0.1:854", same("127.0.0.1:854")},
		{". tls://[2400:3200::1]:853", same("[2400:3200::1]:853")},
		{". tls://127.0.0.1%dns.example", same("127.0.0.1:853")},
		{". tls://127.0.0.1%dns.example:854", same("127.0.0.1:854")},
		{". tls://[2400:3200::1%dns.example]:853", same("[2400:3200::1]:853")},
		{". tls://fe80::1%dns.example", same("[fe80::1]:853")},
		{". https://127.0.0.1", same("127.0.0.1:443")},
		{". https://127.0.0.1:8443", same("127.0.0.1:8443")},
		{". https://127.0.0.1%dns.example:8443", same("127.0.0.1:8443")},
		{". https://127.0.0.1/", same("refused")},
		{". https://127.0.0.1/dns-query", same("refused")},
		{". quic://127.0.0.1", same("127.0.0.1:853")},
		{". quic://127.0.0.1%dns.example:8853", same("127.0.0.1:8853")},
		{". tls://127.0.0.1 quic://127.0.0.1", same("127.0.0.1:853 127.0.0.1:853")},
		{". quic://127.0.0.1%a.example quic://127.0.0.1%A.EXAMPLE quic://127.0.0.1%b.example", same("127.0.0.1:853 127.0.0.1:853")},
		{". grpc://127.0.0.1", same("refused")},
		{". https3://127.0.0.1", verdict{"", "refused"}},
		{". unix:///var/run/dns.sock", same("refused")},
		{". grpc://one.example", same("refused")},
		{". RESOLV", same("192.0.2.1:53 192.0.2.2:53")},
		{". dns://RESOLV", same("192.0.2.1:53 192.0.2.2:53")},
		{". RESOLV 192.0.2.3:5353", same("192.0.2.1:53 192.0.2.2:53 192.0.2.3:5353")},
		{". RESOLV 192.0.2.1", same("192.0.2.1:53 192.0.2.2:53")},
		{". MANY", same("192.0.2.1:53")},
		{". NULL", verdict{"refused", ""}},
		{". COMMENTS", verdict{"refused", ""}},
		{". COMMENTS 127.0.0.1", same("127.0.0.1:53")},
		{". ZONED", verdict{"[fe80::1]:53", "[fe80::1%en0]:53"}},
		{". fe80::1%en0", verdict{"[fe80::1]:53", "[fe80::1%en0]:53"}},
		{". [fe80::1%en0]:5353", verdict{"[fe80::1]:5353", "[fe80::1%en0]:5353"}},
		{". tls://RESOLV", verdict{"192.0.2.1:53 192.0.2.2:53", "refused"}},
		{". one.example", same("192.0.2.1:53 192.0.2.2:53 [2001:db8::1]:53")},
		{". one.example:5353", same("192.0.2.1:5353 192.0.2.2:5353 [2001:db8::1]:5353")},
		{". one.example two.example 192.0.2.3", same("192.0.2.1:53 192.0.2.2:53 192.0.2.3:53 [2001:db8::1]:53")},
		{". tls://one.example%dns.example:854", same("192.0.2.1:854 192.0.2.2:854 [2001:db8::1]:854")},
		{". https://two.example", same("192.0.2.2:443 192.0.2.3:443")},
		{". quic://two.example", same("192.0.2.2:853 192.0.2.3:853")},
		{". 192.0.2.9 two.example", same("192.0.2.2:53 192.0.2.3:53 192.0.2.9:53")},
		{". none.example", verdict{"refused", ""}},
		{". a27.0.0.1", same("refused")},
		{". 8.9.1043", same("refused")},
		{". 8.8.8.8::53", same("refused")},
		{". a..b", same("refused")},
		{". none.example 127.0.0.1", verdict{"refused", "127.0.0.1:53"}},
		{". /nowhere/resolv.conf", verdict{"refused", ""}},
		{". /nowhere/resolv.conf 127.0.0.1", verdict{"refused", "127.0.0.1:53"}},
		{". 127.0.0.1:", verdict{"127.0.0.1:", "refused"}},
		{". 127.0.0.1:0", verdict{"127.0.0.1:0", "refused"}},
		{". 127.0.0.1:65536", verdict{"127.0.0.1:65536", "refused"}},
		{". 127.0.0.1:domain", verdict{"127.0.0.1:domain", "refused"}},
		{". 127.0.0.1%dns.example", verdict{"127.0.0.1:53", "refused"}},
		{"." + strings.Repeat(" 192.0.2.1", 15), same("192.0.2.1:53")},
		{"." + strings.Repeat(" 192.0.2.1", 16), same("refused")},
	} {
		t.Run(tc.args, func(t *testing.T) {
			checkSetup(t, "", files.Replace("PLUGIN "+tc.args+" {\nmax_fails 0\nresolver "+resolver+"\n}"), tc.want)
		})
	}
	checkSetup(t, "two directives", "PLUGIN . ::1\nPLUGIN com ::2", same("[::1]:53; [::2]:53"))
	checkSetup(t, "the second is refused", "PLUGIN . ::1\nPLUGIN com grpc://::2", same("refused"))
}

// TestOptions is about which options and values are taken.
func TestOptions(t *testing.T) {
	taken, refused := same("taken"), same("refused")
	stricter := verdict{"taken", "refused"}
	for options, want := range map[string]verdict{
		"":                                            taken,
		"except example.org":                          taken,
		"except example.org a.b.c":                    taken,
		"except example.org;except example.net":       taken,
		"except 10.0.0.0/8":                           taken,
		"except":                                      refused,
		"except example..org":                         stricter,
		"max_fails 0":                                 taken,
		"max_fails 3":                                 taken,
		"max_fails 4294967295":                        taken,
		"max_fails 4294967296":                        refused,
		"max_fails -1":                                refused,
		"max_fails many":                              refused,
		"max_fails":                                   refused,
		"max_connect_attempts 0":                      taken,
		"max_connect_attempts 5":                      taken,
		"max_connect_attempts many":                   refused,
		"max_connect_attempts -4":                     refused,
		"max_connect_attempts":                        refused,
		"health_check 0.5s":                           taken,
		"health_check 0s":                             taken,
		"health_check 0.5s no_rec":                    taken,
		"health_check 0.5s domain example.org":        taken,
		"health_check 0.5s domain example.org.":       taken,
		"health_check 0.5s domain .":                  taken,
		"health_check 0.5s no_rec domain example.org": taken,
		"health_check 0.5s domain example.org no_rec": taken,
		"health_check 0.5s no_rec no_rec domain example.org": stricter,
		"health_check 0.5s rec":                              refused,
		"health_check 0.5s domain":                           refused,
		"health_check 0.5s domain example..org":              refused,
		"health_check no_rec":                                refused,
		"health_check domain example.org":                    refused,
		"health_check -1s":                                   refused,
		"health_check":                                       refused,
		"force_tcp":                                          taken,
		"force_tcp yes":                                      refused,
		"prefer_udp":                                         taken,
		"prefer_udp yes":                                     refused,
		"force_tcp;prefer_udp":                               taken,
		"tls":                                                taken,
		"tls /nowhere/ca.pem":                                refused,
		"tls a b c d":                                        refused,
		"tls_servername dns.example":                         taken,
		"tls_servername 192.0.2.1":                           taken,
		"tls_servername a/b":                                 stricter,
		"tls_servername":                                     refused,
		"expire 3s":                                          taken,
		"expire 0s":                                          taken,
		"expire -3s":                                         refused,
		"expire 3":                                           refused,
		"expire":                                             refused,
		"max_age 30s":                                        taken,
		"max_age 0s":                                         taken,
		"max_age 10s;expire 10s":                             taken,
		"max_age 10s":                                        taken,
		"max_age 9s":                                         refused,
		"max_age 10s;expire 30s":                             refused,
		"max_age -1s":                                        refused,
		"max_age old":                                        refused,
		"max_age":                                            refused,
		"max_idle_conns 10":                                  taken,
		"max_idle_conns 0":                                   taken,
		"max_idle_conns -1":                                  refused,
		"max_idle_conns many":                                refused,
		"max_idle_conns":                                     refused,
		"read_timeout 5s":                                    taken,
		"read_timeout 500ms":                                 taken,
		"read_timeout 0s":                                    refused,
		"read_timeout -1s":                                   refused,
		"read_timeout soon":                                  refused,
		"read_timeout":                                       refused,
		"doh_method GET":                                     taken,
		"doh_method POST":                                    taken,
		"doh_method PUT":                                     refused,
		"doh_method get":                                     refused,
		"doh_method":                                         refused,
		"policy random":                                      taken,
		"policy round_robin":                                 taken,
		"policy sequential":                                  taken,
		"policy nearest":                                     refused,
		"policy":                                             refused,
		"max_concurrent 1000":                                taken,
		"max_concurrent 0":                                   taken,
		"max_concurrent -4":                                  refused,
		"max_concurrent many":                                refused,
		"max_concurrent":                                     refused,
		"next NXDOMAIN":                                      taken,
		"next servfail NxDomain REFUSED":                     taken,
		"next NXDOMAIN;next REFUSED":                         taken,
		"next NOERROR":                                       taken,
		"next INVALID":                                       refused,
		"next NXDOMAIN INVALID":                              refused,
		"next":                                               refused,
		"next_on_nodata":                                     taken,
		"next_on_nodata yes":                                 refused,
		"failfast_all_unhealthy_upstreams":                   taken,
		"failfast_all_unhealthy_upstreams false":             refused,
		"failover ServFail Refused":                          taken,
		"failover SERVFAIL;failover REFUSED":                 taken,
		"failover NOERROR":                                   refused,
		"failover NOT_A_VALID_RCODE":                         refused,
		"failover":                                           refused,
		"resolver 10.96.0.10":                                taken,
		"resolver 10.96.0.10 10.96.0.11:5353":                taken,
		"resolver ::1 [::1]:5353":                            taken,
		"resolver dns.example.com":                           refused,
		"resolver":                                           refused,
		"source_address 192.0.2.1":                           taken,
		"source_address ::ffff:192.0.2.1":                    taken,
		"source_address 2001:0db8:85a3:0000:1319:8a2e:0370:7344": taken,
		"source_address not-an-ip":                               refused,
		"source_address":                                         refused,
		"expire 3s;expire 4s":                                    stricter,
		"policy random;policy random":                            stricter,
		"max_fails 1 2":                                          refused,
		"policy random sequential":                               refused,
		"blaatl":                                                 refused,
		"FORCE_TCP":                                              refused,
		"}":                                                      refused,
	} {
		t.Run(options, func(t *testing.T) {
			corefile := "PLUGIN . 192.0.2.1 {\n" + strings.ReplaceAll(options, ";", "\n") + "\n}"
			for _, plugin := range plugins {
				words := want.forward
				if plugin == "dnsguard" {
					words = want.dnsguard
				}
				got := setup(t, plugin, corefile, strings.Replace(words, "taken", "192.0.2.1:53", 1))
				if got == "192.0.2.1:53" {
					got = "taken"
				}
				if got != words {
					t.Errorf("%s: %s\ngot  %s\nwant %s", plugin, corefile, got, words)
				}
			}
		})
	}
	for corefile, want := range map[string]verdict{
		"PLUGIN . tls://192.0.2.1%dns.example {\ntls_servername foo\n}":         refused,
		"PLUGIN . quic://192.0.2.1%dns.example:853 {\ntls_servername foo\n}":    refused,
		"PLUGIN . https://192.0.2.1%dns.example:443 {\ntls_servername foo\n}":   {"192.0.2.1:443", "refused"},
		"PLUGIN . tls://192.0.2.1 {\ntls\ntls_servername foo\n}":                same("192.0.2.1:853"),
		"PLUGIN . tls://192.0.2.1%a tls://192.0.2.2%a tls://192.0.2.3%b { \n }": same("192.0.2.1:853 192.0.2.2:853 192.0.2.3:853"),
		"PLUGIN . 192.0.2.1 {\nexpire 1s":                                       {"192.0.2.1:53", "refused"},
	} {
		checkSetup(t, corefile, corefile, want)
	}
}
