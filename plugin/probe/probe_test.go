package probe

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/recovery"
	"github.com/dnsguard/dnsguard/plugin/upstream"
)

const ms = time.Millisecond

// server is an exchange.Exchanger that answers in 5 ms or not at all, and keeps what it was asked.
type server struct {
	mu      sync.Mutex
	answers bool
	asked   []time.Time
	query   exchange.Query
	opt     exchange.Options
	panics  bool
	noUDP   bool // what goes by UDP is not answered
}

func (s *server) Start(q *exchange.Query, opt exchange.Options, sink exchange.Sink) exchange.Handle {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, time.Now())
	s.query, s.opt = *q, opt
	if s.panics {
		panic("server")
	}
	if !s.answers || s.noUDP && !opt.TCP {
		return s
	}
	r := exchange.Reply{Kind: outcome.OK, Msg: new(dns.Msg), RTT: 5 * ms}
	if opt.TCP {
		r.Proto = exchange.TCP
	}
	return handle{time.AfterFunc(5*ms, func() { sink.Done(r) }), time.Now()}
}

func (*server) Cancel() bool { return true }
func (*server) Close()       {}

func (*server) Sent() (exchange.Sent, bool) { return exchange.Sent{}, true }

func (s *server) Begun() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[len(s.asked)-1]
}

type handle struct {
	*time.Timer
	sent time.Time
}

func (h handle) Begun() time.Time { return h.sent }

func (h handle) Cancel() bool              { return h.Stop() }
func (handle) Sent() (exchange.Sent, bool) { return exchange.Sent{}, true }

func (s *server) set(answers bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = answers
}

func (s *server) setUDP(answers bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noUDP = !answers
}

// since returns when the server was asked, from begin on.
func (s *server) since(begin time.Time) []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var at []time.Duration
	for _, t := range s.asked {
		if !t.Before(begin) {
			at = append(at, t.Sub(begin))
		}
	}
	return at
}

type nobody struct{}

func (nobody) Attempt(upstream.End)  {}
func (nobody) Late(time.Duration)    {}
func (nobody) State(upstream.Change) {}
func (nobody) Local(error)           {}

// run runs f beside a prober of n upstreams that do not answer, and ends it. The prober begins when f first lets time pass, so that
// what f does before that holds from the first probe on.
func run(t *testing.T, n int, change func(c *Config), f func(p *Prober, ups []*upstream.Upstream, servers []*server)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{Interval: 500 * ms, Domain: "."}
		var p *Prober
		servers := make([]*server, n)
		for i := range n {
			servers[i] = new(server)
			cfg.Upstreams = append(cfg.Upstreams, upstream.New(upstream.Config{
				To: fmt.Sprintf("192.0.2.%d:53", i+1), Addr: netip.MustParseAddrPort("192.0.2.1:53"), Transport: "dns", Exchanger: servers[i],
				ReadTimeout: 2 * time.Second, Linger: 5 * time.Second, Observer: nobody{},
				Eject: upstream.Eject{Failures: 5, Share: 0.5, Base: time.Second, Max: 30 * time.Second},
				Wake:  func() { p.Wake() },
			}, time.Now()))
		}
		if change != nil {
			change(&cfg)
		}
		var err error
		if p, err = New(cfg); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { time.Sleep(time.Nanosecond); p.Run(ctx); close(done) }()
		f(p, cfg.Upstreams, servers)
		cancel()
		<-done // else the bubble tells of a deadlock
		for _, u := range cfg.Upstreams {
			u.Close()
		}
	})
}

// ask sends a query to an upstream, and waits a while.
func ask(u *upstream.Upstream) {
	u.Send(time.Now(), &exchange.Query{}, new(upstream.Attempt), nil)
	time.Sleep(10 * ms)
	synctest.Wait()
}

