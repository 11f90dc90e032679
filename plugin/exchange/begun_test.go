package exchange

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// wantBegun holds when a query went out, as a time after start; negative: it waits for a connection.
func wantBegun(t *testing.T, when string, h Handle, start time.Time, want time.Duration) {
	t.Helper()
	switch at := h.Begun(); {
	case want < 0 && !at.IsZero():
		t.Errorf("%s: sent after %s, want it to wait", when, at.Sub(start))
	case want >= 0 && at.Sub(start) != want:
		t.Errorf("%s: sent at %s, want %s later than %s", when, at, want, start)
	}
}

func TestUDPBegun(t *testing.T) {
	inMemory(t, func(t *testing.T, x *udpPool, _ *memNet, _ *counts) {
		start := time.Now()
		h := x.Start(query("www.example.org"), Options{}, newSink())
		time.Sleep(time.Second)
		wantBegun(t, "over a socket", h, start, 0)
	})
}

// TestTCPBegun holds that a query has not been sent as long as it waits for a
// connection, be that the first one or the next.
func TestTCPBegun(t *testing.T) {
	const connect = 50 * time.Millisecond
	slow := func(c *Config, n *pipeNet) {
		c.Dial = func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
			time.Sleep(connect)
			return n.dial(ctx, network, addr)
		}
	}
	inPipes(t, slow, func(t *testing.T, x *streamPool, n *pipeNet, _ *counts) {
		start := time.Now()
		sink := newSink()
		h := x.Start(query("www.example.org"), Options{}, sink)
		wantBegun(t, "at once", h, start, -1)
		peer := <-n.far
		asked := peer.next(t)
		wantBegun(t, "when connected", h, start, connect)
		peer.reply(t, answer(asked))
		wantKind(t, sink.wait(t), outcome.OK)

		start = time.Now()
		h = x.Start(query("www.example.org"), Options{}, sink)
		wantBegun(t, "over the open one, not yet written", h, start, 0)
		peer.next(t)
		time.Sleep(connect)
		wantBegun(t, "over the open one", h, start, 0)
		peer.Close() // so that it goes once more
		synctest.Wait()
		wantBegun(t, "the connection lost", h, start, -1)
		peer = <-n.far
		peer.reply(t, answer(peer.next(t)))
		wantBegun(t, "connected again", h, start, 2*connect)
		wantKind(t, sink.wait(t), outcome.OK)
	})
	inPipes(t, func(_ *Config, n *pipeNet) { n.hang = true }, func(t *testing.T, x *streamPool, _ *pipeNet, _ *counts) {
		h := x.Start(query("www.example.org"), Options{}, newSink())
		time.Sleep(time.Second)
		wantBegun(t, "never connected", h, time.Time{}, -1)
	})
}

// stopped is a dial function that waits for its turn.
func stopped(turn <-chan struct{}, dial DialFunc) DialFunc {
	return func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
		<-turn
		return dial(ctx, network, addr)
	}
}

func TestDoHBegun(t *testing.T) {
	noLeak(t)
	server, client := certs(t, "dns.test")
	turn := make(chan struct{})
	cfg, _ := testConfig("https", dohServer(t, server, true, nil))
	cfg.TLS, cfg.Dial = client, stopped(turn, cfg.Dial)
	x := mustNew(t, cfg)
	defer x.Close()
	sink := newSink()
	h := x.Start(query("www.example.org"), Options{}, sink)
	wantBegun(t, "not connected", h, time.Time{}, -1)
	close(turn)
	wantKind(t, sink.wait(t), outcome.OK)
	if h.Begun().IsZero() {
		t.Error("not sent, and answered")
	}
}

// TestDoQBegun holds that a query counts as sent at once where the connection is in use.
func TestDoQBegun(t *testing.T) {
	noLeak(t)
	server, client := certs(t, "dns.test")
	var silent atomic.Bool
	asked := make(chan struct{}, 10)
	cfg, _ := testConfig("quic", doqServer(t, server, func(wire []byte) []byte {
		if silent.Load() {
			asked <- struct{}{}
			return nil
		}
		return answer(wire)
	}))
	cfg.TLS = client
	x := mustNew(t, cfg)
	defer x.Close()
	ask := func() (Handle, chanSink) {
		sink := newSink()
		return x.Start(query("www.example.org"), Options{}, sink), sink
	}
	silent.Store(true)
	h, _ := ask()
	<-asked
	wantBegun(t, "nothing heard yet", h, time.Time{}, -1)
	h.Cancel()
	silent.Store(false)
	_, sink := ask()
	wantKind(t, sink.wait(t), outcome.OK)
	silent.Store(true)
	h, _ = ask()
	<-asked
	if h.Begun().IsZero() {
		t.Error("over the open connection, and not sent")
	}
	h.Cancel()
}
