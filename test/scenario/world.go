package scenario

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
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
	guards   atomic.Pointer[guard] // the one that is asked
	hosts    atomic.Pointer[string]
	episodes []episode // one for each step done
	asked    int

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
		servers: make(map[string]*fakedns.Server), registry: prometheus.NewRegistry(),
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
	corefile, err := w.writeFiles(key)
	if err != nil {
		return nil, err
	}
	w.env = environment{
		dial: w.net.Dial, rand64: random(s.Seed), logf: w.logf, lookup: w.lookup,
		metrics: metrics.New(w.registry, metrics.Options{Namespace: plugin.Namespace, Buckets: plugin.TimeBuckets}),
	}
	if err := w.schedule(s.changes, healthy); err != nil {
		return nil, err
	}
	g, err := newGuard(corefile, w.env)
	w.guards.Store(&g)
	return w, err
}

func (w *world) guard() guard { return *w.guards.Load() }

// writeFiles writes the sections that are files, and ca.pem, and returns the
// Corefile with $DIR replaced.
func (w *world) writeFiles(key *fakedns.CA) (string, error) {
	files := append([]section{{name: "ca.pem", text: string(key.PEM())}}, w.scenario.files...)
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(w.dir, filepath.Base(f.name)), []byte(f.text), 0o600); err != nil {
			return "", err
		}
	}
	return strings.ReplaceAll(w.scenario.corefile, "$DIR", w.dir), nil
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
	w.guard().Stop()
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
