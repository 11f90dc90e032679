package forwarder

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/selector"
	"github.com/dnsguard/dnsguard/plugin/upstream"
)

// TestFailover holds that each kind of failure of the first upstream leads to the second, and how soon.
func TestFailover(t *testing.T) {
	for name, tc := range map[string]struct {
		first behaviour
		most  time.Duration // to the answer
		asked []int
	}{
		"none":                {good, 10 * ms, []int{1, 0}},
		"SERVFAIL":            {says(outcome.ServFail, 5*ms), 15 * ms, []int{1, 1}},
		"REFUSED":             {says(outcome.Refused, 5*ms), 15 * ms, []int{1, 1}},
		"NOTIMP":              {says(outcome.NotImp, 5*ms), 20 * ms, []int{2, 1}}, // once more without EDNS
		"FORMERR":             {says(outcome.FormErr, 5*ms), 20 * ms, []int{2, 1}},
		"BADVERS":             {says(outcome.BadVers, 5*ms), 20 * ms, []int{2, 1}},
		"BADCOOKIE":           {says(outcome.BadCookie, 5*ms), 20 * ms, []int{2, 1}}, // once more by TCP
		"forgeries":           {says(outcome.Mismatched, 5*ms), 20 * ms, []int{2, 1}},
		"port closed":         {says(outcome.ConnRefused, ms), 11 * ms, []int{1, 1}},
		"reset":               {says(outcome.ConnReset, ms), 11 * ms, []int{1, 1}},
		"unreachable":         {says(outcome.Unreachable, ms), 11 * ms, []int{1, 1}},
		"handshake":           {says(outcome.TLS, ms), 11 * ms, []int{1, 1}},
		"malformed":           {says(outcome.Malformed, ms), 11 * ms, []int{1, 1}},
		"a fault of the host": {says(outcome.Local, 0), 10 * ms, []int{1, 1}},
		"silence":             {silent, 40 * ms, []int{1, 1}},
		"a slow answer":       {says(outcome.OK, 300*ms), 40 * ms, []int{1, 1}},
		"a slow failure":      {says(outcome.ServFail, 300*ms), 40 * ms, []int{1, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, r *rig) {
				a, took := r.ask(request("www.example.org."))
				got := r.counts()
				if a.Kind != outcome.OK || took > tc.most || a.Upstream != to(min(tc.asked[1], 1)) {
					t.Errorf("%+v after %s, want an answer within %s", a, took, tc.most)
				}
				if !slices.Equal(got, tc.asked) || a.Attempts != got[0]+got[1] {
					t.Errorf("asked %v, want %v; %+v", got, tc.asked, a)
				}
			}, tc.first, good)
		})
	}
}

// TestFailoverCodes holds that response codes in the list are taken when nobody has another.
func TestFailoverCodes(t *testing.T) {
	nx := says(outcome.NXDomain, 10*ms)
	list := func(c *Config) { c.Failover, c.Trust = []int{dns.RcodeNameError}, true }
	inBubble(t, list, func(t *testing.T, r *rig) {
		if a, _ := r.ask(request("www.example.org.")); a.Kind != outcome.OK || a.Upstream != to(1) {
			t.Errorf("%+v", a)
		}
	}, nx, good)
	inBubble(t, list, func(t *testing.T, r *rig) {
		if a, _ := r.ask(request("www.example.org.")); a.Msg == nil || a.Msg.Rcode != dns.RcodeNameError || !slices.Equal(r.counts(), []int{1, 1}) {
			t.Errorf("%+v, want the NXDOMAIN of all", a)
		}
	}, nx, nx)
}

// TestOutOfReach holds what a client is told, and when, while no upstream helps.
func TestOutOfReach(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(c *Config)
		does   behaviour
		msg    int // response code of the reply, -1: none
		within [2]time.Duration
		why    string
	}{
		"silence":            {nil, silent, -1, [2]time.Duration{2 * time.Second, 2500 * ms}, "192.0.2.1:53: no reply"},
		"silence, less time": {func(c *Config) { c.Timeout = 300 * ms }, silent, -1, [2]time.Duration{300 * ms, 300 * ms}, "192.0.2.2:53: no reply"},
		"ports closed":       {nil, says(outcome.ConnRefused, ms), -1, [2]time.Duration{0, 5 * ms}, "192.0.2.2:53: conn_refused"},
		"SERVFAIL":           {nil, says(outcome.ServFail, ms), dns.RcodeServerFailure, [2]time.Duration{0, 3 * ms}, "192.0.2.1:53: servfail, 192.0.2.2:53: servfail"},
		"REFUSED":            {nil, says(outcome.Refused, ms), dns.RcodeRefused, [2]time.Duration{0, 3 * ms}, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, tc.change, func(t *testing.T, r *rig) {
				a, took := r.ask(request("www.example.org."))
				rcode := -1
				if a.Msg != nil {
					rcode = a.Msg.Rcode
				}
				if rcode != tc.msg || took < tc.within[0] || took > tc.within[1] || !strings.Contains(a.EDE.Text, tc.why) {
					t.Errorf("%+v after %s, want code %d within %v, because of %s", a, took, tc.msg, tc.within, tc.why)
				}
				if n := r.counts(); n[0]+n[1] > 4 || n[0]+n[1] != a.Attempts || n[1] == 0 {
					t.Errorf("asked %v, %d attempts", n, a.Attempts)
				}
			}, tc.does, tc.does)
		})
	}
}

