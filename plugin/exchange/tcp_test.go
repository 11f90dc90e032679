package exchange

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// pipeNet hands out net.Pipes.
type pipeNet struct {
	far  chan *streamPeer
	fail error
	hang bool // dials do not end by themselves
}

func (n *pipeNet) dial(ctx context.Context, _ string, _ netip.AddrPort) (net.Conn, error) {
	if n.hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if n.fail != nil {
		return nil, n.fail
	}
	near, far := net.Pipe()
	n.far <- &streamPeer{Conn: far, r: bufio.NewReader(far)}
	return near, nil
}

// streamPeer is a server's end of a connection.
type streamPeer struct {
	net.Conn
	r *bufio.Reader
}

func (p *streamPeer) next(t testing.TB) []byte {
	t.Helper()
	b, err := readFrame(p.r, nil)
	if err != nil {
		t.Fatalf("no query: %v", err)
	}
	return b
}

func (p *streamPeer) reply(t testing.TB, b []byte) {
	t.Helper()
	if _, err := p.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)); err != nil {
		t.Fatalf("reply: %v", err)
	}
}

func inPipes(t *testing.T, change func(*Config, *pipeNet), f func(t *testing.T, x *streamPool, n *pipeNet, ev *counts)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := &pipeNet{far: make(chan *streamPeer, 1000)}
		cfg, ev := testConfig("dns", netip.MustParseAddrPort("192.0.2.53:53"))
		cfg.Dial = n.dial
		if change != nil {
			change(&cfg, n)
		}
		x := newStreamPool(&cfg, TCP, dialTCP(&cfg))
		f(t, x, n, ev)
		x.Close()
		synctest.Wait()
		if got := ev.sockets[TCP].Load(); got != 0 {
			t.Errorf("%d connections after Close", got)
		}
	})
}

func TestTCPPipelines(t *testing.T) {
	inPipes(t, nil, func(t *testing.T, x *streamPool, n *pipeNet, ev *counts) {
		var sinks [10]chanSink
		for i := range sinks {
			sinks[i] = newSink()
			x.Start(query(fmt.Sprintf("n%d.example.org", i)), Options{}, sinks[i])
		}
		peer := <-n.far
		var asked [len(sinks)][]byte
		for i := range asked {
			asked[i] = peer.next(t)
		}
		time.Sleep(time.Millisecond)
		for i := len(asked) - 1; i >= 0; i-- { // the last first
			peer.reply(t, with(answer(asked[i]), setID(99)))
			peer.reply(t, answer(asked[i]))
		}
		for i, s := range sinks {
			r := s.wait(t)
			wantKind(t, r, outcome.OK)
			if want := fmt.Sprintf("n%d.example.org.", i); r.Msg.Question[0].Name != want || r.RTT != time.Millisecond || r.Proto != TCP {
				t.Errorf("reply %+v, want one to %s", r, want)
			}
		}
		if got := ev.mismatched.Load(); got != int64(len(sinks)) {
			t.Errorf("%d mismatched", got)
		}
		if ev.opened[TCP].Load() != 1 || len(n.far) != 0 {
			t.Error("more than one connection")
		}
	})
}

func TestTCPIdle(t *testing.T) {
	inPipes(t, nil, func(t *testing.T, x *streamPool, n *pipeNet, ev *counts) {
		sink := newSink()
		for range 5 {
			x.Start(query("www.example.org"), Options{}, sink)
			var peer *streamPeer
			select {
			case peer = <-n.far:
			default:
			}
			synctest.Wait()
			if peer == nil {
				peer = <-n.far
			}
			peer.reply(t, answer(peer.next(t)))
			wantKind(t, sink.wait(t), outcome.OK)
			time.Sleep(11 * time.Second) // over Expire
			if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("idle connection: %v, want EOF", err)
			}
		}
		if got := ev.dialledConns.Load(); got != 5 {
			t.Errorf("%d dialled", got)
		}
	})
}

// TestTCPIdleClosedByPeer: a query over a connection that the peer closes goes
// once more over a new one.
func TestTCPIdleClosedByPeer(t *testing.T) {
	inPipes(t, nil, func(t *testing.T, x *streamPool, n *pipeNet, _ *counts) {
		sink := newSink()
		x.Start(query("www.example.org"), Options{}, sink)
		peer := <-n.far
		peer.reply(t, answer(peer.next(t)))
		wantKind(t, sink.wait(t), outcome.OK)
		x.Start(query("www.example.org"), Options{}, sink)
		peer.next(t)
		peer.Close()
		peer = <-n.far
		peer.reply(t, answer(peer.next(t)))
		wantKind(t, sink.wait(t), outcome.OK)
	})
}

