package exchange

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns/coredns/plugin/pkg/proxy"
	"github.com/coredns/coredns/plugin/pkg/transport"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

const (
	proxyName       = "dnsguard"
	defaultDoQTime  = 5 * time.Second
	maxCachedClosed = 2 // times that a query is asked again after the peer had closed an idle connection
)

// doqExchanger sends queries by QUIC, each in a stream of its own. CoreDNS's
// proxy keeps the connection.
type doqExchanger struct {
	calls   *calls
	proxy   *proxy.Proxy
	start   sync.Once     // of the proxy's goroutine
	timeout time.Duration // of one exchange in all
	seen    atomic.Pointer[doqConn]
	used    atomic.Int64 // when an exchange ended with a reply, since base; 0: never
	base    time.Time
}

// doqConn is what is known of the proxy's connection: its own end, by which it
// is told from others, and when its first exchange ended.
type doqConn struct {
	local string
	since time.Time
}

func newDoQ(cfg *Config) *doqExchanger {
	p := proxy.NewProxy(proxyName, cfg.Addr.String(), transport.QUIC)
	p.SetTLSConfig(tlsConfig(cfg))
	p.SetExpire(cfg.Expire)
	p.SetMaxAge(cfg.MaxAge)
	timeout := cfg.ReadTimeout
	if timeout <= 0 {
		timeout = defaultDoQTime
	}
	p.SetReadTimeout(timeout)
	if cfg.SourceAddress.IsValid() {
		p.SetLocalAddress(cfg.SourceAddress.AsSlice())
	}
	d := &doqExchanger{proxy: p, timeout: timeout + 2*cfg.ConnectTimeout, base: time.Now()}
	d.calls = newCalls(cfg, QUIC, d.do)
	return d
}

// Start sends q in a stream of its own.
func (d *doqExchanger) Start(q *Query, opt Options, sink Sink) Handle {
	return d.calls.start(q, opt, sink)
}

// Close ends all exchanges and closes the connection.
func (d *doqExchanger) Close() {
	d.calls.close()
	d.proxy.Stop()
}

// connected tells whether the proxy's connection can be expected to be open;
// the proxy does not say.
func (d *doqExchanger) connected() bool {
	used := d.used.Load()
	return used != 0 && time.Since(d.base)-time.Duration(used) < d.calls.cfg.Expire
}

// do makes one exchange.
func (d *doqExchanger) do(ctx context.Context, q *Query, opt Options, c *call) Reply {
	// Not when it is made: it may never be closed then, if the server does not start.
	d.start.Do(func() { d.proxy.Start(time.Second) })
	if d.connected() {
		c.begins(time.Now())
	}
	// A copy of our own: the proxy changes its ID.
	m, err := message(q, opt.NoEDNS)
	if err != nil {
		return Reply{Kind: outcome.Local, Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	start := time.Now()
	var (
		ret   *dns.Msg
		local net.Addr
	)
	for range 1 + maxCachedClosed {
		start = time.Now()
		ret, local, err = d.connect(ctx, m)
		if !errors.Is(err, proxy.ErrCachedClosed) {
			break
		}
	}
	r := Reply{Local: local}
	switch {
	case err != nil:
		r.Kind, r.Err = QUICKind(err), err
		d.calls.cfg.tellFault(err)
	case misplaced(ret.Answer) || misplaced(ret.Ns):
		r.Kind, r.Err = outcome.Malformed, errMisplaced
	case !allEveryday(ret) && !sendable(ret):
		r.Kind, r.Err = outcome.ServFail, errUnsendable // of this name, and no fault of the upstream
	case !repeatsQuestion(ret, m):
		r.Kind, r.Err = outcome.Mismatched, errOtherQuestion
	default:
		r.Msg, r.Kind = ret, outcome.Classify(ret, false)
		r.Size = ret.Len()
		r.RTT = d.roundTrip(start, local)
		start = time.Now().Add(-r.RTT)
		d.used.Store(int64(time.Since(d.base)))
		if q.Keep {
			r.Wire, _ = ret.Pack() // it has just been unpacked
		}
	}
	if local != nil { // there was a connection
		c.over(local)
		c.wrote(start)
	}
	return r
}

// roundTrip returns the time since start. The proxy does not say whether it had
// to connect first; what began before the first exchange of a connection ended
// may have waited for the handshake, which takes one round trip more.
func (d *doqExchanger) roundTrip(start time.Time, local net.Addr) time.Duration {
	now := time.Now()
	rtt := now.Sub(start)
	conn := d.seen.Load()
	if name := local.String(); conn == nil || conn.local != name {
		conn = &doqConn{local: name, since: now}
		d.seen.Store(conn)
	}
	reused := start.After(conn.since)
	d.calls.cfg.Events.Conn(QUIC, reused)
	if !reused {
		rtt /= 2
	}
	return rtt
}

// connect is proxy.Connect, safe from a panic over hostile bytes.
func (d *doqExchanger) connect(ctx context.Context, m *dns.Msg) (ret *dns.Msg, local net.Addr, err error) {
	defer func() {
		if r := recover(); r != nil {
			ret, err = nil, fmt.Errorf("parser gave up: %v", r)
		}
	}()
	ret, local, _, err = d.proxy.Connect(ctx, request.Request{Req: m}, proxy.Options{})
	return ret, local, err
}

// QUICKind returns what an error of CoreDNS's proxy for QUIC came to. What is
// none of a network error is a breach of protocol by the peer.
func QUICKind(err error) outcome.Kind {
	if e, ok := errors.AsType[*quic.TransportError](err); ok {
		switch {
		case e.ErrorCode.IsCryptoError():
			return outcome.TLS
		case e.ErrorCode == quic.ConnectionRefused:
			return outcome.ConnRefused
		}
		return outcome.ConnReset
	}
	if errors.Is(err, proxy.ErrCachedClosed) {
		return outcome.ConnReset
	}
	if _, ok := errors.AsType[*quic.ApplicationError](err); ok {
		return outcome.ConnReset
	}
	if _, ok := errors.AsType[*quic.StreamError](err); ok {
		return outcome.ConnReset
	}
	if _, ok := errors.AsType[*quic.StatelessResetError](err); ok {
		return outcome.ConnReset
	}
	kind := outcome.FromError(err)
	if _, ok := errors.AsType[net.Error](err); !ok && kind == outcome.Unreachable {
		return outcome.Malformed
	}
	return kind
}
