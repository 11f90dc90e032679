package options

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/test/fakedns"
)

// doh is an HTTPS server in memory, at every address with the port 443. Its
// certificate is for 127.0.0.1 and example.com.
type doh struct {
	server *httptest.Server
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once // closes closed
	ca     string    // file

	mu      sync.Mutex
	dials   int
	methods map[string]int
	names   map[string]int // of the ClientHello
	clients int            // requests with a client certificate
}

// newDoH starts a server, and has the lab dial it.
func newDoH(t *testing.T, l *lab, http2 bool) *doh {
	t.Helper()
	d := &doh{
		conns: make(chan net.Conn), closed: make(chan struct{}),
		methods: make(map[string]int), names: make(map[string]int),
	}
	d.server = &httptest.Server{
		Listener: d, EnableHTTP2: http2,
		Config: &http.Server{Handler: d, ErrorLog: log.New(io.Discard, "", 0)},
		// Tickets would be written while the client writes too, and a pipe holds nothing.
		TLS: &tls.Config{SessionTicketsDisabled: true, ClientAuth: tls.RequestClientCert, GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.names[h.ServerName]++
			return nil, nil
		}},
	}
	d.server.StartTLS()
	t.Cleanup(d.server.Close)
	d.ca = write(t, "doh-ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.server.Certificate().Raw}))
	dial := l.dial
	l.dial = func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
		if addr.Port() != 443 {
			return dial(ctx, network, addr)
		}
		return d.dial(ctx)
	}
	return d
}

func (d *doh) dial(ctx context.Context) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case d.conns <- server:
		d.mu.Lock()
		defer d.mu.Unlock()
		d.dials++
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (d *doh) dialled() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dials
}

// Accept, Close and Addr make it a net.Listener.
func (d *doh) Accept() (net.Conn, error) {
	select {
	case c := <-d.conns:
		return c, nil
	case <-d.closed:
		return nil, net.ErrClosed
	}
}

func (d *doh) Close() error {
	d.once.Do(func() { close(d.closed) })
	return nil
}

func (d *doh) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443} }

// ServeHTTP answers with what a fake server would say (RFC 8484).
func (d *doh) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	d.methods[r.Method]++
	if len(r.TLS.PeerCertificates) > 0 {
		d.clients++
	}
	d.mu.Unlock()
	wire, err := io.ReadAll(r.Body)
	if r.Method == http.MethodGet {
		wire, err = base64.RawURLEncoding.DecodeString(r.URL.Query().Get("dns"))
	}
	q := new(dns.Msg)
	if err = errors.Join(err, q.Unpack(wire)); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/dns-message")
	wire, _ = truth(q).Pack()
	w.Write(wire)
}

// truth is what a server says that knows all names.
func truth(q *dns.Msg) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	if name := q.Question[0].Name; q.Question[0].Qtype == dns.TypeA {
		m.Answer = []dns.RR{&dns.A{
			Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
			A:   fakedns.A("", name).AsSlice(),
		}}
	}
	return m
}

// write writes a file whose path can be in a Corefile: that of T.TempDir may have a # in it.
func write(t *testing.T, name string, content []byte) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "options")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDoHMethod(t *testing.T) {
	for option, want := range map[string]string{"": "POST", "doh_method POST": "POST", "doh_method GET": "GET"} {
		for _, http2 := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t)
				d := newDoH(t, l, http2)
				l.corefile(directive("https://127.0.0.1", option, "tls "+d.ca))
				if r := l.a("www.example.org."); !r.right() {
					t.Errorf("%q: reply %v", option, r.msg)
				}
				if d.mu.Lock(); d.methods[want] == 0 || len(d.methods) != 1 {
					t.Errorf("%q: methods %v, want %s", option, d.methods, want)
				}
				d.mu.Unlock()
			})
		}
	}
}

