package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// A server that insists on cookies (RFC 7873) from those who send one, and
// trusts others with little by UDP: whether clients send cookies is a matter
// between them and us.
func TestServerCookies(t *testing.T) {
	requires(t, "dig", "named")
	r := transportLab(t)
	far := r.lab.upstream("far", "10.9.0.1", namedWith("  require-server-cookie yes;\n  nocookie-udp-size 128;\n", transportData()))
	www := "www." + transportZone
	if a := r.client.dig("10.9.0.1", "+cookie", "+nobadcookie", www, "A"); a.status != "BADCOOKIE" {
		t.Fatalf("the lab itself is at fault: the upstream says %s to a cookie that it has not given\n%s", a.status, a.text)
	}
	for _, d := range []string{forward, directive()} {
		s := r.node.coredns(plain(d, "10.9.0.1", ""))
		a := r.client.dig(nodeAddr, "+cookie", "+nobadcookie", www, "A")
		t.Logf("%s, asked with a cookie: %s in %v", d, a.status, a.took)
		if d != forward && a.status != "NOERROR" {
			t.Errorf("a client's cookie gives %s, want NOERROR\n%s", a.status, a.text)
		} else if d == forward && d != directive() && a.status == "NOERROR" {
			t.Error("forward passes, so that this test shows nothing")
		}
		s.alive()
		if d == directive() {
			r.answersEverything(s, false)
			before := far.queries()
			for i := range 20 {
				name := fmt.Sprintf("cookie%d.n.%s", i, transportZone)
				if a := r.client.dig(nodeAddr, "+cookie", name, "A"); !strings.Contains(a.text, "198.18.0.1") {
					t.Errorf("%s: %s\n%s", name, a.status, a.text)
				}
			}
			if n := far.queries() - before; n > 3*20 {
				t.Errorf("%d upstream queries for 20 lookups, at most 3 each", n)
			}
		}
		s.kill()
	}
}
