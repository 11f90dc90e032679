package observe

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// quick are options that make forward's waits short, and keep its health
// checks, which come at any time, from changing who is asked: those are about
// an upstream that has failed three of them.
var quick = []string{"read_timeout 250ms", "health_check 1h"}

// faults are what can be wrong with an upstream.
var faults = []string{
	"", "refused", "servfail", "nxdomain", "nxdomain soa example.org", "nodata", "notimp", "formerr", "yxdomain", "notauth",
	"drop", closed, "delay 20ms", "duplicate 3", "late 600ms",
	"truncated", "big 1000", "big 4000", "no-edns formerr", "no-edns badvers", "no-edns silent", "badcookie",
	"wrong-id", "wrong-question", "wrong-source", "qr0", "forge 20 20ms",
	"corrupt", "compression-loop", "empty", "garbage",
	"tcp-refuse", "tcp-reset", "tcp-hang", "tcp-close-midquery 1",
}

// TestFaults: the first of three upstreams fails; all of them; the only one.
func TestFaults(t *testing.T) {
	cases := make(map[string]setting)
	add := func(fault string, n, faulty int, options ...string) {
		title := fmt.Sprintf("%s, %d of %d, %s", fault, faulty, n, strings.Join(options, ", "))
		cases[title] = setting{servers: pool(n, faulty, fault), options: slices.Concat(options, quick)}
	}
	for _, fault := range faults {
		add(fault, 3, 1, "policy sequential")
		add(fault, 3, 1, "policy round_robin")
		add(fault, 3, 1, "policy sequential", "force_tcp")
		add(fault, 3, 1, "policy sequential", "prefer_udp")
		add(fault, 3, 1, "policy sequential", "failover SERVFAIL REFUSED NXDOMAIN NOTIMP FORMERR")
		add(fault, 3, 1, "policy sequential", "max_connect_attempts 1")
		add(fault, 3, 1, "policy sequential", "max_connect_attempts 0")
		add(fault, 3, 1, "policy sequential", "max_fails 0")
		add(fault, 3, 3, "policy sequential")
		add(fault, 3, 3, "policy sequential", "failover SERVFAIL REFUSED NXDOMAIN NOTIMP FORMERR")
		add(fault, 3, 3, "policy round_robin", "prefer_udp")
		add(fault, 1, 1)
	}
	each(t, cases, func(t *testing.T, s setting) {
		agree(t, s,
			query{name: "one.example.org."},
			query{name: "two.example.org.", size: 4096},
			query{name: "nx.example.org.", size: 1232},
			query{name: "Mixed.Example.ORG.", tcp: true},
			query{name: "v4only.example.org.", qtype: dns.TypeAAAA, tcp: true, size: 1232},
		)
	})
}

// TestWrongQuestionRefused is about a refusal that belongs to another question: that goes before failover.
func TestWrongQuestionRefused(t *testing.T) {
	var got [2]result
	for i, name := range []string{"forward", "dnsguard"} {
		c := &contender{t: t, name: name}
		wrong := stub(t, func(m *dns.Msg) { m.Rcode, m.Question[0].Name = dns.RcodeRefused, "other.example." })
		right := stub(t, func(*dns.Msg) {})
		c.handler = c.build(wrong+" "+right, append(quick, "policy sequential", "failover REFUSED"), nil)
		got[i] = c.ask(t.Context(), query{name: "www.example.org."})
	}
	if got[0] != got[1] || !strings.Contains(got[0].reply, "FORMERR") {
		t.Errorf("forward %s, dnsguard %s", got[0], got[1])
	}
}

// stub is an upstream by UDP whose replies change makes.
func stub(t *testing.T, change func(m *dns.Msg)) (addr string) {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		change(m)
		w.WriteMsg(m)
	})}
	go s.ActivateAndServe()
	t.Cleanup(func() { pc.Close() })
	return pc.LocalAddr().String()
}
