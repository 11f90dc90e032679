package dnsguard

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/coredns/coredns/plugin/cache"
	"github.com/coredns/coredns/plugin/pkg/dnstest"
	"github.com/coredns/coredns/plugin/test"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/loopguard"

	"github.com/dnsguard/dnsguard/plugin/metrics"
)

// stub is an upstream on the loopback.
type stub struct {
	addr   string
	asked  atomic.Int64
	last   atomic.Pointer[dns.Msg]             // with EDNS, which only the second try of a query whose reply is late is without
	probes sync.Map                            // names
	probed atomic.Pointer[func(m, q *dns.Msg)] // what probes for loops are answered; nil: that there is no such name
}

// listen answers queries with what reply makes of them, by UDP; nil: not at all.
func listen(t *testing.T, reply func(m, q *dns.Msg)) *stub {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &stub{addr: pc.LocalAddr().String()}
	started := make(chan struct{})
	server := &dns.Server{PacketConn: pc, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		if q.Question[0].Name == "." {
			return // a probe
		}
		if name := strings.ToLower(q.Question[0].Name); loopguard.Shaped(name) || strings.Contains(name, ".loop.dnsguard.") { // one for loops
			s.probes.Store(name, true)
			m := new(dns.Msg)
			if m.SetRcode(q, dns.RcodeNameError); s.probed.Load() != nil {
				(*s.probed.Load())(m, q)
			}
			_ = w.WriteMsg(m)
			return
		}
		s.asked.Add(1)
		if q.IsEdns0() != nil {
			s.last.Store(q)
		}
		m := new(dns.Msg)
		m.SetReply(q)
		reply(m, q)
		_ = w.WriteMsg(m)
	})}
	go func() { _ = server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() { _ = server.Shutdown() })
	return s
}

func answers(m, q *dns.Msg) {
	m.RecursionAvailable = true
	m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 1)}}
}

func code(rcode int) func(m, q *dns.Msg) {
	return func(m, _ *dns.Msg) { m.Rcode = rcode }
}

// guard returns the Guard of a stanza, which is stopped when the test ends.
func guard(t testing.TB, env Env, from string, upstream string, options ...string) *Guard {
	t.Helper()
	env.Debug = true
	g, err := New(mustParse(t, fmt.Sprintf("dnsguard %s %s {\n%s\n}\n", from, upstream, strings.Join(options, "\n"))), env)
	if err != nil {
		t.Fatal(err)
	}
	g.Start()
	t.Cleanup(g.Stop)
	return g
}

// next is the plugin behind, under a name of its own.
type next struct {
	name  string
	asked atomic.Int64
}

func (n *next) Name() string { return n.name }

func (n *next) ServeDNS(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	n.asked.Add(1)
	m := new(dns.Msg)
	m.SetRcode(r, dns.RcodeNotZone) // what nobody else says
	_ = w.WriteMsg(m)
	return dns.RcodeNotZone, nil
}

func serve(t *testing.T, g *Guard, r *dns.Msg) *dns.Msg {
	t.Helper()
	w := dnstest.NewRecorder(&test.ResponseWriter{})
	rcode, err := g.ServeDNS(t.Context(), w, r)
	if err != nil || w.Msg == nil {
		t.Fatalf("%v, %d, %v", w.Msg, rcode, err)
	}
	if w.Rcode != dns.RcodeNotZone && rcode != dns.RcodeSuccess {
		t.Errorf("returned %d though the reply was written", rcode)
	}
	if w.Msg.Id != r.Id || !w.Msg.Response || len(r.Question) == 1 && (len(w.Msg.Question) != 1 || w.Msg.Question[0] != r.Question[0]) {
		t.Errorf("not a reply to\n%v:\n%v", r, w.Msg)
	}
	return w.Msg
}

func query(name string, change ...func(m *dns.Msg)) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(name, dns.TypeA)
	for _, c := range change {
		c(m)
	}
	return m
}

