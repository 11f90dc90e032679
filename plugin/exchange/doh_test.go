package exchange

import (
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/coredns/coredns/plugin/pkg/doh"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// dohServer answers by HTTPS as handle says; nil: well.
func dohServer(t testing.TB, config *tls.Config, http2 bool, handle http.HandlerFunc) netip.AddrPort {
	t.Helper()
	if handle == nil {
		handle = dohAnswer
	}
	s := httptest.NewUnstartedServer(handle)
	s.EnableHTTP2 = http2
	s.TLS = config.Clone()
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(s.Listener.Addr().String())
}

func dohAnswer(w http.ResponseWriter, r *http.Request) {
	_, wire, err := doh.RequestToMsgWire(r)
	if err != nil || wire[0] != 0 || wire[1] != 0 || r.Host != "dns.test" || len(r.Header["Idempotency-Key"]) > 0 {
		w.WriteHeader(http.StatusTeapot)
		return
	}
	w.Header().Set("Content-Type", doh.MimeType)
	_, _ = w.Write(answer(wire))
}

func TestDoH(t *testing.T) {
	noLeak(t)
	for _, method := range []string{http.MethodGet, http.MethodPost, ""} {
		for _, http2 := range []bool{true, false} {
			server, client := certs(t, "dns.test")
			cfg, ev := testConfig("https", dohServer(t, server, http2, nil))
			cfg.TLS, cfg.DoHMethod = client, method
			x := mustNew(t, cfg)
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					sink := newSink()
					for range 20 {
						x.Start(query("www.example.org"), Options{}, sink)
						r := sink.wait(t)
						if r.Kind != outcome.OK || r.Proto != HTTPS || r.Local == nil || r.Size == 0 || r.RTT <= 0 {
							t.Errorf("reply %+v", r)
						}
					}
				})
			}
			wg.Wait()
			if got := ev.opened[HTTPS].Load(); got > 16 { // an HTTP/1.1 client dials ahead
				t.Errorf("%s, HTTP/2 %v: %d connections", method, http2, got)
			}
			x.Close()
			if got := ev.sockets[HTTPS].Load(); got != 0 {
				t.Errorf("%d connections after Close", got)
			}
		}
	}
}

// TestDoHManyAtOnce: all exchanges share few connections by HTTP/2, and wait
// for their turn by HTTP/1.1.
func TestDoHManyAtOnce(t *testing.T) {
	noLeak(t)
	server, client := certs(t, "dns.test")
	for _, http2 := range []bool{true, false} {
		var all sync.WaitGroup
		all.Add(200)
		cfg, ev := testConfig("https", dohServer(t, server, http2, func(w http.ResponseWriter, r *http.Request) {
			if http2 {
				all.Done()
				all.Wait() // answers once all have been asked
			}
			dohAnswer(w, r)
		}))
		cfg.TLS = client
		x := mustNew(t, cfg)
		sinks := make([]chanSink, 200)
		for i := range sinks {
			sinks[i] = newSink()
			x.Start(query("www.example.org"), Options{}, sinks[i])
		}
		for _, s := range sinks {
			wantKind(t, s.wait(t), outcome.OK)
		}
		if got := ev.opened[HTTPS].Load(); got > 2*maxConns { // some are dialled and not needed
			t.Errorf("HTTP/2 %v: %d connections", http2, got)
		}
		x.Close()
	}
}

func TestDoHFails(t *testing.T) {
	noLeak(t)
	server, client := certs(t, "dns.test")
	wrong := client.Clone()
	wrong.ServerName = "other.test"
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	body := func(mime, s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", mime)
			_, _ = io.WriteString(w, s)
		}
	}
	tests := []struct {
		name   string
		handle http.HandlerFunc
		client *tls.Config
		want   outcome.Kind
	}{
		{"wrong name", nil, wrong, outcome.TLS},
		{"500", status(500), client, outcome.ServFail},
		{"403", status(403), client, outcome.Refused},
		{"204", status(204), client, outcome.Malformed},
		{"302", status(302), client, outcome.Malformed},
		{"HTML", body("text/html", "<html>"), client, outcome.Malformed},
		{"no type", body("", string(answer(query("www.example.org").Wire))), client, outcome.Malformed},
		{"garbage", body(doh.MimeType, "garbage"), client, outcome.Malformed},
		{"empty", body(doh.MimeType, ""), client, outcome.Malformed},
		{"fewer records than promised", body(doh.MimeType, string(with(answer(query("www.example.org").Wire), func(b []byte) { b[7] = 2 }))), client, outcome.Malformed},
		{"too large", body(doh.MimeType, string(make([]byte, 1<<17))), client, outcome.Malformed},
		{"other question", body(doh.MimeType, string(answer(query("other.example.org").Wire))), client, outcome.Mismatched},
		{"query", body(doh.MimeType, string(query("www.example.org").Wire)), client, outcome.Mismatched},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, _ := testConfig("https", dohServer(t, server, true, tt.handle))
			cfg.TLS = tt.client
			x := mustNew(t, cfg)
			defer x.Close()
			sink := newSink()
			x.Start(query("www.example.org"), Options{}, sink)
			r := sink.wait(t)
			wantKind(t, r, tt.want)
			if r.Err == nil || r.Msg != nil {
				t.Errorf("reply %+v", r)
			}
		})
	}
}

func TestDoHCancelAndClose(t *testing.T) {
	noLeak(t)
	server, client := certs(t, "dns.test")
	asked := make(chan struct{}, 1)
	gone := make(chan struct{}, 1)
	addr := dohServer(t, server, true, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		asked <- struct{}{}
		<-r.Context().Done()
		gone <- struct{}{}
	})
	cfg, _ := testConfig("https", addr)
	cfg.TLS = client
	x := mustNew(t, cfg)
	sink := newSink()
	h := x.Start(query("www.example.org"), Options{}, sink)
	<-asked
	if !h.Cancel() || h.Cancel() {
		t.Error("want one Cancel in time, and one too late")
	}
	<-gone
	h = x.Start(query("www.example.org"), Options{}, sink)
	<-asked
	x.Close()
	wantKind(t, sink.wait(t), outcome.Cancelled)
	if h.Cancel() {
		t.Error("Cancel after the end")
	}
	<-gone
	x.Start(query("www.example.org"), Options{}, sink)
	wantKind(t, sink.wait(t), outcome.Cancelled)
}

func TestDoHUnreachable(t *testing.T) {
	noLeak(t)
	server, client := certs(t, "dns.test")
	s := httptest.NewUnstartedServer(nil)
	addr := netip.MustParseAddrPort(s.Listener.Addr().String())
	s.Listener.Close()
	_ = server
	cfg, _ := testConfig("https", addr)
	cfg.TLS, cfg.ConnectTimeout = client, 200*time.Millisecond
	x := mustNew(t, cfg)
	defer x.Close()
	sink := newSink()
	x.Start(query("www.example.org"), Options{}, sink)
	wantKind(t, sink.wait(t), outcome.ConnRefused)
}
