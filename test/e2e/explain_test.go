package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// explainLab is an internal server beside two that know public names, and a
// CoreDNS with its cache before them.
func explainLab(t *testing.T, options string) (*report, *server) {
	t.Helper()
	requires(t, "dig", "unbound", "dnsmasq", "named")
	if directive() != dnsguard {
		t.Skipf("%s explains nothing", directive())
	}
	requiresDirective(t, dnsguard)
	zones := public()[:40]
	l := newLab(t)
	r := l.report("explain", publicQuestions(zones),
		l.upstream("internal", "10.0.0.53", dnsmasq(private())),
		l.upstream("public1", "192.0.2.53", unbound("static", zones...)),
		l.upstream("public2", "198.51.100.53", named(zones...)),
	)
	corefile := plain(dnsguard, "10.0.0.53 192.0.2.53 198.51.100.53", options)
	return r, r.node.coredns(strings.Replace(corefile, "    errors\n", "    errors\n    cache 30\n", 1))
}

var txtInCH = regexp.MustCompile(`(?m)^[^;\s]\S*\s+(\d+)\s+CH\s+TXT\s+"(.*)"$`)

// texts are the TXT records of class CH in dig's answer section, each by its keys.
func (r digResult) texts() (all []map[string]string) {
	for _, m := range txtInCH.FindAllStringSubmatch(r.text, -1) {
		one := map[string]string{"ttl": m[1]}
		for pair := range strings.SplitSeq(m[2], `" "`) {
			key, value, _ := strings.Cut(pair, "=")
			one[key] = value
		}
		all = append(all, one)
	}
	return all
}

// flags are the header flags that dig shows.
func (r digResult) flags() []string {
	_, rest, _ := strings.Cut(r.text, ";; flags: ")
	flags, _, _ := strings.Cut(rest, ";")
	return strings.Fields(flags)
}

// chaos asks for TXT in class CH.
func (h *host) chaos(server, name string, args ...string) digResult {
	h.t.Helper()
	return h.dig(server, append([]string{"-c", "CH", "-t", "TXT", name}, args...)...)
}

const aboutUpstreams = "upstreams.dnsguard."

// Who is told: the host itself by each of its addresses, and the networks in
// the Corefile. All others are refused, told why, and nothing is forwarded.
func TestExplainWhoIsTold(t *testing.T) {
	r, s := explainLab(t, "")
	for _, server := range []string{"127.0.0.1", nodeAddr} {
		for _, proto := range []string{"+notcp", "+tcp"} {
			a := r.node.chaos(server, aboutUpstreams, proto)
			if got := a.texts(); a.status != "NOERROR" || len(got) != 3 || got[0]["to"] != "10.0.0.53:53" || got[0]["ttl"] != "0" || slices.Contains(a.flags(), "aa") {
				t.Errorf("from the node, @%s %s:\n%s", server, proto, a.text)
			}
		}
	}
	sent := func() (n int64) {
		for _, each := range r.sent() {
			n += each
		}
		return n
	}
	before := sent()
	for _, name := range []string{aboutUpstreams, "www.example.org." + aboutUpstreams, "dnsguard.", "x.dnsguard."} {
		for _, proto := range []string{"+notcp", "+tcp"} {
			a := r.client.chaos(nodeAddr, name, proto)
			if a.status != "REFUSED" || !strings.Contains(a.text, "EDE: 18 (Prohibited)") || len(a.texts()) > 0 {
				t.Errorf("from another host, %s %s:\n%s", name, proto, a.text)
			}
		}
	}
	if n := sent() - before; n != 0 {
		t.Errorf("%d queries were forwarded", n)
	}
	s.kill()
	s = r.node.coredns(plain(dnsguard, "10.0.0.53 192.0.2.53 198.51.100.53", "explain to "+clientAddr+"/32"))
	if a := r.client.chaos(nodeAddr, aboutUpstreams); a.status != "NOERROR" || len(a.texts()) != 3 {
		t.Errorf("from a host that is told:\n%s", a.text)
	}
	other := r.lab.host("other", "10.244.3.8")
	if a := other.chaos(nodeAddr, aboutUpstreams); a.status != "REFUSED" {
		t.Errorf("from one that is not:\n%s", a.text)
	}
	// An address that the node gets later is its own as well.
	r.lab.ip("-n", r.node.ns, "addr", "add", "10.196.129.209/32", "dev", "eth0")
	eventually(t, 5*time.Second, s.process, func() error {
		if a := r.node.chaos(nodeAddr, aboutUpstreams, "-b", "10.196.129.209"); a.status != "NOERROR" {
			return fmt.Errorf("from a new address: %s", a.status)
		}
		return nil
	})
	s.alive()
}