func edns(m *dns.Msg) { m.SetEdns0(1400, false) }

// ede returns the text of the first Extended DNS Error, and whether there is an OPT record.
func ede(m *dns.Msg) (text string, opt bool) {
	o := m.IsEdns0()
	if o == nil {
		return "", false
	}
	for _, x := range o.Option {
		if e, ok := x.(*dns.EDNS0_EDE); ok {
			return e.ExtraText, true
		}
	}
	return "", true
}

// TestZones holds which names are this directive's.
func TestZones(t *testing.T) {
	s := listen(t, answers)
	g := guard(t, Env{}, "example.org", s.addr, "except internal.example.org")
	n := &next{name: "file"}
	g.Next = n
	for _, tc := range []struct {
		name string
		ours bool
	}{
		{"example.org.", true},
		{"www.example.org.", true},
		{"WWW.Example.ORG.", true},
		{"example.com.", false},
		{"org.", false},
		{"badexample.org.", false},
		{"internal.example.org.", false},
		{"db.internal.example.org.", false},
		{"db.INTERNAL.example.org.", false},
		{"notinternal.example.org.", true},
	} {
		if m := serve(t, g, query(tc.name)); (m.Rcode == dns.RcodeSuccess) != tc.ours {
			t.Errorf("%s: %s, want ours: %t", tc.name, dns.RcodeToString[m.Rcode], tc.ours)
		}
	}
	g.Next = nil
	if rcode, err := g.ServeDNS(t.Context(), &test.ResponseWriter{}, query("example.com.")); rcode != dns.RcodeServerFailure || err == nil {
		t.Errorf("no next plugin: %d, %v", rcode, err)
	}
}

// TestNext holds when the next forwarding plugin is asked instead.
func TestNext(t *testing.T) {
	for name, tc := range map[string]struct {
		options string
		reply   func(m, q *dns.Msg)
		next    string // its name; "": there is none
		passed  bool
	}{
		"nothing said":                  {"", code(dns.RcodeNameError), "forward", false},
		"NXDOMAIN":                      {"next NXDOMAIN", code(dns.RcodeNameError), "forward", true},
		"to another of us":              {"next NXDOMAIN", code(dns.RcodeNameError), "dnsguard", true},
		"to a plugin of another kind":   {"next NXDOMAIN", code(dns.RcodeNameError), "file", false},
		"to nobody":                     {"next NXDOMAIN", code(dns.RcodeNameError), "", false},
		"another code":                  {"next NXDOMAIN REFUSED", code(dns.RcodeServerFailure), "forward", false},
		"one of two":                    {"next NXDOMAIN REFUSED", code(dns.RcodeRefused), "forward", true},
		"an answer":                     {"next NXDOMAIN\nnext_on_nodata", answers, "forward", false},
		"NODATA, not asked for":         {"next NXDOMAIN", code(dns.RcodeSuccess), "forward", false},
		"NODATA":                        {"next_on_nodata", code(dns.RcodeSuccess), "forward", true},
		"NXDOMAIN is no NODATA":         {"next_on_nodata", code(dns.RcodeNameError), "forward", false},
		"NODATA, to a plugin of others": {"next_on_nodata", code(dns.RcodeSuccess), "file", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := listen(t, tc.reply)
			g := guard(t, Env{}, ".", s.addr, tc.options)
			n := &next{name: tc.next}
			if tc.next != "" {
				g.Next = n
			}
			m := serve(t, g, query("www.example.org."))
			if passed := m.Rcode == dns.RcodeNotZone; passed != tc.passed || (n.asked.Load() == 1) != tc.passed || s.asked.Load() != 1 {
				t.Errorf("%s, next asked %d times, want passed: %t", dns.RcodeToString[m.Rcode], n.asked.Load(), tc.passed)
			}
		})
	}
}

