package forwarder

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/upstream"
)

// witness is a Watch that writes down what it is told, and holds that it is told once of each thing.
type witness struct {
	t *testing.T

	mu    sync.Mutex
	told  []string
	open  map[*upstream.Attempt]bool // started, with no end yet
	over  bool
	query *exchange.Query
}

func watched(t *testing.T, q *Request) (*Request, *witness) {
	w := &witness{t: t, open: make(map[*upstream.Attempt]bool)}
	q.Look = &Look{Watch: w}
	return q, w
}

func (w *witness) Started(a *upstream.Attempt, q *exchange.Query, c Cause) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over || w.open[a] || (w.query != nil && w.query != q) {
		w.t.Errorf("started %s: over %v, open %v, query %p %p", a.Upstream.To(), w.over, w.open[a], w.query, q)
	}
	w.open[a], w.query = true, q
	how := ""
	if a.Options.TCP {
		how = " tcp"
	}
	w.told = append(w.told, fmt.Sprintf("%s %d%s", c, a.Index, how))
}

func (w *witness) end(word string, over bool, a *upstream.Attempt, r exchange.Reply) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over != over || !w.open[a] {
		w.t.Errorf("%s %s: over %v, open %v", word, a.Upstream.To(), w.over, w.open[a])
	}
	delete(w.open, a)
	w.told = append(w.told, fmt.Sprintf("%s %d %s", word, a.Index, r.Kind))
}

func (w *witness) Ended(a *upstream.Attempt, r exchange.Reply) { w.end("ended", false, a, r) }
func (w *witness) Late(a *upstream.Attempt, r exchange.Reply)  { w.end("late", true, a, r) }

func (w *witness) Over() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		w.t.Error("over twice")
	}
	w.over = true
	w.told = append(w.told, "over")
}

// all returns what was told, after so long that all must have been.
func (w *witness) all() string {
	time.Sleep(7 * time.Second)
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.open) > 0 || !w.over {
		w.t.Errorf("%d attempts without an end, over %v: %q", len(w.open), w.over, w.told)
	}
	return strings.Join(w.told, ", ")
}

// TestWatch holds what is told of a query, and why each attempt was made.
func TestWatch(t *testing.T) {
	for name, tc := range map[string]struct {
		does   []behaviour
		change func(q *Request)
		want   string
	}{
		"an answer":           {[]behaviour{good, good}, nil, "first 0, ended 0 ok, over"},
		"a refusal":           {[]behaviour{says(outcome.Refused, 5*ms), good}, nil, "first 0, ended 0 refused, retry 1, ended 1 ok, over"},
		"silence":             {[]behaviour{silent, good}, nil, "first 0, hedge 1, ended 1 ok, over, late 0 timeout"},
		"slowness":            {[]behaviour{says(outcome.OK, 300*ms), good}, nil, "first 0, hedge 1, ended 1 ok, over, late 0 ok"},
		"a denial":            {[]behaviour{nx, good}, nil, "first 0, ended 0 nxdomain, verify 1, ended 1 ok, over"},
		"no EDNS":             {[]behaviour{says(outcome.FormErr, 5*ms)}, nil, "first 0, ended 0 formerr, retry 0, ended 0 formerr, over"},
		"truncated":           {[]behaviour{byTCP(good, says(outcome.Truncated, 5*ms))}, func(q *Request) { q.Key.Size = 4096 }, "first 0, ended 0 truncated, retry 0 tcp, ended 0 ok, over"},
		"closed":              {[]behaviour{says(outcome.ConnRefused, ms), says(outcome.ConnRefused, ms)}, func(q *Request) { q.Key.Stream = true }, "first 0 tcp, ended 0 conn_refused, retry 1 tcp, ended 1 conn_refused, over"},
		"a fault of the host": {[]behaviour{says(outcome.Local, 0)}, nil, "first 0, ended 0 local, retry 0, ended 0 local, retry 0 tcp, ended 0 local, retry 0, ended 0 local, over"},
		"not to be sent":      {[]behaviour{good}, func(q *Request) { q.Name = strings.Repeat("x", 64) + "." }, "over"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, r *rig) {
				q, w := watched(t, request("www.example.org."))
				if tc.change != nil {
					tc.change(q)
				}
				r.f.Forward(t.Context(), q)
				if got := w.all(); got != tc.want {
					t.Errorf("told %s\nwant %s", got, tc.want)
				}
			}, tc.does...)
		})
	}
}

// TestWatchTrial holds that an attempt beside the first one is told of as a trial.
func TestWatchTrial(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.pause(3 * time.Second) // what is known of both is old by then
		q, w := watched(t, request("www.example.org."))
		r.ask(q)
		if got, want := w.all(), "first 0, trial 1, ended 0 ok, over, late 1 ok"; got != want {
			t.Errorf("told %s\nwant %s", got, want)
		}
	}, good, says(outcome.OK, 20*ms))
}

// TestWatchCancelled holds that the end is told where the client goes away, and that a query which waits for an equal one is told nothing.
func TestWatchCancelled(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		ctx, cancel := context.WithCancel(t.Context())
		q, w := watched(t, request("www.example.org."))
		first := r.later(ctx, q)
		synctest.Wait()
		q2, follower := watched(t, request("www.example.org."))
		second := r.later(t.Context(), q2)
		synctest.Wait()
		cancel()
		if a := <-second; a.Kind != outcome.OK || !a.Shared {
			t.Errorf("%+v", a)
		}
		<-first
		if got, want := w.all(), "first 0, ended 0 ok, over"; got != want || len(follower.told) > 0 {
			t.Errorf("told %s, want %s; and the one that waits %q", got, want, follower.told)
		}
		ctx, cancel = context.WithCancel(t.Context())
		q, w = watched(t, request("other.example.org."))
		first = r.later(ctx, q)
		synctest.Wait()
		cancel()
		<-first
		if got, want := w.all(), "first 0, over, late 0 ok"; got != want {
			t.Errorf("told %s, want %s", got, want)
		}
	}, good)
}

