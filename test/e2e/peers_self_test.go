package e2e

import (
	"testing"

	"github.com/miekg/dns"
)

// The lab's own servers must do what the tests take them for.
func TestPeersAnswerAsConfigured(t *testing.T) {
	requires(t, "unbound", "named", "dnsmasq")
	l := newLab(t)
	zones, office := public()[:20], private()
	const denied, nodata, none = "NXDOMAIN", "NODATA", "no answer"
	for i, c := range []struct {
		name    string
		peer    peer
		private string // what it says to the name of an internal host
		public  string // of a public one
		missing string // of one that does not exist
		soa     bool   // its denial of a public or missing name has an SOA
	}{
		{"public unbound", unbound("static", zones...), denied, "", denied, true},
		{"public named", named(append(zones, emptyRoot())...), denied, "", denied, true},
		{"internal dnsmasq", dnsmasq(office), "", denied, denied, false},
		{"internal named with an empty root", named(emptyRoot(), office), "", denied, denied, true},
		{"internal named with a full root", named(starRoot(), office), "", nodata, nodata, true},
		{"internal unbound, no data", unbound("always_nodata", office), "", nodata, nodata, false},
		{"internal named, refusing", named(office), "", "REFUSED", "REFUSED", false},
		{"internal unbound, refusing", unbound("always_refuse", office), "", "REFUSED", "REFUSED", false},
		{"internal unbound, silent", unbound("always_deny", office), "", none, none, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := l.host("peer"+string(rune('a'+i)), "10.0.1."+string(rune('1'+i)))
			h.t = t
			u := upstream{host: h, relay: h.relay(0)}
			c.peer.start(h)
			before := u.queries()
			for q, want := range map[*question]string{
				new(publicQuestions([]zone{office})[6]): c.private,
				new(publicQuestions(zones)[6]):          c.public,
				new(missing(zones, 2)[0]):               c.missing,
				new(missing(zones, 2)[1]):               c.missing,
			} {
				got := none
				r, err := h.ask(h.addrPort(53), q.name, q.qtype)
				if err == nil {
					b, err := r.Pack()
					if err != nil {
						t.Fatal(err)
					}
					answered := *q // any denial is to be named, and be no success
					answered.rcode, answered.addr = dns.RcodeSuccess, q.addr
					got, _ = answered.judge(b)
					if got == "" && len(r.Answer) == 0 {
						got = nodata
					}
				}
				if got != want {
					t.Errorf("%s %s: %q, want %q", q.name, dns.TypeToString[q.qtype], got, want)
				}
				if err == nil && want != "" && c.soa && (len(r.Ns) == 0 || r.Ns[0].Header().Rrtype != dns.TypeSOA) {
					t.Errorf("%s: denied without an SOA", q.name)
				}
			}
			if n := u.queries() - before; n != 4 {
				t.Errorf("the relay counted %d queries, want 4", n)
			}
		})
	}
}
