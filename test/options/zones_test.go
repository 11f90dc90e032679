package options

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
	"github.com/dnsguard/dnsguard/test/fakedns"
)

// next is the handler after the last directive. It knows all names.
type next struct {
	name  string
	asked []string
}

func (n *next) Name() string { return n.name }

func (n *next) ServeDNS(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	n.asked = append(n.asked, r.Question[0].Name)
	m := new(dns.Msg).SetReply(r)
	m.Answer = []dns.RR{&dns.A{
		Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
		A:   []byte{192, 0, 2, 99},
	}}
	return dns.RcodeSuccess, w.WriteMsg(m)
}

var _ plugin.Handler = (*next)(nil)

func TestExcept(t *testing.T) {
	for _, tc := range []struct {
		from    string
		options []string
		passed  []string // to the next plugin
		own     []string
	}{
		{".", nil, nil, []string{"www.lab.example.", "."}},
		{".", []string{"except lab.example"}, []string{"lab.example.", "www.lab.example.", "a.b.LAB.example."}, []string{"example.", "notlab.example.", "example.org."}},
		{".", []string{"except lab.example 10.0.0.0/8", "except corp.example"}, []string{"www.lab.example.", "corp.example.", "1.2.3.10.in-addr.arpa."}, []string{"1.2.3.11.in-addr.arpa.", "example.org."}},
		{"example.org", []string{"except lab.example.org"}, []string{"www.lab.example.org.", "www.example.com."}, []string{"example.org.", "www.example.org."}},
		{"example.org", []string{"except example.org"}, []string{"www.example.org."}, []string{"example.org."}}, // as forward has it
	} {
		t.Run(fmt.Sprint(tc.from, tc.options), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, server(10*ms))
				other := &next{name: "other"}
				l.corefile(strings.Replace(directive("10.0.0.1", tc.options...), ".", tc.from, 1)).Next = other
				l.settle()
				for _, name := range slices.Concat(tc.passed, tc.own) {
					l.a(name)
				}
				if !slices.Equal(other.asked, tc.passed) {
					t.Errorf("passed on %v, want %v", other.asked, tc.passed)
				}
				seen := l.up[0].Stats().ByName
				for _, name := range tc.own {
					if seen[strings.ToLower(name)] == 0 {
						t.Errorf("%s: not asked of the upstream", name)
					}
				}
				if len(seen) != len(tc.own) {
					t.Errorf("upstream was asked for %v, want %v", seen, tc.own)
				}
			})
		})
	}
}

// TestNext is about two directives for the root, and a forward after them.
func TestNext(t *testing.T) {
	for _, tc := range []struct {
		name     string
		first    string // options of the first directive
		second   string
		faults   [2]string
		after    string // the name of the handler after them
		answered string // by whom: the number of the directive, or after, or none and the code
	}{
		{"not given", "", "", [2]string{"nxdomain"}, "forward", "NXDOMAIN"},
		{"NXDOMAIN", "next NXDOMAIN", "", [2]string{"nxdomain"}, "forward", "2"},
		{"another code", "next REFUSED", "", [2]string{"nxdomain"}, "forward", "NXDOMAIN"},
		{"two codes", "next REFUSED NXDOMAIN", "", [2]string{"nxdomain"}, "forward", "2"},
		{"two lines", "next REFUSED\nnext NXDOMAIN", "", [2]string{"refused"}, "forward", "2"},
		{"REFUSED", "next REFUSED", "", [2]string{"refused"}, "forward", "2"},
		{"SERVFAIL of the upstream", "next SERVFAIL", "", [2]string{"servfail"}, "forward", "2"},
		{"SERVFAIL of our own", "next SERVFAIL", "", [2]string{"drop"}, "forward", "SERVFAIL"},
		{"an answer", "next NXDOMAIN SERVFAIL REFUSED\nnext_on_nodata", "", [2]string{""}, "forward", "1"},
		{"NOERROR", "next NOERROR", "", [2]string{""}, "forward", "2"},
		{"the second denies", "next NXDOMAIN", "", [2]string{"nxdomain", "nxdomain"}, "forward", "NXDOMAIN"},
		{"and passes on", "next NXDOMAIN", "next NXDOMAIN", [2]string{"nxdomain", "nxdomain"}, "forward", "after"},
		{"to no other plugin", "next NXDOMAIN", "next NXDOMAIN", [2]string{"nxdomain", "nxdomain"}, "cache", "NXDOMAIN"},
		{"NODATA, not given", "next NXDOMAIN", "", [2]string{"nodata"}, "forward", "NOERROR"},
		{"NODATA", "next_on_nodata", "", [2]string{"nodata"}, "forward", "2"},
		{"NODATA of both", "next_on_nodata", "next_on_nodata", [2]string{"nodata", "nodata"}, "forward", "after"},
		{"NODATA, NXDOMAIN", "next_on_nodata", "", [2]string{"nxdomain"}, "forward", "NXDOMAIN"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, server(10*ms), server(10*ms))
				l.up[1].View = "second"
				after := &next{name: tc.after}
				l.corefile(directive("10.0.0.1", tc.first) + directive("10.0.0.2", tc.second))
				l.guards[0].Next, l.guards[1].Next = l.guards[1], after
				l.settle()
				for i, f := range tc.faults {
					if f != "" {
						fail(l.up[i], "except probes "+f)
					}
				}
				r := l.a("www.example.org.")
				got := r.rcode()
				switch {
				case r.right():
					got = "1"
				case fakedns.Right("second", r.msg):
					got = "2"
				case len(r.msg.Answer) > 0:
					got = "after"
				}
				if got != tc.answered {
					t.Errorf("answered by %s, want %s", got, tc.answered)
				}
				if want := got == "2" || got == "after" || tc.faults[1] != ""; asked(l.up[1]) > 0 != want {
					t.Errorf("the second asked %d times, want %t", asked(l.up[1]), want)
				}
			})
		})
	}
}

