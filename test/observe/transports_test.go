package observe

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"

	"github.com/dnsguard/dnsguard/test/fakedns"
)

var authority = sync.OnceValues(fakedns.NewCA)

// TestTLS is about DNS over TLS: names, certificates, and faults.
func TestTLS(t *testing.T) {
	key, err := authority()
	if err != nil {
		t.Fatal(err)
	}
	ca := "tls " + write(t, "ca.pem", key.PEM())
	type row struct {
		certNames []string
		fault     string
		options   []string
	}
	cases := map[string]row{
		"no authority":    {[]string{"dns.example"}, "", nil},
		"no name":         {[]string{"dns.example"}, "", []string{ca}},
		"name":            {[]string{"dns.example"}, "", []string{ca, "tls_servername dns.example"}},
		"another name":    {[]string{"dns.example"}, "", []string{ca, "tls_servername other.example"}},
		"expired":         {[]string{"dns.example"}, "tls-expired", []string{ca, "tls_servername dns.example"}},
		"wrong name":      {[]string{"dns.example"}, "tls-wrong-name", []string{ca, "tls_servername dns.example"}},
		"refused":         {[]string{"dns.example"}, "refused", []string{ca, "tls_servername dns.example", "failover REFUSED"}},
		"silent":          {[]string{"dns.example"}, "drop", []string{ca, "tls_servername dns.example", "max_connect_attempts 2"}},
		"closed in query": {[]string{"dns.example"}, "tcp-close-midquery 1", []string{ca, "tls_servername dns.example"}},
	}
	each(t, cases, func(t *testing.T, r row) {
		servers := func() []*fakedns.Server {
			up := pool(2, 1, r.fault)()
			for _, s := range up {
				s.Key, s.CertNames = key, r.certNames
			}
			return up
		}
		agree(t, setting{servers: servers, listen: fakedns.ListenTLS, transport: "tls://", options: slices.Concat(r.options, quick, []string{"policy sequential"})},
			query{name: "one.example.org."}, query{name: "two.example.org.", tcp: true}, query{name: "three.example.org.", size: 4096})
	})
}

// TestServerNames is about names in the addresses.
func TestServerNames(t *testing.T) {
	key, err := authority()
	if err != nil {
		t.Fatal(err)
	}
	ca := "tls " + write(t, "ca.pem", key.PEM())
	for _, serverName := range []string{"one.example", "two.example"} {
		var got [2]result
		for i, name := range []string{"forward", "dnsguard"} {
			s := &fakedns.Server{Zones: []string{"."}, Key: key, CertNames: []string{"one.example"}}
			l, err := fakedns.ListenTLS("127.0.0.1:0", s)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			host, port, _ := strings.Cut(l.Addr().String(), ":")
			c := &contender{t: t, name: name}
			c.handler = c.build("tls://"+host+"%"+serverName+":"+port, []string{ca}, nil)
			got[i] = c.ask(t.Context(), query{name: "www.example.org."})
		}
		if got[0] != got[1] || strings.HasPrefix(got[0].returned, "NOERROR") != (serverName == "one.example") {
			t.Errorf("%s: forward %s, dnsguard %s", serverName, got[0], got[1])
		}
	}
}

// web is a server for DNS over HTTPS.
type web struct {
	*httptest.Server
	mu     sync.Mutex
	seen   []string
	status int
}

// newWeb starts one whose certificate is for 127.0.0.1 and example.com. It answers with status, and where that is 200 with the truth.
func newWeb(t *testing.T, status int) *web {
	t.Helper()
	d := &web{status: status}
	d.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wire, err := io.ReadAll(r.Body)
		if r.Method == http.MethodGet {
			wire, err = base64.RawURLEncoding.DecodeString(r.URL.Query().Get("dns"))
		}
		q := new(dns.Msg)
		if err = errors.Join(err, q.Unpack(wire)); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if q.Question[0].Name != "." { // health checks come at any time
			host, _, _ := strings.Cut(r.Host, ":")
			d.mu.Lock()
			d.seen = append(d.seen, fmt.Sprint(r.Method, " ", r.Proto, " ", host, " ", r.URL.Path, " ", q))
			d.mu.Unlock()
		}
		d.mu.Lock()
		status := d.status
		d.mu.Unlock()
		w.Header().Set("Content-Type", "application/dns-message")
		w.WriteHeader(status)
		if status == http.StatusOK {
			wire, _ = truth(q).Pack()
			w.Write(wire)
		}
	}))
	d.EnableHTTP2 = true
	d.Config.ErrorLog = log.New(io.Discard, "", 0)
	d.StartTLS()
	t.Cleanup(d.Close)
	return d
}

