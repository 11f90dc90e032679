package scenario

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/metrics"
	"github.com/dnsguard/dnsguard/plugin/resolvconf"
	"github.com/dnsguard/dnsguard/test/fakedns"
)

// guard is the plugin, as far as scenarios need it.
type guard interface {
	Start()
	Stop()
	// Inherit takes the place of another, before Start.
	Inherit(prev guard) error
	ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error)
	// State returns the state of the upstream "10.0.0.1:53"; "" where there is none.
	State(to string) string
}

// environment is what the plugin gets from the world.
type environment struct {
	dial    exchange.DialFunc
	rand64  func() uint64
	logf    func(format string, args ...any)
	metrics *metrics.Metrics
	lookup  func(ctx context.Context, host string) ([]netip.Addr, time.Duration, error)
	// readFile returns the content of a file among the upstreams.
	readFile func(path string) ([]byte, error)
}

// world is a scenario, running.
type world struct {
	scenario *Scenario
	start    time.Time
	net      *fakedns.Net
	servers  map[string]*fakedns.Server // by address and port
	dir      string                     // of the files
	env      environment
	registry *prometheus.Registry
	guards   atomic.Pointer[[]guard] // those that are asked, in turn
	tiers    map[string]guard        // others, by the names of their Corefiles
	turns    atomic.Int64
	hosts    atomic.Pointer[string]
	episodes []episode // one for each step done
	launched int
	others   sync.WaitGroup // queries that belong to no result

	mu   sync.Mutex
	last []result // of the step under way
	log  []string
}

// ca makes one authority for all scenarios; keys cost time.
var ca = sync.OnceValues(fakedns.NewCA)

// newWorld builds servers and plugin. A healthy world has servers that know
// everything, and no faults.
func newWorld(t *testing.T, s *Scenario, healthy bool) (*world, error) {
	w := &world{
		scenario: s, start: time.Now(), net: fakedns.NewNet(),
		servers: make(map[string]*fakedns.Server), registry: prometheus.NewRegistry(), tiers: make(map[string]guard),
	}
	key, err := ca()
	if err != nil {
		return nil, err
	}
	for _, u := range s.upstreams {
		server, err := fakedns.ParseServer(u.server)
		if err != nil {
			return nil, err
		}
		server.Name, server.Keep, server.Seed = u.addr.String(), 1<<20, s.Seed
		server.Key, server.CertNames = key, []string{u.addr.Addr().String(), "dns.example"}
		if healthy {
			server.Zones, server.Except = []string{"."}, nil
		} else {
			server.Set(u.faults...)
		}
		server.Relay = w.relay
		server.Start(w.start)
		w.servers[u.addr.String()] = server
		if u.tls {
			w.net.AddTLS(u.addr, server)
		} else {
			w.net.Add(u.addr, server)
		}
	}
	if !healthy {
		w.net.Host.Set(w.start, s.Seed, s.host...)
	}
	w.dir = t.TempDir()
	if err := w.writeFiles(key); err != nil {
		return nil, err
	}
	w.env = environment{
		rand64: random(s.Seed), logf: w.logf, lookup: w.lookup,
		metrics: metrics.New(w.registry, metrics.Options{Namespace: plugin.Namespace, Buckets: plugin.TimeBuckets}),
	}
	if err := w.schedule(s.changes, healthy); err != nil {
		return nil, err
	}
	for name, text := range s.tiers {
		if w.tiers[name], err = w.newGuard(text, name); err != nil {
			return nil, err
		}
	}
	return w, w.makeGuards(s.corefile)
}

// makeGuards makes the replicas of the directive that clients ask.
func (w *world) makeGuards(corefile string) error {
	guards := make([]guard, max(w.scenario.replicas, 1))
	for i := range guards {
		var err error
		if guards[i], err = w.newGuard(corefile, strconv.Itoa(i+1)); err != nil {
			return err
		}
	}
	w.guards.Store(&guards)
	return nil
}

// guard returns the replica whose turn it is.
func (w *world) guard() guard {
	guards := *w.guards.Load()
	return guards[int(w.turns.Add(1))%len(guards)]
}

// everyGuard does something with all of them.
func (w *world) everyGuard(do func(guard)) {
	for _, g := range *w.guards.Load() {
		do(g)
	}
	for _, g := range w.tiers {
		do(g)
	}
}

// newGuard makes the directive of a replica, by its number, or of another
// server, by its name: where there is a file FILE.NAME it takes that for FILE.
func (w *world) newGuard(corefile, name string) (guard, error) {
	env := w.env
	env.readFile = func(path string) ([]byte, error) {
		if _, err := os.Stat(path + "." + name); err == nil {
			path += "." + name
		}
		return resolvconf.Read(path)
	}
	env.dial = func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
		for _, p := range w.scenario.places {
			if p.name == name && p.from == to {
				to = p.to
				break
			}
		}
		return w.net.Dial(ctx, network, to)
	}
	return newGuard(strings.NewReplacer("$DIR", w.dir, "$NAME", name).Replace(corefile), env)
}

// writeFiles writes the sections that are files, and ca.pem.
func (w *world) writeFiles(key *fakedns.CA) error {
	files := append([]section{{name: "ca.pem", text: string(key.PEM())}}, w.scenario.files...)
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(w.dir, filepath.Base(f.name)), []byte(f.text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// random returns a source of bits that is the same in each run.
func random(seed uint64) func() uint64 {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(seed, 0x6b79))
	return func() uint64 {
		mu.Lock()
		defer mu.Unlock()
		return r.Uint64()
	}
}

func (w *world) logf(format string, args ...any) {
	line := fmt.Sprintf("%v: %s", time.Since(w.start), fmt.Sprintf(format, args...))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, line)
}

// showLog shows the beginning of the plugin's log where the scenario has failed.
func (w *world) showLog(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, line := range w.log {
		if !t.Failed() || i == 12 {
			break
		}
		t.Logf("log: %s", line)
	}
}

// stop ends the plugin, and reports what it leaves behind.
func (w *world) stop(t *testing.T, before map[string]bool) {
	t.Helper()
	w.showLog(t)
	var wg sync.WaitGroup
	w.everyGuard(func(g guard) { wg.Go(g.Stop) })
	wg.Wait()
	synctest.Wait()
	for _, c := range w.net.Open() {
		t.Errorf("%s: after Stop: socket left open: %s", w.scenario.File, c)
	}
	left := 0
	for id, stack := range goroutines() {
		if !before[id] && !strings.Contains(stack, "serveStream") {
			if left++; left <= 3 {
				t.Errorf("%s: after Stop: goroutine left:\n%s", w.scenario.File, stack)
			}
		}
	}
	if left > 3 {
		t.Errorf("%s: after Stop: %d goroutines left", w.scenario.File, left)
	}
	w.net.Close()
}
