package exchange

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// doqServer answers every stream with what reply makes of the query.
func doqServer(t testing.TB, config *tls.Config, reply func(wire []byte) []byte) netip.AddrPort {
	t.Helper()
	config = config.Clone()
	config.NextProtos = []string{"doq"}
	l, err := quic.ListenAddr("127.0.0.1:0", config, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	serve := func(c *quic.Conn) {
		for {
			s, err := c.AcceptStream(ctx)
			if err != nil {
				_ = c.CloseWithError(0, "")
				return
			}
			wg.Go(func() {
				b, err := io.ReadAll(s)
				if err != nil || len(b) < 2 {
					return
				}
				if a := reply(b[2:]); a != nil {
					_, _ = s.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...))
					_ = s.Close()
				}
			})
		}
	}
	wg.Go(func() {
		for {
			c, err := l.Accept(ctx)
			if err != nil {
				return
			}
			wg.Go(func() { serve(c) })
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		wg.Wait()
	})
	return netip.MustParseAddrPort(l.Addr().String())
}

func TestDoQ(t *testing.T) {
	noLeak(t)
	server, client := certs(t, "dns.test")
	cfg, _ := testConfig("quic", doqServer(t, server, answer))
	cfg.TLS, cfg.SourceAddress = client, netip.MustParseAddr("127.0.0.2")
	x := mustNew(t, cfg)
	defer x.Close()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			sink := newSink()
			for range 20 {
				x.Start(query("www.example.org"), Options{}, sink)
				r := sink.wait(t)
				if r.Kind != outcome.OK || r.Proto != QUIC || r.Size == 0 || r.RTT <= 0 {
					t.Errorf("reply %+v", r)
					continue
				}
				if got := r.Local.(*net.UDPAddr).IP.String(); got != "127.0.0.2" {
					t.Errorf("sent from %s", got)
				}
			}
		})
	}
	wg.Wait()
}

func TestDoQFails(t *testing.T) {
	server, client := certs(t, "dns.test")
	wrong := client.Clone()
	wrong.ServerName = "other.test"
	_, stranger := certs(t, "dns.test")
	tests := []struct {
		name   string
		reply  func([]byte) []byte
		client *tls.Config
		want   outcome.Kind
	}{
		{"wrong name", answer, wrong, outcome.TLS},
		{"unknown authority", answer, stranger, outcome.TLS},
		{"garbage", func([]byte) []byte { return []byte("garbage") }, client, outcome.Malformed},
		{"empty", func([]byte) []byte { return []byte{} }, client, outcome.Malformed},
		{"ID", func(b []byte) []byte { return with(answer(b), setID(1)) }, client, outcome.Malformed},
		{"other question", func([]byte) []byte { return answer(query("other.example.org").Wire) }, client, outcome.Mismatched},
		{"OPT for an answer", func([]byte) []byte { return record(query("www.example.org"), dns.TypeOPT, "") }, client, outcome.Malformed},
		{"data that cannot be written", func([]byte) []byte {
			return record(query("www.example.org"), dns.TypeHTTPS, "\x00\x01\x00\x00\x01\x00\x01\x00")
		}, client, outcome.ServFail},
		{"silent", func([]byte) []byte { return nil }, client, outcome.Timeout},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			noLeak(t)
			cfg, _ := testConfig("quic", doqServer(t, server, tt.reply))
			cfg.TLS, cfg.ReadTimeout = tt.client, 300*time.Millisecond
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

func TestDoQCancelAndClose(t *testing.T) {
	noLeak(t)
	server, client := certs(t, "dns.test")
	asked := make(chan struct{}, 4)
	cfg, _ := testConfig("quic", doqServer(t, server, func([]byte) []byte {
		asked <- struct{}{}
		return nil
	}))
	cfg.TLS, cfg.ReadTimeout = client, time.Minute
	x := mustNew(t, cfg)
	sink := newSink()
	h := x.Start(query("www.example.org"), Options{}, sink)
	<-asked
	if !h.Cancel() || h.Cancel() {
		t.Error("want one Cancel in time, and one too late")
	}
	x.Start(query("www.example.org"), Options{}, sink)
	<-asked
	x.Close()
	wantKind(t, sink.wait(t), outcome.Cancelled)
}

// TestDoQStartsLate holds that an exchanger which is never used leaves nothing behind, closed or not: the server may not start.
func TestDoQStartsLate(t *testing.T) {
	noLeak(t)
	cfg, _ := testConfig("quic", netip.MustParseAddrPort("192.0.2.53:853"))
	mustNew(t, cfg)
	mustNew(t, cfg).Close()
}
