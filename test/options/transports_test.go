package options

import (
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/test/fakedns"
)

// TestProtocols is about force_tcp, prefer_udp and their defaults.
func TestProtocols(t *testing.T) {
	const udp, tcp = fakedns.UDP, fakedns.TCP
	for _, tc := range []struct {
		name    string
		options []string
		fault   string
		client  bool // by TCP
		want    []fakedns.Proto
		cut     bool // the client's reply is truncated
	}{
		{name: "a UDP client by UDP", want: []fakedns.Proto{udp}},
		{name: "a TCP client by TCP", client: true, want: []fakedns.Proto{tcp}},
		{name: "a truncated reply is for a UDP client", fault: "truncated", want: []fakedns.Proto{udp}, cut: true},
		{name: "force_tcp, UDP client", options: []string{"force_tcp"}, want: []fakedns.Proto{tcp}},
		{name: "force_tcp, TCP client", options: []string{"force_tcp"}, client: true, want: []fakedns.Proto{tcp}},
		{name: "prefer_udp, UDP client", options: []string{"prefer_udp"}, want: []fakedns.Proto{udp}},
		{name: "prefer_udp, TCP client", options: []string{"prefer_udp"}, client: true, want: []fakedns.Proto{udp}},
		{name: "prefer_udp, truncated", options: []string{"prefer_udp"}, client: true, fault: "truncated", want: []fakedns.Proto{udp, tcp}},
		{name: "force_tcp goes before prefer_udp", options: []string{"prefer_udp", "force_tcp"}, client: true, want: []fakedns.Proto{tcp}},
		{name: "whatever their order", options: []string{"force_tcp", "prefer_udp"}, want: []fakedns.Proto{tcp}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, server(10*ms))
				l.corefile(directive("10.0.0.1", tc.options...))
				l.settle()
				if tc.fault != "" {
					fail(l.up[0], tc.fault)
				}
				const name = "www.example.org."
				r := l.ask(query{name: name, tcp: tc.client})
				var got []fakedns.Proto
				for _, q := range queries(l.up[0], name) {
					got = append(got, q.Proto)
				}
				if !slices.Equal(got, tc.want) {
					t.Errorf("sent by %v, want %v", got, tc.want)
				}
				if tc.cut != (r.msg != nil && r.msg.Truncated) || !tc.cut && !r.right() {
					t.Errorf("reply %v", r.msg)
				}
			})
		})
	}
}

// TestForcedProbes holds that force_tcp is for probes too.
func TestForcedProbes(t *testing.T) {
	for option, want := range map[string]fakedns.Proto{"force_tcp": fakedns.TCP, "prefer_udp": fakedns.UDP} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, server(10*ms))
			l.corefile(directive("10.0.0.1", option))
			time.Sleep(time.Second)
			if st := l.up[0].Stats(); st.Probes == 0 || st.ByProto[want] != st.Queries {
				t.Errorf("%s: %d probes, by %v", option, st.Probes, st.ByProto)
			}
		})
	}
}

func TestEDNSOptions(t *testing.T) {
	const local = 65001
	sent := []dns.EDNS0{
		&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: net.IPv4(192, 0, 2, 0)},
		&dns.EDNS0_NSID{Code: dns.EDNS0NSID},
		&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"},
		&dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE},
		&dns.EDNS0_PADDING{Padding: make([]byte, 8)},
		&dns.EDNS0_LOCAL{Code: local, Data: []byte{1}},
	}
	for _, tc := range []struct {
		option string
		want   []uint16
	}{
		{"", nil},
		{"edns_options ecs", []uint16{dns.EDNS0SUBNET}},
		{"edns_options 3 65001", []uint16{dns.EDNS0NSID, local}},
		{"edns_options llq", nil}, // which the client does not send
		{"edns_options cookie tcp-keepalive padding", nil},
		{"edns_options all", []uint16{dns.EDNS0SUBNET, dns.EDNS0NSID, local}},
	} {
		t.Run(tc.option, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, server(10*ms))
				l.corefile(directive("10.0.0.1", tc.option))
				l.settle()
				const name = "www.example.org."
				if r := l.ask(query{name: name, options: sent}); !r.right() {
					t.Errorf("reply %v", r.msg)
				}
				seen := queries(l.up[0], name)
				if len(seen) != 1 || !seen[0].EDNS || seen[0].UDPSize != 1232 || !slices.Equal(seen[0].Options, tc.want) {
					t.Errorf("upstream saw %+v, want options %v", seen, tc.want)
				}
				for _, m := range l.datagrams() {
					if opt := m.IsEdns0(); opt != nil && slices.Contains(tc.want, dns.EDNS0SUBNET) && len(opt.Option) > 0 {
						if got := opt.Option[0].String(); !strings.HasPrefix(got, "192.0.2.0/24") {
							t.Errorf("subnet %s", got)
						}
					}
				}
			})
		})
	}
}

// TestEDNSOptionsApart holds that queries which differ in an option that is
// passed on do not share an answer, and others do.
func TestEDNSOptionsApart(t *testing.T) {
	for option, want := range map[string]int{"edns_options nsid": 1, "edns_options ecs": 2} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, server(50*ms))
			g := l.corefile(directive("10.0.0.1", option))
			l.settle()
			const name = "www.example.org."
			done := make(chan bool)
			for i := range 2 {
				subnet := &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: net.IPv4(192, 0, byte(i), 0)}
				go func() {
					l.askOf(g, query{name: name, options: []dns.EDNS0{subnet}})
					done <- true
				}()
			}
			<-done
			<-done
			if got := len(queries(l.up[0], name)); got != want {
				t.Errorf("%s: %d sent for two clients, want %d", option, got, want)
			}
		})
	}
}