// TestWatchAnything holds that each attempt that was told of is told the end of once, whatever servers do.
func TestWatchAnything(t *testing.T) {
	kinds := []outcome.Kind{
		outcome.OK, outcome.OK, outcome.NXDomain, outcome.NoData, outcome.ServFail, outcome.Refused, outcome.FormErr, outcome.Truncated,
		outcome.ConnRefused, outcome.ConnReset, outcome.Malformed, outcome.Mismatched, outcome.Local,
	}
	times := []time.Duration{0, ms, 10 * ms, 10 * ms, 10 * ms, 40 * ms, 250 * ms, 3 * time.Second, never}
	for seed := range uint64(40) {
		draw := rand.New(rand.NewPCG(seed, 1))
		var mu sync.Mutex
		anything := func(m *dns.Msg, o exchange.Options) (exchange.Reply, time.Duration) {
			mu.Lock()
			k, after := kinds[draw.IntN(len(kinds))], times[draw.IntN(len(times))]
			mu.Unlock()
			return says(k, after)(m, o)
		}
		inBubble(t, nil, func(t *testing.T, r *rig) {
			var seen []*witness
			for i := range 30 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i+1)*100*ms)
				q, w := watched(t, request(fmt.Sprintf("n%d.example%d.org.", i, i%3)))
				if i%4 == 0 {
					q.Key.Stream = true
				}
				seen = append(seen, w)
				r.f.Forward(ctx, q)
				cancel()
			}
			for _, w := range seen {
				w.all()
			}
		}, anything, anything, anything)
	}
}

// TestSteered holds that it is told whether what is known of a zone decided who was asked first.
func TestSteered(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		var got []bool
		for i, name := range []string{"a.example.org.", "b.example.org.", "c.example.org.", "www.example.net."} {
			q := request(name)
			if i != 2 {
				q.Look = new(Look)
			}
			a, _ := r.ask(q)
			if a.Kind != outcome.OK {
				t.Errorf("%+v", a)
			}
			got = append(got, a.Steered)
		}
		if want := []bool{false, true, false, false}; !slices.Equal(got, want) { // nobody looks at the third
			t.Errorf("steered %v, want %v; asked %v", got, want, r.counts())
		}
	}, within("example.org.", says(outcome.Refused, 5*ms), good), good)
}

// TestWire holds that replies keep their octets where somebody wants them.
func TestWire(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		for _, wire := range []bool{false, true} {
			q, w := watched(t, request("www.example.org."))
			q.Look.Wire = wire
			r.ask(q)
			if w.query.Keep != wire {
				t.Errorf("octets are wanted: %v, kept: %v", wire, w.query.Keep)
			}
		}
	}, good)
}

// onOver is a Watch during whose Over something happens.
type onOver struct {
	*witness
	do func()
}

func (o onOver) Over() { o.witness.Over(); o.do() }

// sinks is an exchange.Exchanger that leaves the replies to the test.
type sinks []exchange.Sink

func (s *sinks) Start(_ *exchange.Query, _ exchange.Options, sink exchange.Sink) exchange.Handle {
	*s = append(*s, sink)
	return answeredCall{}
}

func (*sinks) Close() {}

// TestEndsMeanwhile holds that an attempt is not lost which ends after the query is over, and before it is left to itself.
func TestEndsMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := instantly(t, 2)
		var second sinks
		f.cfg.Upstreams[1] = upstream.New(upstream.Config{To: to(1), Transport: "dns", Exchanger: &second, ReadTimeout: 2 * time.Second, Observer: nobody{}}, time.Now())
		time.Sleep(3 * time.Second) // so that both are tried
		q, w := watched(t, request("www.example.org."))
		q.Look.Watch = onOver{w, func() { second[0].Done(exchange.Reply{Kind: outcome.Refused}) }}
		f.Forward(t.Context(), q)
		if got, want := w.all(), "first 0, trial 1, ended 0 ok, over, late 1 refused"; got != want {
			t.Errorf("told %s\nwant %s", got, want)
		}
		if v := f.table.View(time.Now(), "www.example.org."); !v.Refuses.Has(1) {
			t.Errorf("known of the zone: %+v", v)
		}
	})
}

// TestSameInstant holds that something is learned, too, from a reply that came while the one that counts was taken.
func TestSameInstant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := instantly(t, 2)
		deny := new(dns.Msg)
		deny.SetRcode(&dns.Msg{Question: []dns.Question{{Name: "www.example.org.", Qtype: dns.TypeA, Qclass: dns.ClassINET}}}, dns.RcodeNameError)
		denied := &instant{kind: outcome.NXDomain, msg: deny, local: &net.UDPAddr{}}
		f.cfg.Upstreams[1] = upstream.New(upstream.Config{To: to(1), Transport: "dns", Exchanger: denied, ReadTimeout: 2 * time.Second, Observer: nobody{}}, time.Now())
		time.Sleep(3 * time.Second) // so that both are tried
		q, w := watched(t, request("www.example.org."))
		if a := f.Forward(t.Context(), q); a.Kind != outcome.OK {
			t.Fatalf("%+v", a)
		}
		if got, want := w.all(), "first 0, trial 1, ended 0 ok, ended 1 nxdomain, over"; got != want {
			t.Errorf("told %s\nwant %s", got, want)
		}
		if v := f.table.View(time.Now(), "www.example.org."); !v.Bad.Has(1) || !v.Good.Has(0) {
			t.Errorf("known of the zone: %+v", v)
		}
	})
}
