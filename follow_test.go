package dnsguard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/test/fakedns"
)

// surroundings are what a Guard sees in a test: servers, files and host names.
type surroundings struct {
	t       *testing.T
	net     *fakedns.Net
	servers map[string]*fakedns.Server
	recover bool // panics are recovered

	mu    sync.Mutex
	files map[string]string
	hosts map[string]string // addresses, then the time to live
	log   []string
}

// surround returns surroundings with a server at each of addrs, port 53.
func surround(t *testing.T, addrs ...string) *surroundings {
	s := &surroundings{t: t, net: fakedns.NewNet(), servers: make(map[string]*fakedns.Server), files: make(map[string]string), hosts: make(map[string]string)}
	for _, a := range addrs {
		server := &fakedns.Server{Name: a, Zones: []string{"."}}
		server.Start(time.Now())
		s.servers[a] = server
		s.net.Add(netip.AddrPortFrom(netip.MustParseAddr(a), 53), server)
	}
	return s
}

func (s *surroundings) env() Env {
	return Env{
		Debug: !s.recover,
		Dial:  s.net.Dial,
		ReadFile: func(path string) ([]byte, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			text, ok := s.files[path]
			if text == panics {
				panic(path)
			}
			if !ok {
				return nil, fs.ErrNotExist
			}
			return []byte(text), nil
		},
		Lookup: func(_ context.Context, host string) ([]netip.Addr, time.Duration, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.hosts[host] == panics {
				panic(host)
			}
			words := strings.Fields(s.hosts[host])
			if len(words) == 0 {
				return nil, 0, errors.New("SERVFAIL")
			}
			ttl, err := time.ParseDuration(words[len(words)-1])
			return ips(words[:len(words)-1]...), ttl, err
		},
		Logf: func(_ Level, format string, args ...any) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.log = append(s.log, fmt.Sprintf(format, args...))
		},
	}
}

func (s *surroundings) write(file, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[file] = text
}

func (s *surroundings) resolve(host, addrs string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hosts[host] = addrs
}