// TestPrivateZones counts where names of private zones go to: under load, with
// all that makes queries go to others as well.
func TestPrivateZones(t *testing.T) {
	const to = "10.0.0.1 10.0.0.2 192.0.2.1 198.51.100.1"
	inside, outside := []int{0, 1}, []int{2, 3}
	for _, tc := range []struct {
		name    string
		options []string
		allowed map[string][]int // zone: the upstreams that may see it
	}{
		{"none", nil, map[string][]int{"corp.example.": {0, 1, 2, 3}}},
		{"at", []string{"private_zones corp.example at 10.0.0.1"}, map[string][]int{"corp.example.": {0}}},
		{"at a public one", []string{"private_zones corp.example at 192.0.2.1 10.0.0.2"}, map[string][]int{"corp.example.": {1, 2}}},
		{"without at", []string{"private_zones corp.example"}, map[string][]int{"corp.example.": inside}},
		{"two lines", []string{"private_zones corp.example at 10.0.0.1", "private_zones lab.example"}, map[string][]int{"corp.example.": {0}, "lab.example.": inside}},
		{"the longest counts", []string{"private_zones corp.example", "private_zones pub.corp.example at 192.0.2.1 198.51.100.1"}, map[string][]int{"corp.example.": inside, "pub.corp.example.": outside}},
		{"whatever the order", []string{"private_zones pub.corp.example at 192.0.2.1 198.51.100.1", "private_zones corp.example"}, map[string][]int{"corp.example.": inside, "pub.corp.example.": outside}},
		{"a network", []string{"private_zones 10.0.0.0/8 192.168.0.0/16 at 10.0.0.2"}, map[string][]int{"10.in-addr.arpa.": {1}, "168.192.in-addr.arpa.": {1}}},
		{"the root", []string{"private_zones . at 10.0.0.1 192.0.2.1"}, map[string][]int{".": {0, 2}}},
	} {
		for _, policy := range []string{"adaptive", "round_robin"} {
			t.Run(tc.name+", "+policy, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := newLab(t, server(10*ms), server(12*ms))
					l.add("192.0.2.1:53", server(3*ms))
					l.add("198.51.100.1:53", server(11*ms))
					l.corefile(directive(to, append(tc.options, "policy "+policy, "hedge 100%")...))
					l.privateLoad(tc.allowed)
					for i, s := range l.up {
						for zone, may := range tc.allowed {
							n := 0
							for _, q := range s.Log() {
								if !q.Probe() && owner(q.Question.Name, tc.allowed) == zone {
									n++
								}
							}
							if want := slices.Contains(may, i); n > 0 != want {
								t.Errorf("%s saw %d queries for names in %s, want some: %t", s.Name, n, zone, want)
							}
						}
						if tc.allowed["."] == nil && asked(s) == 0 {
							t.Errorf("%s was not asked at all", s.Name)
						}
					}
				})
			})
		}
	}
}

