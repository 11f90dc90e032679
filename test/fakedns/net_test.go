package fakedns

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

var where = netip.MustParseAddrPort("10.0.0.1:53")

// setup puts a server with the faults into a new network.
func setup(t *testing.T, server string, faults ...string) (*Net, *Server) {
	t.Helper()
	s, err := ParseServer(server)
	if err != nil {
		t.Fatal(err)
	}
	var all []Fault
	for _, line := range faults {
		f, err := ParseFault(line)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
	}
	s.Set(all...)
	n := NewNet()
	n.Add(where, s)
	return n, s
}

func dial(t *testing.T, n *Net, network string) *dns.Conn {
	t.Helper()
	c, err := n.Dial(t.Context(), network, where)
	if err != nil {
		t.Fatal(err)
	}
	return &dns.Conn{Conn: c, UDPSize: 4096}
}

// ask sends one query and reads one reply, with a time-out of 5 s.
func ask(t *testing.T, c *dns.Conn, name string, qtype uint16, edns bool) (*dns.Msg, time.Duration, error) {
	t.Helper()
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), qtype)
	q.Id = 77
	if edns {
		q.SetEdns0(1232, false)
	}
	began := time.Now()
	if err := c.WriteMsg(q); err != nil {
		return nil, 0, err
	}
	c.SetReadDeadline(began.Add(5 * time.Second))
	m, err := c.ReadMsg()
	return m, time.Since(began), err
}

func TestTrueAnswers(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		synctest.Test(t, func(t *testing.T) {
			n, s := setup(t, "rtt 6ms")
			c := dial(t, n, network)
			for _, name := range []string{"www.example.org", "nx1.example.org", "v4only.example.org"} {
				for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeMX} {
					m, took, err := ask(t, c, name, qtype, true)
					if err != nil || !Right("", m) || took != 6*time.Millisecond {
						t.Errorf("%s %s %d: %v, %v\n%v", network, name, qtype, took, err, m)
					}
				}
			}
			c.Close()
			if got := s.Stats(); got.Queries != 12 || got.ByProto[Proto(network)] != 12 || got.ByName["nx1.example.org."] != 4 || got.ByType[dns.TypeMX] != 3 {
				t.Errorf("stats: %+v", got)
			}
			if open := n.Open(); len(open) > 0 {
				t.Errorf("open: %v", open)
			}
		})
	}
}

func TestUnknownNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, s := setup(t, "zone corp.example")
		c := dial(t, n, "udp")
		m, _, err := ask(t, c, "www.example.org", dns.TypeA, false)
		if err != nil || m.Rcode != dns.RcodeNameError || len(m.Ns) != 1 || Right("", m) {
			t.Errorf("%v, %v", m, err)
		}
		s.Else = Fault{Kind: Rcode, Rcode: dns.RcodeRefused}
		if m, _, err = ask(t, c, "www.example.org", dns.TypeA, false); err != nil || m.Rcode != dns.RcodeRefused {
			t.Errorf("%v, %v", m, err)
		}
		if m, _, err = ask(t, c, "a.corp.example", dns.TypeA, false); err != nil || !Right("", m) {
			t.Errorf("%v, %v", m, err)
		}
		if m, _, err = ask(t, c, ".", dns.TypeNS, false); err != nil || m.Rcode != dns.RcodeSuccess {
			t.Errorf("%v, %v", m, err)
		}
		c.Close()
	})
}

func TestSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, s := setup(t, "", "from 10s to 20s every 4s for 1s servfail")
		s.Start(time.Now())
		c := dial(t, n, "udp")
		got := ""
		for range 22 {
			m, _, err := ask(t, c, "a.example", dns.TypeA, false)
			if err != nil {
				t.Fatal(err)
			}
			got += string("sr"[m.Rcode&1]) // s: SERVFAIL (2), r: NOERROR (0)
			if m.Rcode == dns.RcodeServerFailure {
				got = got[:len(got)-1] + "F"
			}
			time.Sleep(time.Second)
		}
		if want := "ssssssssssFsssFsssFsss"; got != want {
			t.Errorf("got %s; want %s", got, want)
		}
		c.Close()
	})
}

func TestUnanswered(t *testing.T) {
	for fault, want := range map[string]error{
		"drop": os.ErrDeadlineExceeded, "refuse-port": syscall.ECONNREFUSED, "unreachable": syscall.EHOSTUNREACH,
		"loss 100%": os.ErrDeadlineExceeded, "no-edns silent": os.ErrDeadlineExceeded, "wrong-source": os.ErrDeadlineExceeded,
		"late 6s": os.ErrDeadlineExceeded,
	} {
		synctest.Test(t, func(t *testing.T) {
			n, _ := setup(t, "rtt 6ms", fault)
			c := dial(t, n, "udp")
			defer c.Close()
			m, _, err := ask(t, c, "a.example", dns.TypeA, true)
			if !errors.Is(err, want) {
				t.Errorf("%s: %v, %v; want %v", fault, m, err, want)
			}
		})
	}
}

