package metrics

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/observe"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/upstream"
)

// vecs are the metrics with the label "to".
type vecs struct {
	attempts, probes, late, mismatched, conns, ejections, disputed, observed *prometheus.CounterVec

	duration *prometheus.HistogramVec

	loopVecs
}

// forget deletes the series of an upstream.
func (v *vecs) forget(to string) {
	of := prometheus.Labels{"to": to}
	for _, c := range []*prometheus.CounterVec{v.attempts, v.probes, v.late, v.mismatched, v.conns, v.ejections, v.disputed, v.observed} {
		c.DeletePartialMatch(of)
	}
	for _, c := range v.loopVecs.all() {
		c.DeletePartialMatch(of)
	}
	v.duration.DeletePartialMatch(of)
}

// void takes what is counted for upstreams that have gone.
type void struct {
	counter  prometheus.Counter
	observer prometheus.Observer
}

func newVoid() void {
	return void{
		counter:  prometheus.NewCounter(prometheus.CounterOpts{Name: "void_total"}),
		observer: prometheus.ObserverFunc(func(float64) {}),
	}
}

// Upstream counts for one upstream, for one of those who have it. It implements
// exchange.Events and upstream.Observer.
type Upstream struct {
	m  *Metrics
	to string

	relayed bool // CoreDNS's own proxy counts for forward's dashboards

	series atomic.Pointer[series] // nil until something happens

	closed bool // guarded by m.mu
}

// Upstream returns the counters of an upstream, which the caller closes. All
// who have the same one share its series. These begin with the first thing that
// happens, so that nothing shows of a pool that is never used, and go when
// the last of those who have the upstream closes it. When it comes back later they begin
// at 0, as after a restart.
func (m *Metrics) Upstream(to string) *Upstream { return &Upstream{m: m, to: label(to)} }

// Relayed returns the counters of an upstream that CoreDNS's own proxy, which
// counts for forward's dashboards itself, asks.
func (m *Metrics) Relayed(to string) *Upstream { return &Upstream{m: m, to: to, relayed: true} }

// use returns the series.
func (u *Upstream) use() *series {
	if s := u.series.Load(); s != nil {
		return s
	}
	return u.join()
}

// join takes a share in the series of the upstream.
func (u *Upstream) join() *series {
	m := u.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := u.series.Load(); s != nil {
		return s
	}
	var s *series
	if u.closed {
		s = newSeries(m, u.to, true)
	} else {
		if s = m.upstreams[u.to]; s == nil {
			s = newSeries(m, u.to, false)
			m.upstreams[u.to] = s
		}
		s.users++
	}
	u.series.Store(s)
	return s
}

// Close says that the caller has done with the upstream, and that whatever it
// gave the counters to is closed. What is told all the same counts as long as
// somebody else has the upstream.
func (u *Upstream) Close() {
	m := u.m
	m.mu.Lock()
	defer m.mu.Unlock()
	s := u.series.Load()
	if u.closed || s == nil {
		u.closed = true
		return
	}
	u.closed = true
	if s.users--; s.users > 0 {
		return
	}
	delete(m.upstreams, s.to)
	s.mu.Lock()
	s.gone = true
	s.mu.Unlock()
	m.vecs.forget(s.to)
	m.proxies.forget(s.to)
}

// Attempt implements upstream.Observer.
func (u *Upstream) Attempt(e upstream.End) {
	s := u.use()
	s.attempt(e)
	if !u.relayed {
		s.proxyAttempt(e)
	}
}

// State implements upstream.Observer.
func (u *Upstream) State(c upstream.Change) {
	if c.Now == upstream.Ejected || c.Now == upstream.Looping {
		u.use().ejections[reasonOf(c.Kind)].Inc()
	}
}

// Late implements upstream.Observer and exchange.Events: the first tells of the
// replies to attempts that are still watched, the second of those to others.
func (u *Upstream) Late(time.Duration) { u.use().late.Inc() }

// Mismatched implements exchange.Events.
func (u *Upstream) Mismatched() { u.use().mismatched.Inc() }

// Sockets implements exchange.Events.
func (u *Upstream) Sockets(p exchange.Proto, n int) {
	s := u.use()
	s.sockets[p].Add(int64(n))
	if n > 0 {
		s.socketsEver[p].Store(true)
	}
}

// Conn implements exchange.Events.
func (u *Upstream) Conn(p exchange.Proto, reused bool) { u.use().conn(p, reused) }