// TestTLS is about tls, tls_servername and tls://IP%NAME.
func TestTLS(t *testing.T) {
	authority, err := fakedns.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	other, err := fakedns.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	ca, stranger := "tls "+write(t, "ca.pem", authority.PEM()), "tls "+write(t, "other.pem", other.PEM())
	for _, tc := range []struct {
		name    string
		to      string
		certs   [2][]string // the names in the certificates of 10.0.0.1 and 10.0.0.2
		options []string
		want    [2]bool // who may be asked
	}{
		{name: "by address", to: "tls://10.0.0.1", options: []string{ca}, want: [2]bool{true}},
		{name: "by another's address", to: "tls://10.0.0.1", certs: [2][]string{{"10.0.0.2"}}, options: []string{ca}},
		{name: "the system's authorities", to: "tls://10.0.0.1"},
		{name: "another authority", to: "tls://10.0.0.1", options: []string{stranger}},
		{name: "tls_servername", to: "tls://10.0.0.1", certs: [2][]string{{"one.example"}}, options: []string{ca, "tls_servername one.example"}, want: [2]bool{true}},
		{name: "tls_servername, another", to: "tls://10.0.0.1", options: []string{ca, "tls_servername one.example"}},
		{name: "tls_servername before tls", to: "tls://10.0.0.1", certs: [2][]string{{"one.example"}}, options: []string{"tls_servername one.example", ca}, want: [2]bool{true}},
		{name: "a name each", to: "tls://10.0.0.1%one.example tls://10.0.0.2%two.example", certs: [2][]string{{"one.example"}, {"two.example"}}, options: []string{ca}, want: [2]bool{true, true}},
		{name: "names confused", to: "tls://10.0.0.1%two.example tls://10.0.0.2%two.example", certs: [2][]string{{"one.example"}, {"two.example"}}, options: []string{ca}, want: [2]bool{false, true}},
		{name: "a name for one", to: "tls://10.0.0.1%one.example tls://10.0.0.2", certs: [2][]string{{"one.example"}, {"10.0.0.2"}}, options: []string{ca}, want: [2]bool{true, true}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t)
				for i, names := range tc.certs {
					addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), 853)
					s := server(10 * ms)
					if s.Key, s.CertNames = authority, names; names == nil {
						s.CertNames = []string{addr.Addr().String()}
					}
					l.up = append(l.up, s)
					l.net.AddTLS(addr, s)
				}
				l.corefile(directive(tc.to, append(tc.options, "policy round_robin")...))
				some := false
				for _, name := range []string{"a.example.org.", "b.example.org.", "c.example.org.", "d.example.org."} {
					some = l.a(name).right() || some
				}
				for i, s := range l.up {
					if got := asked(s) > 0; got != tc.want[i] {
						t.Errorf("10.0.0.%d asked: %t, want %t", i+1, got, tc.want[i])
					}
				}
				if want := tc.want[0] || tc.want[1]; some != want {
					t.Errorf("answered: %t, want %t", some, want)
				}
			})
		})
	}
}

// TestTLSOfHTTPS holds that the options are for https as well, client
// certificates included.
func TestTLSOfHTTPS(t *testing.T) {
	for _, tc := range []struct {
		name    string
		to      string
		options func(d *doh, cert, key string) []string
		right   bool
		sni     string
		client  bool
	}{
		{"by address", "https://127.0.0.1", func(d *doh, _, _ string) []string { return []string{"tls " + d.ca} }, true, "", false},
		{"tls_servername", "https://10.0.0.1", func(d *doh, _, _ string) []string {
			return []string{"tls " + d.ca, "tls_servername example.com"}
		}, true, "example.com", false},
		{"another name", "https://10.0.0.1", func(d *doh, _, _ string) []string {
			return []string{"tls " + d.ca, "tls_servername one.example"}
		}, false, "one.example", false},
		{"% name", "https://10.0.0.1%example.com", func(d *doh, _, _ string) []string { return []string{"tls " + d.ca} }, true, "example.com", false},
		{"certificate and key", "https://127.0.0.1", func(d *doh, cert, key string) []string {
			return []string{"tls " + cert + " " + key + " " + d.ca}
		}, true, "", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t)
				d := newDoH(t, l, true)
				cert, key := clientCertificate(t)
				l.corefile(directive(tc.to, tc.options(d, cert, key)...))
				if r := l.ask(query{name: "www.example.org.", size: 1232}); r.right() != tc.right {
					t.Errorf("right: %t, want %t: %v", r.right(), tc.right, r.msg)
				}
				d.mu.Lock()
				defer d.mu.Unlock()
				if d.names[tc.sni] == 0 || len(d.names) != 1 {
					t.Errorf("server names asked for %v, want %q", d.names, tc.sni)
				}
				if got := d.clients > 0; got != tc.client {
					t.Errorf("client certificate: %t, want %t", got, tc.client)
				}
			})
		})
	}
}