// logged counts the log lines that contain text.
func (s *surroundings) logged(text string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, line := range s.log {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// asked returns the servers that were asked since the last call, in order.
func (s *surroundings) asked() string {
	var names []string
	for name, server := range s.servers {
		if len(server.Log()) > 0 {
			names = append(names, name)
		}
		server.Reset()
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// load asks n questions, 10 ms apart, each of which must be answered.
func (s *surroundings) load(g *Guard, n int) {
	s.t.Helper()
	for i := range n {
		if m := serve(s.t, g, query(fmt.Sprintf("%d.example.org.", i))); m.Rcode != dns.RcodeSuccess || len(m.Answer) == 0 {
			s.t.Fatalf("question %d: %v", i, m)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// start starts the Guard of a Corefile, inside a bubble.
func (s *surroundings) start(text string, prev *Guard) *Guard {
	s.t.Helper()
	g, err := New(mustParse(s.t, text), s.env())
	if err != nil {
		s.t.Fatal(err)
	}
	if prev != nil {
		if err := g.Inherit(prev); err != nil {
			s.t.Fatal(err)
		}
	}
	g.Start()
	return g
}

// panics is a file or a host name that makes whoever looks at it panic.
const panics = "panic"

const resolvConfPath = "/somewhere/resolv.conf"

func TestFollowFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := surround(t, "192.0.2.1", "192.0.2.2", "192.0.2.3")
		g := s.start("dnsguard . "+resolvConfPath+" {\npolicy round_robin\n}", nil)
		defer g.Stop()
		m := serve(t, g, query("www.example.org.", edns))
		if m.Rcode != dns.RcodeServerFailure || !strings.Contains(m.String(), "EDE: 14 (Not Ready): (no upstream: /somewhere/resolv.conf: file does not exist)") {
			t.Errorf("without an upstream: %v", m)
		}
		s.write(resolvConfPath, "nameserver 192.0.2.1\n")
		time.Sleep(1500 * time.Millisecond)
		s.load(g, 10)
		if got := s.asked(); got != "192.0.2.1" {
			t.Errorf("asked %s", got)
		}
		for _, junk := range []string{"", "\x00junk", "nameserver dns.example\n"} {
			s.write(resolvConfPath, junk)
			s.load(g, 500)
			if got := s.asked(); got != "192.0.2.1" {
				t.Errorf("%q: asked %s", junk, got)
			}
		}
		s.write(resolvConfPath, "nameserver 192.0.2.3\nnameserver 192.0.2.2\n")
		s.load(g, 150) // while the list changes
		s.asked()
		s.load(g, 10)
		if got := s.asked(); got != "192.0.2.2 192.0.2.3" {
			t.Errorf("asked %s", got)
		}
		for text, want := range map[string]int{
			"are now 192.0.2.3:53, 192.0.2.2:53; were 192.0.2.1:53": 1, "lists no usable nameserver; going on with 192.0.2.1:53": 1, "no upstreams from there": 1,
		} {
			if got := s.logged(text); got != want {
				t.Errorf("%d log lines with %q, want %d: %q", got, text, want, s.log)
			}
		}
	})
}

func TestFollowHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := surround(t, "192.0.2.1", "192.0.2.2", "192.0.2.3")
		s.resolve("dns.example", "192.0.2.1 192.0.2.2 30s")
		g := s.start("dnsguard . dns.example {\npolicy round_robin\n}", nil)
		defer g.Stop()
		s.load(g, 10)
		if got := s.asked(); got != "192.0.2.1 192.0.2.2" {
			t.Errorf("asked %s", got)
		}
		s.resolve("dns.example", "192.0.2.2 192.0.2.1 30s") // the order of answers rotates
		time.Sleep(31 * time.Second)
		s.resolve("dns.example", "")
		time.Sleep(40 * time.Second)
		s.load(g, 10)
		if got := s.asked(); got != "192.0.2.1 192.0.2.2" || s.logged("are now") != 1 {
			t.Errorf("asked %s; %q", got, s.log)
		}
		s.resolve("dns.example", "192.0.2.3 10s")
		time.Sleep(31 * time.Second)
		s.asked()
		s.load(g, 10)
		if got := s.asked(); got != "192.0.2.3" {
			t.Errorf("asked %s", got)
		}
	})
}

// TestFollowKeeps holds that an upstream which stays in the list keeps its
// socket, round trip and state, and that queries under way are answered by one
// that is taken out.
func TestFollowKeeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := surround(t, "192.0.2.1", "192.0.2.2")
		s.net.Missing = fakedns.Refuse
		s.write(resolvConfPath, "nameserver 192.0.2.9\nnameserver 192.0.2.1\n")
		g := s.start("dnsguard . "+resolvConfPath+" {\npolicy sequential\neject base 10m max 10m\n}", nil)
		defer g.Stop()
		s.load(g, 500)
		before := g.Snapshot()
		if before[0].State != "ejected" || before[1].State != "healthy" {
			t.Fatalf("%+v", before)
		}
		s.write(resolvConfPath, "nameserver 192.0.2.2\nnameserver 192.0.2.9\nnameserver 192.0.2.1\n")
		s.load(g, 300)
		after := g.Snapshot()
		if after[0].To != "192.0.2.2:53" || after[1].State != "ejected" || !after[1].Since.Equal(before[0].Since) || after[2].State != "healthy" || after[2].SRTT == 0 {
			t.Errorf("before %+v\nafter %+v", before, after)
		}
	})
}

// TestInherit holds that a Guard which takes another's place begins with its
// knowledge and its sockets, in spite of other options.
func TestInherit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := surround(t, "192.0.2.1")
		s.net.Missing = fakedns.Refuse
		old := s.start("dnsguard . 192.0.2.1 192.0.2.9 {\nforce_tcp\npolicy sequential\neject base 10m max 10m\n}", nil)
		s.load(old, 5)
		before := old.Snapshot()
		g := s.start("dnsguard . 192.0.2.9 192.0.2.1 {\nforce_tcp\ntimeout 2s\npolicy sequential\n}", old)
		after := g.Snapshot()
		if after[1].SRTT != before[0].SRTT || after[1].State != "healthy" || !after[1].Since.Equal(before[0].Since) {
			t.Errorf("before %+v\nafter %+v", before, after)
		}
		old.Stop()
		if open := s.net.Open(); len(open) != 1 {
			t.Errorf("open: %v", open)
		}
		s.load(g, 5)
		if n := s.servers["192.0.2.1"].Stats().Conns; n != 1 {
			t.Errorf("%d connections", n)
		}
		g.Stop()
		if open := s.net.Open(); len(open) != 0 {
			t.Errorf("open: %v", open)
		}
	})
}
