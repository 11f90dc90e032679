package exchange

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/recovery"
)

// panics keeps where panics were recovered.
type panics struct {
	mu    sync.Mutex
	where []string
	count atomic.Int64
}

func (p *panics) recoverer() *recovery.Recoverer {
	return recovery.New(func(where string, _ any, _ []byte) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.where = append(p.where, where)
	}, func() { p.count.Add(1) })
}

func (p *panics) want(t *testing.T, count int64, where ...string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	slices.Sort(p.where)
	if p.count.Load() != count || !slices.Equal(p.where, where) {
		t.Errorf("recovered %d times, at %q; want %d, at %q", p.count.Load(), p.where, count, where)
	}
}

// panicSink is told, and panics.
type panicSink chan Reply

func (s panicSink) Done(r Reply) {
	s <- r
	panic("sink")
}

// fragile is an Events that panics at packets that belong to no query, and, if it is to, at each connection.
type fragile struct {
	counts
	conns atomic.Bool
}

func (f *fragile) Mismatched() { panic("mismatched") }

func (f *fragile) Conn(p Proto, reused bool) {
	if f.conns.Load() {
		panic("connection")
	}
	f.counts.Conn(p, reused)
}

// TestUDPRecovers holds that a datagram which makes its reader panic is lost, and no other, and that no lock is left behind.
func TestUDPRecovers(t *testing.T) {
	p := new(panics)
	n := newMemNet()
	cfg, _ := testConfig("dns", netip.MustParseAddrPort("192.0.2.53:53"))
	cfg.Dial, cfg.Events, cfg.Recoverer = n.dial, new(fragile), p.recoverer()
	x := newUDPPool(&cfg)
	defer x.Close()
	first, sink := make(panicSink, 1), newSink()
	x.Start(query("a.example.org"), Options{}, first)
	x.Start(query("b.example.org"), Options{}, sink)
	far := <-n.far
	a, b := far.next(t), far.next(t)
	far.Write(with(answer(b), func(b []byte) { b[14] = 'x' })) // to no query
	far.Write(answer(a))
	far.Write(answer(b))
	if r := <-first; r.Kind != outcome.OK {
		t.Errorf("%+v", r)
	}
	wantKind(t, sink.wait(t), outcome.OK)
	h := x.Start(query("c.example.org"), Options{}, sink)
	far.next(t)
	if !h.Cancel() {
		t.Error("ended by itself")
	}
	p.want(t, 2, "a datagram")
}

func TestTCPRecovers(t *testing.T) {
	p := new(panics)
	change := func(c *Config, _ *pipeNet) { c.Events, c.Recoverer = new(fragile), p.recoverer() }
	inPipes(t, change, func(t *testing.T, x *streamPool, n *pipeNet, _ *counts) {
		first, sink := make(panicSink, 1), newSink()
		x.Start(query("a.example.org"), Options{}, first)
		x.Start(query("b.example.org"), Options{}, sink)
		peer := <-n.far
		a, b := peer.next(t), peer.next(t)
		peer.reply(t, with(answer(b), func(b []byte) { b[14] = 'x' }))
		peer.reply(t, answer(a))
		peer.reply(t, answer(b))
		if r := <-first; r.Kind != outcome.OK {
			t.Errorf("%+v", r)
		}
		wantKind(t, sink.wait(t), outcome.OK)
		if len(n.far) != 0 {
			t.Error("another connection")
		}
	})
	p.want(t, 2, "a message")
}

// fragileConn panics when it is written to, or read from, as in the handshake of TLS.
type fragileConn struct {
	net.Conn
	write bool
}

func (c fragileConn) Read(b []byte) (int, error) {
	if c.write {
		return c.Conn.Read(b)
	}
	panic("read")
}

func (c fragileConn) Write(b []byte) (int, error) {
	if !c.write {
		return len(b), nil
	}
	panic("write")
}