func (d *web) ca(t *testing.T) string {
	return "tls " + write(t, "ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.Certificate().Raw}))
}

// truth is what a server says that knows all names.
func truth(q *dns.Msg) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.Answer = []dns.RR{&dns.A{
		Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
		A:   fakedns.A("", q.Question[0].Name).AsSlice(),
	}}
	return m
}

// TestHTTPS is about DNS over HTTPS.
func TestHTTPS(t *testing.T) {
	type row struct {
		status  int
		trusted bool
		options []string
	}
	each(t, map[string]row{
		"POST":          {200, true, nil},
		"GET":           {200, true, []string{"doh_method GET"}},
		"name":          {200, true, []string{"tls_servername example.com"}},
		"another name":  {200, true, []string{"tls_servername other.example"}},
		"no authority":  {200, false, nil},
		"server error":  {500, true, nil},
		"forbidden":     {403, true, nil},
		"kept a moment": {200, true, []string{"max_idle_conns 1", "expire 1s"}},
	}, func(t *testing.T, r row) {
		var got [2][]result
		var seen [2][]string
		for i, name := range []string{"forward", "dnsguard"} {
			d := newWeb(t, r.status)
			// Without health checks: forward's race with the queries for the TLS configuration that they share.
			options := slices.Concat(r.options, quick, []string{"max_fails 0"})
			if r.trusted {
				options = append(options, d.ca(t))
			}
			c := &contender{t: t, name: name}
			c.handler = c.build(d.URL, options, nil)
			for n := range 3 {
				got[i] = append(got[i], c.ask(t.Context(), query{name: fmt.Sprintf("n%d.example.org.", n), size: 1232}))
			}
			d.mu.Lock()
			seen[i] = d.seen
			d.mu.Unlock()
		}
		if !slices.Equal(got[0], got[1]) || !slices.Equal(seen[0], seen[1]) {
			t.Errorf("forward  %s\n%q\ndnsguard %s\n%q", got[0], seen[0], got[1], seen[1])
		}
	})
}

// TestQUIC is about DNS over QUIC.
func TestQUIC(t *testing.T) {
	d := newWeb(t, 200) // for its certificate
	config := &tls.Config{Certificates: d.TLS.Certificates, NextProtos: []string{"doq"}}
	each(t, map[string][]string{
		"":             {d.ca(t)},
		"no authority": nil,
		"another name": {d.ca(t), "tls_servername other.example"},
	}, func(t *testing.T, options []string) {
		var got [2][]result
		var conns [2]int
		for i, name := range []string{"forward", "dnsguard"} {
			up, err := quic.ListenAddr("127.0.0.1:0", config, nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { up.Close() })
			accepted := make(chan struct{}, 100)
			go serveQUIC(up, accepted)
			c := &contender{t: t, name: name}
			c.handler = c.build("quic://"+up.Addr().String(), slices.Concat(options, quick), nil)
			for n := range 3 {
				got[i] = append(got[i], c.ask(t.Context(), query{name: fmt.Sprintf("n%d.example.org.", n)}))
			}
			axfr := query{name: "example.org.", qtype: dns.TypeAXFR}
			got[i] = append(got[i], c.ask(t.Context(), axfr))
			conns[i] = len(accepted)
		}
		if !slices.Equal(got[0], got[1]) || conns[0] != conns[1] {
			t.Errorf("forward  %s, %d connections\ndnsguard %s, %d connections", got[0], conns[0], got[1], conns[1])
		}
	})
}

// serveQUIC answers each stream (RFC 9250).
func serveQUIC(l *quic.Listener, accepted chan<- struct{}) {
	for {
		conn, err := l.Accept(context.Background())
		if err != nil {
			return
		}
		accepted <- struct{}{}
		go func() {
			for {
				s, err := conn.AcceptStream(context.Background())
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

// TestHTTPSHealth: health checks of an upstream by HTTPS go on beside queries,
// which is what the race detector looks at here, and find it down and up again.
func TestHTTPSHealth(t *testing.T) {
	d := newWeb(t, http.StatusInternalServerError)
	c := &contender{t: t, name: "dnsguard"}
	c.handler = c.build(d.URL, []string{d.ca(t), "health_check 10ms", "max_connect_attempts 3"}, nil)
	attempts := func() int {
		d.mu.Lock()
		before := len(d.seen)
		d.mu.Unlock()
		c.ask(t.Context(), query{name: "www.example.org."})
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.seen) - before
	}
	if n := attempts(); n != 3 {
		t.Errorf("%d attempts at first", n)
	}
	eventually(t, func() error {
		if n := attempts(); n != 1 {
			return fmt.Errorf("not down: %d attempts", n)
		}
		return nil
	})
	d.mu.Lock()
	d.status = http.StatusOK
	d.mu.Unlock()
	eventually(t, func() error {
		if r := c.ask(t.Context(), query{name: "www.example.org."}); r.returned != "NOERROR" {
			return errors.New(r.String())
		}
		return nil
	})
}
