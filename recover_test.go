package dnsguard

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin/pkg/dnstest"
	"github.com/coredns/coredns/plugin/test"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/metrics"
)

// TestRecover holds that a panic in a goroutine of ours is counted, logged once with its stack, and a failure of that query alone.
func TestRecover(t *testing.T) {
	s := listen(t, answers)
	var (
		mu    sync.Mutex
		lines []string
	)
	reg := prometheus.NewRegistry()
	dial := exchange.NetDial(netip.Addr{})
	g, err := New(mustParse(t, "dnsguard . "+s.addr), Env{
		Dial: func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
			if network == "tcp" {
				panic("no TCP today")
			}
			return dial(ctx, network, addr)
		},
		Logf: func(level Level, format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			if level == LevelError {
				lines = append(lines, fmt.Sprintf(format, args...))
			}
		},
		Metrics: metrics.New(reg, metrics.Options{Namespace: "coredns"}),
	})
	if err != nil {
		t.Fatal(err)
	}
	g.Start()
	defer g.Stop()
	for i := range 3 {
		if m := serve(t, g, query(fmt.Sprintf("n%d.example.org.", i))); m.Rcode != dns.RcodeSuccess {
			t.Errorf("by UDP: %v", m)
		}
		g.pool.Load().upstreams[0].Snapshot() // no lock is left behind
		w := dnstest.NewRecorder(&test.ResponseWriter{TCP: true})
		if _, err := g.ServeDNS(t.Context(), w, query(fmt.Sprintf("t%d.example.org.", i))); err != nil || w.Rcode != dns.RcodeServerFailure {
			t.Errorf("by TCP: %v, %v", w.Msg, err)
		}
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "coredns_dnsguard_panics_total" && f.Metric[0].Counter.GetValue() < 3 {
			t.Errorf("%v, want three at least", f)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(lines) != 1 || !strings.HasPrefix(lines[0], "recovered from a panic in connecting, which is logged once: no TCP today\n") || !strings.Contains(lines[0], "recover_test.go") {
		t.Errorf("logged %q", lines)
	}
}

// TestDebugPanics holds that the debug plugin of the server block leaves panics alone.
func TestDebugPanics(t *testing.T) {
	for _, debug := range []bool{false, true} {
		c := caddy.NewTestController("dns", "dnsguard . 192.0.2.1")
		dnsserver.GetConfig(c).Debug = debug
		if err := setup(c); err != nil {
			t.Fatal(err)
		}
		var g *Guard
		for _, p := range dnsserver.GetConfig(c).Plugin {
			g, _ = p(nil).(*Guard)
		}
		if got := g.env.recoverer == nil; got != debug {
			t.Errorf("debug %t: panics end the process: %t", debug, got)
		}
		g.Stop()
	}
}

// TestRecoverFollowing holds that lists are followed on after a panic of whoever looks at them, and stay as they were until then.
func TestRecoverFollowing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := surround(t, "192.0.2.1", "192.0.2.2", "192.0.2.3")
		s.recover = true
		s.write(resolvConfPath, "nameserver 192.0.2.1\n")
		s.resolve("dns.example", panics)
		g := s.start("dnsguard . "+resolvConfPath+" dns.example {\npolicy round_robin\n}", nil)
		defer g.Stop()
		s.write(resolvConfPath, panics)
		time.Sleep(5 * time.Second)
		s.asked()
		s.load(g, 10)
		if got := s.asked(); got != "192.0.2.1" {
			t.Errorf("asked %s, want the list as it was", got)
		}
		s.write(resolvConfPath, "nameserver 192.0.2.2\n")
		s.resolve("dns.example", "192.0.2.3 30s")
		time.Sleep(30 * time.Second)
		s.asked()
		s.load(g, 10)
		if got := s.asked(); got != "192.0.2.2 192.0.2.3" {
			t.Errorf("asked %s, want the new list", got)
		}
		for _, place := range []string{"following a file", "following a host name"} {
			if n := s.logged("recovered from a panic in " + place + ","); n != 1 {
				t.Errorf("%d lines about %s, want one", n, place)
			}
		}
	})
}