// TestWhom holds that a healthy upstream is not probed, and a new or silent one is.
func TestWhom(t *testing.T) {
	run(t, 2, nil, func(_ *Prober, ups []*upstream.Upstream, servers []*server) {
		begin := time.Now()
		servers[0].set(true)
		time.Sleep(10 * time.Second) // both are new
		synctest.Wait()
		if n := len(servers[0].since(begin)); n != 1 {
			t.Errorf("%d probes of an upstream that answered the first, want 1", n)
		}
		if n := len(servers[1].since(begin)); n < 8 || n > 21 {
			t.Errorf("%d probes in 10 s of one that is silent", n)
		}
		ask(ups[0])
		servers[0].set(false)
		begin = time.Now()
		ask(ups[0]) // nobody replies, and nobody else has to call Wake
		time.Sleep(2 * time.Second)
		if n := len(servers[0].since(begin)); n < 2 {
			t.Errorf("%d exchanges, want probes after a query without a reply", n)
		}
		servers[0].set(true)
		time.Sleep(2 * time.Second)
		ask(ups[0])
		ask(ups[0])
		ask(ups[0])
		if s := ups[0].State(); s != upstream.Healthy {
			t.Fatalf("%s", s)
		}
		begin = time.Now()
		time.Sleep(time.Minute)
		if n := len(servers[0].since(begin)); n != 0 {
			t.Errorf("%d probes of a healthy upstream", n)
		}
	})
}

// TestWhat holds what a probe asks, and how.
func TestWhat(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(c *Config)
		want   dns.Question
		rd     bool
		tcp    bool
	}{
		"as ever":         {nil, dns.Question{Name: ".", Qtype: dns.TypeNS, Qclass: dns.ClassINET}, true, false},
		"another name":    {func(c *Config) { c.Domain = "example.org" }, dns.Question{Name: "example.org.", Qtype: dns.TypeNS, Qclass: dns.ClassINET}, true, false},
		"no recursion":    {func(c *Config) { c.NoRec = true }, dns.Question{Name: ".", Qtype: dns.TypeNS, Qclass: dns.ClassINET}, false, false},
		"TCP, as queries": {func(c *Config) { c.TCP = true }, dns.Question{Name: ".", Qtype: dns.TypeNS, Qclass: dns.ClassINET}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, 1, tc.change, func(_ *Prober, _ []*upstream.Upstream, servers []*server) {
				time.Sleep(ms)
				synctest.Wait()
				m := new(dns.Msg)
				if err := m.Unpack(servers[0].query.Wire); err != nil || len(m.Question) != 1 {
					t.Fatalf("%v, %v", m, err)
				}
				if m.Id != 0 || m.Question[0] != tc.want || m.RecursionDesired != tc.rd || servers[0].query.QuestionEnd != len(servers[0].query.Wire) {
					t.Errorf("%v, question ends at %d of %d", m, servers[0].query.QuestionEnd, len(servers[0].query.Wire))
				}
				if o := servers[0].opt; o != (exchange.Options{TCP: tc.tcp, NoEDNS: true}) {
					t.Errorf("sent with %+v", o)
				}
			})
		})
	}
	if _, err := New(Config{Domain: "a..b"}); err == nil {
		t.Error("want an error for a bad name")
	}
}

// TestPerSecond holds the bound for a large pool, and that nobody starves.
func TestPerSecond(t *testing.T) {
	run(t, 50, nil, func(_ *Prober, _ []*upstream.Upstream, servers []*server) {
		begin := time.Now()
		time.Sleep(30*time.Second - ms)
		perSecond := make([]int, 30)
		least, most := 1000, 0
		for _, s := range servers {
			at := s.since(begin)
			for _, d := range at {
				perSecond[d/time.Second]++
			}
			least, most = min(least, len(at)), max(most, len(at))
		}
		for i, n := range perSecond {
			if n > PerSecond {
				t.Errorf("%d probes in second %d, want at most %d: %v", n, i, PerSecond, perSecond)
				break
			}
		}
		if least < 2 {
			t.Errorf("between %d and %d probes of one upstream in 30 s, want none to starve", least, most)
		}
	})
}