// TestDeadlines holds that the client's own deadline counts where it is nearer.
func TestDeadlines(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		ctx, cancel := context.WithTimeout(t.Context(), 300*ms)
		defer cancel()
		begin := time.Now()
		if a := r.f.Forward(ctx, request("www.example.org.")); a.Msg != nil || time.Since(begin) != 300*ms || a.EDE.Text == "" {
			t.Errorf("%+v after %s", a, time.Since(begin))
		}
	}, silent, silent)
	inBubble(t, nil, func(t *testing.T, r *rig) { // alive but slow: the whole time may be used
		if a, took := r.ask(request("www.example.org.")); a.Kind != outcome.OK || took != 1900*ms {
			t.Errorf("%+v after %s", a, took)
		}
	}, says(outcome.OK, 1900*ms))
}

// TestAllDead holds that clients wait no longer than 50 ms for upstreams that are known to be dead, and that one which is back is found.
func TestAllDead(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		for i, u := range r.ups {
			for range 12 {
				u.Send(time.Now(), &exchange.Query{Wire: warm()}, &upstream.Attempt{Probe: i > 9}, nil)
				synctest.Wait()
			}
		}
		time.Sleep(2 * time.Second)
		for _, u := range r.ups {
			for range 3 {
				u.Send(time.Now(), &exchange.Query{Wire: warm()}, &upstream.Attempt{Probe: true}, nil)
				synctest.Wait()
			}
			if !u.Dead(time.Now()) {
				t.Fatalf("%+v", u.Snapshot())
			}
		}
		for _, s := range r.servers {
			s.set(silent)
		}
		r.counts()
		for i := range 100 {
			a, took := r.ask(request(fmt.Sprintf("n%d.example.org.", i)))
			if a.Msg != nil || took > 50*ms || a.EDE.Text == "" {
				t.Fatalf("%+v after %s", a, took)
			}
			time.Sleep(50*ms - took)
		}
		if n := r.counts(); n[0]+n[1] == 0 || n[0]+n[1] > 100 {
			t.Errorf("asked %v in five seconds, want some trials", n)
		}
		r.servers[1].set(good)
		for i := range 100 {
			r.ask(request(fmt.Sprintf("m%d.example.org.", i)))
			time.Sleep(50 * ms)
		}
		if a, took := r.ask(request("www.example.org.")); a.Kind != outcome.OK || took > 50*ms {
			t.Errorf("%+v after %s, want the one that is back", a, took)
		}
	}, says(outcome.ConnRefused, 0), says(outcome.ConnRefused, 0))
}

func TestFailfast(t *testing.T) {
	inBubble(t, func(c *Config) { c.Failfast = true }, func(t *testing.T, r *rig) {
		for i := range 5 {
			r.ask(request(fmt.Sprintf("n%d.example.org.", i)))
			time.Sleep(2 * ms)
		}
		r.counts()
		if r.allEjected != 0 {
			t.Errorf("%d queries while all were ejected, before they were", r.allEjected)
		}
		if a, took := r.ask(request("www.example.org.")); a.Msg != nil || took != 0 || r.counts()[0] != 0 || a.EDE.Text == "" {
			t.Errorf("%+v after %s, want a failure at once", a, took)
		}
		if r.allEjected != 1 {
			t.Errorf("%d queries while all were ejected, want 1", r.allEjected)
		}
	}, says(outcome.ConnRefused, 0))
}

