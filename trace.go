package dnsguard

import (
	"github.com/coredns/coredns/plugin/pkg/rcode"

	ot "github.com/opentracing/opentracing-go"
	otext "github.com/opentracing/opentracing-go/ext"
	otlog "github.com/opentracing/opentracing-go/log"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/forwarder"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/upstream"
)

// spanName is that of an attempt, as in forward.
const spanName = "connect"

// spans shows the attempts of a query as spans below the plugin's own, which
// gets tags of the answer. All of them are finished with the query: what becomes
// later of an attempt that was left to itself is not waited for. It is a
// forwarder.Watch.
type spans struct {
	parent ot.Span
	open   []openSpan
}

type openSpan struct {
	of   *upstream.Attempt
	span ot.Span
}

// Started begins the span of an attempt.
func (s *spans) Started(a *upstream.Attempt, _ *exchange.Query, c forwarder.Cause) {
	addr := a.Upstream.Addr()
	ip, host := addr.Addr().Unmap().WithZone(""), string(otext.PeerHostIPv6)
	if ip.Is4() {
		host = string(otext.PeerHostIPv4)
	}
	tags := ot.Tags{
		string(otext.SpanKind):    otext.SpanKindRPCClientEnum,
		string(otext.PeerAddress): a.Upstream.To(),
		string(otext.PeerPort):    addr.Port(),
		host:                      ip.String(),
		labelCause:                c.String(),
		labelProtocol:             a.Proto().String(),
	}
	span := s.parent.Tracer().StartSpan(spanName, ot.ChildOf(s.parent.Context()), ot.StartTime(a.SentAt), tags)
	s.open = append(s.open, openSpan{a, span})
}

// Ended finishes the span of an attempt.
func (s *spans) Ended(a *upstream.Attempt, r exchange.Reply) {
	for i, o := range s.open {
		if o.of != a {
			continue
		}
		o.span.SetTag(labelProtocol, r.Proto.String())
		o.span.SetTag(labelOutcome, r.Kind.String())
		if r.Msg != nil {
			o.span.SetTag(labels+"rcode", rcode.ToString(r.Msg.Rcode))
		}
		if failed(r.Kind) && r.Kind != outcome.Cancelled {
			otext.Error.Set(o.span, true)
		}
		if r.Err != nil {
			o.span.LogFields(otlog.Error(r.Err))
		}
		o.span.Finish()
		s.open = append(s.open[:i], s.open[i+1:]...)
		return
	}
}

// Over finishes the spans of attempts that nobody waits for any more.
func (s *spans) Over() {
	for _, o := range s.open {
		o.span.SetTag(labels+"abandoned", true)
		o.span.Finish()
	}
	s.open = nil
}

// Late has nothing to do.
func (*spans) Late(*upstream.Attempt, exchange.Reply) {}

// answered puts the tags of the answer on the plugin's own span.
func (s *spans) answered(a *forwarder.Answer) {
	for _, f := range factsOf(a) {
		if f.value != unset {
			s.parent.SetTag(f.label, f.value)
		}
	}
	if failed(a.Kind) && a.Kind != outcome.Cancelled {
		otext.Error.Set(s.parent, true)
		s.parent.LogFields(otlog.String("error", a.EDE.Text))
	}
}
