package forwardlike

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/test/fakedns"
)

// TestProtocol is about what carries a query to a plain DNS upstream.
func TestProtocol(t *testing.T) {
	for _, tc := range []struct {
		client  string
		options []string
		want    string
	}{
		{"udp", nil, "udp"},
		{"udp", []string{"force_tcp"}, "tcp"},
		{"udp", []string{"prefer_udp"}, "udp"},
		{"udp", []string{"force_tcp", "prefer_udp"}, "tcp"},
		{"tcp", nil, "tcp"},
		{"tcp", []string{"force_tcp"}, "tcp"},
		{"tcp", []string{"prefer_udp"}, "udp"},
		{"tcp", []string{"force_tcp", "prefer_udp"}, "tcp"},
	} {
		t.Run(fmt.Sprint(tc.client, tc.options), func(t *testing.T) {
			play(t, same("NOERROR by 0, seen by "+tc.want), func(s *scene) string {
				up := s.upstream()
				s.forwarding("$0", tc.options...)
				got := s.describe(s.send(tc.client, query("www.example.org.")))
				seen := make(map[string]bool)
				for _, q := range up.Log() {
					if !q.Probe() {
						seen[string(q.Proto)] = true
					}
				}
				return got + ", seen by " + strings.Join(slices.Sorted(maps.Keys(seen)), " ")
			})
		})
	}
}

// TestTruncation is about replies that do not fit.
func TestTruncation(t *testing.T) {
	for _, tc := range []struct {
		name    string
		fault   string
		client  string
		size    uint16 // of the client's EDNS buffer; 0: no EDNS
		options []string
		want    verdict
	}{
		{"small", "big 400", "udp", 0, nil, same("NOERROR by 0")},
		{"over 512 octets", "big 800", "udp", 0, nil, same("NOERROR truncated")},
		{"over 512 octets, by TCP", "big 800", "tcp", 0, nil, same("NOERROR by 0")},
		{"over 512 octets, EDNS", "big 800", "udp", 1232, nil, same("NOERROR by 0")},
		{"over 512 octets, force_tcp", "big 800", "udp", 0, []string{"force_tcp"}, same("NOERROR truncated")},
		{"over the buffer, by TCP", "big 8000", "tcp", 0, nil, same("NOERROR by 0")},
		{"over the buffer", "big 8000", "udp", 1232, nil, same("NOERROR truncated")},
		{"over the buffer, force_tcp", "big 8000", "udp", 1232, []string{"force_tcp"}, same("NOERROR truncated")},
		{"over a large buffer, prefer_udp", "big 2000", "udp", 4096, []string{"prefer_udp"}, same("NOERROR by 0")},
		{"over a large buffer", "big 2000", "udp", 4096, nil, verdict{"NOERROR truncated", "NOERROR by 0"}},
		{"truncated", "truncated", "udp", 1232, nil, same("NOERROR truncated")},
		{"truncated, prefer_udp", "truncated", "tcp", 0, []string{"prefer_udp"}, same("NOERROR by 0")},
		{"truncated, prefer_udp, client by UDP", "truncated", "udp", 1232, []string{"prefer_udp"}, same("NOERROR by 0")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			play(t, tc.want, func(s *scene) string {
				s.upstream(tc.fault)
				s.forwarding("$0", tc.options...)
				m := query("www.example.org.")
				if tc.size > 0 {
					m.SetEdns0(tc.size, false)
				}
				r := s.send(tc.client, m)
				words := s.describe(r)
				if r.Truncated {
					words = strings.TrimSuffix(words, " by 0") // as many records as fit
				}
				return words
			})
		})
	}
}

// TestOverflow is about an upstream that answers with more than fits, and does not say that it does.
func TestOverflow(t *testing.T) {
	many := func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		for i := range 20 {
			m.Answer = append(m.Answer, records(fmt.Sprintf("%s 60 IN A 127.0.0.%d", q.Question[0].Name, i+1))...)
		}
		_ = w.WriteMsg(m)
	}
	for _, tc := range []struct {
		client  string
		options []string
		want    verdict
	}{
		{"udp", nil, verdict{"NOERROR truncated", "NOERROR with data"}}, // which fits when it is compressed
		{"udp", []string{"prefer_udp"}, same("NOERROR with data")},
		{"udp", []string{"force_tcp"}, same("NOERROR with data")},
		{"tcp", nil, same("NOERROR with data")},
		{"tcp", []string{"force_tcp"}, same("NOERROR with data")},
	} {
		t.Run(fmt.Sprint(tc.client, tc.options), func(t *testing.T) {
			play(t, tc.want, func(s *scene) string {
				s.handle(many)
				s.forwarding("$0", tc.options...)
				r := s.send(tc.client, query("www.example.org."))
				words := s.describe(r)
				if r.Truncated {
					return strings.TrimSuffix(words, " with data")
				}
				if len(r.Answer) != 20 {
					return fmt.Sprintf("%d records", len(r.Answer))
				}
				return words
			})
		})
	}
}

