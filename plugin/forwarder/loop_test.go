package forwarder

import (
	"bytes"
	"encoding/binary"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/loopguard"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/zones"
)

var (
	key   = loopguard.NewKey(nil)
	group = key.Group("ours")
)

// stamps marks what goes to some upstreams.
func stamps(to zones.Set) Stamps {
	return Stamps{To: to, Append: func(buf []byte, s loopguard.Stamp, question []byte) []byte {
		return key.Append(buf, s.Next(group), question)
	}}
}

// sees takes down the stamp of each query, and has it answered.
func sees(mu *sync.Mutex, seen *[][]byte, b behaviour) behaviour {
	return func(m *dns.Msg, o exchange.Options) (exchange.Reply, time.Duration) {
		var data []byte
		if opt := m.IsEdns0(); opt != nil {
			for _, e := range opt.Option {
				if l, ok := e.(*dns.EDNS0_LOCAL); ok && l.Code == loopguard.OptionCode {
					data = l.Data
				}
			}
		}
		mu.Lock()
		*seen = append(*seen, data)
		mu.Unlock()
		return b(m, o)
	}
}

// TestStamps holds which queries carry a stamp, and that it is whole whatever else is in the query.
func TestStamps(t *testing.T) {
	long := strings.Repeat(strings.Repeat("a", 63)+".", 3) + strings.Repeat("b", 61) + "."
	for name, to := range map[string]zones.Set{"all": 3, "the second": 2, "the first": 1, "none": 0} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var first, second [][]byte
			inBubble(t, func(c *Config) { c.Stamps = stamps(to) }, func(t *testing.T, r *rig) {
				for _, name := range []string{"www.example.org.", ".", long} {
					q := request(name)
					q.Key.Options = string([]byte{0, 3, 0, 2, 'i', 'd'}) // NSID
					q.Stamp = loopguard.Stamp{}.Next(7)
					if a, _ := r.ask(q); a.Kind != outcome.OK {
						t.Errorf("%s: %+v", name, a)
					}
					wire := make([]byte, 255+4)
					n, err := dns.PackDomainName(name, wire, 0, nil, false)
					if err != nil {
						t.Fatal(err)
					}
					binary.BigEndian.PutUint16(wire[n:], dns.TypeA)
					binary.BigEndian.PutUint16(wire[n+2:], dns.ClassINET)
					for i, seen := range [][][]byte{first, second} {
						for _, data := range seen {
							s, ok := key.Parse(data, wire[:n+4])
							if ok != to.Has(i) || ok && (s.Hops != 2 || !s.Has(group) || !s.Has(7)) || !ok && data != nil {
								t.Errorf("%s, upstream %d: %x", name, i, data)
							}
						}
						if len(seen) == 0 {
							t.Errorf("%s: upstream %d was not asked", name, i)
						}
					}
					first, second = nil, nil
				}
			}, sees(&mu, &first, says(outcome.ServFail, ms)), sees(&mu, &second, good))
		})
	}
}

// TestLoopsLeftOut holds that an upstream is not asked that queries come back from, and what clients are told where there is no other.
func TestLoopsLeftOut(t *testing.T) {
	inBubble(t, func(c *Config) { c.Stamps = stamps(3) }, func(t *testing.T, r *rig) {
		r.ups[0].Loops(time.Now(), "why")
		for range 50 {
			if a, took := r.ask(request("www.example.org.")); a.Kind != outcome.OK || a.Upstream != to(1) || took > 15*ms {
				t.Errorf("%+v after %v", a, took)
			}
		}
		if a, _ := r.ask(request("nx.example.org.")); a.Kind != outcome.OK {
			t.Errorf("%+v", a)
		}
		r.servers[1].set(says(outcome.NXDomain, 10*ms)) // nobody else is to verify it
		if a, _ := r.ask(request("nx.example.org.")); a.Kind != outcome.NXDomain || a.Attempts != 1 {
			t.Errorf("%+v", a)
		}
		r.servers[1].set(says(outcome.ServFail, 10*ms)) // which is what all say who are asked
		if a, _ := r.ask(request("fails.example.org.")); a.Kind != outcome.ServFail || a.Msg == nil {
			t.Errorf("%+v", a)
		}
		if n := r.counts(); n[0] != 0 {
			t.Errorf("%v", n)
		}
		r.ups[1].Loops(time.Now(), "why")
		a, took := r.ask(request("www.example.org."))
		if a.Kind != outcome.Loop || a.EDE != dnsmsg.Loop(to(0)+", "+to(1)) || took != 0 || a.Attempts != 0 {
			t.Errorf("%+v after %v", a, took)
		}
		if e := r.f.Explain(time.Now(), "www.example.org."); e.Prospect != AllLoop {
			t.Errorf("%+v", e)
		}
		probe := request("www.example.org.")
		probe.Probe = true
		r.servers[0].set(good)
		if a, _ := r.ask(probe); a.Kind != outcome.OK {
			t.Errorf("another server's probe: %+v", a)
		}
		r.ups[0].LoopEnded(time.Now())
		if a, _ := r.ask(request("www.example.org.")); a.Kind != outcome.OK || a.Upstream != to(0) {
			t.Errorf("after the end: %+v", a)
		}
	}, good, good)
}