// TestUnsupported holds that what is not to be forwarded is answered, and reaches nobody.
func TestUnsupported(t *testing.T) {
	s := listen(t, answers)
	g := guard(t, Env{}, ".", s.addr)
	for name, tc := range map[string]struct {
		change func(m *dns.Msg)
		want   int
	}{
		"AXFR":   {func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }, dns.RcodeNotImplemented},
		"NOTIFY": {func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, dns.RcodeNotImplemented},
		"two":    {func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError},
		"none":   {func(m *dns.Msg) { m.Question = nil }, dns.RcodeFormatError},
		"HESIOD": {func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassHESIOD }, dns.RcodeRefused},
	} {
		for _, with := range []bool{false, true} {
			r := query("example.org.")
			if with {
				edns(r)
			}
			tc.change(r)
			m := serve(t, g, r)
			if text, opt := ede(m); m.Rcode != tc.want || opt != with || (text != "") != with {
				t.Errorf("%s: %v, want %s, with EDE: %t", name, m, dns.RcodeToString[tc.want], with)
			}
		}
	}
	if n := s.asked.Load(); n != 0 {
		t.Errorf("the upstream was asked %d times", n)
	}
}

// TestMaxConcurrent holds that the query that is one too many is refused at once, and counted.
func TestMaxConcurrent(t *testing.T) {
	release := make(chan struct{})
	s := listen(t, func(m, q *dns.Msg) { <-release; answers(m, q) })
	reg := prometheus.NewRegistry()
	g := guard(t, Env{Metrics: metrics.New(reg, metrics.Options{Namespace: "coredns"})}, ".", s.addr, "max_concurrent 2")
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			if m := serve(t, g, query(fmt.Sprintf("n%d.example.org.", i))); m.Rcode != dns.RcodeSuccess {
				t.Errorf("%v", m)
			}
		})
	}
	for g.inFlight.Load() < 2 {
		runtime.Gosched()
	}
	for range 3 {
		m := serve(t, g, query("n2.example.org.", edns))
		if text, _ := ede(m); m.Rcode != dns.RcodeRefused || text == "" {
			t.Errorf("%v, want REFUSED that says why", m)
		}
	}
	close(release)
	wg.Wait()
	if m := serve(t, g, query("n3.example.org.")); m.Rcode != dns.RcodeSuccess {
		t.Errorf("%v after the others were answered", m)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "coredns_dnsguard_max_concurrent_rejects_total" && f.Metric[0].Counter.GetValue() != 3 {
			t.Errorf("%v", f)
		}
	}
}

// TestEDE holds that clients are told why there is no answer, where they have EDNS.
func TestEDE(t *testing.T) {
	closed := listen(t, answers)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.addr = pc.LocalAddr().String()
	pc.Close()
	for name, addr := range map[string]string{
		"port closed": closed.addr,
		"SERVFAIL":    listen(t, code(dns.RcodeServerFailure)).addr,
	} {
		g := guard(t, Env{}, ".", addr)
		for _, with := range []bool{false, true} {
			r := query(fmt.Sprintf("%t.example.org.", with))
			if with {
				edns(r)
			}
			m := serve(t, g, r)
			if text, opt := ede(m); m.Rcode != dns.RcodeServerFailure || opt != with || strings.Contains(text, addr) != with {
				t.Errorf("%s: %v, want SERVFAIL, with EDE: %t", name, m, with)
			}
		}
	}
}

