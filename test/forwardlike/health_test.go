package forwardlike

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/test/fakedns"
)

// TestHealthCheck is about what an upstream is asked that left a query unanswered.
func TestHealthCheck(t *testing.T) {
	authority, err := fakedns.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	ca := string(authority.PEM())
	for _, tc := range []struct {
		name    string
		tls     bool
		options []string
		want    string
	}{
		{"as ever", false, nil, "udp rd . NS IN"},
		{"health_check", false, []string{"health_check 0.1s"}, "udp rd . NS IN"},
		{"no_rec", false, []string{"health_check 0.1s no_rec"}, "udp . NS IN"},
		{"domain", false, []string{"health_check 0.1s domain Health.example"}, "udp rd health.example. NS IN"},
		{"both", false, []string{"health_check 0.1s no_rec domain health.example."}, "udp health.example. NS IN"},
		{"force_tcp", false, []string{"force_tcp"}, "tcp rd . NS IN"},
		{"prefer_udp", false, []string{"prefer_udp"}, "udp rd . NS IN"},
		{"by TLS", true, []string{"tls CA", "tls_servername one.example"}, "tls rd . NS IN"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			play(t, same(tc.want), func(s *scene) string {
				listen, to, domain := fakedns.Listen, "$0", ". NS"
				if tc.tls {
					listen, to = fakedns.ListenTLS, "tls://$0"
				}
				if strings.Contains(tc.want, "health.example") {
					domain = "health.example. NS"
				}
				up := s.listen(listen, &fakedns.Server{Zones: []string{"."}, Key: authority, CertNames: []string{"one.example"}}, "zone www.example drop")
				options := strings.ReplaceAll(strings.Join(tc.options, "\n"), "CA", s.file("ca.pem", ca))
				s.forwarding(to, options, "read_timeout 100ms", "?timeout 200ms")
				if got := s.ask("www.example."); got != "SERVFAIL" {
					return got
				}
				found := ""
				s.await("probe", func() bool {
					for _, q := range up.Log() {
						if words := fmt.Sprintf("%s %s", q.Question.Name, dns.Type(q.Question.Qtype)); words == domain {
							found = fmt.Sprintf("%s %s%s IN", q.Proto, map[bool]string{true: "rd "}[q.RD], words)
							return true
						}
					}
					return false
				})
				return found
			})
		})
	}
}

// TestProbesEnd is about an upstream that loses one query and answers probes: it is probed, goes on to be asked, and is not probed for ever.
func TestProbesEnd(t *testing.T) {
	for _, options := range [][]string{nil, {"force_tcp"}, {"prefer_udp"}} {
		t.Run(strings.Join(options, " "), func(t *testing.T) {
			play(t, same("SERVFAIL, probed, NOERROR by 0, no more probes"), func(s *scene) string {
				up := s.upstream("except probes drop")
				s.forwarding("$0", append(options, "read_timeout 100ms", "health_check 20ms", "max_connect_attempts 1", "?timeout 200ms")...)
				words := s.ask("lost.example.org.")
				s.await("probe", func() bool { return up.Stats().Probes > 0 })
				s.fail(up)
				for i := range 5 { // as many as it takes to be believed
					if got := s.ask(fmt.Sprintf("n%d.example.org.", i)); got != "NOERROR by 0" {
						return words + ", then " + got
					}
				}
				words += ", probed, " + s.ask("www.example.org.")
				before, since := up.Stats().Probes, time.Now()
				s.await("time", func() bool { return time.Since(since) > 300*time.Millisecond })
				if n := up.Stats().Probes - before; n > 1 { // one may be under way
					return fmt.Sprintf("%s, %d more probes", words, n)
				}
				return words + ", no more probes"
			})
		})
	}
}

// TestNoHealthCheck holds that max_fails 0 means no probes, whatever happens.
func TestNoHealthCheck(t *testing.T) {
	play(t, same("SERVFAIL SERVFAIL SERVFAIL, no probes, then NOERROR by 0"), func(s *scene) string {
		up := s.upstream("drop")
		s.forwarding("$0", "max_fails 0", "read_timeout 50ms", "max_connect_attempts 1", "?timeout 100ms")
		var got []string
		for i := range 3 {
			got = append(got, s.ask(fmt.Sprintf("n%d.example.org.", i)))
		}
		probes := "no probes"
		if n := up.Stats().Probes; n > 0 {
			probes = fmt.Sprintf("%d probes", n)
		}
		s.fail(up)
		return strings.Join(got, " ") + ", " + probes + ", then " + s.ask("www.example.org.")
	})
}

// TestBack is about upstreams whose ports are closed for a while.
func TestBack(t *testing.T) {
	for _, options := range [][]string{{"?eject max 200ms"}, {"failfast_all_unhealthy_upstreams", "?eject max 200ms"}, {"max_fails 1"}, {"force_tcp", "?eject max 200ms"}} {
		t.Run(fmt.Sprint(options), func(t *testing.T) {
			play(t, same("NOERROR, SERVFAIL while they are closed, and NOERROR again"), func(s *scene) string {
				ups := []*fakedns.Server{s.upstream(), s.upstream()}
				s.forwarding("$0 $1", append(options, "health_check 50ms")...)
				n := 0
				ask := func() string {
					n++
					code, _, _ := strings.Cut(s.ask(fmt.Sprintf("n%d.example.org.", n)), " ")
					return code
				}
				words := ask()
				for i, up := range ups {
					s.fail(up, "refuse-port")
					s.await("closed port", func() bool {
						c, err := net.Dial("tcp", s.addr[i])
						if err == nil {
							c.Close()
						}
						return err != nil
					})
				}
				s.await("failure", func() bool { return ask() == "SERVFAIL" })
				for range 20 {
					if code := ask(); code != "SERVFAIL" {
						return code + " while they are closed"
					}
				}
				for _, up := range ups {
					s.fail(up)
				}
				s.await("answer", func() bool { return ask() == "NOERROR" })
				return words + ", SERVFAIL while they are closed, and NOERROR again"
			})
		})
	}
}

// TestThreeWay is about an upstream that answers every second query only, beside a good one: no client sees a failure.
func TestThreeWay(t *testing.T) {
	play(t, same("20 of 20 answered"), func(s *scene) string {
		s.upstream("except probes p 50% drop")
		s.upstream()
		s.forwarding("$0 $1", "max_fails 1", "read_timeout 300ms")
		right := 0
		for i := range 20 {
			if strings.HasPrefix(s.ask(fmt.Sprintf("n%d.example.org.", i)), "NOERROR by") {
				right++
			}
		}
		return fmt.Sprintf("%d of 20 answered", right)
	})
}
