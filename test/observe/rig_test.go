package observe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/forward"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dnsguard/dnsguard"
	"github.com/dnsguard/dnsguard/plugin/metrics"
	"github.com/dnsguard/dnsguard/test/fakedns"
)

const ms = time.Millisecond

// contender is forward, or dnsguard in mode observe, before upstreams of its own.
type contender struct {
	t        *testing.T
	name     string
	handler  plugin.Handler
	up       []*fakedns.Server
	addrs    []netip.AddrPort     // of those that listen
	registry *prometheus.Registry // of dnsguard
	guard    *dnsguard.Guard      // nil: forward

	mu    sync.Mutex
	lines []string // of its log
}

// setting is what both contenders get alike.
type setting struct {
	servers   func() []*fakedns.Server
	listen    func(addr string, s *fakedns.Server) (*fakedns.Listener, error) // default: plain DNS
	transport string                                                          // before the addresses, as "tls://"
	options   []string
	next      plugin.Handler // behind
}

// contest makes forward and dnsguard from a setting.
func contest(t *testing.T, s setting) (stock, ours *contender) {
	t.Helper()
	return s.contender(t, "forward"), s.contender(t, "dnsguard")
}

func (s setting) contender(t *testing.T, name string) *contender {
	t.Helper()
	c := &contender{t: t, name: name, up: s.servers()}
	options := slices.Clone(s.options)
	listen := s.listen
	if listen == nil {
		listen = fakedns.Listen
	}
	var to []string
	for i, server := range c.up {
		// An address of its own, so that no other test takes a port that is to be closed.
		addr := freshAddr()
		if server == nil {
			c.up[i] = new(fakedns.Server) // nothing listens
			to = append(to, s.transport+addr+":5353")
			continue
		}
		server.Name = fmt.Sprint("upstream ", i) // the same draws for both
		l, err := listen(addr+":0", server)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		to = append(to, s.transport+l.Addr().String())
		c.addrs = append(c.addrs, l.Addr())
		for j, option := range options {
			options[j] = strings.ReplaceAll(option, fmt.Sprint("$", i), addr)
		}
	}
	c.handler = c.build(strings.Join(to, " "), options, s.next)
	return c
}

// waitClosed waits until the port of upstream i, which is to refuse, does.
func (c *contender) waitClosed(i int) {
	c.t.Helper()
	eventually(c.t, func() error {
		conn, err := net.Dial("tcp", c.addrs[i].String())
		if errors.Is(err, syscall.ECONNREFUSED) {
			return nil
		}
		if err == nil {
			conn.Close()
			return fmt.Errorf("port of upstream %d is open", i)
		}
		return err
	})
}

var addrs atomic.Uint32

// freshAddr is an address of the loopback that nobody else uses.
func freshAddr() string {
	n := addrs.Add(1)
	return netip.AddrFrom4([4]byte{127, byte(1 + n>>16), byte(n >> 8), byte(n)}).String()
}

