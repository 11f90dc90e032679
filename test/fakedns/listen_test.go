package fakedns

import (
	"crypto/tls"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestListen(t *testing.T) {
	s := &Server{Zones: []string{"."}}
	l, err := Listen("127.0.0.1:0", s)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, network := range []string{"udp", "tcp"} {
		c, err := dns.DialTimeout(network, l.Addr().String(), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		m, _, err := ask(t, c, "www.example.org", dns.TypeA, true)
		if err != nil || !Right("", m) {
			t.Errorf("%s: %v, %v", network, m, err)
		}
		c.Close()
	}
	if got := s.Stats(); got.Queries != 2 || got.Conns != 1 || len(got.Ports) != 1 {
		t.Errorf("stats: %+v", got)
	}
}

func TestListenRefuse(t *testing.T) {
	s := &Server{Zones: []string{"."}}
	l, err := Listen("127.0.0.1:0", s)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	eventually := func(what string, ok func(error) bool) {
		t.Helper()
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for range 200 {
			c, err := net.Dial("tcp", l.Addr().String())
			if err == nil {
				c.Close()
			}
			if ok(err) {
				return
			}
			<-tick.C
		}
		t.Fatalf("not %s", what)
	}
	s.Set(Fault{Kind: Refuse})
	eventually("refused", func(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) })
	s.Set()
	eventually("open again", func(err error) bool { return err == nil })
}

func TestListenTLS(t *testing.T) {
	key, err := NewCA()
	if err != nil {
		t.Fatal(err)
	}
	l, err := ListenTLS("127.0.0.1:0", &Server{Zones: []string{"."}, Key: key, CertNames: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := dns.DialTimeoutWithTLS("tcp-tls", l.Addr().String(), &tls.Config{RootCAs: key.Pool()}, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m, _, err := ask(t, c, "www.example.org", dns.TypeA, true)
	if err != nil || !Right("", m) {
		t.Errorf("%v, %v", m, err)
	}
}
