package exchange

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// counts is an Events that counts.
type counts struct {
	mismatched, late, lateRTT atomic.Int64
	sockets                   [ProtoCount]atomic.Int64
	opened                    [ProtoCount]atomic.Int64
	reusedConns, dialledConns atomic.Int64
	faults                    [outcome.FaultCount]atomic.Int64
}

func (c *counts) Fault(f outcome.Fault) { c.faults[f].Add(1) }

// wantFaults fails a test where other faults than n of the one kind were told.
func (c *counts) wantFaults(t testing.TB, f outcome.Fault, n int64) {
	t.Helper()
	for k := range outcome.FaultCount {
		want := int64(0)
		if k == f {
			want = n
		}
		if got := c.faults[k].Load(); got != want {
			t.Errorf("told %d times of a fault of %s, want %d", got, k, want)
		}
	}
}

func (c *counts) Mismatched() { c.mismatched.Add(1) }

func (c *counts) Late(rtt time.Duration) {
	c.late.Add(1)
	c.lateRTT.Store(int64(rtt))
}

func (c *counts) Sockets(p Proto, n int) {
	c.sockets[p].Add(int64(n))
	if n > 0 {
		c.opened[p].Add(int64(n))
	}
}

func (c *counts) Conn(_ Proto, reused bool) {
	if reused {
		c.reusedConns.Add(1)
	} else {
		c.dialledConns.Add(1)
	}
}

// seeded returns a source of bits for one test. Tests need it repeatable, not
// unpredictable.
func seeded(seed uint64) func() uint64 {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(seed, 1))
	return func() uint64 {
		mu.Lock()
		defer mu.Unlock()
		return r.Uint64()
	}
}

func testConfig(transport string, addr netip.AddrPort) (Config, *counts) {
	ev := &counts{}
	return Config{
		Addr:           addr,
		Transport:      transport,
		Dial:           NetDial(netip.Addr{}),
		Expire:         10 * time.Second,
		ReadTimeout:    2 * time.Second,
		ConnectTimeout: 2 * time.Second,
		Rand64:         seeded(7),
		Events:         ev,
	}, ev
}

func mustNew(t testing.TB, cfg Config) Exchanger {
	t.Helper()
	x, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// query packs a question as Query wants it.
func query(name string) *Query {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), dns.TypeA)
	m.Id = 0
	head, err := m.Pack()
	if err != nil {
		panic(err)
	}
	m.SetEdns0(1232, false)
	wire, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return &Query{Wire: wire, QuestionEnd: len(head)}
}

// chanSink is a Sink to receive from.
type chanSink chan Reply

func newSink() chanSink { return make(chanSink, 1) }

func (s chanSink) Done(r Reply) { s <- r }

// wait fails a test that would hang.
func (s chanSink) wait(t testing.TB) Reply {
	t.Helper()
	select {
	case r := <-s:
		return r
	case <-time.After(10 * time.Second):
		t.Fatal("the sink was not told")
		return Reply{}
	}
}

func (s chanSink) none(t testing.TB) {
	t.Helper()
	select {
	case r := <-s:
		t.Fatalf("the sink was told %v (%v), want nothing", r.Kind, r.Err)
	default:
	}
}

func wantKind(t testing.TB, r Reply, k outcome.Kind) {
	t.Helper()
	if r.Kind != k {
		t.Fatalf("outcome %v (%v), want %v", r.Kind, r.Err, k)
	}
}

// answer makes a reply with one A record to a packed query.
func answer(wire []byte) []byte {
	m := new(dns.Msg)
	if err := m.Unpack(wire); err != nil {
		panic(err)
	}
	r := new(dns.Msg)
	r.SetReply(m)
	r.Answer = []dns.RR{&dns.A{
		Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
		A:   net.IPv4(192, 0, 2, 1).To4(),
	}}
	b, err := r.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

// with returns a copy of a packed message, changed.
func with(b []byte, change func(b []byte)) []byte {
	c := append([]byte(nil), b...)
	change(c)
	return c
}

func setID(id uint16) func([]byte) {
	return func(b []byte) { binary.BigEndian.PutUint16(b, id) }
}

// memNet is a network in memory, for synctest bubbles: it hands the far end of
// each dialled connection to the test.
type memNet struct {
	far  chan *memConn
	fail func() error // what a dial ends with, if not nil

	dials atomic.Int64
}

func newMemNet() *memNet { return &memNet{far: make(chan *memConn, 1000)} }

func (n *memNet) dial(ctx context.Context, network string, _ netip.AddrPort) (net.Conn, error) {
	n.dials.Add(1)
	if n.fail != nil {
		if err := n.fail(); err != nil {
			return nil, err
		}
	}
	near := &memConn{in: make(chan []byte, 4096), errs: make(chan error, 1), gone: make(chan struct{})}
	far := &memConn{in: make(chan []byte, 4096), errs: make(chan error, 1), gone: make(chan struct{})}
	near.peer, far.peer = far, near
	select {
	case n.far <- far:
	default: // more than any test looks at
	}
	return near, nil
}

// memConn is one end of a datagram connection in memory.
type memConn struct {
	net.Conn // nil: what is not below is not called
	in       chan []byte
	errs     chan error // for Read
	gone     chan struct{}
	once     sync.Once
	peer     *memConn
	writeErr atomic.Pointer[error]
}

func (c *memConn) Read(b []byte) (int, error) {
	select {
	case p := <-c.in:
		return copy(b, p), nil
	case err := <-c.errs:
		return 0, err
	case <-c.gone:
		return 0, net.ErrClosed
	}
}

func (c *memConn) Write(b []byte) (int, error) {
	if err := c.writeErr.Load(); err != nil {
		return 0, *err
	}
	select {
	case c.peer.in <- append([]byte(nil), b...):
	case <-c.gone:
		return 0, net.ErrClosed
	default: // as UDP: lost
	}
	return len(b), nil
}

func (c *memConn) Close() error {
	c.once.Do(func() { close(c.gone) })
	return nil
}

func (c *memConn) LocalAddr() net.Addr { return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

func (c *memConn) closed() bool {
	select {
	case <-c.gone:
		return true
	default:
		return false
	}
}

// next returns the next query that came to a far end.
func (c *memConn) next(t testing.TB) []byte {
	t.Helper()
	select {
	case b := <-c.in:
		return b
	case <-time.After(10 * time.Second):
		t.Fatal("no query came")
		return nil
	}
}

// noLeak checks that a test leaves no goroutine behind.
func noLeak(t testing.TB) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		deadline := time.Now().Add(5 * time.Second)
		for runtime.NumGoroutine() > before {
			if time.Now().After(deadline) {
				buf := make([]byte, 1<<20)
				t.Errorf("%d goroutines, %d before\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
				return
			}
			runtime.Gosched()
		}
	})
}
