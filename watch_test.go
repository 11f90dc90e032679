package dnsguard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/debug" // those that look at queries
	_ "github.com/coredns/coredns/plugin/dnstap"
	"github.com/coredns/coredns/plugin/metadata"
	clog "github.com/coredns/coredns/plugin/pkg/log"
	"github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/trace"

	tap "github.com/dnstap/golang-dnstap"
	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/forwarder"
	"github.com/dnsguard/dnsguard/test/fakedns"
	"github.com/dnsguard/dnsguard/test/observed"
)

// TestReady holds that the ready plugin never asks: upstreams that fail must
// not make all replicas unready at once.
func TestReady(t *testing.T) {
	if _, asks := any(new(Guard)).(ready.Readiness); asks {
		t.Error("a Guard is asked whether it is ready")
	}
}

// TestReadmeMetadata holds that the README lists the metadata that there are.
func TestReadmeMetadata(t *testing.T) {
	var listed, made []string
	for _, m := range regexp.MustCompile("(?m)^\\* `([^`]+)` - ").FindAllStringSubmatch(section(t, readFile(t, readme), "## Metadata"), -1) {
		listed = append(listed, m[1])
	}
	for _, f := range factsOf(&forwarder.Answer{}) {
		made = append(made, f.label)
	}
	if !slices.Equal(listed, made) {
		t.Errorf("the README lists %q, made are %q", listed, made)
	}
}

// values are the metadata that a context has of the plugin.
func values(ctx context.Context) map[string]string {
	out := make(map[string]string)
	for label, f := range metadata.ValueFuncs(ctx) {
		if name, ours := strings.CutPrefix(label, labels); ours {
			out[name] = f()
		}
	}
	if f := metadata.ValueFunc(ctx, labelForward); f == nil && len(out) > 0 || f != nil && f() != out["upstream"] {
		out[labelForward] = "is another"
	}
	return out
}

