package exchange

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// streamServer answers over every connection that it accepts, up to limit
// replies each, if not 0.
func streamServer(t testing.TB, config *tls.Config, limit int) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	if config != nil {
		l = tls.NewListener(l, config)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for n := 0; limit == 0 || n < limit; n++ {
					b, err := readFrame(r, nil)
					if err != nil {
						return
					}
					a := answer(b)
					if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...)); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return addr
}

func TestTLS(t *testing.T) {
	noLeak(t)
	server, client := certs(t, "dns.test")
	cfg, ev := testConfig("tls", streamServer(t, server, 0))
	cfg.TLS = client
	x := mustNew(t, cfg)
	defer x.Close()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			sink := newSink()
			for range 50 {
				x.Start(query("www.example.org"), Options{}, sink)
				if r := sink.wait(t); r.Kind != outcome.OK || r.Proto != TLS || r.Local == nil {
					t.Errorf("reply %+v", r)
				}
			}
		})
	}
	wg.Wait()
	if got := ev.opened[TLS].Load(); got > 2 {
		t.Errorf("%d connections", got)
	}
}

func TestTLSAddressAsName(t *testing.T) {
	server, client := certs(t, "127.0.0.1")
	cfg, _ := testConfig("tls", streamServer(t, server, 0))
	client.ServerName = ""
	cfg.TLS = client
	x := mustNew(t, cfg)
	defer x.Close()
	sink := newSink()
	x.Start(query("www.example.org"), Options{}, sink)
	wantKind(t, sink.wait(t), outcome.OK)
}

func TestTLSFails(t *testing.T) {
	noLeak(t)
	server, client := certs(t, "dns.test")
	wrong := client.Clone()
	wrong.ServerName = "other.test"
	_, stranger := certs(t, "dns.test")
	late := client.Clone()
	late.Time = func() time.Time { return time.Now().Add(48 * time.Hour) }
	tests := []struct {
		name   string
		server *tls.Config
		client *tls.Config
	}{
		{"wrong name", server, wrong},
		{"unknown authority", server, stranger},
		{"expired", server, late},
		{"drops", server, &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10, ServerName: "dns.test"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, _ := testConfig("tls", streamServer(t, tt.server, 0))
			cfg.TLS = tt.client
			x := mustNew(t, cfg)
			defer x.Close()
			sink := newSink()
			x.Start(query("www.example.org"), Options{}, sink)
			wantKind(t, sink.wait(t), outcome.TLS)
		})
	}
}

func TestTLSPeerHangsOrDrops(t *testing.T) {
	for _, want := range []outcome.Kind{outcome.Timeout, outcome.TLS} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				if want == outcome.TLS {
					_, _ = io.ReadFull(c, make([]byte, 5))
					c.Close()
				} else {
					defer c.Close()
				}
			}
		}()
		cfg, _ := testConfig("tls", l.Addr().(*net.TCPAddr).AddrPort())
		cfg.ConnectTimeout = 50 * time.Millisecond
		x := mustNew(t, cfg)
		sink := newSink()
		x.Start(query("www.example.org"), Options{}, sink)
		wantKind(t, sink.wait(t), want)
		x.Close()
		l.Close()
		<-done
	}
}

// TestRealTCPClosing: a server that closes after a few replies serves all.
func TestRealTCPClosing(t *testing.T) {
	noLeak(t)
	for _, limit := range []int{1, 3} {
		cfg, _ := testConfig("dns", streamServer(t, nil, limit))
		x := mustNew(t, cfg)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				sink := newSink()
				for range 50 {
					x.Start(query("www.example.org"), Options{TCP: true}, sink)
					if r := sink.wait(t); r.Kind != outcome.OK {
						t.Errorf("limit %d: outcome %v (%v)", limit, r.Kind, r.Err)
					}
				}
			})
		}
		wg.Wait()
		x.Close()
	}
}