// What does not fit a datagram is cut between records, and fetched by TCP.
func TestExplainLarge(t *testing.T) {
	r, s := explainLab(t, "")
	a := r.node.chaos("127.0.0.1", aboutUpstreams, "+bufsize=512", "+ignore")
	if got := a.texts(); !slices.Contains(a.flags(), "tc") || len(got) == 0 || len(got) == 3 || got[len(got)-1]["outstanding"] == "" {
		t.Errorf("512 octets by UDP:\n%s", a.text)
	}
	a = r.node.chaos("127.0.0.1", aboutUpstreams, "+bufsize=512")
	if !strings.Contains(a.text, "Truncated, retrying in TCP mode") || slices.Contains(a.flags(), "tc") || len(a.texts()) != 3 {
		t.Errorf("by TCP then:\n%s", a.text)
	}
	a = r.node.chaos("127.0.0.1", aboutUpstreams, "+bufsize=4096", "+ignore")
	if slices.Contains(a.flags(), "tc") || len(a.texts()) != 3 {
		t.Errorf("4096 octets by UDP:\n%s", a.text)
	}
	s.alive()
}

// What is told changes with what happens, though CoreDNS's cache stands before.
func TestExplainFollows(t *testing.T) {
	r, s := explainLab(t, "policy sequential") // the internal server first, unless it is known to be wrong
	for i, rec := range append(slices.Concat(public()[0].records, public()[1].records, public()[2].records), private().records[:6]...) {
		if m, err := r.client.ask(r.node.addrPort(53), rec.name, dns.TypeA); err != nil || len(m.Answer) == 0 {
			t.Fatalf("query %d, %s: %v, %v", i, rec.name, m, err)
		}
	}
	asked := 0
	ask := func(n int) { // names that the cache does not have
		for range n {
			asked++
			_, _ = r.client.ask(r.node.addrPort(53), fmt.Sprintf("n%d.tbsite.net.", asked), dns.TypeA)
		}
	}
	ask(100)
	a := r.node.chaos("127.0.0.1", aboutUpstreams)
	t.Logf("%s", a.text)
	upstreams := a.texts()
	var attempts int
	for i, u := range upstreams {
		if u["state"] != "healthy" || u["transport"] != "dns" || u["srtt"] == "" || u["reason"] != "" {
			t.Errorf("upstream %d: %v", i, u)
		}
		var n int
		_, _ = fmt.Sscan(u["attempts_1m"], &n)
		attempts += n
	}
	if attempts < 124 || attempts > 300 {
		t.Errorf("%d attempts are told, for 124 queries, of which some denials are verified", attempts)
	}
	for name, first := range map[string]string{"new.corp.internal.": "10.0.0.53:53", "new." + public()[1].name: "192.0.2.53:53"} {
		a = r.node.chaos("127.0.0.1", name+aboutUpstreams)
		t.Logf("%s", a.text)
		told := a.texts()
		if len(told) != 4 || told[0]["forwarded"] != "yes" || told[0]["name"] != name || told[0]["first"] != first || told[0]["zone"] == "" {
			t.Errorf("%s: want %s first, for what is known of the zone:\n%s", name, first, a.text)
		}
		for i, u := range told[1:] {
			if u["ttl"] != "0" || u["order"] == "" || u["rank"] == "" || u["why"] == "" || u["expected"] == "" {
				t.Errorf("%s, place %d: %v", name, i, u)
			}
		}
	}

	public1 := r.upstreams[1]
	public1.filter("input", "udp dport 53 drop", "tcp dport 53 drop")
	state := func(want ...string) {
		t.Helper()
		eventually(t, 20*time.Second, s.process, func() error {
			ask(3)
			u := r.node.chaos("127.0.0.1", aboutUpstreams).texts()[1]
			if !slices.Contains(want, u["state"]) {
				return fmt.Errorf("%v, want %q", u, want)
			}
			return nil
		})
	}
	state("suspect", "ejected")
	a = r.node.chaos("127.0.0.1", aboutUpstreams)
	t.Logf("%s", a.text)
	if u := a.texts()[1]; u["reason"] == "" || u["to"] != "192.0.2.53:53" {
		t.Errorf("silent: %v", u)
	}
	public1.filter("input")
	state("healthy")
	s.alive()
}
