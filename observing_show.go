package dnsguard

import (
	"context"
	"net"
	"time"

	"github.com/coredns/coredns/plugin/dnstap"
	"github.com/coredns/coredns/plugin/dnstap/msg"
	"github.com/coredns/coredns/plugin/metadata"

	tap "github.com/dnstap/golang-dnstap"
	ot "github.com/opentracing/opentracing-go"
	otext "github.com/opentracing/opentracing-go/ext"
)

// What other plugins are told in mode observe is what forward tells them:
// metadata, a span of trace for each upstream that is asked, and messages of
// dnstap. (In mode guard they are told more: watch.go, trace.go, tap.go.)

// labelVerdict is the metadata that there is in mode observe alone.
const labelVerdict = labels + "verdict"

// shown asks upstream i by ask, and shows that to other plugins.
func (r *relay) shown(ctx context.Context, i int, ask func(context.Context) attempt) attempt {
	publish(ctx, fact{labelUpstream, r.members[i].up.To()})
	span := ot.SpanFromContext(ctx)
	if span == nil && r.taps == nil {
		return ask(ctx)
	}
	var child ot.Span
	if span != nil {
		child = span.Tracer().StartSpan(spanName, ot.ChildOf(span.Context()))
		otext.PeerAddress.Set(child, r.members[i].up.To())
		ctx = ot.ContextWithSpan(ctx, child)
	}
	a := ask(ctx)
	if child != nil {
		child.Finish()
	}
	if r.taps != nil {
		r.tap(ctx, i, a)
	}
	return a
}

// tap tells the dnstap plugins of what was asked of upstream i, and of its reply.
func (r *relay) tap(ctx context.Context, i int, a attempt) {
	addr := r.members[i].up.Addr()
	var to net.Addr = &net.UDPAddr{IP: addr.Addr().AsSlice(), Port: int(addr.Port())}
	if a.proto == "tcp" {
		to = &net.TCPAddr{IP: addr.Addr().AsSlice(), Port: int(addr.Port())}
	}
	for _, d := range r.taps.to {
		q := r.message(tap.Message_FORWARDER_QUERY, a.local, to)
		if d.IncludeRawMessage {
			q.QueryMessage, _ = r.state.Req.Pack() // none where it cannot be packed
		}
		d.TapMessageWithMetadata(ctx, q, r.state)
		if a.reply != nil {
			r.tapReply(ctx, d, a, to)
		}
	}
}

func (r *relay) tapReply(ctx context.Context, d *dnstap.Dnstap, a attempt, to net.Addr) {
	m := r.message(tap.Message_FORWARDER_RESPONSE, a.local, to)
	msg.SetResponseTime(m, time.Now())
	if d.IncludeRawMessage {
		m.ResponseMessage, _ = a.reply.Pack()
	}
	d.TapMessageWithMetadata(ctx, m, r.state)
}

// message makes a message without octets. The time is that of the client's query, as in forward.
func (r *relay) message(kind tap.Message_Type, from, to net.Addr) *tap.Message {
	m := new(tap.Message)
	msg.SetType(m, kind)
	msg.SetQueryTime(m, r.began)
	if from != nil {
		_ = msg.SetQueryAddress(m, from) // without it where it is of an unknown kind
	}
	_ = msg.SetResponseAddress(m, to)
	return m
}

// showVerdict makes the verdict known as metadata.
func showVerdict(ctx context.Context, verdict string) {
	metadata.SetValueFunc(ctx, labelVerdict, func() string { return verdict })
}