// TestLoopUnderWay holds that a query goes on to another upstream at once where the one that it waits for turns out to be looping.
func TestLoopUnderWay(t *testing.T) {
	inBubble(t, func(c *Config) { c.Hedge = 0 }, func(t *testing.T, r *rig) {
		time.AfterFunc(5*ms, func() { r.ups[0].Loops(time.Now(), "why") })
		if a, took := r.ask(request("www.example.org.")); a.Kind != outcome.OK || took != 15*ms {
			t.Errorf("%+v after %v", a, took)
		}
	}, says(outcome.Unknown, never), good)
	inBubble(t, nil, func(t *testing.T, r *rig) {
		time.AfterFunc(5*ms, func() { r.ups[0].Loops(time.Now(), "why") })
		if a, took := r.ask(request("www.example.org.")); a.Kind != outcome.Loop || a.Msg != nil || took != 5*ms {
			t.Errorf("%+v after %v", a, took)
		}
	}, says(outcome.Unknown, never))
}

// TestLoopSaid holds that a reply which says that the query came round tells against nobody, and is not remembered.
func TestLoopSaid(t *testing.T) {
	said := func(m *dns.Msg, o exchange.Options) (exchange.Reply, time.Duration) {
		r, after := says(outcome.ServFail, 10*ms)(m, o)
		r.Msg.SetEdns0(1232, false)
		e := dnsmsg.Loop("x")
		r.Msg.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: e.Code, ExtraText: e.Text}}
		return r, after
	}
	inBubble(t, func(c *Config) { c.Stamps = stamps(3) }, func(t *testing.T, r *rig) {
		for range 20 {
			if a, _ := r.ask(request("www.example.org.")); a.Kind != outcome.OK {
				t.Errorf("%+v", a)
			}
		}
		if n := r.counts(); n[0] < 18 || r.ups[0].State().String() != "healthy" {
			t.Errorf("%v, %s: it was blamed", n, r.ups[0].State())
		}
		r.servers[1].set(said)
		for range 2 {
			a, _ := r.ask(request("x.example.org."))
			if a.Kind != outcome.Loop || a.Msg == nil || a.Shared || !dnsmsg.TellsOfLoop(a.Msg) {
				t.Errorf("%+v", a)
			}
		}
	}, said, good)
}

// TestForeign holds that stamps of others go on with ours, and only there.
func TestForeign(t *testing.T) {
	var mu sync.Mutex
	var stamped, plain int
	counts := func(n *int) behaviour {
		return func(m *dns.Msg, o exchange.Options) (exchange.Reply, time.Duration) {
			mu.Lock()
			*n = 0
			for _, e := range m.IsEdns0().Option {
				if e.Option() == loopguard.OptionCode {
					*n++
				}
			}
			mu.Unlock()
			return says(outcome.ServFail, ms)(m, o)
		}
	}
	for _, to := range []zones.Set{1, 3} { // some, and all
		inBubble(t, func(c *Config) { c.Stamps = stamps(to) }, func(t *testing.T, r *rig) {
			q := request("www.example.org.")
			for g := range 2 {
				q.Foreign = loopguard.NewKey([]byte("theirs")).Append(q.Foreign, loopguard.Stamp{}.Next(loopguard.Group(g)), nil)
			}
			r.ask(q)
			if want := map[zones.Set]int{1: 0, 3: 3}[to]; stamped != 3 || plain != want {
				t.Errorf("stamps to %b: %d and %d options", to, stamped, plain)
			}
		}, counts(&stamped), counts(&plain))
	}
}

// TestAgain holds when a question is taken for one that comes in again, whatever its flags, and of whom that is told.
func TestAgain(t *testing.T) {
	var told []zones.Set
	inBubble(t, func(c *Config) {
		c.Stamps = stamps(1)
		c.Stamps.Again = func(of zones.Set) { told = append(told, of) }
	}, func(t *testing.T, r *rig) {
		ask := func(name string, qtype uint16, do bool) *Request {
			q := request(name)
			q.Key.Type, q.Key.DO = qtype, do
			return q
		}
		first := ask("www.example.org.", dns.TypeA, false)
		for _, tc := range []struct {
			what  string
			after time.Duration
			q     *Request
			want  int
		}{
			{"the same", 5 * ms, ask("www.example.org.", dns.TypeA, false), 1},
			{"with another flag", 5 * ms, ask("www.example.org.", dns.TypeA, true), 1},
			{"another type", 5 * ms, ask("www.example.org.", dns.TypeAAAA, false), 0},
			{"another name", 5 * ms, ask("www.example.net.", dns.TypeA, false), 0},
			{"when there was a reply", 20 * ms, ask("www.example.org.", dns.TypeA, false), 0},
		} {
			told = nil
			var wg sync.WaitGroup
			wg.Go(func() { r.f.Forward(t.Context(), first) })
			time.Sleep(tc.after)
			wg.Go(func() { r.f.Forward(t.Context(), tc.q) })
			wg.Wait()
			synctest.Wait()
			if len(told) != tc.want || tc.want > 0 && told[0] != 1 {
				t.Errorf("%s: %v", tc.what, told)
			}
			time.Sleep(time.Second)
		}
	}, good)
}

func BenchmarkStampedQuery(b *testing.B) {
	f := &Forwarder{all: 1, cfg: Config{Stamps: stamps(1)}}
	w := &walk{f: f}
	r := request("www.example.org.")
	for _, bc := range []struct {
		name string
		to   zones.Set
	}{{"plain", 0}, {"stamped", 1}} {
		b.Run(bc.name, func(b *testing.B) {
			f.cfg.Stamps.To = bc.to
			b.ReportAllocs()
			for b.Loop() {
				if err := w.pack(r); err != nil || bytes.Equal(w.query.Wire, nil) {
					b.Fatal(err)
				}
			}
		})
	}
}
