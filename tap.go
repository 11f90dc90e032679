package dnsguard

import (
	"context"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/dnstap"
	"github.com/coredns/coredns/plugin/dnstap/msg"
	"github.com/coredns/coredns/plugin/metadata"
	"github.com/coredns/coredns/request"

	tap "github.com/dnstap/golang-dnstap"
	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/forwarder"
	"github.com/dnsguard/dnsguard/plugin/recovery"
	"github.com/dnsguard/dnsguard/plugin/upstream"
)

// taps are the dnstap plugins of a server block.
type taps struct {
	to    []*dnstap.Dnstap
	raw   bool // one of them wants the octets of messages
	extra bool // one of them adds what it makes of the query

	recoverer *recovery.Recoverer
	late      chan func() // what comes after its query; told by a goroutine of its own, because a dnstap plugin may block
	quit      chan struct{}
	once      sync.Once // of quit
	running   sync.WaitGroup
}

// maxLate is how many messages that come late may wait to be told. Further
// ones are lost.
const maxLate = 1000

// tapsFrom returns the dnstap plugins that begin with a handler; nil: it is none.
func tapsFrom(first plugin.Handler, r *recovery.Recoverer) *taps {
	t := &taps{recoverer: r, late: make(chan func(), maxLate), quit: make(chan struct{})}
	for d, ok := first.(*dnstap.Dnstap); ok; d, ok = d.Next.(*dnstap.Dnstap) {
		t.to = append(t.to, d)
		t.raw = t.raw || d.IncludeRawMessage
		t.extra = t.extra || d.ExtraFormat != ""
	}
	if len(t.to) == 0 {
		return nil
	}
	r.Go(&t.running, "telling dnstap", t.run)
	return t
}

func (t *taps) run() {
	for {
		select {
		case tell := <-t.late:
			t.tellLate(tell)
		case <-t.quit:
			for len(t.late) > 0 {
				t.tellLate(<-t.late)
			}
			return
		}
	}
}

// tellLate tells one message. One that makes it panic is lost.
func (t *taps) tellLate(tell func()) {
	defer t.recoverer.Recover("telling dnstap")
	tell()
}

// close tells what is waiting, and ends the goroutine.
func (t *taps) close() {
	if t != nil {
		t.once.Do(func() { close(t.quit) })
		t.running.Wait()
	}
}

// tapped tells the dnstap plugins of the messages of one query's attempts: of a
// query once it is known to have gone out, and of a reply when it has come,
// even after the client's answer. It is a forwarder.Watch.
type tapped struct {
	*taps
	ctx   context.Context
	state request.Request // of the client
	tries []*tappedTry
}

type tappedTry struct {
	*upstream.Attempt
	query *exchange.Query
	cause forwarder.Cause
	told  exchange.Sent // the query that has been told of; At is zero before
	ended bool
}

// Started tells of a query by UDP at once; over a connection it has not gone
// out yet.
func (t *tapped) Started(a *upstream.Attempt, q *exchange.Query, c forwarder.Cause) {
	try := &tappedTry{Attempt: a, query: q, cause: c}
	t.tries = append(t.tries, try)
	t.sent(try)
}

// Ended tells of a reply.
func (t *tapped) Ended(a *upstream.Attempt, r exchange.Reply) { t.end(t.find(a), r) }

// Over readies for what comes when the client and its query are gone.
func (t *tapped) Over() {
	open := false
	for _, try := range t.tries {
		if !try.ended {
			open = true
			t.sent(try)
		}
	}
	if open {
		t.freeze()
	}
}

// Late has the reply told of by the goroutine for that.
func (t *tapped) Late(a *upstream.Attempt, r exchange.Reply) {
	select {
	case t.late <- func() { t.end(t.find(a), r) }:
	default:
	}
}

func (t *tapped) find(a *upstream.Attempt) *tappedTry {
	for _, try := range t.tries {
		if try.Attempt == a {
			return try
		}
	}
	return nil
}

