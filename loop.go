package dnsguard

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin/cache"
	"github.com/coredns/coredns/plugin/metadata"
	"github.com/coredns/coredns/plugin/pkg/transport"
	"github.com/coredns/coredns/request"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
	"github.com/dnsguard/dnsguard/plugin/forwarder"
	"github.com/dnsguard/dnsguard/plugin/loopguard"
	"github.com/dnsguard/dnsguard/plugin/metrics"
	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// Loops: queries that come back to this server, or to another one of its group
// (plugin/loopguard). This file recognises what comes in: queries that have been
// here, and probes. loop_probe.go and loop_question.go send probes, loop_verdict.go draws the conclusions,
// loop_group.go and loop_cluster.go say who is in the group, loop_warn.go what people are told.

// loops is a directive's part in finding loops.
type loops struct {
	g        *Guard
	suffixes []string               // what the names of probes end in
	blind    loopguard.Group        // what stands for the group where that would tell strangers of it
	rates    probeRates             // at which probes are dealt with
	cluster  atomic.Pointer[string] // what the cluster is known by; nil: not yet, or there is none
	cached   bool                   // the server block has the cache plugin. Set before Start.

	mu          sync.Mutex
	warned      map[netip.AddrPort]bool // of whom has been told that a loop is likely
	toldPartly  time.Time               // when was last told that some queries come back
	toldDivided time.Time               // the same of an upstream that is several servers
}

// probeRates bound what is done for probes. Each has its own, so that what
// anybody can send does not crowd out what only the group can.
type probeRates struct {
	ours   *loopguard.Rate // answers to those of the group
	others *loopguard.Rate // those of others that are sent on
	odd    *loopguard.Rate // answers to what is none
}

// probesAnswered is how many of each are dealt with a second: those of a
// hundred servers that all have a reason at once. Who gets no reply asks again.
const probesAnswered = 200

// newLoops returns nil where nothing is done about loops.
func newLoops(g *Guard) *loops {
	if g.cfg.Loop.Off || g.cfg.Mode == ModeObserve {
		return nil
	}
	l := &loops{g: g, warned: make(map[netip.AddrPort]bool), rates: probeRates{
		loopguard.NewRate(probesAnswered), loopguard.NewRate(probesAnswered), loopguard.NewRate(probesAnswered),
	}}
	for _, name := range g.cfg.Loop.Suffixes {
		l.suffixes = append(l.suffixes, probeSuffix(name))
	}
	var blind [4]byte
	_, _ = rand.Read(blind[:]) // never fails
	l.blind = loopguard.Group(binary.BigEndian.Uint32(blind[:]))
	return l
}

// receive looks at a query that came in. It reports whether that is answered
// here, and with what; nil: nothing. Where the query has come through other
// groups, req says so then.
func (l *loops) receive(ctx context.Context, r *dns.Msg, state *request.Request, req *forwarder.Request) (m *dns.Msg, mine bool) {
	if l == nil {
		return nil, false
	}
	name := state.Name()
	if loopguard.Shaped(name) || l.reserved(name) {
		if m, mine = l.probed(ctx, r, name, req); mine {
			if m == nil && onStream(ctx, state) { // somebody would wait
				m = dnsmsg.Failure(r, dns.RcodeRefused, dnsmsg.EDE{})
			}
			return m, true
		}
	}
	if r.Question[0].Qtype == dns.TypeHINFO && isStockProbe(name) {
		return dnsmsg.Failure(r, dns.RcodeNameError, dnsmsg.EDE{}), true
	}
	if opt := r.IsEdns0(); opt != nil && len(opt.Option) > 0 {
		return l.stamped(ctx, r, opt, req)
	}
	return nil, false
}

// onStream reports whether a query came over a connection or a stream of its
// own, which a reply ends. DNS over QUIC has the addresses of UDP.
func onStream(ctx context.Context, state *request.Request) bool {
	s, ok := ctx.Value(dnsserver.Key{}).(*dnsserver.Server)
	return state.Proto() != "udp" || ok && !strings.HasPrefix(s.Addr, transport.DNS+"://")
}

// maxForeign is how many stamps of others are sent on, which we cannot read:
// those who made them can, where the query comes to them again.
const maxForeign = 2