// TestHopByHop holds what of a client's EDNS reaches the upstream, and what of the upstream's comes back.
func TestHopByHop(t *testing.T) {
	s := listen(t, func(m, q *dns.Msg) {
		answers(m, q)
		m.SetEdns0(4096, true)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_NSID{Code: dns.EDNS0NSID, Nsid: "aa"}, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeStaleAnswer, ExtraText: "old"}}
	})
	options := func(m *dns.Msg) {
		m.SetEdns0(4000, true)
		m.IsEdns0().Option = []dns.EDNS0{
			&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}, &dns.EDNS0_NSID{Code: dns.EDNS0NSID}, &dns.EDNS0_LOCAL{Code: 65001, Data: []byte("x")},
		}
	}
	for option, want := range map[string][]uint16{"": nil, "edns_options nsid": {dns.EDNS0NSID}, "edns_options all": {dns.EDNS0NSID, 65001}} {
		g := guard(t, Env{}, ".", s.addr, option)
		m := serve(t, g, query("www.example.org.", options))
		sent := s.last.Load().IsEdns0()
		if sent == nil || sent.UDPSize() != 1232 || !sent.Do() {
			t.Errorf("%q: sent %v, want our own OPT with DO", option, sent)
			continue
		}
		var got []uint16
		for _, o := range sent.Option {
			if o.Option() != loopguard.OptionCode { // which is of each hop
				got = append(got, o.Option())
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q: sent options %v, want %v", option, got, want)
		}
		back := 1 // the error, and the NSID where it may pass
		if want != nil {
			back = 2
		}
		if text, _ := ede(m); text != "old" || len(m.IsEdns0().Option) != back || m.IsEdns0().UDPSize() != 1232 {
			t.Errorf("%q: reply with %v, want %d options", option, m.IsEdns0(), back)
		}
		if m := serve(t, g, query("www.example.org.")); m.IsEdns0() != nil {
			t.Errorf("%q: EDNS to a client without: %v", option, m)
		}
	}
}

// TestStop holds that a query in flight is answered, and that nothing remains.
func TestStop(t *testing.T) {
	release := make(chan struct{})
	s := listen(t, func(m, q *dns.Msg) { <-release; answers(m, q) })
	g, err := New(mustParse(t, "dnsguard . "+s.addr), Env{Debug: true})
	if err != nil {
		t.Fatal(err)
	}
	g.Start()
	got := make(chan *dns.Msg)
	go func() { got <- serve(t, g, query("www.example.org.")) }()
	for s.asked.Load() == 0 {
		runtime.Gosched()
	}
	stopped := make(chan struct{})
	go func() { g.Stop(); close(stopped) }()
	close(release)
	if m := <-got; m.Rcode != dns.RcodeSuccess || len(m.Answer) != 1 {
		t.Errorf("%v", m)
	}
	<-stopped
	for _, u := range g.Snapshot() {
		if u.Outstanding != 0 {
			t.Errorf("%+v", u)
		}
	}
}

func TestNewErrors(t *testing.T) {
	cfg := mustParse(t, "dnsguard . 192.0.2.1")
	cfg.Policy = "nearest"
	if g, err := New(cfg, Env{}); err == nil || g != nil {
		t.Errorf("%v, %v, want an error for the policy", g, err)
	}
	cfg = mustParse(t, "dnsguard . 192.0.2.1")
	cfg.HealthDomain = "a..b"
	if g, err := New(cfg, Env{}); err == nil || g != nil {
		t.Errorf("%v, %v, want an error for the name of probes", g, err)
	}
}

// TestCancelledIsNotCached holds that a client which goes away leaves no failure in the cache for others.
func TestCancelledIsNotCached(t *testing.T) {
	release := make(chan struct{})
	s := listen(t, func(m, q *dns.Msg) { <-release; answers(m, q) })
	c := cache.New()
	c.Next = guard(t, Env{}, ".", s.addr)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	w := dnstest.NewRecorder(&test.ResponseWriter{})
	if _, err := c.ServeDNS(ctx, w, query("www.example.org.")); err == nil || w.Msg != nil {
		t.Errorf("cancelled: %v, wrote %v", err, w.Msg)
	}
	close(release)
	w = dnstest.NewRecorder(&test.ResponseWriter{})
	if _, err := c.ServeDNS(context.Background(), w, query("www.example.org.")); err != nil || w.Rcode != dns.RcodeSuccess {
		t.Errorf("another client: %v, %s", err, dns.RcodeToString[w.Rcode])
	}
}