// build makes the plugin from a Corefile's directive, and starts it.
func (c *contender) build(to string, options []string, next plugin.Handler) plugin.Handler {
	c.t.Helper()
	block := " . " + to + " {\n" + strings.Join(options, "\n") + "\n"
	if c.name == "forward" {
		return newForward(c.t, "forward"+block+"}\n", next)
	}
	configs, err := dnsguard.Parse(caddy.NewTestController("dns", "dnsguard"+block+"mode observe\n}\n"))
	if err != nil {
		c.t.Fatal(err)
	}
	c.registry = prometheus.NewRegistry()
	c.guard, err = dnsguard.New(configs[0], dnsguard.Env{
		Metrics: metrics.New(c.registry, metrics.Options{Namespace: plugin.Namespace, Buckets: plugin.TimeBuckets}),
		Logf:    c.log,
		Debug:   true,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.guard.Next = next
	c.guard.Start()
	c.t.Cleanup(c.guard.Stop)
	return c.guard
}

func (c *contender) log(_ dnsguard.Level, format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines = append(c.lines, fmt.Sprintf(format, args...))
}

// newForward makes CoreDNS's plugin as a server would.
func newForward(t *testing.T, corefile string, next plugin.Handler) *forward.Forward {
	t.Helper()
	controller := caddy.NewTestController("dns", corefile)
	setup, err := caddy.DirectiveAction("dns", "forward")
	if err == nil {
		err = setup(controller)
	}
	if err != nil {
		t.Fatal(err)
	}
	f, ok := dnsserver.GetConfig(controller).Plugin[0](next).(*forward.Forward)
	if !ok {
		t.Fatal("not forward")
	}
	f.Next = next
	if err := f.OnStartup(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.OnShutdown() })
	return f
}

// query is what a client asks. Without more: A, by UDP, without EDNS.
type query struct {
	name  string
	qtype uint16
	tcp   bool
	size  uint16 // of its buffer; 0: no EDNS
	msg   *dns.Msg
}

func (q query) pack() *dns.Msg {
	if q.msg != nil {
		return q.msg.Copy()
	}
	m := new(dns.Msg).SetQuestion(q.name, dns.TypeA)
	if q.qtype != 0 {
		m.Question[0].Qtype = q.qtype
	}
	if q.size > 0 {
		m.SetEdns0(q.size, true)
	}
	return m
}

// result is what came of a query.
type result struct {
	returned string // the code that the plugin returns, and its error
	reply    string // all of the message; "" where none was written
}

func (r result) String() string { return fmt.Sprintf("returned %q and wrote %q", r.returned, r.reply) }

func (c *contender) ask(ctx context.Context, q query) result {
	m := q.pack()
	w := &writer{tcp: q.tcp}
	rcode, err := c.handler.ServeDNS(ctx, request.NewScrubWriter(m, w), m)
	r := result{returned: dns.RcodeToString[rcode]}
	if err != nil {
		r.returned += ": " + anonymous(err)
	}
	if w.msg != nil {
		if w.msg.Id != m.Id {
			c.t.Errorf("%s: reply with another ID", c.name)
		}
		w.msg.Id = 0
		r.reply = w.msg.String()
	}
	return r
}

// varies is what differs from run to run in the text of an error: where it is noticed first that the other end has reset a
// connection, addresses, and what a parser does not like in garbage.
var varies = regexp.MustCompile(`(dial|read|write) tcp \S+: (connect|read|write): (connection reset by peer|broken pipe)|127\.\d+\.\d+\.\d+(:\d+)?|dns: .*`)

func anonymous(err error) string { return varies.ReplaceAllString(err.Error(), "...") }

// sent is what an upstream was asked, probes apart.
func sent(s *fakedns.Server) []string {
	var out []string
	for _, r := range s.Log() {
		if !r.Probe() {
			out = append(out, fmt.Sprint(r.Proto, " ", r.Question, " EDNS ", r.EDNS, r.UDPSize, r.Options, " size ", r.Size))
		}
	}
	return out
}

// tries is how often a difference must show before it is believed: on a busy machine a reply may miss a time-out.
const tries = 3

// agree asks both contenders of a setting the same, and reports what differs.
// It returns dnsguard, as the last try has left it.
func agree(t *testing.T, s setting, queries ...query) *contender {
	t.Helper()
	for try := 1; ; try++ {
		stock, ours := contest(t, s)
		differences := compare(t, stock, ours, queries...)
		if len(differences) == 0 {
			return ours
		}
		if try == tries {
			t.Error(strings.Join(differences, "\n"))
			return ours
		}
	}
}

// compare asks both the same, one query after the other, and returns what differs.
func compare(t *testing.T, stock, ours *contender, queries ...query) (differences []string) {
	t.Helper()
	want, got := make([]result, len(queries)), make([]result, len(queries))
	var wg sync.WaitGroup
	for c, out := range map[*contender][]result{stock: want, ours: got} {
		wg.Go(func() {
			for i, q := range queries {
				out[i] = c.ask(t.Context(), q)
			}
		})
	}
	wg.Wait()
	for i, q := range queries {
		if got[i] != want[i] {
			differences = append(differences, fmt.Sprintf("query %d (%v):\nforward  %s\ndnsguard %s", i, q, want[i], got[i]))
		}
	}
	return append(differences, compareSent(stock, ours)...)
}

// compareSent returns where the upstreams of the two were not asked the same, in the same order.
func compareSent(stock, ours *contender) (differences []string) {
	for i := range stock.up {
		if want, got := sent(stock.up[i]), sent(ours.up[i]); !slices.Equal(got, want) {
			differences = append(differences, fmt.Sprintf("upstream %d:\nforward sent  %q\ndnsguard sent %q", i, want, got))
		}
	}
	return differences
}

// each runs many tests at once, which mostly wait.
func each[T any](t *testing.T, cases map[string]T, test func(t *testing.T, c T)) {
	t.Helper()
	turns := make(chan struct{}, 24)
	var wg sync.WaitGroup
	for name, c := range cases {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			t.Run(name, func(t *testing.T) { test(t, c) })
		})
	}
	wg.Wait()
}