// TestMalformedThenValid is about a datagram that cannot be a reply, and the reply after it.
func TestMalformedThenValid(t *testing.T) {
	for name, bad := range map[string]func(q *dns.Msg) []byte{
		"short":           func(q *dns.Msg) []byte { return binary.BigEndian.AppendUint16(nil, q.Id+1)[:2] },
		"one octet":       func(*dns.Msg) []byte { return []byte{0} },
		"empty":           func(*dns.Msg) []byte { return nil },
		"half a question": func(q *dns.Msg) []byte { return append(header(q.Id+1), 1) },
		"another ID": func(q *dns.Msg) []byte {
			return pack(&dns.Msg{MsgHdr: dns.MsgHdr{Id: q.Id + 1, Response: true}, Question: q.Question})
		},
		"another ID, late": func(q *dns.Msg) []byte { return append(header(q.Id^0x8000), make([]byte, 100)...) },
	} {
		t.Run(name, func(t *testing.T) {
			play(t, same("NOERROR with data"), func(s *scene) string {
				s.handle(func(w dns.ResponseWriter, q *dns.Msg) {
					_, _ = w.Write(bad(q))
					m := new(dns.Msg).SetReply(q)
					m.Answer = records(q.Question[0].Name + " 60 IN A 192.0.2.55")
					_ = w.WriteMsg(m)
				})
				s.forwarding("$0", "prefer_udp", "read_timeout 1s")
				return s.ask("www.example.org.")
			})
		})
	}
}

// header is that of a reply with a question.
func header(id uint16) []byte {
	return append(binary.BigEndian.AppendUint16(nil, id), 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0)
}

func pack(m *dns.Msg) []byte {
	wire, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return wire
}

// TestConnections is about connections that are kept, and that the upstream closes.
func TestConnections(t *testing.T) {
	const queries = 6
	authority, config := certified(t)
	for _, tc := range []struct {
		name  string
		tls   bool
		close int // after so many replies on it the upstream closes a connection; 0: it does not
		want  string
	}{
		{"kept", false, 0, "6 answered over few connections"},
		{"closed after each reply", false, 1, "6 answered over more"},
		{"closed after some", false, 2, "6 answered over more"},
		{"kept, by TLS", true, 0, "6 answered over few connections"},
		{"closed after each reply, by TLS", true, 1, "6 answered over more"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			play(t, same(tc.want), func(s *scene) string {
				var conns atomic.Int64
				l, err := net.Listen("tcp", host+":0")
				if err != nil {
					s.t.Fatal(err)
				}
				s.accept(l, func(c net.Conn) {
					conns.Add(1)
					if tc.tls {
						c = tls.Server(c, config)
						defer c.Close() // as a server does that speaks TLS, by a close_notify
					}
					for n := 1; answer(c) && n != tc.close; n++ {
					}
				})
				to := "$0"
				if tc.tls {
					to = "tls://$0"
				}
				s.forwarding(to, "force_tcp", "max_fails 0", "tls "+s.file("ca.pem", string(authority.PEM())), "tls_servername one.example")
				right := 0
				for i := range queries {
					if s.ask(fmt.Sprintf("n%d.example.org.", i)) == "NOERROR with data" {
						right++
					}
				}
				if conns.Load() > 2 { // a slow machine may have a query sent again over another one
					return fmt.Sprintf("%d answered over more", right)
				}
				return fmt.Sprintf("%d answered over few connections", right)
			})
		})
	}
}

// accept serves each connection, in its own goroutine, until the test ends, and closes it.
func (s *scene) accept(l net.Listener, serve func(c net.Conn)) {
	s.addr = append(s.addr, l.Addr().String())
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		conns []net.Conn
	)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	s.t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