// stamped looks at the stamps of a query.
func (l *loops) stamped(ctx context.Context, r *dns.Msg, opt *dns.OPT, req *forwarder.Request) (m *dns.Msg, mine bool) {
	p := l.g.pool.Load().loops
	marks := p.marks.Load()
	var room [maxQuestion]byte
	var question []byte
	foreign, known := 0, false
	for _, o := range opt.Option {
		local, ok := o.(*dns.EDNS0_LOCAL)
		if !ok || local.Code != loopguard.OptionCode {
			continue
		}
		if question == nil {
			question = appendQuestion(room[:0], r)
		}
		s, genuine := marks.key.Parse(local.Data, question)
		switch {
		case !genuine:
			if foreign < maxForeign && loopguard.Formed(local.Data) {
				req.Foreign = loopguard.AppendOption(req.Foreign, local.Data)
				foreign++
			}
		case known: // one is enough
		case (s.Spent() || s.Has(marks.group)) && !p.sentOn(ctx, r, s):
			return dnsmsg.Failure(r, dns.RcodeServerFailure, dnsmsg.Loop(p.via())), true
		default:
			req.Stamp, known = s, true
		}
	}
	return nil, false
}

// sentOn takes notice of a query that came back, and reports whether it is sent
// once more.
func (p *loopProber) sentOn(ctx context.Context, r *dns.Msg, s loopguard.Stamp) bool {
	p.returned(time.Now(), strings.ToLower(r.Question[0].Name))
	return !s.Spent() && p.leadsOut(ctx)
}

// maxQuestion is the size of the longest question section.
const maxQuestion = 255 + 4

// appendQuestion appends the question of a query as it is on the wire.
func appendQuestion(buf []byte, r *dns.Msg) []byte {
	q := r.Question[0]
	buf = buf[:cap(buf)]
	n, err := dns.PackDomainName(q.Name, buf, 0, nil, false)
	if err != nil || n+4 > len(buf) {
		return nil
	}
	binary.BigEndian.PutUint16(buf[n:], q.Qtype)
	binary.BigEndian.PutUint16(buf[n+2:], q.Qclass)
	return buf[:n+4]
}

// reserved reports whether a name is one that only probes have.
func (l *loops) reserved(name string) bool {
	for _, suffix := range l.suffixes {
		if strings.HasSuffix(name, suffix) && dnsmsg.Within(name, suffix) {
			return true
		}
	}
	return false
}

// origin is whose a probe is.
type origin uint8

const (
	forged origin = iota // of nobody who has the key
	others               // of another group
	ours                 // of the group
	own                  // of this very server, under way
	held                 // the same, one of several at once
)

// probed answers a probe of the group. One of others is sent on, so that a loop
// which is cut here is seen elsewhere too; also one that cannot be read, since
// they may have another key.
func (l *loops) probed(ctx context.Context, r *dns.Msg, name string, req *forwarder.Request) (m *dns.Msg, mine bool) {
	now := time.Now()
	token, key, from := l.whose(now, name)
	reserved := l.reserved(name)
	switch {
	case from == held:
		hold(ctx)
		return probeReply(r, key.Answer(token)), true
	case from == own, from == ours && l.rates.ours.Take(now):
		return probeReply(r, key.Answer(token)), true
	case from == ours:
	case from == others || reserved && loopguard.Shaped(name):
		if req.Probe = l.rates.others.Take(now); req.Probe || !reserved {
			return nil, false
		}
	case !reserved:
		return nil, false
	case l.rates.odd.Take(now):
		return probeReply(r, ""), true
	}
	l.g.env.Metrics.LoopFlood()
	return nil, true
}

// whose returns the token that a name begins with, whose it is, and the key that
// it was made with. Those of another directive of the server block are ours too.
func (l *loops) whose(now time.Time, name string) (token loopguard.Token, key loopguard.Key, from origin) {
	for _, s := range l.g.siblings {
		if s.loops == nil {
			continue
		}
		p := s.pool.Load().loops
		marks := p.marks.Load()
		t, genuine := marks.key.ParseName(name)
		if !genuine {
			continue
		}
		who := others
		switch {
		case p.sees(t.Nonce, &who):
		case t.Group == marks.group:
			who = ours
			p.mate(now)
		}
		if who > from {
			token, key, from = t, marks.key, who
		}
	}
	return token, key, from
}