// TestConnectionsRecover holds that a connection that makes its goroutine panic ends, and those who wait for it are told.
func TestConnectionsRecover(t *testing.T) {
	for name, tc := range map[string]struct {
		transport string
		dial      DialFunc // nil: panics
		want      outcome.Kind
		where     []string
	}{
		"connecting":                {"dns", nil, outcome.Local, []string{"connecting"}},
		"connecting, TLS":           {"tls", nil, outcome.Local, []string{"connecting"}},
		"connecting, HTTPS":         {"https", nil, outcome.Local, []string{"connecting"}},
		"the handshake":             {"tls", pipeTo(fragileConn{}), outcome.Malformed, []string{"a connection"}},
		"the handshake, HTTPS":      {"https", pipeTo(fragileConn{}), outcome.Local, []string{"connecting by HTTPS"}},
		"reading":                   {"dns", pipeTo(fragileConn{}), outcome.Malformed, []string{"a connection"}},
		"writing":                   {"dns", pipeTo(fragileConn{write: true}), outcome.Local, []string{"writing to a connection"}},
		"writing, in the handshake": {"tls", pipeTo(fragileConn{write: true}), outcome.Malformed, []string{"a connection"}},
	} {
		t.Run(name, func(t *testing.T) {
			noLeak(t)
			p := new(panics)
			cfg, _ := testConfig(tc.transport, netip.MustParseAddrPort("192.0.2.53:53"))
			if cfg.Dial = tc.dial; tc.dial == nil {
				cfg.Dial = func(context.Context, string, netip.AddrPort) (net.Conn, error) { panic("dial") }
			}
			cfg.Recoverer = p.recoverer()
			x := mustNew(t, cfg)
			for range 2 {
				sink := newSink()
				x.Start(query("www.example.org"), Options{TCP: true}, sink)
				wantKind(t, sink.wait(t), tc.want)
			}
			x.Close()
			p.want(t, 2, tc.where...)
		})
	}
}

// pipeTo dials pipes of a kind.
func pipeTo(c fragileConn) DialFunc {
	return func(context.Context, string, netip.AddrPort) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			_, _ = far.Read(make([]byte, 1)) // until it is closed
			far.Close()
		}()
		c := c
		c.Conn = near
		return c, nil
	}
}

// TestCallsRecover holds the same for exchanges that have a goroutine each.
func TestCallsRecover(t *testing.T) {
	noLeak(t)
	server, client := certs(t, "dns.test")
	p := new(panics)
	cfg, _ := testConfig("quic", doqServer(t, server, answer))
	events := new(fragile)
	cfg.TLS, cfg.Events, cfg.Recoverer = client, events, p.recoverer()
	x := mustNew(t, cfg)
	defer x.Close()
	sink := newSink()
	events.conns.Store(true)
	x.Start(query("www.example.org"), Options{}, sink)
	wantKind(t, sink.wait(t), outcome.Malformed)
	events.conns.Store(false)
	first := make(panicSink, 1)
	x.Start(query("www.example.org"), Options{}, first)
	if r := <-first; r.Kind != outcome.OK {
		t.Errorf("%+v", r)
	}
	x.Start(query("www.example.org"), Options{}, sink)
	wantKind(t, sink.wait(t), outcome.OK)
	p.want(t, 2, "an exchange by quic", "quic")
}

// TestLocksRecover holds that a panic under the lock of a pool leaves it unlocked.
func TestLocksRecover(t *testing.T) {
	for _, transport := range []string{"udp", "tcp"} {
		n := newMemNet()
		cfg, _ := testConfig("dns", netip.MustParseAddrPort("192.0.2.53:53"))
		cfg.Dial = n.dial
		draw, fails := cfg.Rand64, false
		cfg.Rand64 = func() uint64 {
			if fails {
				panic("no chance")
			}
			return draw()
		}
		x := mustNew(t, cfg)
		start := func() (ok bool) {
			defer func() { ok = recover() == nil }()
			x.Start(query("www.example.org"), Options{TCP: transport == "tcp"}, newSink())
			return true
		}
		for _, fails = range []bool{false, true, false} {
			if ok := start(); ok == fails {
				t.Errorf("%s: started: %t, with chance: %t", transport, ok, !fails)
			}
		}
		x.Close()
	}
}
