package options

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/plugin"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dnsguard/dnsguard"
	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/metrics"
	"github.com/dnsguard/dnsguard/test/fakedns"
)

// ms is the unit of the tables.
const ms = time.Millisecond

// lab is fake upstreams, and directives that use them.
type lab struct {
	t        *testing.T
	net      *fakedns.Net
	up       []*fakedns.Server // the one at 10.0.0.1:53, and so on
	guards   []*dnsguard.Guard
	registry *prometheus.Registry
	metrics  *metrics.Metrics
	dial     exchange.DialFunc

	mu     sync.Mutex
	sent   [][]byte // datagrams
	chance *rand.Rand
}

// newLab puts the servers at 10.0.0.1:53, 10.0.0.2:53 and so on.
func newLab(t *testing.T, servers ...*fakedns.Server) *lab {
	t.Helper()
	l := &lab{t: t, net: fakedns.NewNet(), registry: prometheus.NewRegistry()}
	l.metrics = metrics.New(l.registry, metrics.Options{Namespace: plugin.Namespace, Buckets: plugin.TimeBuckets})
	l.dial, l.chance = l.net.Dial, rand.New(rand.NewPCG(1, 2))
	for i, s := range servers {
		addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), 53)
		l.add(addr.String(), s)
	}
	t.Cleanup(l.net.Close)
	return l
}

// add puts one more server somewhere.
func (l *lab) add(addr string, s *fakedns.Server) {
	s.Name = addr
	s.Start(time.Now())
	l.up = append(l.up, s)
	l.net.Add(netip.MustParseAddrPort(addr), s)
}

// server knows all names, RTT away.
func server(rtt time.Duration, faults ...string) *fakedns.Server {
	s := &fakedns.Server{Zones: []string{"."}, RTT: rtt}
	fail(s, faults...)
	return s
}

// fail replaces the faults of a server.
func fail(s *fakedns.Server, lines ...string) {
	faults := make([]fakedns.Fault, len(lines))
	for i, line := range lines {
		f, err := fakedns.ParseFault(line)
		if err != nil {
			panic(err)
		}
		faults[i] = f
	}
	s.Set(faults...)
}

// directive is a Corefile with one directive for the root.
// Probes for loops, which are about no other option, are left out unless that of loops is given.
func directive(to string, options ...string) string {
	if !slices.ContainsFunc(options, func(o string) bool { return strings.Contains(o, "loop ") }) {
		options = append(options, "loop off")
	}
	return "dnsguard . " + to + " {\n" + strings.Join(options, "\n") + "\n}\n"
}

// corefile makes the directives in text, and ends them with the test.
func (l *lab) corefile(text string) *dnsguard.Guard {
	l.t.Helper()
	g, err := l.build(text)
	if err != nil {
		l.t.Fatal(err)
	}
	return g
}

func (l *lab) build(text string) (*dnsguard.Guard, error) {
	return l.buildWith(text, dnsguard.Env{})
}

func (l *lab) buildWith(text string, env dnsguard.Env) (*dnsguard.Guard, error) {
	configs, err := dnsguard.Parse(caddy.NewTestController("dns", text))
	if err != nil {
		return nil, err
	}
	env.Dial, env.Metrics, env.Rand64, env.Debug = l.tap, l.metrics, l.draw, true
	first := len(l.guards)
	for _, c := range configs {
		g, err := dnsguard.New(c, env)
		if err != nil {
			return nil, err
		}
		l.guards = append(l.guards, g)
		g.Start()
		l.t.Cleanup(g.Stop)
	}
	return l.guards[first], nil
}

// draw is chance, the same in each run.
func (l *lab) draw() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.chance.Uint64()
}

// tap dials, and keeps the datagrams that are sent.
func (l *lab) tap(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	c, err := l.dial(ctx, network, addr)
	if err != nil || network != "udp" {
		return c, err
	}
	return &tapped{c, l}, nil
}

type tapped struct {
	net.Conn
	lab *lab
}

func (c *tapped) Write(b []byte) (int, error) {
	c.lab.mu.Lock()
	c.lab.sent = append(c.lab.sent, slices.Clone(b))
	c.lab.mu.Unlock()
	return c.Conn.Write(b)
}

// datagrams returns what was sent by UDP so far.
func (l *lab) datagrams() []*dns.Msg {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*dns.Msg
	for _, b := range l.sent {
		m := new(dns.Msg)
		if err := m.Unpack(b); err != nil {
			l.t.Errorf("sent a malformed query: %v", err)
		}
		out = append(out, m)
	}
	return out
}

// settle lets the upstreams be heard of once, and forgets what they have seen.
func (l *lab) settle() {
	time.Sleep(500 * ms)
	for _, s := range l.up {
		s.Reset()
	}
}

// queries returns what was asked of a server for a name, oldest first.
func queries(s *fakedns.Server, name string) []fakedns.Record {
	var out []fakedns.Record
	for _, r := range s.Log() {
		if r.Question.Name == name {
			out = append(out, r)
		}
	}
	return out
}

// asked counts what clients' queries came to at a server.
func asked(s *fakedns.Server) int {
	st := s.Stats()
	return st.Queries - st.Probes
}

// probes returns when a server was probed.
func probes(s *fakedns.Server) []time.Duration {
	var out []time.Duration
	for _, r := range s.Log() {
		if r.Probe() {
			out = append(out, r.At)
		}
	}
	return out
}

// state returns the state of upstream i of the first directive.
func (l *lab) state(i int) string { return l.guards[0].Snapshot()[i].State }

// counter adds up a counter over those of its series that have all the labels.
func (l *lab) counter(name string, labels ...string) int {
	l.t.Helper()
	families, err := l.registry.Gather()
	if err != nil {
		l.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != "coredns_dnsguard_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			var values []string
			for _, p := range m.GetLabel() {
				values = append(values, p.GetValue())
			}
			if !slices.ContainsFunc(labels, func(v string) bool { return !slices.Contains(values, v) }) {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return int(sum)
}

// open counts the sockets that the plugin has open.
func (l *lab) open(network string) int {
	synctest.Wait()
	n := 0
	for _, c := range l.net.Open() {
		if strings.HasPrefix(c, network+" ") {
			n++
		}
	}
	return n
}
