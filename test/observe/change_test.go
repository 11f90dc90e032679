package observe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns/caddy"

	"github.com/dnsguard/dnsguard"
	"github.com/dnsguard/dnsguard/test/fakedns"
)

// guard makes a Guard of a directive with these options.
func guard(t *testing.T, env dnsguard.Env, to string, options ...string) *contender {
	t.Helper()
	configs, err := dnsguard.Parse(caddy.NewTestController("dns", "dnsguard . "+to+" {\n"+strings.Join(options, "\n")+"\n}\n"))
	if err != nil {
		t.Fatal(err)
	}
	c := &contender{t: t, name: "dnsguard"}
	if env.Logf == nil {
		env.Logf = c.log
	}
	c.guard, err = dnsguard.New(configs[0], env)
	if err != nil {
		t.Fatal(err)
	}
	c.handler = c.guard
	t.Cleanup(c.guard.Stop)
	return c
}

// listen starts a server at an address of its own, and at the port where that is not 0.
func listen(t *testing.T, s *fakedns.Server, port uint16) netip.AddrPort {
	t.Helper()
	l, err := fakedns.Listen(fmt.Sprintf("%s:%d", freshAddr(), port), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr()
}

// TestLists: a list of upstreams that is empty at first, and changes later, loses no query.
func TestLists(t *testing.T) {
	one, two, three := server(), server(), server()
	addr := listen(t, one, 0)
	addrs := []netip.Addr{addr.Addr(), listen(t, two, addr.Port()).Addr(), listen(t, three, addr.Port()).Addr()}
	var list atomic.Pointer[[]netip.Addr]
	list.Store(new([]netip.Addr))
	c := guard(t, dnsguard.Env{Lookup: func(context.Context, string) ([]netip.Addr, time.Duration, error) {
		if now := *list.Load(); len(now) > 0 {
			return now, time.Second, nil
		}
		return nil, 0, errors.New("no such host")
	}}, fmt.Sprintf("dns.example:%d", addr.Port()), "mode observe", "policy round_robin", "read_timeout 1s")
	c.guard.Start()
	if r := c.ask(t.Context(), query{name: "www.example.org."}); !strings.Contains(r.returned, "SERVFAIL: no upstream") {
		t.Errorf("without upstreams: %s", r)
	}
	first := addrs[:2]
	list.Store(&first)
	eventually(t, func() error {
		if r := c.ask(t.Context(), query{name: "www.example.org."}); r.returned != "NOERROR" {
			return errors.New(r.String())
		}
		return nil
	})
	second := addrs[1:]
	list.Store(&second)
	eventually(t, func() error {
		if r := c.ask(t.Context(), query{name: "www.example.org.", tcp: true}); r.returned != "NOERROR" {
			t.Fatalf("while the list changes: %s", r)
		}
		if asked(three) == 0 {
			return errors.New("the new upstream is not asked")
		}
		return nil
	})
	before, conns := asked(one), two.Stats().Conns
	for range 20 {
		if r := c.ask(t.Context(), query{name: "www.example.org.", tcp: true}); r.returned != "NOERROR" {
			t.Errorf("after the change: %s", r)
		}
	}
	if asked(one) != before {
		t.Error("an upstream that is gone is asked")
	}
	if n := two.Stats().Conns; n != conns || n != 1 {
		t.Errorf("%d connections to the one that stays, want the first", n)
	}
}

// TestReload: what was observed is known to the guard that takes over at a
// reload, which asks none that is out, and knows who is right in which zone.
func TestReload(t *testing.T) {
	s := setting{servers: func() []*fakedns.Server {
		internal := server("nxdomain")
		return []*fakedns.Server{server("drop"), internal, server()}
	}}
	c := &contender{t: t, up: s.servers()}
	var to []string
	for _, up := range c.up {
		to = append(to, listen(t, up, 0).String())
	}
	env := dnsguard.Env{Logf: c.log, Debug: true}
	observing := guard(t, env, strings.Join(to, " "), "mode observe", "policy round_robin", "read_timeout 200ms", "max_connect_attempts 3", "health_check 1h", "eject base 10m max 10m")
	observing.guard.Start()
	eventually(t, func() error {
		for i := range 12 {
			observing.ask(t.Context(), query{name: fmt.Sprintf("n%d.example.org.", i)})
		}
		if got := observing.guard.Snapshot()[0].State; got != "ejected" {
			return errors.New("the silent one is " + got)
		}
		return nil
	})
	before := observing.guard.Snapshot()

	guarding := guard(t, env, strings.Join(to, " "), "policy round_robin", "hedge off", "eject base 10m max 10m")
	if err := guarding.guard.Inherit(observing.guard); err != nil {
		t.Fatal(err)
	}
	guarding.guard.Start()
	observing.guard.Stop()
	for i, now := range guarding.guard.Snapshot() {
		if now.State != before[i].State || i > 0 && now.SRTT == 0 {
			t.Errorf("upstream %d: was %+v, is %+v", i, before[i], now)
		}
	}
	for _, up := range c.up {
		up.Reset()
	}
	const n = 30
	for i := range n {
		r := guarding.ask(t.Context(), query{name: fmt.Sprintf("n%d.example.org.", i)})
		if !strings.Contains(r.reply, "status: NOERROR") {
			t.Errorf("%d: %s", i, r)
		}
	}
	if got := asked(c.up[2]); got < n-3 {
		t.Errorf("the right one was asked %d of %d times", got, n)
	}
	for i := range 2 { // a trial now and then
		if got := asked(c.up[i]); got > 6 {
			t.Errorf("upstream %d, which is known to be of no use, was asked %d times", i, got)
		}
	}

	// And back again.
	again := guard(t, env, strings.Join(to, " "), "mode observe", "policy sequential")
	if err := again.guard.Inherit(guarding.guard); err != nil {
		t.Fatal(err)
	}
	again.guard.Start()
	guarding.guard.Stop()
	if got := again.guard.Snapshot()[0].State; got != "ejected" {
		t.Errorf("in mode observe again: the silent one is %s", got)
	}
	if r := again.ask(t.Context(), query{name: "n1.example.org.", tcp: true}); r.returned != "NOERROR" {
		t.Errorf("in mode observe again: %s", r)
	}
}
