package upstream

import (
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
)

const ms = time.Millisecond

// never is the delay of a reply that does not come.
const never time.Duration = -1

// server is an exchange.Exchanger whose replies are set.
type server struct {
	mu    sync.Mutex
	kind  outcome.Kind
	after time.Duration
	sent  []exchange.Options
	open  map[*call]struct{}

	connect time.Duration // for so long a query waits for a connection
}

type call struct {
	s     *server
	sink  exchange.Sink
	timer *time.Timer
	sent  time.Time
}

func (c *call) Begun() time.Time {
	if time.Now().Before(c.sent) {
		return time.Time{}
	}
	return c.sent
}

func (s *server) Start(_ *exchange.Query, opt exchange.Options, sink exchange.Sink) exchange.Handle {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, opt)
	c := &call{s: s, sink: sink, sent: time.Now().Add(s.connect)}
	s.open[c] = struct{}{}
	if s.after == never {
		return c
	}
	r := exchange.Reply{Kind: s.kind}
	if opt.TCP {
		r.Proto = exchange.TCP
	}
	if s.kind.Answered() {
		r.Msg, r.RTT = new(dns.Msg), s.after
	}
	c.timer = time.AfterFunc(s.connect+s.after, func() { c.end(r) })
	return c
}

func (c *call) remove() bool {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	_, open := c.s.open[c]
	delete(c.s.open, c)
	return open
}

func (c *call) end(r exchange.Reply) {
	if c.remove() {
		c.sink.Done(r)
	}
}

func (c *call) Cancel() bool { return c.remove() }

func (*call) Sent() (exchange.Sent, bool) { return exchange.Sent{ID: 7}, true }

func (s *server) Close() {
	s.mu.Lock()
	open := s.open
	s.open = make(map[*call]struct{})
	s.mu.Unlock()
	for c := range open {
		c.sink.Done(exchange.Reply{Kind: outcome.Cancelled})
	}
}

// rig is an upstream with a server behind it, and what its observer was told.
type rig struct {
	t *testing.T
	u *Upstream
	s *server

	mu      sync.Mutex
	kinds   map[outcome.Kind]int
	ends    []End
	late    []time.Duration
	changes []Change
	wakes   int
	locals  int
}

func (r *rig) Attempt(e End) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kinds[e.Kind]++
	r.ends = append(r.ends, e)
}

func (r *rig) Late(rtt time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.late = append(r.late, rtt)
}

func (r *rig) Local(error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.locals++
}

func (r *rig) State(c Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes = append(r.changes, c)
}

// inBubble runs f with a rig of its own under synctest.
func inBubble(t *testing.T, change func(c *Config), f func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, s: &server{open: make(map[*call]struct{})}, kinds: make(map[outcome.Kind]int)}
		cfg := Config{
			To: "192.0.2.1:53", Addr: netip.MustParseAddrPort("192.0.2.1:53"), Transport: "dns", Exchanger: r.s,
			ReadTimeout: 2 * time.Second, Linger: 5 * time.Second,
			Eject:    Eject{Failures: 5, Share: 0.5, Base: time.Second, Max: 30 * time.Second},
			Observer: r,
			Wake:     func() { r.mu.Lock(); r.wakes++; r.mu.Unlock() },
		}
		if change != nil {
			change(&cfg)
		}
		r.u = New(cfg, time.Now())
		f(t, r)
		r.u.Close()
		if n := r.u.Snapshot().Outstanding; n != 0 {
			t.Errorf("%d attempts outstanding after Close", n)
		}
	})
}

// start sends one attempt, and does not wait.
func (r *rig) start(k outcome.Kind, after time.Duration, a *Attempt, to chan<- Result) *Attempt {
	r.s.mu.Lock()
	r.s.kind, r.s.after = k, after
	r.s.mu.Unlock()
	r.u.Send(time.Now(), &exchange.Query{}, a, to)
	return a
}

// ask sends n queries, each with an end of kind k, and waits for it.
func (r *rig) ask(n int, k outcome.Kind, after time.Duration) {
	for range n {
		r.start(k, after, new(Attempt), nil)
		time.Sleep(after)
		synctest.Wait()
	}
}

// miss sends n queries, 10 ms apart, that get no reply, and waits until they are overdue.
func (r *rig) miss(n int) {
	for range n {
		r.start(outcome.Unknown, never, new(Attempt), nil)
		time.Sleep(10 * ms)
	}
	time.Sleep(350 * ms)
	synctest.Wait()
}

// probe sends a probe and waits for its end.
func (r *rig) probe(k outcome.Kind, after time.Duration) {
	r.start(k, after, &Attempt{Probe: true, Options: exchange.Options{NoEDNS: true}}, nil)
	if after == never {
		after = 400 * ms
	}
	time.Sleep(after)
	synctest.Wait()
}

// refuse gets the upstream ejected.
func (r *rig) refuse() { r.ask(5, outcome.ConnRefused, 0) }

func (r *rig) want(s State, when string) {
	r.t.Helper()
	if got := r.u.State(); got != s {
		r.t.Fatalf("%s: %s (%s), want %s", when, got, r.u.Snapshot().Reason, s)
	}
}

// last returns the last change of state.
func (r *rig) last() Change {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.changes) == 0 {
		return Change{}
	}
	return r.changes[len(r.changes)-1]
}

func (r *rig) counted(k outcome.Kind) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kinds[k]
}

func (r *rig) options() exchange.Options {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	return r.s.sent[len(r.s.sent)-1]
}