// Fault implements exchange.Events.
func (u *Upstream) Fault(f outcome.Fault) {
	if c := u.m.faults[f]; c != nil {
		c.Inc()
	}
}

// Response codes have names up to 23; all above share one series.
const rcodes = 25

type (
	counterSlot  = atomic.Pointer[prometheus.Counter]
	observerSlot = atomic.Pointer[prometheus.Observer]
	// outcomes are counters by outcome and protocol.
	outcomes [outcome.Count][exchange.ProtoCount]counterSlot
)

// series are the metrics of one upstream: those that are always there, and
// slots for those that are looked up when they are first needed.
type series struct {
	m  *Metrics
	to string

	late, mismatched, disputed prometheus.Counter
	ejections                  [reasons]prometheus.Counter

	attempts, probes            outcomes
	duration, proxied           [rcodes]observerSlot
	dialed, reused, missed, hit [exchange.ProtoCount]counterSlot
	unhealthy                   counterSlot
	observed                    [observe.Verdicts]counterSlot
	sockets                     [exchange.ProtoCount]atomic.Int64
	socketsEver                 [exchange.ProtoCount]atomic.Bool
	loopSeries

	users int // guarded by m.mu

	mu   sync.Mutex
	gone bool // nobody has it: no series may be made any more
}

// newSeries makes the series whose first increase must not be overlooked:
// Prometheus sees no increase where a series begins with 1.
func newSeries(m *Metrics, to string, gone bool) *series {
	s := &series{m: m, to: to, gone: gone}
	of := func(v *prometheus.CounterVec, labels ...string) prometheus.Counter {
		if gone {
			return m.void.counter
		}
		return v.WithLabelValues(labels...)
	}
	s.late, s.mismatched, s.disputed, s.found = of(m.late, to), of(m.mismatched, to), of(m.disputed, to), of(m.detected, to)
	for r := range reasons {
		s.ejections[r] = of(m.ejections, to, r.String())
	}
	return s
}

// counter fills a slot.
func (s *series) counter(slot *counterSlot, of *prometheus.CounterVec, labels ...string) *prometheus.Counter {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.m.void.counter
	if !s.gone && of != nil {
		c = of.WithLabelValues(labels...)
	}
	slot.Store(&c)
	return &c
}

// observer fills a slot.
func (s *series) observer(slot *observerSlot, of *prometheus.HistogramVec, labels ...string) *prometheus.Observer {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.m.void.observer
	if !s.gone && of != nil {
		o = of.WithLabelValues(labels...)
	}
	slot.Store(&o)
	return &o
}

// attempt counts an attempt at its end.
func (s *series) attempt(e upstream.End) {
	s.count(&s.attempts, s.m.attempts, e)
	if e.Probe {
		s.count(&s.probes, s.m.probes, e)
	}
	if e.Rcode < 0 {
		return
	}
	rcode := min(e.Rcode, rcodes-1)
	slot := &s.duration[rcode]
	o := slot.Load()
	if o == nil {
		o = s.observer(slot, s.m.duration, s.to, rcodeName(rcode))
	}
	(*o).Observe(e.RTT.Seconds())
}

// proxyAttempt counts an attempt for forward's dashboards.
func (s *series) proxyAttempt(e upstream.End) {
	switch {
	case e.Probe && !e.Kind.Answered() && !e.Kind.Blameless():
		s.unanswered()
	case !e.Probe && e.Rcode >= 0 && e.Proto != exchange.QUIC:
		s.proxy(min(e.Rcode, rcodes-1), e.RTT.Seconds())
	}
}

func (s *series) count(in *outcomes, of *prometheus.CounterVec, e upstream.End) {
	slot := &in[e.Kind][e.Proto]
	c := slot.Load()
	if c == nil {
		c = s.counter(slot, of, s.to, e.Proto.String(), e.Kind.String())
	}
	(*c).Inc()
}

func rcodeName(rcode int) string {
	if rcode == rcodes-1 {
		return "other"
	}
	if name, ok := dns.RcodeToString[rcode]; ok {
		return name
	}
	return strconv.Itoa(rcode)
}

// conn counts a connection that was needed.
func (s *series) conn(p exchange.Proto, reused bool) {
	slot, how := &s.dialed[p], "dialed"
	if reused {
		slot, how = &s.reused[p], "reused"
	}
	c := slot.Load()
	if c == nil {
		c = s.counter(slot, s.m.conns, s.to, p.String(), how)
	}
	(*c).Inc()
	if p != exchange.QUIC {
		s.proxyConn(p, reused)
	}
}