// server knows all names; faults are lines as in scenarios.
func server(faults ...string) *fakedns.Server {
	s := &fakedns.Server{Zones: []string{"."}}
	var all []fakedns.Fault
	for _, line := range faults {
		f, err := fakedns.ParseFault(line)
		if err != nil {
			panic(line + ": " + err.Error())
		}
		all = append(all, f)
	}
	s.Set(all...)
	return s
}

// closed is the fault of an upstream whose port is.
const closed = "closed port"

// pool returns a function that makes n servers, of which the first k have the fault.
func pool(n, k int, fault string) func() []*fakedns.Server {
	return func() []*fakedns.Server {
		var out []*fakedns.Server
		for i := range n {
			switch {
			case i >= k || fault == "":
				out = append(out, server())
			case fault == closed:
				out = append(out, nil)
			default:
				out = append(out, server(fault))
			}
		}
		return out
	}
}

// eventually polls until f returns nil.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	tick := time.NewTicker(5 * ms)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); ; {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
		<-tick.C
	}
}

// counter is a counter of dnsguard, added up over the series with all the labels, which are "name=value".
func (c *contender) counter(name string, labels ...string) int {
	c.t.Helper()
	families, err := c.registry.Gather()
	if err != nil {
		c.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != "coredns_dnsguard_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			var have []string
			for _, p := range m.GetLabel() {
				have = append(have, p.GetName()+"="+p.GetValue())
			}
			if !slices.ContainsFunc(labels, func(l string) bool { return !slices.Contains(have, l) }) {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return int(sum)
}

// write writes a file whose path can be in a Corefile.
func write(t *testing.T, name string, content []byte) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "observe")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// writer is the client's dns.ResponseWriter.
type writer struct {
	tcp bool
	msg *dns.Msg
}

func (w *writer) WriteMsg(m *dns.Msg) error {
	wire, err := m.Pack()
	if err != nil {
		return err
	}
	_, err = w.Write(wire)
	return err
}

func (w *writer) Write(wire []byte) (int, error) {
	w.msg = new(dns.Msg)
	return len(wire), w.msg.Unpack(wire)
}

func (w *writer) LocalAddr() net.Addr { return &net.UDPAddr{IP: net.IPv4(10, 96, 0, 10), Port: 53} }

func (w *writer) RemoteAddr() net.Addr {
	if w.tcp {
		return &net.TCPAddr{IP: net.IPv4(10, 1, 0, 1), Port: 40_000}
	}
	return &net.UDPAddr{IP: net.IPv4(10, 1, 0, 1), Port: 40_000}
}

func (w *writer) Close() error        { return nil }
func (w *writer) TsigStatus() error   { return nil }
func (w *writer) TsigTimersOnly(bool) {}
func (w *writer) Hijack()             {}