func TestConnect(t *testing.T) {
	for fault, want := range map[string]error{
		"refuse-port": syscall.ECONNREFUSED, "tcp-refuse": syscall.ECONNREFUSED, "unreachable": syscall.EHOSTUNREACH,
		"drop": context.DeadlineExceeded, "tcp-drop-syn": context.DeadlineExceeded, "drop except": nil,
	} {
		synctest.Test(t, func(t *testing.T) {
			if want == nil {
				fault = "qtype AAAA drop"
			}
			n, _ := setup(t, "rtt 6ms", fault)
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			c, err := n.Dial(ctx, "tcp", where)
			if !errors.Is(err, want) {
				t.Errorf("%s: %v; want %v", fault, err, want)
			}
			if c != nil {
				c.Close()
			}
		})
	}
}

func TestStreamFaults(t *testing.T) {
	for fault, want := range map[string]error{
		"tcp-reset": syscall.ECONNRESET, "tcp-hang": os.ErrDeadlineExceeded,
		"from 1s tcp-close-midquery": io.EOF, "from 1s tcp-close-idle 20ms": io.EOF,
	} {
		synctest.Test(t, func(t *testing.T) {
			n, _ := setup(t, "rtt 6ms", fault)
			c := dial(t, n, "tcp")
			defer c.Close()
			m, _, err := ask(t, c, "a.example", dns.TypeA, true)
			if fault[0] == 'f' {
				if !Right("", m) {
					t.Fatalf("%s: first query: %v, %v", fault, m, err)
				}
				time.Sleep(2 * time.Second)
				m, _, err = ask(t, c, "b.example", dns.TypeA, true)
				if fault == "from 1s tcp-close-idle 20ms" { // was read before the fault began, then is idle
					time.Sleep(time.Second)
					m, _, err = ask(t, c, "c.example", dns.TypeA, true)
					if errors.Is(err, syscall.EPIPE) {
						err = io.EOF
					}
				}
			}
			if !errors.Is(err, want) {
				t.Errorf("%s: %v, %v; want %v", fault, m, err, want)
			}
		})
	}
}

func TestMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNet()
		n.Missing = Refuse
		c := dial(t, n, "udp")
		defer c.Close()
		if _, _, err := ask(t, c, "a.example", dns.TypeA, true); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%v", err)
		}
	})
}

// TestHost holds what the client's own kernel says to opening and to sending.
func TestHost(t *testing.T) {
	for line, want := range map[string]struct{ open, send, tcp error }{
		"emfile":           {open: syscall.EMFILE, tcp: syscall.EMFILE},
		"no-ports":         {open: syscall.EAGAIN, tcp: syscall.EADDRNOTAVAIL},
		"enobufs":          {send: syscall.ENOBUFS},
		"eperm":            {send: syscall.EPERM, tcp: context.DeadlineExceeded},
		"proto tcp emfile": {tcp: syscall.EMFILE},
		"no-route":         {open: syscall.ENETUNREACH, tcp: syscall.ENETUNREACH},
		"from 1s no-route": {},
	} {
		synctest.Test(t, func(t *testing.T) {
			n, _ := setup(t, "rtt 6ms")
			f, err := ParseFault(line)
			if err != nil || !f.Kind.OfHost() {
				t.Fatalf("%+v, %v", f, err)
			}
			n.Host.Set(time.Now(), 1, f)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			defer cancel()
			c, err := n.Dial(ctx, "udp", where)
			if !errors.Is(err, want.open) {
				t.Errorf("%s: open: %v, want %v", line, err, want.open)
			}
			if err == nil {
				if _, err := c.Write(make([]byte, 12)); !errors.Is(err, want.send) {
					t.Errorf("%s: send: %v, want %v", line, err, want.send)
				}
			}
			if _, err := n.Dial(ctx, "tcp", where); !errors.Is(err, want.tcp) {
				t.Errorf("%s: connect: %v, want %v", line, err, want.tcp)
			}
			n.Close()
		})
	}
}

func TestClose(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		synctest.Test(t, func(t *testing.T) {
			n, _ := setup(t, "rtt 6ms", "drop", "proto tcp servfail")
			if network == "tcp" {
				n, _ = setup(t, "rtt 6ms", "tcp-hang")
			}
			c := dial(t, n, network)
			time.AfterFunc(time.Second, func() { n.Close() })
			if _, took, err := ask(t, c, "a.example", dns.TypeA, false); !errors.Is(err, net.ErrClosed) || took != time.Second {
				t.Errorf("%v after %v", err, took)
			}
		})
	}
}

func TestTLS(t *testing.T) {
	key, err := NewCA()
	if err != nil {
		t.Fatal(err)
	}
	for fault, ok := range map[string]bool{"delay 1ms": true, "tls-expired": false, "tls-wrong-name": false} {
		synctest.Test(t, func(t *testing.T) {
			n, s := setup(t, "rtt 6ms", fault)
			s.Key = key
			n.AddTLS(where, s)
			raw, err := n.Dial(t.Context(), "tcp", where)
			if err != nil {
				t.Fatal(err)
			}
			conn := tls.Client(raw, &tls.Config{RootCAs: key.Pool(), ServerName: "dns.example"})
			defer raw.Close()
			m, _, err := ask(t, &dns.Conn{Conn: conn}, "a.example", dns.TypeA, true)
			if ok != (err == nil && Right("", m)) {
				t.Errorf("%s: %v, %v", fault, m, err)
			}
		})
	}
}