func TestTCPResetAtOnce(t *testing.T) {
	inPipes(t, nil, func(t *testing.T, x *streamPool, n *pipeNet, _ *counts) {
		sink := newSink()
		x.Start(query("www.example.org"), Options{}, sink)
		peer := <-n.far
		peer.next(t)
		peer.Close()
		wantKind(t, sink.wait(t), outcome.ConnReset)
		if len(n.far) != 0 {
			t.Error("redialled")
		}
	})
}

// TestTCPOneReplyPerConnection: a peer that closes after each reply serves all.
func TestTCPOneReplyPerConnection(t *testing.T) {
	inPipes(t, nil, func(t *testing.T, x *streamPool, n *pipeNet, _ *counts) {
		var sinks [40]chanSink
		for i := range sinks {
			sinks[i] = newSink()
			x.Start(query(fmt.Sprintf("n%d.example.org", i)), Options{}, sinks[i])
		}
		done := make(chan struct{})
		go func() {
			for {
				select {
				case <-done:
					return
				case peer := <-n.far:
					go func() {
						b, err := readFrame(peer.r, nil)
						if err != nil {
							return
						}
						a := answer(b)
						go io.Copy(io.Discard, peer.r)
						_, _ = peer.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...))
						peer.Close()
					}()
				}
			}
		}()
		for _, s := range sinks {
			wantKind(t, s.wait(t), outcome.OK)
		}
		close(done)
	})
}

func TestTCPDial(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Config, *pipeNet)
		want   outcome.Kind
		after  time.Duration
	}{
		{"refused", func(_ *Config, n *pipeNet) { n.fail = syscall.ECONNREFUSED }, outcome.ConnRefused, 0},
		{"no descriptors", func(_ *Config, n *pipeNet) { n.fail = syscall.EMFILE }, outcome.Local, 0},
		{"SYN dropped", func(c *Config, n *pipeNet) { n.hang, c.ConnectTimeout = true, 500*time.Millisecond }, outcome.Timeout, 500 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inPipes(t, tt.change, func(t *testing.T, x *streamPool, _ *pipeNet, _ *counts) {
				var sinks [maxDepth]chanSink
				start := time.Now()
				for i := range sinks {
					sinks[i] = newSink()
					x.Start(query("www.example.org"), Options{}, sinks[i])
				}
				for _, s := range sinks {
					wantKind(t, s.wait(t), tt.want)
				}
				if got := time.Since(start); got != tt.after {
					t.Errorf("after %v, want %v", got, tt.after)
				}
			})
		})
	}
}

// TestTCPFreshDials holds that a fresh exchange does not wait for a connection
// that should be there by now, while others do; and that many fresh ones share a new one.
func TestTCPFreshDials(t *testing.T) {
	inPipes(t, nil, func(t *testing.T, x *streamPool, n *pipeNet, ev *counts) {
		stuck := make(chan struct{})
		dial := x.dial
		x.dial = func(ctx context.Context) (net.Conn, error) { // as a handshake that the peer does not answer
			<-stuck
			return nil, syscall.ETIMEDOUT
		}
		first, second := newSink(), newSink()
		x.Start(query("a.example.org"), Options{}, first)
		time.Sleep(freshDial)
		synctest.Wait()
		x.dial = dial
		x.Start(query("b.example.org"), Options{}, second)
		synctest.Wait()
		if len(n.far) != 0 {
			t.Error("a second connection, though nothing fresh was asked for")
		}
		var sinks [5]chanSink
		for i := range sinks {
			sinks[i] = newSink()
			x.Start(query(fmt.Sprintf("n%d.example.org", i)), Options{Fresh: true}, sinks[i])
		}
		peer := <-n.far
		for range sinks {
			peer.reply(t, answer(peer.next(t)))
		}
		for _, s := range sinks {
			wantKind(t, s.wait(t), outcome.OK)
		}
		if len(n.far) != 0 {
			t.Error("a third connection")
		}
		first.none(t)
		close(stuck)
		wantKind(t, first.wait(t), outcome.Timeout)
		wantKind(t, second.wait(t), outcome.Timeout)
	})
}

func TestTCPGarbage(t *testing.T) {
	for _, frame := range [][]byte{{0, 0}, {0, 11, 1, 2, 3}} {
		inPipes(t, nil, func(t *testing.T, x *streamPool, n *pipeNet, _ *counts) {
			a, b := newSink(), newSink()
			x.Start(query("a.example.org"), Options{}, a)
			x.Start(query("b.example.org"), Options{}, b)
			peer := <-n.far
			peer.next(t)
			peer.next(t)
			go peer.Write(frame)
			wantKind(t, a.wait(t), outcome.Malformed)
			wantKind(t, b.wait(t), outcome.Malformed)
		})
	}
}