// TestSomeEjected holds that queries are not counted as those without an upstream while one is left.
func TestSomeEjected(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		for i := range 20 {
			r.ask(request(fmt.Sprintf("n%d.example.org.", i)))
		}
		if s := r.ups[0].State(); s != upstream.Ejected || r.allEjected != 0 {
			t.Errorf("%s, %d queries while all were ejected", s, r.allEjected)
		}
		r.servers[1].set(silent)
		for range 3 {
			r.ups[1].Send(time.Now(), &exchange.Query{Wire: warm()}, new(upstream.Attempt), nil)
		}
		r.pause(400 * ms)
		r.ask(request("www.example.org."))
		if s := r.ups[1].State(); s != upstream.Suspect || r.allEjected != 0 {
			t.Errorf("%s, %d queries while all were ejected", s, r.allEjected)
		}
	}, says(outcome.ConnRefused, 0), good)
}

// TestHedge holds when a late query is sent once more.
func TestHedge(t *testing.T) {
	for name, tc := range map[string]struct {
		share  float64
		does   []behaviour
		within [2]time.Duration
		by     int
		hedges [3]int // sent, won, denied
	}{
		"late":                     {0.1, []behaviour{silent, good}, [2]time.Duration{20 * ms, 30 * ms}, 1, [3]int{1, 1, 0}},
		"not late":                 {0.1, []behaviour{says(outcome.OK, 10*ms), good}, [2]time.Duration{10 * ms, 10 * ms}, 0, [3]int{}},
		"late, and first all same": {0.1, []behaviour{says(outcome.OK, 22*ms), silent}, [2]time.Duration{22 * ms, 22 * ms}, 0, [3]int{1, 0, 0}},
		"off":                      {0, []behaviour{silent, good}, [2]time.Duration{200 * ms, 260 * ms}, 1, [3]int{1, 1, 1}},
		"off, but it comes":        {0, []behaviour{says(outcome.OK, 150*ms), good}, [2]time.Duration{150 * ms, 150 * ms}, 0, [3]int{0, 0, 1}},
		"two are late":             {0.1, []behaviour{silent, silent, good}, [2]time.Duration{25 * ms, 50 * ms}, 2, [3]int{2, 1, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(c *Config) { c.Hedge = tc.share }, func(t *testing.T, r *rig) {
				a, took := r.ask(request("www.example.org."))
				if a.Kind != outcome.OK || took < tc.within[0] || took > tc.within[1] || a.Upstream != to(tc.by) || a.Hedged != (tc.hedges[HedgeSent] > 0) {
					t.Errorf("%+v after %s, want upstream %d within %v", a, took, tc.by, tc.within)
				}
				if r.hedges != tc.hedges {
					t.Errorf("hedges %v, want %v", r.hedges, tc.hedges)
				}
			}, tc.does...)
		})
	}
}

// TestHedgeAlone holds that a pool of one asks again when a packet is lost.
func TestHedgeAlone(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		lost := r.later(t.Context(), request("www.example.org."))
		synctest.Wait()
		r.servers[0].set(good)
		begin := time.Now()
		if a := <-lost; a.Kind != outcome.OK || time.Since(begin) > 50*ms || a.Attempts != 2 {
			t.Errorf("%+v after %s", a, time.Since(begin))
		}
	}, silent)
}

// TestHedgeConnecting holds that a query which waits for a connection is hedged
// no sooner than connecting takes, and soon where there is no connecting.
func TestHedgeConnecting(t *testing.T) {
	for name, tc := range map[string]struct {
		connect time.Duration
		does    behaviour
		within  [2]time.Duration
		by      int
	}{
		"connects":            {10 * ms, good, [2]time.Duration{20 * ms, 20 * ms}, 0},
		"connects slowly":     {20 * ms, good, [2]time.Duration{30 * ms, 30 * ms}, 0},
		"connects to nowhere": {time.Hour, silent, [2]time.Duration{40 * ms, 250 * ms}, 1},
		"connects to silence": {10 * ms, silent, [2]time.Duration{30 * ms, 250 * ms}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(c *Config) { c.ForceTCP = true }, func(t *testing.T, r *rig) {
				r.servers[0].connect = tc.connect
				a, took := r.ask(request("www.example.org."))
				if a.Kind != outcome.OK || took < tc.within[0] || took > tc.within[1] || a.Upstream != to(tc.by) || a.Attempts != 1+tc.by {
					t.Errorf("%+v after %s, want upstream %d within %v", a, took, tc.by, tc.within)
				}
				if got := r.hedges[HedgeSent]; got != tc.by {
					t.Errorf("%d hedges", got)
				}
			}, tc.does, good)
		})
	}
}