// TestMetadata holds what is known of an answer, and that it is when the reply
// is written.
func TestMetadata(t *testing.T) {
	good, refuses := listen(t, answers), listen(t, code(dns.RcodeRefused))
	deny := listen(t, code(dns.RcodeNameError))
	for name, tc := range map[string]struct {
		to      string
		options []string
		want    map[string]string
	}{
		"an answer": {good.addr, nil, map[string]string{
			"upstream": good.addr, "outcome": "ok", "attempts": "1", "hedged": "false", "steered": "false", "coalesced": "false",
		}},
		"a retry": {refuses.addr + " " + good.addr, []string{"policy sequential"}, map[string]string{
			"upstream": good.addr, "outcome": "ok", "attempts": "2", "hedged": "false", "steered": "false", "coalesced": "false",
		}},
		"a denial": {deny.addr, nil, map[string]string{
			"upstream": deny.addr, "outcome": "nxdomain", "attempts": "1", "hedged": "false", "steered": "false", "coalesced": "false",
		}},
		"a port that is closed": {"127.0.0.1:1", []string{"max_connect_attempts 1"}, map[string]string{
			"upstream": "-", "outcome": "conn_refused", "attempts": "1", "hedged": "false", "steered": "false", "coalesced": "false",
		}},
		"another plugin's answer": {deny.addr, []string{"next NXDOMAIN"}, map[string]string{}},
	} {
		t.Run(name, func(t *testing.T) {
			g := guard(t, Env{}, ".", tc.to, tc.options...)
			g.Next = &next{name: "forward"}
			ctx := metadata.ContextWithMetadata(t.Context())
			w := &onWrite{sink: sink{local: &net.UDPAddr{}, remote: &net.UDPAddr{}}}
			var got map[string]string
			w.do = func() { got = values(ctx) }
			if _, err := g.ServeDNS(ctx, w, query("www.example.org.")); err != nil {
				t.Fatal(err)
			}
			if fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// onWrite is a client for whom something happens when it gets its reply.
type onWrite struct {
	sink
	do func()
}

func (w *onWrite) WriteMsg(m *dns.Msg) error {
	w.do()
	return w.sink.WriteMsg(m)
}

// TestMetadataCancelled holds that there are metadata of a query whose client
// has gone, too: the log plugin writes a line about it.
func TestMetadataCancelled(t *testing.T) {
	g := guard(t, Env{}, ".", "127.0.0.1:1", "max_fails 0")
	ctx, cancel := context.WithCancel(metadata.ContextWithMetadata(t.Context()))
	cancel()
	if _, err := g.ServeDNS(ctx, &sink{local: &net.UDPAddr{}, remote: &net.UDPAddr{}}, query("www.example.org.")); !errors.Is(err, errCancelled) {
		t.Error(err)
	}
	if got := values(ctx); got["upstream"] != "-" || got["outcome"] == "ok" || len(got) != 6 {
		t.Errorf("got %v", got)
	}
}

// TestMetadataShared holds what is known of the queries of a crowd that asks
// the same.
func TestMetadataShared(t *testing.T) {
	const n = 20
	begun := make(chan struct{}, n)
	s := listen(t, func(m, q *dns.Msg) {
		for range n {
			<-begun
		}
		answers(m, q)
	})
	g := guard(t, Env{}, ".", s.addr, "max_fails 0", "hedge off")
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		shared int
	)
	for range n {
		wg.Go(func() {
			ctx := metadata.ContextWithMetadata(context.Background())
			go func() { // the reply comes when all have asked
				for g.inFlight.Load() < n {
					runtime.Gosched()
				}
				begun <- struct{}{}
			}()
			_, _ = g.ServeDNS(ctx, &sink{local: &net.UDPAddr{}, remote: &net.UDPAddr{}}, query("www.example.org."))
			mu.Lock()
			defer mu.Unlock()
			got := values(ctx)
			if got["upstream"] != s.addr || got["outcome"] != "ok" {
				t.Errorf("got %v", got)
			}
			if got["coalesced"] == "true" {
				shared++
			}
		})
	}
	wg.Wait()
	if shared != n-1 {
		t.Errorf("%d of %d waited for another's answer, want all but one", shared, n)
	}
}

// TestDebug holds that the debug plugin brings a line for each query that
// failed, and none for the others; and nothing does without it.
func TestDebug(t *testing.T) {
	good, fails, deny := listen(t, answers), listen(t, code(dns.RcodeServerFailure)), listen(t, code(dns.RcodeNameError))
	var out strings.Builder
	clog.SetOutput(&out)
	t.Cleanup(func() { clog.D.Clear(); clog.SetOutput(os.Stderr) })
	for _, tc := range []struct {
		on       bool
		to, want string
	}{
		{true, good.addr, ""},
		{true, deny.addr, ""},
		{false, fails.addr, ""},
		{true, fails.addr, `^\[DEBUG\] plugin/dnsguard: www\.example\.org\. IN A from 192\.0\.2\.9:99: answered with SERVFAIL after \S+, outcome servfail, attempts 1: 127\.0\.0\.1:\d+: servfail\n$`},
		{true, "127.0.0.1:1", `^\[DEBUG\] plugin/dnsguard: .*: answered with SERVFAIL after \S+, outcome conn_refused, attempts \d: 127\.0\.0\.1:1: conn_refused`},
	} {
		g := guard(t, Env{}, ".", tc.to, "max_fails 0")
		if clog.D.Clear(); tc.on {
			clog.D.Set()
		}
		out.Reset()
		w := &sink{local: &net.UDPAddr{}, remote: &net.UDPAddr{IP: net.IPv4(192, 0, 2, 9), Port: 99}}
		if _, err := g.ServeDNS(t.Context(), w, query("www.example.org.")); err != nil {
			t.Error(err)
		}
		_, got, _ := strings.Cut(out.String(), " [") // behind the time
		if got != "" {
			got = "[" + got
		}
		if (tc.want == "") != (got == "") || !regexp.MustCompile(tc.want).MatchString(got) {
			t.Errorf("debug %v, to %s: %q, want %s", tc.on, tc.to, got, tc.want)
		}
	}
}

// startServer starts CoreDNS with a Corefile, and returns where it listens by
// UDP and TCP. It is ended with the test, as far as CoreDNS ends.
func startServer(t *testing.T, corefile string) map[string]string {
	t.Helper()
	registerInOrder()
	port, quiet := dnsserver.Port, dnsserver.Quiet
	dnsserver.Port, dnsserver.Quiet, caddy.Quiet = "0", true, true
	t.Cleanup(func() { dnsserver.Port, dnsserver.Quiet = port, quiet })
	i, err := caddy.Start(caddy.CaddyfileInput{Filepath: "Corefile", Contents: []byte(corefile), ServerTypeName: "dns"})
	if err != nil {
		t.Fatalf("%v\n%s", err, corefile)
	}
	t.Cleanup(func() {
		if err := i.Stop(); err != nil {
			t.Error(err)
		}
		for _, g := range i.Storage[familyKey{}].(*family).guards {
			g.Stop()
		}
		for _, err := range i.ShutdownCallbacks() {
			t.Error(err)
		}
	})
	return map[string]string{"udp": i.Servers()[0].LocalAddr().String(), "tcp": i.Servers()[0].Addr().String()}
}

// fake serves a fake server on the loopback.
func fake(t *testing.T, faults ...string) (*fakedns.Server, string) {
	t.Helper()
	s := &fakedns.Server{Zones: []string{"."}}
	for _, line := range faults {
		f, err := fakedns.ParseFault(line)
		if err != nil {
			t.Fatal(err)
		}
		s.Set(f)
	}
	l, err := fakedns.Listen("127.0.0.1:0", s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return s, l.Addr().String()
}

func tcpListener(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestObservedUnderFire asks many queries of upstreams that lose, refuse and
// are late, with everything on that looks: each query is traced and tapped, and
// nothing of a query is touched once it is over, which the race detector sees.
func TestObservedUnderFire(t *testing.T) {
	clog.Discard()
	t.Cleanup(func() { clog.SetOutput(os.Stderr) })
	_, lossy := fake(t, "loss 30%")
	_, late := fake(t, "p 30% delay 60ms")
	_, refuses := fake(t, "p 30% refused")
	spans := observed.ListenSpans(tcpListener(t))
	defer spans.Close()
	taps := observed.ListenTaps(tcpListener(t))
	defer taps.Close()
	path := filepath.Join(t.TempDir(), "tap.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	more := observed.ListenTaps(l)
	defer more.Close()
	at := startServer(t, fmt.Sprintf(`.:0 {
    bind 127.0.0.1
    metadata
    debug
    trace zipkin http://%s/api/v2/spans {
        zipkin_max_backlog_size 100000
        zipkin_max_batch_interval 50ms
    }
    log . "{name} {/dnsguard/upstream} {/dnsguard/outcome} {/dnsguard/attempts}"
    dnstap tcp://%s full {
        extra "{/dnsguard/upstream} {/dnsguard/cause} {/dnsguard/outcome} {/trace/traceid} {name} {remote} {port}"
    }
    dnstap %s {
        extra "{/forward/upstream}"
    }
    dnsguard . %s %s %s {
        timeout 1s
        read_timeout 300ms
        eject off
    }
}`, spans.Addr(), taps.Addr(), path, lossy, late, refuses))

	const clients, each = 8, 100
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			c := dns.Client{Net: []string{"udp", "tcp"}[i%2], Timeout: 5 * time.Second}
			for j := range each {
				m, _, err := c.Exchange(query(fmt.Sprintf("n%d-%d.example%d.org.", i, j, j%5)), at[c.Net])
				if err != nil {
					t.Errorf("no reply: %v", err)
				} else if m.Rcode == dns.RcodeSuccess && !fakedns.Right("", m) {
					t.Errorf("a wrong reply: %v", m)
				}
			}
		})
	}
	wg.Wait()
	const n = clients * each
	waitFor(t, "all traces and messages", func() bool {
		return len(spans.Traces()) == n && len(taps.Messages(tap.Message_CLIENT_RESPONSE)) == n && len(more.Messages(tap.Message_CLIENT_RESPONSE)) == n
	})
	for _, err := range slices.Concat(spans.Errors(), taps.Errors(), more.Errors()) {
		t.Error(err)
	}
	attempts, abandoned := 0, 0
	for _, trace := range spans.Traces() {
		all := trace.Named("connect")
		attempts += len(all)
		for _, s := range all {
			if s.Tags[labels+"abandoned"] == "true" {
				abandoned++
			}
		}
		if own := trace.Named(pluginName); len(own) != 1 || own[0].Tags[labels+"attempts"] != fmt.Sprint(len(all)) {
			t.Errorf("%d attempts seen, the answer says %v", len(all), own)
		}
	}
	if abandoned == 0 || attempts <= n {
		t.Errorf("%d attempts traced, %d of them abandoned; %d queries of clients", attempts, abandoned, n)
	}
	waitFor(t, "queries of all attempts", func() bool { return len(taps.Messages(tap.Message_FORWARDER_QUERY)) == attempts })
	for _, m := range taps.Messages(tap.Message_FORWARDER_QUERY, tap.Message_FORWARDER_RESPONSE) {
		extra := strings.Fields(string(m.GetExtra()))
		x := m.GetMessage()
		wire := slices.Concat(x.GetQueryMessage(), x.GetResponseMessage())
		if err := new(dns.Msg).Unpack(wire); err != nil {
			t.Errorf("%v: %x", err, wire)
		}
		_, to, _ := strings.Cut(extra[0], ":")
		if len(extra) != 7 || to != fmt.Sprint(x.GetResponsePort()) || (extra[2] == "-") != (x.ResponseMessage == nil) ||
			len(extra[3]) != 16 || !strings.HasSuffix(extra[4], ".org.") || extra[5] != "127.0.0.1" {
			t.Errorf("extra %q of a message to port %d", extra, x.GetResponsePort())
		}
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("no %s", what)
		}
	}
}