// TestTCPStalled: a peer that neither reads nor writes blocks nobody, and new
// queries do not wait for its connection.
func TestTCPStalled(t *testing.T) {
	inPipes(t, nil, func(t *testing.T, x *streamPool, n *pipeNet, ev *counts) {
		var handles []Handle
		sinks := make([]chanSink, maxConns*maxDepth+maxQueue)
		for i := range sinks {
			sinks[i] = newSink()
			handles = append(handles, x.Start(query("www.example.org"), Options{}, sinks[i]))
		}
		last := newSink()
		x.Start(query("www.example.org"), Options{}, last)
		wantKind(t, last.wait(t), outcome.Local)
		ev.wantFaults(t, outcome.FaultLimit, 1)
		for _, s := range sinks {
			s.none(t)
		}
		for _, h := range handles {
			if !h.Cancel() {
				t.Fatal("ended by itself")
			}
		}
	})
	inPipes(t, nil, func(t *testing.T, x *streamPool, n *pipeNet, _ *counts) {
		h := x.Start(query("www.example.org"), Options{}, newSink())
		peer := <-n.far
		peer.next(t)
		time.Sleep(stallAfter + time.Millisecond)
		if !h.Cancel() {
			t.Fatal("ended by itself")
		}
		sink := newSink()
		x.Start(query("www.example.org"), Options{}, sink)
		peer = <-n.far
		peer.reply(t, answer(peer.next(t)))
		wantKind(t, sink.wait(t), outcome.OK)
	})
}

func TestTCPWriteStalls(t *testing.T) {
	inPipes(t, nil, func(t *testing.T, x *streamPool, n *pipeNet, _ *counts) {
		sink := newSink()
		x.Start(query("www.example.org"), Options{}, sink)
		<-n.far // does not read
		wantKind(t, sink.wait(t), outcome.Timeout)
	})
}

func TestTCPLate(t *testing.T) {
	inPipes(t, nil, func(t *testing.T, x *streamPool, n *pipeNet, ev *counts) {
		a, b := newSink(), newSink()
		h := x.Start(query("a.example.org"), Options{}, a)
		peer := <-n.far
		late := answer(peer.next(t))
		h.Cancel()
		x.Start(query("b.example.org"), Options{}, b)
		q := peer.next(t)
		time.Sleep(50 * time.Millisecond)
		peer.reply(t, late)
		peer.reply(t, late)
		peer.reply(t, answer(q))
		wantKind(t, b.wait(t), outcome.OK)
		a.none(t)
		if ev.late.Load() != 1 || ev.lateRTT.Load() != int64(50*time.Millisecond) || ev.mismatched.Load() != 1 {
			t.Errorf("%d late, %d mismatched", ev.late.Load(), ev.mismatched.Load())
		}
	})
}

func TestTCPMaxAgeAndMaxIdle(t *testing.T) {
	inPipes(t, func(c *Config, _ *pipeNet) { c.MaxAge, c.MaxIdle = time.Second, 1 }, func(t *testing.T, x *streamPool, n *pipeNet, ev *counts) {
		exchange := func() {
			sink := newSink()
			x.Start(query("www.example.org"), Options{}, sink)
			synctest.Wait()
			peer := <-n.far
			peer.reply(t, answer(peer.next(t)))
			wantKind(t, sink.wait(t), outcome.OK)
		}
		exchange()
		time.Sleep(time.Second)
		exchange()
		synctest.Wait()
		if got := ev.sockets[TCP].Load(); got != 1 {
			t.Errorf("%d connections, want 1", got)
		}
		a, b := newSink(), newSink()
		x.Start(query("a.example.org"), Options{Fresh: true}, a)
		x.Start(query("b.example.org"), Options{Fresh: true}, b)
		peer := <-n.far
		peer.reply(t, answer(peer.next(t)))
		peer.reply(t, answer(peer.next(t)))
		wantKind(t, a.wait(t), outcome.OK)
		wantKind(t, b.wait(t), outcome.OK)
		synctest.Wait()
		if got := ev.sockets[TCP].Load(); got != 1 {
			t.Errorf("%d idle connections, want 1", got)
		}
	})
}

func TestTCPCloseWhileDialing(t *testing.T) {
	inPipes(t, func(_ *Config, n *pipeNet) { n.hang = true }, func(t *testing.T, x *streamPool, _ *pipeNet, _ *counts) {
		sink := newSink()
		x.Start(query("www.example.org"), Options{}, sink)
		x.Close()
		wantKind(t, sink.wait(t), outcome.Cancelled)
		x.Start(query("www.example.org"), Options{}, sink)
		wantKind(t, sink.wait(t), outcome.Cancelled)
	})
}