// TestHedgeBudget holds that an overload is not fed.
func TestHedgeBudget(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		const n = 400
		var answers []<-chan Answer
		for i := range n {
			answers = append(answers, r.later(t.Context(), request(fmt.Sprintf("n%d.example.org.", i))))
		}
		for _, c := range answers {
			if a := <-c; a.Kind != outcome.OK {
				t.Fatalf("%+v", a)
			}
		}
		if got := r.counts(); got[0] != n || got[1] > 100+n/10+1 || got[1] < 100 || r.hedges[HedgeDenied] < n/2 {
			t.Errorf("asked %v, hedges %v", got, r.hedges)
		}
	}, says(outcome.OK, 150*ms), says(outcome.OK, 200*ms))
}

// TestHedgeRefund holds that hedges which were needed do not use up the budget.
func TestHedgeRefund(t *testing.T) {
	n := 0
	lossy := func(m *dns.Msg, o exchange.Options) (exchange.Reply, time.Duration) {
		if n++; n%5 == 0 {
			return silent(m, o)
		}
		return good(m, o)
	}
	inBubble(t, func(c *Config) { c.Hedge = 0.01 }, func(t *testing.T, r *rig) {
		for i := range 1000 {
			if a, took := r.ask(request(fmt.Sprintf("www.example%d.org.", i))); a.Kind != outcome.OK || took > 100*ms {
				t.Fatalf("query %d: %+v after %s, hedges %v", i, a, took, r.hedges)
			}
		}
		if r.hedges[HedgeWon] < 120 {
			t.Errorf("hedges %v, want more than the budget holds", r.hedges)
		}
	}, lossy, good)
}

// TestTrials holds that healthy upstreams which are not asked are shown a query now and then, and how many in all.
func TestTrials(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		const n = 1000
		for i := range n {
			if a, took := r.ask(request(fmt.Sprintf("n%d.example.org.", i))); a.Kind != outcome.OK || took != 10*ms {
				t.Fatalf("%+v after %s", a, took)
			}
			time.Sleep(90 * ms)
		}
		if got := r.counts(); got[0] != n || got[1] < 3 || got[2] < 3 || got[1]+got[2] > 5+n/100+1 {
			t.Errorf("asked %v, want one trial in a hundred, and five saved up", got)
		}
	}, good, good, good)
}

// TestBack holds that an upstream which was silent for a while gets queries again, though there are few to be had and others to be shown them.
func TestBack(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		for range 3 {
			r.ups[2].Send(time.Now(), &exchange.Query{Wire: warm()}, new(upstream.Attempt), nil)
		}
		time.Sleep(time.Second)
		if s := r.ups[2].State(); s != upstream.Suspect {
			t.Fatalf("%s", s)
		}
		r.servers[2].set(good)
		for i := range 1200 {
			r.ask(request(fmt.Sprintf("www.example%d.org.", i)))
			time.Sleep(90 * ms)
		}
		if s := r.ups[2].State(); s != upstream.Healthy {
			t.Errorf("%s two minutes later; asked %v", s, r.counts())
		}
	}, good, good, silent)
}

// TestHostFault holds that a fault of this host is waited out for a moment, and that connections are used where datagrams cannot be sent.
func TestHostFault(t *testing.T) {
	local := says(outcome.Local, 0)
	until := func(d time.Duration, then behaviour) behaviour {
		var begin time.Time
		return func(m *dns.Msg, o exchange.Options) (exchange.Reply, time.Duration) {
			if begin.IsZero() {
				begin = time.Now()
			}
			if time.Since(begin) < d {
				return local(m, o)
			}
			return then(m, o)
		}
	}
	for name, tc := range map[string]struct {
		does behaviour
		want outcome.Kind
		most time.Duration
	}{
		"at once":           {good, outcome.OK, 10 * ms},
		"for a moment":      {until(10*ms, good), outcome.OK, 30 * ms},
		"for longer":        {until(50*ms, good), outcome.OK, 70 * ms},
		"for much longer":   {until(100*ms, good), outcome.OK, 150 * ms},
		"for datagrams":     {byTCP(good, local), outcome.OK, 70 * ms},
		"for connections":   {byTCP(local, until(50*ms, good)), outcome.OK, 150 * ms},
		"for too long":      {local, outcome.Local, 140 * ms},
		"and a silent one":  {until(10*ms, silent), outcome.Local, 2500 * ms},
		"and a failing one": {until(10*ms, says(outcome.ConnRefused, ms)), outcome.ConnRefused, 140 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, r *rig) {
				a, took := r.ask(request("www.example.org."))
				if a.Kind != tc.want || took > tc.most || (a.Msg == nil) == (a.EDE.Text == "") {
					t.Errorf("%+v after %s, want %s in %s", a, took, tc.want, tc.most)
				}
				if s := r.ups[0].State(); name != "and a failing one" && s != upstream.Healthy {
					t.Errorf("%s", s)
				}
			}, tc.does)
		})
	}
}

