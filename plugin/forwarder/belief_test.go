package forwarder

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// TestRefusedOnce holds that one refusal does not make the denier believed for good.
func TestRefusedOnce(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.ask(request("a.example.com."))
		r.servers[1].set(good)
		wrong := 0
		for i := range 1000 {
			if a, _ := r.ask(request(fmt.Sprintf("h%d.example.com.", i))); a.Kind == outcome.NXDomain {
				wrong++
			}
			time.Sleep(time.Second)
		}
		if wrong != 0 {
			t.Errorf("%d of 1000 names that exist were denied", wrong)
		}
	}, says(outcome.NXDomain, 5*ms), says(outcome.Refused, 10*ms))
}

// TestPrivateBelowAgreed holds that agreement on typing errors in a domain is none on the domains below it.
func TestPrivateBelowAgreed(t *testing.T) {
	inside := func(m *dns.Msg, o exchange.Options) (exchange.Reply, time.Duration) {
		if dnsmsg.Within(m.Question[0].Name, "corp.company.com.") {
			return says(outcome.OK, 20*ms)(m, o)
		}
		return says(outcome.NXDomain, 20*ms)(m, o)
	}
	for _, tc := range []struct{ search, typos int }{{17, 1}, {0, 4}, {0, 1}, {17, 0}, {40, 40}} {
		inBubble(t, nil, func(t *testing.T, r *rig) {
			for i := range tc.search {
				r.ask(request(fmt.Sprintf("nx.search%d.test.", i)))
			}
			for i := range tc.typos {
				r.ask(request(fmt.Sprintf("typo%d.company.com.", i)))
			}
			for i := range 100 {
				if a, _ := r.ask(request(fmt.Sprintf("h%d.corp.company.com.", i))); a.Kind != outcome.OK {
					t.Errorf("after %+v: name %d is %s", tc, i, a.Kind)
				}
			}
		}, says(outcome.NXDomain, 5*ms), inside)
	}
}

// TestBlipKeepsEDNS holds that a moment of packet loss does not cost anybody EDNS.
func TestBlipKeepsEDNS(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		var waiting []<-chan Answer
		for i := range 5 {
			waiting = append(waiting, r.later(context.Background(), request(fmt.Sprintf("h%d.example.", i))))
		}
		time.Sleep(5 * ms)
		r.servers[0].set(good)
		for _, c := range waiting {
			if a := <-c; a.Kind != outcome.OK {
				t.Error(a.Kind)
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		r.ask(request("www.example."))
		if now := time.Now(); r.f.cfg.Upstreams[0].NoEDNS(now) {
			t.Error("EDNS is avoided")
		}
	}, silent)
}

// TestUnknownType holds that a server which does not know a type is still asked for others.
func TestUnknownType(t *testing.T) {
	old := func(m *dns.Msg, o exchange.Options) (exchange.Reply, time.Duration) {
		if m.Question[0].Qtype == dns.TypeHTTPS {
			return says(outcome.NoData, 5*ms)(m, o)
		}
		return says(outcome.OK, 5*ms)(m, o)
	}
	inBubble(t, nil, func(t *testing.T, r *rig) {
		for i := range 3 {
			q := request(fmt.Sprintf("www.z%d.test.", i))
			q.Key.Type = dns.TypeHTTPS
			if a, _ := r.ask(q); a.Kind != outcome.OK {
				t.Errorf("HTTPS: %s", a.Kind)
			}
		}
		r.counts()
		for i := range 100 {
			r.ask(request(fmt.Sprintf("h%d.z%d.test.", i, i%6)))
		}
		if n := r.counts(); n[0] < 95 {
			t.Errorf("asked %v for addresses, want the near one", n)
		}
	}, old, says(outcome.OK, 50*ms))
}

// TestPanic holds that a panic on a query, which the server survives, leaves nobody waiting.
func TestPanic(t *testing.T) {
	boom := true
	inBubble(t, func(c *Config) {
		d := c.Draw
		c.Draw = func(n int) int {
			if boom {
				boom = false
				panic("once")
			}
			return d(n)
		}
	}, func(t *testing.T, r *rig) {
		func() {
			defer func() { _ = recover() }()
			r.f.Forward(context.Background(), request("x.example."))
		}()
		if a, took := r.ask(request("x.example.")); a.Kind != outcome.OK {
			t.Errorf("the next query: %s after %s", a.Kind, took)
		}
	}, good, good)
}