// sent tells of a query, if it has gone out; once more only if it went over
// another connection after the first had been closed.
func (t *tapped) sent(try *tappedTry) {
	s, ok := try.Sent()
	if !ok || (!try.told.At.IsZero() && s.ID == try.told.ID && s.Local == try.told.Local) {
		return
	}
	try.told = s
	var wire []byte
	if t.raw {
		wire = try.query.AppendTo(nil, s.ID, try.Options.NoEDNS)
	}
	ctx := t.about(try, unset)
	for _, d := range t.to {
		m := try.message(tap.Message_FORWARDER_QUERY, try.Proto())
		if d.IncludeRawMessage {
			m.QueryMessage = wire
		}
		d.TapMessageWithMetadata(ctx, m, t.state)
	}
}

// end tells of the end of an attempt: of a reply, if there is one.
func (t *tapped) end(try *tappedTry, r exchange.Reply) {
	if try == nil || try.ended {
		return
	}
	try.ended = true
	t.sent(try)
	if try.told.At.IsZero() || r.Size == 0 {
		return
	}
	at := time.Now()
	if r.RTT > 0 {
		at = try.told.At.Add(r.RTT)
	}
	ctx := t.about(try, r.Kind.String())
	for _, d := range t.to {
		m := try.message(tap.Message_FORWARDER_RESPONSE, r.Proto)
		msg.SetResponseTime(m, at)
		if d.IncludeRawMessage {
			m.ResponseMessage = r.Wire
		}
		d.TapMessageWithMetadata(ctx, m, t.state)
	}
}

// message makes a message without octets.
func (try *tappedTry) message(kind tap.Message_Type, p exchange.Proto) *tap.Message {
	m := new(tap.Message)
	msg.SetType(m, kind)
	msg.SetQueryTime(m, try.told.At)
	addr := try.Upstream.Addr()
	_ = msg.SetQueryAddress(m, try.told.Local) // of no use to anybody where it is of an unknown kind
	_ = msg.SetResponseAddress(m, net.UDPAddrFromAddrPort(addr))
	m.SocketProtocol = socketProtocols[p].Enum()
	return m
}

// socketProtocols are those of dnstap. It has no name for DNS over QUIC yet
// that the library knows.
var socketProtocols = [exchange.ProtoCount]tap.SocketProtocol{
	exchange.UDP: tap.SocketProtocol_UDP, exchange.TCP: tap.SocketProtocol_TCP, exchange.TLS: tap.SocketProtocol_DOT,
	exchange.HTTPS: tap.SocketProtocol_DOH, exchange.QUIC: tap.SocketProtocol_UDP,
}

// about returns the metadata of one attempt: those of the query, but with
// the attempt's own in the place of the answer's, which is not known yet.
func (t *tapped) about(try *tappedTry, outcome string) context.Context {
	known := metadata.ValueFuncs(t.ctx)
	if !t.extra || known == nil {
		return t.ctx
	}
	ctx := metadata.ContextWithMetadata(t.ctx)
	for label, f := range known {
		if !strings.HasPrefix(label, labels) {
			metadata.SetValueFunc(ctx, label, f)
		}
	}
	for _, f := range [...]fact{{labelUpstream, try.Upstream.To()}, {labelCause, try.cause.String()}, {labelOutcome, outcome}} {
		publish(ctx, f)
	}
	return ctx
}

// freeze keeps what is needed of the query when it is gone: its metadata and
// messages are the property of others, who go on changing them.
func (t *tapped) freeze() {
	known := metadata.ValueFuncs(t.ctx)
	t.ctx = context.Background()
	if !t.extra {
		t.state = request.Request{}
		return
	}
	if known != nil {
		t.ctx = metadata.ContextWithMetadata(t.ctx)
		for label, f := range known {
			value := f()
			metadata.SetValueFunc(t.ctx, label, func() string { return value })
		}
	}
	t.state = request.Request{
		W:   addresses{local: t.state.W.LocalAddr(), remote: t.state.W.RemoteAddr()},
		Req: t.state.Req.Copy(),
	}
}

// addresses is what remains of a client.
type addresses struct {
	dns.ResponseWriter
	local, remote net.Addr
}

func (a addresses) LocalAddr() net.Addr  { return a.local }
func (a addresses) RemoteAddr() net.Addr { return a.remote }