// TestMostAttempts holds the bound whatever the upstreams do.
func TestMostAttempts(t *testing.T) {
	kinds := []outcome.Kind{
		outcome.OK, outcome.NXDomain, outcome.NoData, outcome.ServFail, outcome.Refused, outcome.NotImp, outcome.FormErr, outcome.BadVers, outcome.BadCookie, outcome.Truncated,
		outcome.Timeout, outcome.ConnRefused, outcome.ConnReset, outcome.TLS, outcome.Malformed, outcome.Mismatched, outcome.Local,
	}
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		unsent := 0 // by faults of the host, which are no attempts
		chance := func(m *dns.Msg, o exchange.Options) (exchange.Reply, time.Duration) {
			after := time.Duration(rnd.IntN(40)) * ms
			if rnd.IntN(3) == 0 {
				after = never
			}
			k := kinds[rnd.IntN(len(kinds))]
			if k == outcome.Local {
				if after = time.Duration(rnd.IntN(2)) * ms; after == 0 { // else it comes when the reply is to be read
					unsent++
				}
			}
			return says(k, after)(m, o)
		}
		for _, most := range []int{0, 1, 3} {
			bound := most
			if most == 0 {
				bound = 5
			}
			inBubble(t, func(c *Config) { c.MaxAttempts, c.Hedge = most, 1 }, func(t *testing.T, r *rig) {
				for i := range 20 {
					q := request(fmt.Sprintf("n%d.example%d.org.", i, i%3))
					q.Key.Stream = i%4 == 0
					unsent = 0
					a, took := r.ask(q)
					n := r.counts()
					if sum := n[0] + n[1] + n[2]; sum-unsent > bound || sum > 2*bound || sum != a.Attempts && !a.Shared {
						t.Fatalf("asked %v for one query, %d attempts, %d unsent, want at most %d sent", n, a.Attempts, unsent, bound)
					}
					if took > 4500*ms || (a.Msg == nil && a.EDE.Text == "") {
						t.Fatalf("%+v after %s", a, took)
					}
				}
			}, chance, chance, chance)
		}
	}
}

// TestClose holds that queries under way end with the forwarder.
func TestClose(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		c := r.later(t.Context(), request("www.example.org."))
		time.Sleep(ms)
		begin := time.Now()
		r.f.Close()
		if a := <-c; a.Msg != nil || time.Since(begin) > 100*ms {
			t.Errorf("%+v %s after Close", a, time.Since(begin))
		}
	}, silent)
}

func TestNobodyToAsk(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		if a, took := r.ask(request("www.example.org.")); a.Msg != nil || took != 0 || a.EDE.Text == "" {
			t.Errorf("%+v after %s", a, took)
		}
	})
	inBubble(t, nil, func(t *testing.T, r *rig) {
		if a, _ := r.ask(request("a..b.")); a.Kind != outcome.FormErr || r.counts()[0] != 0 {
			t.Errorf("%+v, want FORMERR, and nobody asked", a)
		}
	}, good)
}

// TestSlowAsked holds that a query which went to a slow upstream waits no longer
// than a fault may cost where another is near, and for the usual time where all are far.
func TestSlowAsked(t *testing.T) {
	for name, tc := range map[string]struct {
		other  time.Duration
		within [2]time.Duration
	}{
		"another is near": {10 * ms, [2]time.Duration{250 * ms, 260 * ms}},
		"all are far":     {300 * ms, [2]time.Duration{700 * ms, 900 * ms}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(c *Config) { c.Policy, _ = selector.New("sequential"); c.Hedge = 0 }, func(t *testing.T, r *rig) {
				for i := range 20 {
					r.ask(request(fmt.Sprintf("n%d.example.org.", i)))
					r.servers[0].set(says(outcome.ServFail, 0)) // the other is asked as well
					r.ask(request(fmt.Sprintf("m%d.example.org.", i)))
					r.servers[0].set(says(outcome.OK, 300*ms))
				}
				r.servers[0].set(silent)
				if a, took := r.ask(request("www.example.org.")); a.Kind != outcome.OK || took < tc.within[0] || took > tc.within[1] {
					t.Errorf("%+v after %s, want within %v", a, took, tc.within)
				}
			}, says(outcome.OK, 300*ms), says(outcome.OK, tc.other))
		})
	}
}