// holdFor is how long the reply to one of several questions at once is held
// back: a server on the way that uses a connection for one query at a time then
// takes another one for the next, which may lead to somebody else.
const holdFor = 10 * time.Millisecond

func hold(ctx context.Context) {
	timer := time.NewTimer(holdFor)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// probeReply answers a probe with a text; "": the name has no data.
func probeReply(r *dns.Msg, text string) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(r)
	m.RecursionAvailable = true
	if q := r.Question[0]; text != "" && q.Qtype == dns.TypeTXT && q.Qclass == dns.ClassINET {
		m.Answer = []dns.RR{&dns.TXT{
			Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{text},
		}}
	}
	return m
}

// isStockProbe reports whether CoreDNS's loop plugin asks for the name: two
// labels of many digits. It would end the process where it sees its own query
// three times. Nothing is left to it to find.
func isStockProbe(name string) bool {
	const least = 8
	for range 2 {
		n := strings.IndexByte(name, '.')
		if n < least || strings.Trim(name[:n], "0123456789") != "" {
			return false
		}
		name = name[n+1:]
	}
	return true
}

// turnBack sends the reply to what receive has taken; nil: none. The cache is
// not to keep that to a query which has come round: the same question of a
// client may have an answer.
func (g *Guard) turnBack(ctx context.Context, w dns.ResponseWriter, m *dns.Msg) (int, error) {
	if m == nil {
		return dns.RcodeSuccess, nil
	}
	if m.Rcode != dns.RcodeServerFailure {
		return g.write(w, m)
	}
	g.env.Metrics.Query(metrics.Looped)
	if metadata.ValueFuncs(ctx) != nil {
		for _, f := range factsOf(&forwarder.Answer{Kind: outcome.Loop}) {
			publish(ctx, f)
		}
	}
	return g.writeUncached(w, m)
}

// writeUncached sends a failure that the cache plugin is not to keep, nor to take
// the reason out of.
func (g *Guard) writeUncached(w dns.ResponseWriter, m *dns.Msg) (int, error) {
	if g.loops == nil || !g.loops.cached {
		return g.write(w, m)
	}
	c, ok := bare(w).(*cache.ResponseWriter)
	if !ok || c.ResponseWriter == nil { // other plugins are to see the reply, or nobody waits: the server itself says what the code is, and no more
		return m.Rcode, nil
	}
	return g.write(c.ResponseWriter, m)
}

// bare takes off what the server puts around a writer between plugins, to know
// who has written. It is not exported: where it looks otherwise, nothing is
// taken off.
func bare(w dns.ResponseWriter) dns.ResponseWriter {
	for {
		v := reflect.ValueOf(w)
		if v.Type().String() != "*plugin.pluginWriter" || v.IsNil() {
			return w
		}
		f := v.Elem().FieldByName("ResponseWriter")
		if !f.IsValid() || !f.CanInterface() {
			return w
		}
		inner, ok := f.Interface().(dns.ResponseWriter)
		if !ok {
			return w
		}
		w = inner
	}
}

// tellWait is how long a failure is held back for the verdict of probes that
// are under way.
const tellWait = 50 * time.Millisecond

// tell says of an answer that is a failure where a loop is behind it.
func (l *loops) tell(ctx context.Context, a *forwarder.Answer) {
	if l != nil && failed(a.Kind) {
		l.tellWhy(ctx, a)
	}
}

func (l *loops) tellWhy(ctx context.Context, a *forwarder.Answer) {
	p := l.g.pool.Load()
	to := p.loops.cameBack(time.Now())
	about := func() bool { return len(to) > 0 && (a.Msg == nil || slices.Contains(to, a.Upstream)) }
	if !about() && (a.Kind == outcome.ServFail || a.Kind == outcome.Loop) {
		p.loops.settle(ctx, tellWait, a.Upstream)
		to = p.loops.cameBack(time.Now())
	}
	if !about() {
		return
	}
	e := dnsmsg.Loop(strings.Join(to, ", "))
	if a.Kind == outcome.ServFail && (a.Msg == nil || a.Msg.Rcode == dns.RcodeServerFailure) { // said by another one of the group, or by who has no other way either
		a.Kind = outcome.Loop
	}
	if a.Kind != outcome.Loop && a.EDE.Text != "" {
		e.Text += "; " + a.EDE.Text
	}
	a.EDE = e
}