// answer answers one query of a stream, and reports whether it could.
func answer(c net.Conn) bool {
	conn := &dns.Conn{Conn: c}
	q, err := conn.ReadMsg()
	if err != nil {
		return false
	}
	m := new(dns.Msg).SetReply(q)
	m.Answer = records(q.Question[0].Name + " 60 IN A 192.0.2.1")
	return conn.WriteMsg(m) == nil
}

// TestTLS is about certificates, and servers that do not speak TLS.
func TestTLS(t *testing.T) {
	authority, err := fakedns.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name    string
		certs   [2][]string // of the upstreams
		to      string
		options []string
		want    verdict
	}{
		{"tls_servername", [2][]string{{"one.example"}}, "tls://$0", []string{"tls CA", "tls_servername one.example"}, same("NOERROR by 0")},
		{"another name", [2][]string{{"one.example"}}, "tls://$0", []string{"tls CA", "tls_servername two.example"}, same("SERVFAIL")},
		{"by address", [2][]string{{host}}, "tls://$0", []string{"tls CA"}, same("NOERROR by 0")},
		{"unknown authority", [2][]string{{host}}, "tls://$0", nil, same("SERVFAIL")},
		{"a name each", [2][]string{{"one.example"}, {"two.example"}}, "tls://HOST%two.example:PORT1", []string{"tls CA"}, same("NOERROR by 1")},
		{"names confused", [2][]string{{"one.example"}, {"two.example"}}, "tls://HOST%one.example:PORT1", []string{"tls CA"}, same("SERVFAIL")},
		{"the first fails", [2][]string{{"one.example"}, {"two.example"}}, "tls://HOST%two.example:PORT0 tls://HOST%two.example:PORT1", []string{"tls CA", "policy sequential"}, same("NOERROR by 1")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			play(t, tc.want, func(s *scene) string {
				for _, names := range tc.certs {
					s.listen(fakedns.ListenTLS, &fakedns.Server{Zones: []string{"."}, Key: authority, CertNames: names})
				}
				fill := strings.NewReplacer("HOST", host, "CA", s.file("ca.pem", string(authority.PEM())), "PORT0", port(s.addr[0]), "PORT1", port(s.addr[1]))
				s.serve(fill.Replace("PLUGIN . " + tc.to + " {\n" + strings.Join(tc.options, "\n") + "\n}"))
				return s.ask("www.example.org.")
			})
		})
	}
	t.Run("no TLS", func(t *testing.T) {
		play(t, same("SERVFAIL"), func(s *scene) string {
			l, err := net.Listen("tcp", host+":0")
			if err != nil {
				s.t.Fatal(err)
			}
			s.accept(l, func(c net.Conn) { // as a server of plain DNS that takes the handshake for a query
				_, _ = c.Read(make([]byte, 512))
				_, _ = c.Write(header(1))
				_, _ = io.Copy(io.Discard, c)
			})
			s.forwarding("tls://$0")
			return s.ask("www.example.org.")
		})
	})
}

// TestHandshakeStalls is about an upstream that takes a connection and then
// says nothing: the query goes over another one. All cases are run at once,
// because forward waits for 2.5 s before it tries again.
func TestHandshakeStalls(t *testing.T) {
	register()
	authority, config := certified(t)
	var wg sync.WaitGroup
	for _, tc := range []struct {
		name    string
		client  string
		options []string
	}{
		{"client by UDP", "udp", nil},
		{"client by TCP", "tcp", nil},
		{"two attempts", "udp", []string{"max_connect_attempts 2"}},
		{"no bound of attempts", "udp", []string{"max_connect_attempts 0"}},
	} {
		for _, plugin := range plugins {
			s := &scene{t: t, plugin: plugin}
			l, err := net.Listen("tcp", host+":0")
			if err != nil {
				t.Fatal(err)
			}
			var conns atomic.Int64
			s.accept(l, func(c net.Conn) {
				if conns.Add(1) == 1 {
					_, _ = io.Copy(io.Discard, c)
					return
				}
				c = tls.Server(c, config)
				for answer(c) {
				}
			})
			s.forwarding("tls://$0", append(tc.options, "max_fails 0", "tls "+s.file("ca.pem", string(authority.PEM())), "tls_servername one.example")...)
			wg.Go(func() {
				began := time.Now()
				got := s.describe(s.send(tc.client, query("www.example.org.")))
				if took := time.Since(began); got != "NOERROR with data" || plugin == "dnsguard" && took > 2*time.Second {
					t.Errorf("%s, %s: %s after %s, over %d connections", tc.name, plugin, got, took, conns.Load())
				}
			})
		}
	}
	wg.Wait()
}
