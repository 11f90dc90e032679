package observe

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/dnstap"
	"github.com/coredns/coredns/plugin/metadata"
	tap "github.com/dnstap/golang-dnstap"
	"github.com/miekg/dns"
	ot "github.com/opentracing/opentracing-go"
	"github.com/opentracing/opentracing-go/mocktracer"

	"github.com/dnsguard/dnsguard/test/fakedns"
	"github.com/dnsguard/dnsguard/test/observed"
)

// TestSpans compares the spans of attempts: names, parents, and tags.
func TestSpans(t *testing.T) {
	each(t, map[string]setting{
		"answered":  {servers: pool(2, 0, ""), options: []string{"policy sequential"}},
		"closed":    {servers: pool(3, 2, closed), options: []string{"policy sequential"}},
		"silent":    {servers: pool(2, 1, "drop"), options: []string{"policy sequential"}},
		"failover":  {servers: pool(3, 2, "refused"), options: []string{"policy sequential", "failover REFUSED"}},
		"truncated": {servers: pool(1, 1, "truncated"), options: []string{"prefer_udp"}},
	}, func(t *testing.T, s setting) {
		s.options = append(s.options, quick...)
		var got [2][]string
		stock, ours := contest(t, s)
		for i, c := range []*contender{stock, ours} {
			tracer := mocktracer.New()
			parent := tracer.StartSpan("client")
			c.ask(ot.ContextWithSpan(t.Context(), parent), query{name: "www.example.org."})
			parent.Finish()
			for _, span := range tracer.FinishedSpans() {
				child := span.ParentID == parent.Context().(mocktracer.MockSpanContext).SpanID
				got[i] = append(got[i], fmt.Sprint(span.OperationName, " ", child, " ", varies.ReplaceAllString(fmt.Sprint(span.Tags()), "...")))
			}
		}
		if !slices.Equal(got[0], got[1]) || len(got[0]) < 2 {
			t.Errorf("forward  %q\ndnsguard %q", got[0], got[1])
		}
	})
}

// TestTaps compares the messages of dnstap, from servers with all plugins.
func TestTaps(t *testing.T) {
	registerInOrder()
	port, quiet := dnsserver.Port, dnsserver.Quiet
	dnsserver.Port, dnsserver.Quiet, caddy.Quiet = "0", true, true
	t.Cleanup(func() { dnsserver.Port, dnsserver.Quiet = port, quiet })
	for title, s := range map[string]setting{
		"answered":  {servers: pool(2, 0, ""), options: []string{"policy sequential"}},
		"refused":   {servers: pool(3, 2, "refused"), options: []string{"policy sequential", "failover REFUSED"}},
		"silent":    {servers: pool(2, 1, "drop"), options: []string{"policy sequential"}},
		"closed":    {servers: pool(2, 1, closed), options: []string{"policy sequential"}},
		"by TCP":    {servers: pool(1, 0, ""), options: []string{"force_tcp"}},
		"truncated": {servers: pool(1, 1, "truncated"), options: []string{"prefer_udp"}},
	} {
		t.Run(title, func(t *testing.T) {
			var got [2][]string
			for i, name := range []string{"forward", "dnsguard"} {
				got[i] = tapped(t, name, s)
			}
			if !slices.Equal(got[0], got[1]) || len(got[0]) == 0 {
				t.Errorf("forward  %q\ndnsguard %q", got[0], got[1])
			}
		})
	}
}

// tapped asks a server, and returns what it tells of its upstreams.
func tapped(t *testing.T, name string, s setting) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name+".sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	taps := observed.ListenTaps(l)
	defer taps.Close()
	var to []string
	for i, server := range s.servers() {
		if server == nil {
			to = append(to, freshAddr()+":5353")
			continue
		}
		server.Name = fmt.Sprint("upstream ", i)
		to = append(to, listen(t, server, 0).String())
	}
	options := append(slices.Concat(s.options, quick), map[string]string{"forward": "", "dnsguard": "mode observe"}[name])
	instance, err := caddy.Start(caddy.CaddyfileInput{Filepath: "Corefile", ServerTypeName: "dns", Contents: fmt.Appendf(nil, `.:0 {
    bind 127.0.0.1
    metadata
    dnstap %s full {
        extra "{/forward/upstream} {name}"
    }
    %s . %s {
        %s
    }
}`, path, name, strings.Join(to, " "), strings.Join(options, "\n"))})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, err := range instance.ShutdownCallbacks() {
			t.Error(err)
		}
		if err := instance.Stop(); err != nil {
			t.Error(err)
		}
	}()
	const n = 3
	for i := range n {
		m := new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.example.org.", i), dns.TypeA)
		m.Id = uint16(i)
		if _, _, err := new(dns.Client).Exchange(m, instance.Servers()[0].LocalAddr().String()); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() error {
		if len(taps.Messages(tap.Message_CLIENT_RESPONSE)) < n {
			return errors.New("messages are missing")
		}
		return nil
	})
	var got []string
	for _, m := range taps.Messages(tap.Message_FORWARDER_QUERY, tap.Message_FORWARDER_RESPONSE) {
		x := m.GetMessage()
		got = append(got, fmt.Sprintf("%s %s %s from %v to %v %x %x %t %t %s", x.GetType(), x.GetSocketProtocol(), x.GetSocketFamily(),
			x.QueryAddress != nil, slices.Contains(to, net.JoinHostPort(net.IP(x.GetResponseAddress()).String(), fmt.Sprint(x.GetResponsePort()))),
			x.GetQueryMessage(), x.GetResponseMessage(), x.QueryTimeSec != nil, x.ResponseTimeSec != nil,
			varies.ReplaceAllString(string(m.GetExtra()), "...")))
	}
	return got
}

// registerInOrder puts dnsguard right before forward, as plugin.cfg does.
var registerInOrder = sync.OnceFunc(func() {
	i := slices.Index(dnsserver.Directives, "forward")
	dnsserver.Directives = slices.Insert(slices.Clone(dnsserver.Directives), i, "dnsguard")
})

// TestVerdictShown is about the metadata that mode observe has beside forward's.
func TestVerdictShown(t *testing.T) {
	for fault, want := range map[string]string{"": "same", "refused": "retried", "nxdomain": "verified"} {
		c := setting{servers: func() []*fakedns.Server {
			return []*fakedns.Server{server(), server()}
		}, options: append(quick, "policy sequential")}.contender(t, "dnsguard")
		for i := range 20 {
			c.ask(t.Context(), query{name: fmt.Sprintf("n%d.example.org.", i)})
		}
		if fault != "" {
			fail(t, c.up[0], fault)
		}
		ctx := metadata.ContextWithMetadata(t.Context())
		eventually(t, func() error { // a busy machine makes replies late
			c.ask(ctx, query{name: "www.example.org."})
			for label, want := range map[string]string{"dnsguard/verdict": want, "dnsguard/upstream": c.addrs[0].String(), "forward/upstream": c.addrs[0].String()} {
				if f := metadata.ValueFunc(ctx, label); f == nil || f() != want {
					return fmt.Errorf("%q: %s is not %s", fault, label, want)
				}
			}
			return nil
		})
	}
}

// fail replaces the fault of a server.
func fail(t *testing.T, s *fakedns.Server, fault string) {
	t.Helper()
	f, err := fakedns.ParseFault(fault)
	if err != nil {
		t.Fatal(err)
	}
	s.Set(f)
}
