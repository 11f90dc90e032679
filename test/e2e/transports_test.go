package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	transportZone = "transport.e2e.test."
	bigSize       = 3000 // bytes of TXT data at big.
	manyAddresses = 100  // A records at many.
)

// transportData has any number of small names, a big TXT set and many
// addresses.
func transportData() zone {
	z := zone{name: transportZone, extra: []string{"*.n." + transportZone + " 300 IN A 198.18.0.1"}}
	z.records = []record{{name: "www." + transportZone, v4: netip.MustParseAddr("198.18.0.2"), v6: netip.MustParseAddr("2001:db8::2")}}
	for i := range bigSize / 200 {
		z.extra = append(z.extra, fmt.Sprintf("big.%s 300 IN TXT \"%0200d\"", transportZone, i))
	}
	for i := range manyAddresses {
		z.extra = append(z.extra, fmt.Sprintf("many.%s 300 IN A 198.18.1.%d", transportZone, i))
	}
	return z
}

// transportQuestions are n small names, all distinct.
func transportQuestions(n int) []question {
	var out []question
	for i := range n {
		a, _ := record{name: fmt.Sprintf("x%d.n.%s", i, transportZone), v4: netip.MustParseAddr("198.18.0.1")}.questions()
		out = append(out, a)
	}
	return out
}