// TestBackoff holds that the interval grows to four times itself, and that it begins anew.
func TestBackoff(t *testing.T) {
	run(t, 1, nil, func(_ *Prober, ups []*upstream.Upstream, servers []*server) {
		begin := time.Now()
		time.Sleep(60 * time.Second)
		at := servers[0].since(begin)
		var gaps []time.Duration
		for i := range at[1:] {
			gaps = append(gaps, at[i+1]-at[i])
			if d := at[i+1] - at[i]; d < 500*ms || d > 2*time.Second {
				t.Fatalf("a probe after %s", d)
			}
			if i > 0 && gaps[i] < gaps[i-1] {
				t.Fatalf("the interval shrinks: %v", gaps)
			}
		}
		if gaps[0] != 500*ms || gaps[len(gaps)-1] != 2*time.Second {
			t.Errorf("intervals %v, want 500 ms to 2 s", gaps)
		}
		servers[0].set(true)
		time.Sleep(40 * time.Second)
		for range 5 {
			ask(ups[0])
		}
		if s := ups[0].State(); s != upstream.Healthy {
			t.Fatalf("%s", s)
		}
		time.Sleep(5 * time.Second)
		servers[0].set(false)
		begin = time.Now()
		for range 3 {
			ask(ups[0])
		}
		time.Sleep(3 * time.Second)
		if n := len(servers[0].since(begin)) - 3; n < 4 {
			t.Errorf("%d probes in 3 s of one that was well again, want the short interval", n)
		}
	})
}

// TestBackAgain holds that the interval is short again once something has been heard, though no query has been answered: so that the
// next way back is short too.
func TestBackAgain(t *testing.T) {
	run(t, 1, nil, func(_ *Prober, ups []*upstream.Upstream, servers []*server) {
		becomes := func(want upstream.State) time.Duration {
			begin := time.Now()
			for ups[0].State() != want && time.Since(begin) < time.Minute {
				time.Sleep(ms)
			}
			return time.Since(begin)
		}
		time.Sleep(30 * time.Second)
		for range 3 {
			servers[0].set(true)
			if d := becomes(upstream.HalfOpen); d > 2100*ms {
				t.Errorf("half-open after %s", d)
			}
			begin := time.Now()
			time.Sleep(20 * time.Second) // nobody asks anything
			if n := len(servers[0].since(begin)); n < 9 || n > 11 {
				t.Errorf("%d probes in 20 s of one that replies and is not asked, want one each 2 s", n)
			}
			servers[0].set(false)
			becomes(upstream.Suspect)
			servers[0].set(true)
			if d := becomes(upstream.HalfOpen); d > 600*ms {
				t.Errorf("half-open again after %s, want one interval", d)
			}
			servers[0].set(false)
			time.Sleep(30 * time.Second)
		}
	})
}

// TestProbesForUDP holds that probes come at the short interval where queries are answered by TCP, which says nothing of UDP.
func TestProbesForUDP(t *testing.T) {
	run(t, 1, nil, func(_ *Prober, ups []*upstream.Upstream, servers []*server) {
		servers[0].set(true)
		time.Sleep(time.Second)
		ask(ups[0])
		servers[0].setUDP(false)
		for range 3 {
			ask(ups[0])
		}
		time.Sleep(time.Second)
		askTCP := func() {
			ups[0].Send(time.Now(), &exchange.Query{}, &upstream.Attempt{Options: exchange.Options{TCP: true}}, nil)
			time.Sleep(10 * ms)
		}
		for range 5 {
			askTCP()
		}
		if s := ups[0].Snapshot(); !s.NoUDP || s.State != "healthy" {
			t.Fatalf("%+v, want queries to go by TCP", s)
		}
		servers[0].mu.Lock()
		servers[0].asked = nil
		servers[0].mu.Unlock()
		for range 200 {
			askTCP()
		}
		servers[0].mu.Lock()
		if n := len(servers[0].asked) - 200; n < 3 || n > 5 {
			t.Errorf("%d probes in 2 s, want the short interval", n)
		}
		servers[0].mu.Unlock()
		servers[0].setUDP(true)
		time.Sleep(600 * ms)
		if ups[0].Snapshot().NoUDP {
			t.Error("UDP is back, and left out")
		}
	})
}

