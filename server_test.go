package dnsguard

import (
	"testing"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"

	"github.com/miekg/dns"
)

// server starts CoreDNS with a Corefile, and returns what asks its one server by "udp" or "tcp".
func server(t *testing.T, corefile string) func(network string, r *dns.Msg) *dns.Msg {
	t.Helper()
	registerInOrder()
	port, quiet := dnsserver.Port, dnsserver.Quiet
	dnsserver.Port, dnsserver.Quiet, caddy.Quiet = "0", true, true
	t.Cleanup(func() { dnsserver.Port, dnsserver.Quiet = port, quiet })
	instance, err := caddy.Start(caddy.CaddyfileInput{Filepath: "Corefile", Contents: []byte(corefile), ServerTypeName: "dns"})
	if err != nil {
		t.Fatalf("%v\n%s", err, corefile)
	}
	t.Cleanup(func() {
		for _, err := range instance.ShutdownCallbacks() {
			t.Error(err)
		}
		if err := instance.Stop(); err != nil {
			t.Error(err)
		}
	})
	listening := instance.Servers()[0]
	at := map[string]string{"udp": listening.LocalAddr().String(), "tcp": listening.Addr().String()}
	return func(network string, r *dns.Msg) *dns.Msg {
		t.Helper()
		m, _, err := (&dns.Client{Net: network, UDPSize: dns.MaxMsgSize}).Exchange(r, at[network])
		if err != nil {
			t.Fatalf("%s by %s: %v", r.Question[0].Name, network, err)
		}
		return m
	}
}

// TestClassCH holds that the server lets queries of class CH in, and no others, where there is no plugin but this one.
func TestClassCH(t *testing.T) {
	s := listen(t, answers)
	ask := server(t, ". {\nbind 127.0.0.1\ndnsguard . "+s.addr+"\n}\n")
	for class, want := range map[uint16]int{dns.ClassCHAOS: dns.RcodeSuccess, dns.ClassHESIOD: dns.RcodeRefused, dns.ClassNONE: dns.RcodeRefused, dns.ClassANY: dns.RcodeRefused} {
		before := s.asked.Load()
		m := ask("udp", query("version.bind.", func(m *dns.Msg) { m.Question[0].Qtype, m.Question[0].Qclass = dns.TypeTXT, class }))
		if m.Rcode != want || (s.asked.Load() > before) != (want == dns.RcodeSuccess) {
			t.Errorf("class %s: %s, forwarded %d times", dns.Class(class), dns.RcodeToString[m.Rcode], s.asked.Load()-before)
		}
	}
}