// encrypted starts a second instance of the binary that serves the data by
// DoT, DoH and DoQ with the certificate.
func (h *host) encrypted(cert, key string) *server {
	h.t.Helper()
	z := transportData()
	lines := []string{z.soa(), transportZone + " 300 IN NS ns1.e2e.test."}
	for _, r := range z.records {
		lines = append(lines, r.lines()...)
	}
	db := filepath.Join(h.tempDir(), "db")
	if err := os.WriteFile(db, []byte(strings.Join(append(lines, z.extra...), "\n")+"\n"), 0o644); err != nil {
		h.t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s:53 {\n template IN TXT . {\n  answer \"{{ .Name }} 0 IN TXT ready\"\n }\n}\n", ready)
	for _, at := range []string{"tls://.:853", "https://.:443", "quic://.:853"} {
		fmt.Fprintf(&b, "%s {\n tls %s %s\n file %s %s\n errors\n}\n", at, cert, key, db, transportZone)
	}
	return h.coredns(b.String())
}

// plain is a Corefile without a cache, so that every query is forwarded.
func plain(directive, to, options string) string {
	return fmt.Sprintf(`
%s:53 {
    template IN TXT . {
        answer "{{ .Name }} 0 IN TXT ready"
    }
}
.:53 {
    errors
    prometheus :9153
    %s . %s {
        %s
    }
}
`, ready, directive, to, options)
}

// transportLab has a node and a client.
func transportLab(t *testing.T) *report {
	t.Helper()
	requires(t, "dig")
	requiresDirective(t, directive())
	l := newLab(t)
	return l.report(t.Name(), nil)
}

// answersEverything asks small and big questions in every way of a client.
// Where the upstream is cutting, because it sends no more than datagrams
// hold and cannot be asked otherwise, big answers may be incomplete, but not
// without saying so.
func (r *report) answersEverything(s *server, cutting bool) {
	t := r.lab.t
	t.Helper()
	for _, c := range []struct {
		args []string
		rr   string // how often the answer has it:
		n    int
	}{
		{[]string{"www." + transportZone, "A"}, "198.18.0.2", 1},
		{[]string{"www." + transportZone, "AAAA"}, "2001:db8::2", 1},
		{[]string{"+tcp", "www." + transportZone, "A"}, "198.18.0.2", 1},
		{[]string{"+noedns", "www." + transportZone, "A"}, "198.18.0.2", 1},
		{[]string{"+tcp", "big." + transportZone, "TXT"}, "IN\tTXT\t\"0", bigSize / 200},
		{[]string{"+bufsize=4096", "+ignore", "big." + transportZone, "TXT"}, "IN\tTXT\t\"0", bigSize / 200},
		{[]string{"big." + transportZone, "TXT"}, "IN\tTXT\t\"0", bigSize / 200}, // truncated, then by TCP
		{[]string{"+noedns", "many." + transportZone, "A"}, "198.18.1.", manyAddresses},
		{[]string{"+tcp", "many." + transportZone, "A"}, "198.18.1.", manyAddresses},
	} {
		a := r.client.dig(nodeAddr, c.args...)
		if cutting && c.n > 1 && strings.Contains(a.text, " tc") {
			continue
		}
		if got := strings.Count(a.text, c.rr); a.status != "NOERROR" || got != c.n {
			t.Errorf("dig %s: %s in %v with %d records, want %d", strings.Join(c.args, " "), a.status, a.took, got, c.n)
			if got < 3 {
				t.Log(a.text)
			}
		}
	}
	if a := r.client.dig(nodeAddr, "+ignore", "+bufsize=1232", "big."+transportZone, "TXT"); !strings.Contains(a.text, " tc") {
		t.Errorf("a big answer into a small buffer is not marked truncated:\n%s", a.text)
	}
	if a := r.client.dig(nodeAddr, "nothere."+transportZone, "A"); a.status != "NXDOMAIN" {
		t.Errorf("a missing name: %s\n%s", a.status, a.text)
	}
	f := measure(transportQuestions(400), r.client.load(r.node.addrPort(53), 200, transportQuestions(400)))
	f.scenario, f.server = r.scenario, directive()
	summary.add(f)
	t.Logf("%d wrong of %d, p50 %v, p99 %v %s", f.wrong, f.total, f.p50, f.p99, f.why())
	if f.wrong > 0 {
		t.Errorf("%d of %d wrong: %s", f.wrong, f.total, f.why())
	}
	s.alive()
}

func TestEncryptedUpstreams(t *testing.T) {
	for _, scheme := range []string{"tls", "https", "quic"} {
		t.Run(scheme, func(t *testing.T) {
			r := transportLab(t)
			far := r.lab.host("far", "10.9.0.1")
			ca := newAuthority(far)
			far.encrypted(ca.issue("good", tlsName, time.Now().Add(time.Hour)))
			s := r.node.coredns(plain(directive(), scheme+"://10.9.0.1", "tls "+ca.file()+"\n tls_servername "+tlsName))
			// CoreDNS's DoQ server takes the size in the query's OPT for the limit.
			r.answersEverything(s, scheme == "quic")
		})
	}
}

// Big answers come by TCP from an upstream that truncates them.
func TestTruncatedAnswers(t *testing.T) {
	requires(t, "named")
	r := transportLab(t)
	up := r.lab.upstream("far", "10.9.0.1", named(transportData()))
	s := r.node.coredns(plain(directive(), "10.9.0.1", ""))
	r.answersEverything(s, false)
	if up.relay.tcp.Load() == 0 {
		t.Error("no query came by TCP")
	}
}

// The upstream can be reached by TCP alone.
func TestTCPOnlyUpstream(t *testing.T) {
	requires(t, "named")
	r := transportLab(t)
	up := r.lab.upstream("far", "10.9.0.1", named(transportData()))
	up.filter("input", "iif eth0 udp dport 53 counter name hits drop")
	s := r.node.coredns(plain(directive(), "10.9.0.1", "force_tcp"))
	r.answersEverything(s, false)
	if n := up.hits("input"); n > 0 {
		t.Errorf("%d packets by UDP in spite of force_tcp", n)
	}
}

// Truncated, and no way by TCP: the other upstream's answer, or, without
// one, the truncated answer itself; neither may take long.
func TestTruncatedWithoutTCP(t *testing.T) {
	requires(t, "named")
	const bound = 1500 * time.Millisecond
	for name, rule := range map[string]string{
		"closed":  "iif eth0 tcp dport 53 counter name hits reject with tcp reset",
		"dropped": "iif eth0 tcp dport 53 counter name hits drop",
		"reset":   "iif eth0 tcp dport 53 tcp flags & psh == psh counter name hits reject with tcp reset", // by the first query
		"hanging": "iif eth0 tcp dport 53 tcp flags & psh == psh counter name hits drop",
	} {
		t.Run(name, func(t *testing.T) {
			r := transportLab(t)
			far := r.lab.upstream("far", "10.9.0.1", named(transportData()))
			far.filter("input", rule)
			r.lab.upstream("near", "10.9.0.2", named(transportData()))
			s := r.node.coredns(plain(directive(), "10.9.0.1 10.9.0.2", "policy sequential"))
			a := r.client.dig(nodeAddr, "+bufsize=4096", "+ignore", "big."+transportZone, "TXT")
			if n := strings.Count(a.text, "IN\tTXT\t\"0"); a.status != "NOERROR" || n != bigSize/200 || a.took > bound {
				t.Errorf("beside another: %s with %d records in %v, want %d within %v", a.status, n, a.took, bigSize/200, bound)
			}
			s.alive()
			s.kill()
			s = r.node.coredns(plain(directive(), "10.9.0.1", ""))
			a = r.client.dig(nodeAddr, "+bufsize=4096", "+ignore", "big."+transportZone, "TXT")
			if !strings.Contains(a.text, " tc") || a.took > bound {
				t.Errorf("alone: %s in %v, want the truncated answer within %v\n%s", a.status, a.took, bound, a.text)
			}
			s.alive()
		})
	}
}
