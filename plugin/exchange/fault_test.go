package exchange

import (
	"context"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// faultyNet dials into memory, unless there is an errno to fail with.
type faultyNet struct {
	*memNet
	errno atomic.Int64
}

func (n *faultyNet) dial(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	if e := syscall.Errno(n.errno.Load()); e != 0 {
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", e)}
	}
	return n.memNet.dial(ctx, network, addr)
}

// TestDialFaults holds that each failed dial is told of once, by its cause, whatever the transport and however many wait for it.
func TestDialFaults(t *testing.T) {
	for errno, fault := range map[syscall.Errno]outcome.Fault{
		syscall.EMFILE: outcome.FaultDescriptors, syscall.ENOMEM: outcome.FaultBuffers, syscall.EPERM: outcome.FaultPermission,
		syscall.EADDRNOTAVAIL: outcome.FaultPorts, syscall.EAFNOSUPPORT: outcome.FaultOther, syscall.ECONNREFUSED: outcome.NoFault,
	} {
		for name, tc := range map[string]struct {
			transport string
			opt       Options
		}{
			"udp": {"dns", Options{}}, "tcp": {"dns", Options{TCP: true}}, "tls": {"tls", Options{}}, "https": {"https", Options{}},
		} {
			t.Run(name+" "+errno.Error(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := &faultyNet{memNet: newMemNet()}
					n.errno.Store(int64(errno))
					cfg, ev := testConfig(tc.transport, netip.MustParseAddrPort("192.0.2.53:53"))
					cfg.Dial = n.dial
					x := mustNew(t, cfg)
					defer x.Close()
					sink := newSink()
					x.Start(query("www.example.org"), tc.opt, sink)
					r := sink.wait(t)
					want := int64(1)
					if fault == outcome.NoFault {
						want = 0
						wantKind(t, r, outcome.ConnRefused)
					} else {
						wantKind(t, r, outcome.Local)
					}
					ev.wantFaults(t, fault, want)
				})
			})
		}
	}
}

// TestHiddenFault holds that a fault is told of where no exchange fails, because the open sockets will do.
func TestHiddenFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &faultyNet{memNet: newMemNet()}
		cfg, ev := testConfig("dns", netip.MustParseAddrPort("192.0.2.53:53"))
		cfg.Dial = n.dial
		x := mustNew(t, cfg)
		defer x.Close()
		sink := newSink()
		x.Start(query("www.example.org"), Options{}, sink)
		far := <-n.far
		far.Write(answer(far.next(t)))
		wantKind(t, sink.wait(t), outcome.OK)
		n.errno.Store(int64(syscall.EMFILE))
		x.Start(query("www.example.org"), Options{Fresh: true}, sink)
		far.Write(answer(far.next(t)))
		wantKind(t, sink.wait(t), outcome.OK)
		ev.wantFaults(t, outcome.FaultDescriptors, 1)
	})
}

// TestWriteFaults holds that writes which fail for want of something here are told of, and that those which the upstream makes fail are not.
func TestWriteFaults(t *testing.T) {
	for errno, fault := range map[syscall.Errno]outcome.Fault{
		syscall.EPERM: outcome.FaultPermission, syscall.ENOBUFS: outcome.FaultBuffers, syscall.ECONNREFUSED: outcome.NoFault,
	} {
		for name, opt := range map[string]Options{"udp": {}, "tcp": {TCP: true}} {
			t.Run(name+" "+errno.Error(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					cfg, ev := testConfig("dns", netip.MustParseAddrPort("192.0.2.53:53"))
					failure := error(&net.OpError{Op: "write", Err: os.NewSyscallError("write", errno)})
					cfg.Dial = func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
						if network == "tcp" {
							return (&pipeNet{far: make(chan *streamPeer, 1)}).dialBroken(ctx, failure)
						}
						c, err := newMemNet().dial(ctx, network, addr)
						c.(*memConn).writeErr.Store(&failure)
						return c, err
					}
					x := mustNew(t, cfg)
					defer x.Close()
					sink := newSink()
					x.Start(query("www.example.org"), opt, sink)
					wantKind(t, sink.wait(t), outcome.FromError(failure))
					want := int64(1)
					if fault == outcome.NoFault {
						want = 0
					}
					ev.wantFaults(t, fault, want)
				})
			})
		}
	}
}

// TestReadFault holds that a socket which breaks for want of something here is told of.
func TestReadFault(t *testing.T) {
	inMemory(t, func(t *testing.T, x *udpPool, n *memNet, ev *counts) {
		sink := newSink()
		x.Start(query("www.example.org"), Options{}, sink)
		far := <-n.far
		far.peer.errs <- &net.OpError{Op: "read", Net: "udp", Err: syscall.ENOMEM}
		wantKind(t, sink.wait(t), outcome.Local)
		ev.wantFaults(t, outcome.FaultBuffers, 1)
	})
}

// brokenConn is a connection that cannot be written to.
type brokenConn struct {
	net.Conn
	err error
}

func (c brokenConn) Write([]byte) (int, error) { return 0, c.err }

func (n *pipeNet) dialBroken(ctx context.Context, err error) (net.Conn, error) {
	c, _ := n.dial(ctx, "tcp", netip.AddrPort{})
	return brokenConn{c, err}, nil
}

// TestSourceFault asks the system, from an address that this host does not have.
func TestSourceFault(t *testing.T) {
	source := netip.MustParseAddr("192.0.2.1")
	for name, tc := range map[string]struct {
		transport string
		opt       Options
	}{"udp": {"dns", Options{}}, "tcp": {"dns", Options{TCP: true}}, "quic": {"quic", Options{}}} {
		t.Run(name, func(t *testing.T) {
			noLeak(t)
			cfg, ev := testConfig(tc.transport, netip.MustParseAddrPort("127.0.0.1:1"))
			cfg.Dial, cfg.SourceAddress = NetDial(source), source
			_, cfg.TLS = certs(t, "dns.test")
			x := mustNew(t, cfg)
			defer x.Close()
			sink := newSink()
			x.Start(query("www.example.org"), tc.opt, sink)
			wantKind(t, sink.wait(t), outcome.Local)
			ev.wantFaults(t, outcome.FaultPorts, 1)
		})
	}
}

// TestCallsLimit holds that a bound of ours which is reached is told of.
func TestCallsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, ev := testConfig("https", netip.MustParseAddrPort("192.0.2.53:53"))
		c := newCalls(&cfg, HTTPS, func(ctx context.Context, _ *Query, _ Options, _ *call) Reply { <-ctx.Done(); return Reply{} })
		defer c.close()
		for range maxCalls {
			c.start(query("www.example.org"), Options{}, newSink())
		}
		ev.wantFaults(t, outcome.FaultLimit, 0)
		sink := newSink()
		c.start(query("www.example.org"), Options{}, sink)
		wantKind(t, sink.wait(t), outcome.Local)
		ev.wantFaults(t, outcome.FaultLimit, 1)
	})
}
