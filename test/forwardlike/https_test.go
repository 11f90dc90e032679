package forwardlike

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/coredns/coredns/plugin/pkg/doh"
	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"

	"github.com/dnsguard/dnsguard/test/fakedns"
)

// reply answers a query with an address.
func reply(q *dns.Msg) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.Answer = records(q.Question[0].Name + " 60 IN A 192.0.2.1")
	return m
}

// TestHTTPS is about what an upstream sees of a query by HTTPS.
func TestHTTPS(t *testing.T) {
	authority, err := fakedns.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	config, err := authority.Config(host, "one.example")
	if err != nil {
		t.Fatal(err)
	}
	const post, get = "POST /dns-query of application/dns-message", "GET /dns-query of application/dns-message"
	for _, tc := range []struct {
		name    string
		options []string
		want    string
	}{
		{"POST", nil, post + " for the address: NOERROR with data, ID 0"},
		{"doh_method POST", []string{"doh_method POST"}, post + " for the address: NOERROR with data, ID 0"},
		{"doh_method GET", []string{"doh_method GET"}, get + " for the address: NOERROR with data, ID 0"},
		{"tls_servername", []string{"tls_servername one.example"}, post + " for one.example: NOERROR with data, ID 0"},
		{"another name", []string{"tls_servername two.example"}, " for the address: SERVFAIL"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			play(t, same(tc.want), func(s *scene) string {
				seen := make(chan string, 10)
				listener, err := net.Listen("tcp", host+":0")
				if err != nil {
					s.t.Fatal(err)
				}
				up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					q, err := doh.RequestToMsg(r)
					if err != nil {
						http.Error(w, err.Error(), http.StatusBadRequest)
						return
					}
					if q.Question[0].Qtype == dns.TypeA {
						seen <- fmt.Sprintf("%s %s of %s for %s|%d", r.Method, r.URL.Path, r.Header.Get("Content-Type"), r.Host, q.Id)
					}
					w.Header().Set("Content-Type", doh.MimeType)
					_, _ = w.Write(pack(reply(q)))
				}))
				up.Listener.Close()
				up.Listener = listener
				up.TLS, up.Config.ErrorLog = config.Clone(), log.New(io.Discard, "", 0)
				up.StartTLS()
				s.t.Cleanup(up.Close)
				s.addr = append(s.addr, up.Listener.Addr().String())
				s.forwarding("https://$0", append(tc.options, "tls "+s.file("ca.pem", string(authority.PEM())), "max_fails 0", "max_connect_attempts 1", "?timeout 1s")...)
				words := s.ask("www.example.org.")
				request := " for " + s.addr[0]
				select {
				case r := <-seen:
					r, id, _ := strings.Cut(r, "|")
					request, words = r, words+", ID "+id
				default:
				}
				return strings.Replace(request, s.addr[0], "the address", 1) + ": " + words
			})
		})
	}
}

// TestQUIC is about queries by QUIC.
func TestQUIC(t *testing.T) {
	authority, config := certified(t)
	config.NextProtos = []string{"doq"}
	for _, tc := range []struct {
		name    string
		options []string
		qtype   uint16
		want    string
	}{
		{"an address", []string{"tls_servername one.example"}, dns.TypeA, "NOERROR with data, ID 0 over one connection"},
		{"source_address", []string{"tls_servername one.example", "source_address 127.0.0.2"}, dns.TypeA, "NOERROR with data, ID 0 over one connection from 127.0.0.2"},
		{"another name", []string{"tls_servername two.example"}, dns.TypeA, "SERVFAIL"},
		{"transfer", []string{"tls_servername one.example"}, dns.TypeAXFR, "NOTIMP"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			play(t, same(tc.want), func(s *scene) string {
				var (
					conns atomic.Int64
					from  atomic.Value
				)
				ids := make(chan uint16, 10)
				s.quic(config, func(c *quic.Conn) {
					conns.Add(1)
					from.Store(c.RemoteAddr().String())
				}, func(q *dns.Msg) *dns.Msg {
					ids <- q.Id
					return reply(q)
				})
				s.forwarding("quic://$0", append(tc.options, "tls "+s.file("ca.pem", string(authority.PEM())), "max_fails 0", "max_connect_attempts 1", "?timeout 2s")...)
				words := ""
				for range 2 {
					words = s.describe(s.send("udp", new(dns.Msg).SetQuestion("www.example.org.", tc.qtype)))
				}
				select {
				case id := <-ids:
					words = fmt.Sprintf("%s, ID %d over %s", words, id, map[bool]string{true: "one connection", false: "several"}[conns.Load() == 1])
					if addr, _, _ := strings.Cut(from.Load().(string), ":"); addr != "127.0.0.1" {
						words += " from " + addr
					}
				default:
				}
				return words
			})
		})
	}
}

// quic starts a server that answers each stream (RFC 9250).
func (s *scene) quic(config *tls.Config, opened func(*quic.Conn), reply func(q *dns.Msg) *dns.Msg) {
	s.t.Helper()
	l, err := quic.ListenAddr(host+":0", config, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { l.Close() })
	s.addr = append(s.addr, l.Addr().String())
	go func() {
		for {
			c, err := l.Accept(context.Background())
			if err != nil {
				return
			}
			opened(c)
			go func() {
				for {
					stream, err := c.AcceptStream(context.Background())
					if err != nil {
						return
					}
					q := new(dns.Msg)
					if wire, err := io.ReadAll(stream); err != nil || len(wire) < 2 || q.Unpack(wire[2:]) != nil {
						return
					}
					wire := pack(reply(q))
					_, _ = stream.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...))
					stream.Close()
				}
			}()
		}
	}()
}