// owner returns the longest of the zones that the name is in; "" for none.
func owner(name string, zones map[string][]int) string {
	longest := ""
	for zone := range zones {
		if dnsmsg.Within(strings.ToLower(name), zone) && len(zone) > len(longest) {
			longest = zone
		}
	}
	return longest
}

// privateLoad asks for names in the zones and elsewhere, for a minute,
// while each upstream has one trouble after another.
func (l *lab) privateLoad(zones map[string][]int) {
	troubles := []string{"drop", "delay 400ms", "servfail", "refused", "nxdomain", "nodata", "truncated", "refuse-port", "loss 30%", "wrong-id", "p 50% jitter 1s"}
	names := []string{"www.example.org.", "www.example.com."}
	for zone := range zones {
		zone = strings.TrimPrefix(zone, ".")
		names = append(names, "www."+zone, "a.b."+zone, "v4only."+zone, "nx1."+zone, "WwW."+strings.ToUpper(zone))
		if zone != "" {
			names = append(names, zone)
		}
	}
	slices.Sort(names)
	chance := rand.New(rand.NewPCG(3, 4))
	for i := range 1300 {
		if i%100 == 50 {
			k := i / 100
			for j, s := range l.up {
				if fail(s); (k+j)%2 == 0 { // the others do well meanwhile
					fail(s, troubles[(k+j)%len(troubles)])
				}
			}
		}
		q := query{name: names[chance.IntN(len(names))], tcp: chance.IntN(10) == 0}
		if q.name != strings.ToLower(q.name) || chance.IntN(2) == 0 {
			q.name = fmt.Sprintf("%d.", i) + q.name
		}
		if chance.IntN(3) == 0 {
			q.qtype = dns.TypeAAAA
		}
		go l.ask(q)
		time.Sleep(50 * ms)
	}
	time.Sleep(10 * time.Second)
}

// TestPrivateZonesDead holds that names of a private zone go nowhere else
// where all those that may be asked are dead.
func TestPrivateZonesDead(t *testing.T) {
	for _, fault := range []string{"drop", "refuse-port", "servfail", "refused"} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, server(10*ms, fault))
			l.add("192.0.2.1:53", server(3*ms))
			l.corefile(directive("10.0.0.1 192.0.2.1", "private_zones corp.example"))
			for i := range 200 {
				if r := l.a(fmt.Sprintf("%d.corp.example.", i)); r.rcode() != "SERVFAIL" && r.rcode() != "REFUSED" {
					t.Fatalf("%s: %s", fault, r.rcode())
				}
				if r := l.a(fmt.Sprintf("%d.example.org.", i)); !r.right() {
					t.Fatalf("%s: a public name: %s", fault, r.rcode())
				}
			}
			for name := range l.up[1].Stats().ByName {
				if dnsmsg.Within(name, "corp.example.") {
					t.Errorf("%s: %s was sent to a public upstream", fault, name)
				}
			}
		})
	}
}

// TestPrivateZonesAddresses is about what counts as public, without at.
func TestPrivateZonesAddresses(t *testing.T) {
	for addr, private := range map[string]bool{
		"10.0.0.9": true, "172.16.0.1": true, "172.32.0.1": false, "192.168.1.1": true, "127.0.0.53": true, "169.254.20.10": true,
		"100.64.0.1": true, "100.128.0.1": false, "192.0.2.1": false, "8.8.8.8": false,
		"fd00::1": true, "::1": true, "fe80::1": true, "2001:db8::1": false, "::ffff:10.0.0.9": true,
	} {
		t.Run(addr, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t)
				ip := netip.MustParseAddr(addr).Unmap()
				l.add(netip.AddrPortFrom(ip, 53).String(), server(10*ms))
				l.corefile(directive(addr, "private_zones corp.example"))
				if r := l.a("www.corp.example."); r.right() != private || asked(l.up[0]) > 0 != private {
					t.Errorf("%s, sent %d, want private: %t", r.rcode(), asked(l.up[0]), private)
				}
			})
		})
	}
}