// TestLostQuery holds that one lost query leads to a probe soon, and to few more where that is answered and no other query comes.
func TestLostQuery(t *testing.T) {
	run(t, 1, nil, func(_ *Prober, ups []*upstream.Upstream, servers []*server) {
		servers[0].set(true)
		time.Sleep(time.Second)
		ask(ups[0])
		servers[0].set(false)
		begin := time.Now()
		ask(ups[0])
		servers[0].set(true)
		time.Sleep(time.Second)
		if at := servers[0].since(begin); len(at) != 2 || at[1] > 300*ms { // the query, and a probe once it is overdue
			t.Errorf("asked at %v", at)
		}
		begin = time.Now()
		time.Sleep(20 * time.Second)
		if n := len(servers[0].since(begin)); n > 11 {
			t.Errorf("%d probes in 20 s of one that replies", n)
		}
		ask(ups[0])
		begin = time.Now()
		time.Sleep(20 * time.Second)
		if n := len(servers[0].since(begin)); n != 0 {
			t.Errorf("%d probes though a query was answered", n)
		}
	})
}

// TestBackInTime holds that an ejected upstream which replies to probes again is let back when its time has come, and no interval later.
func TestBackInTime(t *testing.T) {
	for after := 12 * time.Second; after < 15*time.Second; after += 300 * ms {
		run(t, 1, nil, func(_ *Prober, ups []*upstream.Upstream, servers []*server) {
			until := func(want upstream.State) {
				for ups[0].State() != want {
					time.Sleep(ms)
				}
			}
			time.Sleep(10 * time.Second)
			for ups[0].Snapshot().Ejections < 5 {
				servers[0].set(true)
				until(upstream.HalfOpen)
				servers[0].set(false)
				ask(ups[0])
				ask(ups[0])
				until(upstream.Ejected)
			}
			begin := time.Now()
			time.Sleep(after) // of 16 s that it is ejected for
			servers[0].set(true)
			until(upstream.HalfOpen)
			if d := time.Since(begin); d < 15900*ms || d > 16600*ms {
				t.Errorf("half-open after %s, want 16 s and one interval at the most", d)
			}
		})
	}
}

// TestWake holds that a probe which is asked for is sent soon, and that Wake never blocks.
func TestWake(t *testing.T) {
	run(t, 1, nil, func(p *Prober, ups []*upstream.Upstream, servers []*server) {
		servers[0].set(true)
		time.Sleep(time.Second)
		ask(ups[0])
		begin := time.Now()
		for range 100 {
			p.Wake()
		}
		time.Sleep(time.Second)
		if at := servers[0].since(begin); len(at) != 0 {
			t.Errorf("%v: a healthy upstream was probed", at)
		}
		begin = time.Now()
		ups[0].AskProbe()
		time.Sleep(time.Second)
		if at := servers[0].since(begin); len(at) != 1 || at[0] > 100*ms {
			t.Errorf("asked at %v, want one probe at once", at)
		}
		servers[0].set(false)
		begin = time.Now()
		for range 1000 {
			ups[0].AskProbe()
			time.Sleep(ms)
		}
		if n := len(servers[0].since(begin)); n < 5 || n > PerSecond+1 { // the seconds are not in step
			t.Errorf("%d probes in a second", n)
		}
	})
}

// TestRecover holds that the prober goes on with the others, and in time with the one whose probe made it panic.
func TestRecover(t *testing.T) {
	panics := 0
	change := func(c *Config) {
		c.Recoverer = recovery.New(func(string, any, []byte) {}, func() { panics++ })
	}
	run(t, 3, change, func(_ *Prober, _ []*upstream.Upstream, servers []*server) {
		servers[1].mu.Lock()
		servers[1].panics = true
		servers[1].mu.Unlock()
		begin := time.Now()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		for i, s := range servers {
			if n := len(s.since(begin)); n < 5 || n > 21 {
				t.Errorf("%d probes of %d in 10 s", n, i)
			}
		}
		if n := len(servers[1].since(begin)); panics != n {
			t.Errorf("%d panics of %d recovered", panics, n)
		}
	})
}

// TestEnd holds that a prober that has nothing to do ends with its context too.
func TestEnd(t *testing.T) {
	for _, answers := range []bool{false, true} {
		run(t, 1, nil, func(_ *Prober, _ []*upstream.Upstream, servers []*server) {
			servers[0].set(answers)
			time.Sleep(3 * time.Second)
		})
	}
	run(t, 0, nil, func(p *Prober, _ []*upstream.Upstream, _ []*server) { p.Wake(); time.Sleep(time.Second) })
}
