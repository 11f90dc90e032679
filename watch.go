package dnsguard

import (
	"context"
	"strconv"
	"time"

	"github.com/coredns/coredns/plugin/metadata"
	clog "github.com/coredns/coredns/plugin/pkg/log"
	"github.com/coredns/coredns/plugin/pkg/rcode"
	"github.com/coredns/coredns/request"

	"github.com/miekg/dns"
	ot "github.com/opentracing/opentracing-go"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/forwarder"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/upstream"
)

// sight is what other plugins of the server block want to see of one query:
// metadata (this file), trace (trace.go) and dnstap (tap.go). A nil sight, which
// all methods are fine with, says that there are none.
type sight struct {
	forwarder.Look

	ctx   context.Context
	spans *spans
}

// watched asks the upstreams, and shows that to whoever looks.
func (g *Guard) watched(ctx context.Context, w dns.ResponseWriter, r *dns.Msg, req *forwarder.Request) (forwarder.Answer, *sight) {
	var begin time.Time
	if clog.D.Value() {
		begin = time.Now()
	}
	s := g.look(ctx, w, r)
	if s != nil {
		req.Look = &s.Look
	}
	a := g.forward(ctx, req)
	if s != nil && s.spans != nil {
		s.spans.answered(&a)
	}
	if !begin.IsZero() && failed(a.Kind) {
		logFailed(request.Request{W: w, Req: r}, &a, time.Since(begin))
	}
	return a, s
}

// look returns what is to be seen of a query.
func (g *Guard) look(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) *sight {
	span := ot.SpanFromContext(ctx)
	if span == nil && g.taps == nil && metadata.ValueFuncs(ctx) == nil {
		return nil
	}
	s := &sight{ctx: ctx}
	var watches watches
	if span != nil {
		s.spans = &spans{parent: span}
		watches = append(watches, s.spans)
	}
	if g.taps != nil {
		s.Wire = g.taps.raw
		watches = append(watches, &tapped{taps: g.taps, ctx: ctx, state: request.Request{W: w, Req: r}})
	}
	switch len(watches) {
	case 0:
	case 1:
		s.Watch = watches[0]
	default:
		s.Watch = watches
	}
	return s
}

// answered makes the metadata of an answer that is the client's. It is to be
// called before the reply is written, since dnstap tells of that with them.
func (s *sight) answered(a *forwarder.Answer) {
	if s == nil {
		return
	}
	for _, f := range factsOf(a) {
		publish(s.ctx, f)
	}
}

// publish makes a fact known as metadata; the upstream under forward's name
// too, for formats that were made for it.
func publish(ctx context.Context, f fact) {
	value := func() string { return f.value }
	metadata.SetValueFunc(ctx, f.label, value)
	if f.label == labelUpstream {
		metadata.SetValueFunc(ctx, labelForward, value)
	}
}

// fact is a label and a value: of metadata, and a tag of the span.
type fact struct{ label, value string }

// Labels.
const (
	labels        = pluginName + "/"
	labelForward  = "forward/upstream"
	labelUpstream = labels + "upstream"
	labelOutcome  = labels + "outcome"
	labelCause    = labels + "cause"
	labelProtocol = labels + "protocol"
)

// unset is the value of what there is none of, as CoreDNS writes it.
const unset = "-"

func factsOf(a *forwarder.Answer) [6]fact {
	to := a.Upstream
	if to == "" {
		to = unset
	}
	return [...]fact{
		{labelUpstream, to},
		{labelOutcome, a.Kind.String()},
		{labels + "attempts", strconv.Itoa(a.Attempts)},
		{labels + "hedged", strconv.FormatBool(a.Hedged)},
		{labels + "steered", strconv.FormatBool(a.Steered)},
		{labels + "coalesced", strconv.FormatBool(a.Shared)},
	}
}

// failed reports whether k is an outcome that is of no use to the client.
func failed(k outcome.Kind) bool {
	return k != outcome.OK && !k.Denied() && k != outcome.Truncated
}

// logFailed writes a line about a query that failed, for the debug plugin.
func logFailed(state request.Request, a *forwarder.Answer, took time.Duration) {
	told := "nothing"
	switch {
	case a.Msg != nil:
		told = rcode.ToString(a.Msg.Rcode)
	case a.Kind != outcome.Cancelled:
		told = rcode.ToString(dns.RcodeServerFailure)
	}
	log.Debugf("%s %s %s from %s: answered with %s after %s, outcome %s, attempts %d: %s",
		state.QName(), state.Class(), state.Type(), state.RemoteAddr(), told, took.Round(time.Microsecond), a.Kind, a.Attempts, a.EDE.Text)
}

// watches are several that look at one query.
type watches []forwarder.Watch

func (ws watches) Started(a *upstream.Attempt, q *exchange.Query, c forwarder.Cause) {
	for _, w := range ws {
		w.Started(a, q, c)
	}
}

func (ws watches) Ended(a *upstream.Attempt, r exchange.Reply) {
	for _, w := range ws {
		w.Ended(a, r)
	}
}

func (ws watches) Over() {
	for _, w := range ws {
		w.Over()
	}
}

func (ws watches) Late(a *upstream.Attempt, r exchange.Reply) {
	for _, w := range ws {
		w.Late(a, r)
	}
}
