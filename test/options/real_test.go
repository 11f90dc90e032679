package options

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"testing"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"

	"github.com/dnsguard/dnsguard"
	"github.com/dnsguard/dnsguard/test/fakedns"
)

// onSockets makes a directive that opens real sockets, and looks after no pool.
func onSockets(t *testing.T, text string) *dnsguard.Guard {
	t.Helper()
	configs, err := dnsguard.Parse(caddy.NewTestController("dns", text))
	if err != nil {
		t.Fatal(err)
	}
	g, err := dnsguard.New(configs[0], dnsguard.Env{Debug: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Stop)
	return g
}

// TestSourceAddress is about where upstreams see queries and probes come from.
func TestSourceAddress(t *testing.T) {
	key, err := fakedns.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	ca := "tls " + write(t, "ca.pem", key.PEM())
	for option, want := range map[string]string{"": "127.0.0.1", "source_address 127.0.0.2": "127.0.0.2", "source_address 127.1.2.3": "127.1.2.3"} {
		for _, tc := range []struct {
			proto fakedns.Proto
			more  string
		}{{fakedns.UDP, ""}, {fakedns.TCP, "force_tcp"}, {fakedns.TLS, ca}} {
			t.Run(fmt.Sprint(option, " ", tc.proto), func(t *testing.T) {
				s := &fakedns.Server{Zones: []string{"."}, Key: key, CertNames: []string{"127.0.0.1"}}
				serve, to := fakedns.Listen, ""
				if tc.proto == fakedns.TLS {
					serve, to = fakedns.ListenTLS, "tls://"
				}
				up, err := serve("127.0.0.1:0", s)
				if err != nil {
					t.Fatal(err)
				}
				defer up.Close()
				g := onSockets(t, directive(to+up.Addr().String(), option, tc.more))
				g.Start() // the first probe
				l := &lab{t: t}
				if r := l.askOf(g, query{name: "www.example.org."}); !r.right() {
					t.Errorf("reply %v", r.msg)
				}
				for _, q := range s.Log() {
					if q.From.Addr().String() != want || q.Proto != tc.proto {
						t.Errorf("%s by %s from %s, want %s", q.Question.Name, q.Proto, q.From, want)
					}
				}
			})
		}
	}
}

// TestSourceAddressOfQUIC is the same for DNS over QUIC, whose sockets are opened elsewhere.
func TestSourceAddressOfQUIC(t *testing.T) {
	l := newLab(t)
	d := newDoH(t, l, true) // for its certificate
	config := &tls.Config{Certificates: d.server.TLS.Certificates, NextProtos: []string{"doq"}}
	for option, want := range map[string]string{"": "127.0.0.1", "source_address 127.0.0.2": "127.0.0.2"} {
		from := make(chan string, 100)
		up, err := quic.ListenAddr("127.0.0.1:0", config, nil)
		if err != nil {
			t.Fatal(err)
		}
		go serveQUIC(up, from)
		g := onSockets(t, directive("quic://"+up.Addr().String(), option, "tls "+d.ca, "max_fails 0"))
		if r := l.askOf(g, query{name: "www.example.org."}); !r.right() {
			t.Errorf("reply %v", r.msg)
		}
		up.Close()
		select {
		case got := <-from: // before the reply
			if got != want {
				t.Errorf("%q: from %s, want %s", option, got, want)
			}
		default:
			t.Errorf("%q: no connection", option)
		}
	}
}

// serveQUIC answers each stream (RFC 9250), and tells where connections come from.
func serveQUIC(l *quic.Listener, from chan<- string) {
	for {
		c, err := l.Accept(context.Background())
		if err != nil {
			return
		}
		from <- netip.MustParseAddrPort(c.RemoteAddr().String()).Addr().String()
		go func() {
			for {
				s, err := c.AcceptStream(context.Background())
				if err != nil {
					return
				}
				q := new(dns.Msg)
				if wire, err := io.ReadAll(s); err != nil || len(wire) < 2 || q.Unpack(wire[2:]) != nil {
					return
				}
				wire, _ := truth(q).Pack()
				s.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...))
				s.Close()
			}
		}()
	}
}

// TestOrder is about directives in one server block, as the server sets them
// up: in their order, and each passing on to the next.
func TestOrder(t *testing.T) {
	up := [3]*fakedns.Server{{Zones: []string{"corp.example."}}, {Zones: []string{"."}, Except: []string{"lab.example."}}, {Zones: []string{"."}}}
	var addr [3]string
	for i, s := range up {
		s.View = fmt.Sprint(i)
		addr[i] = listen(t, "127.0.0.1:0", s).Addr().String()
	}
	c := caddy.NewTestController("dns", fmt.Sprintf(`
		dnsguard corp.example %s
		dnsguard . %s {
			next NXDOMAIN
			except other.example
		}
		dnsguard . %s`, addr[0], addr[1], addr[2]))
	setup, err := caddy.DirectiveAction("dns", "dnsguard")
	if err == nil {
		err = setup(c)
	}
	if err != nil {
		t.Fatal(err)
	}
	var chain plugin.Handler = &next{name: "last"}
	plugins := dnsserver.GetConfig(c).Plugin
	for i := len(plugins) - 1; i >= 0; i-- {
		chain = plugins[i](chain)
	}
	l := &lab{t: t}
	for name, want := range map[string]string{"www.corp.example.": "0", "www.example.org.": "1", "www.lab.example.": "2", "www.other.example.": "2"} {
		if r := l.askOf(chain, query{name: name}); !fakedns.Right(want, r.msg) {
			t.Errorf("%s is not answered by %s: %v", name, want, r.msg)
		}
	}
	if r := l.askOf(chain, query{name: "nx.corp.example."}); r.rcode() != "NXDOMAIN" {
		t.Errorf("without next: %s", r.rcode())
	}
	for h := chain; ; {
		g, ok := h.(*dnsguard.Guard)
		if !ok {
			break
		}
		h = g.Next
		g.Stop()
	}
}
