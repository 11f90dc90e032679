package dnsguard

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/explain"
	"github.com/dnsguard/dnsguard/plugin/loopguard"
	"github.com/dnsguard/dnsguard/plugin/metrics"
	"github.com/dnsguard/dnsguard/plugin/recovery"
	"github.com/dnsguard/dnsguard/plugin/resolvconf"
	"github.com/dnsguard/dnsguard/plugin/upstream"
	"github.com/dnsguard/dnsguard/plugin/zones"
)

// Env is what comes from outside: the network, chance, and where to tell what
// happens. The zero value of each field stands for the real one.
type Env struct {
	// Dial opens sockets.
	Dial exchange.DialFunc
	// Rand64 draws unpredictable bits.
	Rand64 func() uint64
	// Logf takes the log lines, one per change of state.
	Logf func(level Level, format string, args ...any)
	// Metrics counts. Several Guards may share one.
	Metrics *metrics.Metrics
	// Lookup returns the addresses of a host name among TO, and how long they may be used. Addresses together with
	// an error may be incomplete.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, time.Duration, error)
	// ReadFile returns the content of a file among TO.
	ReadFile func(path string) ([]byte, error)
	// Listens reports whether the server itself is asked at an address: host names are not looked up there.
	Listens func(addr netip.AddrPort) bool
	// OwnAddrs returns the addresses of this host.
	OwnAddrs func() ([]netip.Addr, error)
	// Getenv returns what the environment says.
	Getenv func(name string) string
	// Cluster returns what tells this Kubernetes cluster from others. It is called in the background, until it says so. Nil: there is none.
	Cluster func(ctx context.Context) (string, error)
	// Debug lets a panic in a goroutine of ours end the process, as CoreDNS's debug plugin has it.
	Debug bool

	recoverer *recovery.Recoverer // nil with Debug
}

// Level is the weight of a log line.
type Level int

// The levels.
const (
	LevelInfo Level = iota
	LevelWarning
	LevelError
)

func (e *Env) fill(cfg *Config) {
	if e.Dial == nil {
		e.Dial = exchange.NetDial(cfg.SourceAddress)
	}
	if e.Rand64 == nil {
		e.Rand64 = rand.Uint64 // ChaCha8, seeded by the kernel: a CSPRNG without a system call
	}
	if e.Logf == nil {
		e.Logf = func(Level, string, ...any) {}
	}
	if e.Metrics == nil {
		e.Metrics = metrics.Unregistered()
	}
	if !e.Debug {
		e.recoverer = recovery.New(func(where string, cause any, stack []byte) {
			e.Logf(LevelError, "recovered from a panic in %s, which is logged once: %v\n%s", where, cause, stack)
		}, e.Metrics.Panicked)
	}
	if e.ReadFile == nil {
		e.ReadFile = resolvconf.Read
	}
	if e.Listens == nil {
		e.Listens = func(netip.AddrPort) bool { return false }
	}
	if e.Lookup == nil {
		e.Lookup = newLookup(cfg.Resolvers, e.Listens, e.recoverer)
	}
	if e.Getenv == nil {
		e.Getenv = os.Getenv
	}
	if e.OwnAddrs == nil {
		e.OwnAddrs = interfaceAddrs
	}
}

func (e *Env) draw(n int) int {
	return int(e.Rand64() % uint64(n))
}

// New returns a Guard for a directive, with the upstreams that are known by
// their addresses or in a file by now. It opens no socket, and does nothing
// before Start, but serves queries.
func New(cfg Config, env Env) (*Guard, error) {
	env.fill(&cfg)
	g := &Guard{cfg: cfg, env: env, log: newStateLog(cfg.stateLogf(env.Logf)), passing: passing(&cfg)}
	g.loops = newLoops(g)
	g.follower = newFollower(g)
	p, err := g.newPool(g.follower.endpoints(), nil, false)
	if err != nil {
		return nil, err
	}
	g.pool.Store(p)
	g.siblings = []*Guard{g}
	if !cfg.Explain.Off {
		g.audience = explain.NewAudience(cfg.Explain.To, env.OwnAddrs)
	}
	return g, nil
}

// passing returns which EDNS options upstreams may see; nil: none.
func passing(cfg *Config) func(code uint16) bool {
	switch {
	case cfg.EDNSAll:
		return func(code uint16) bool { return code != loopguard.OptionCode }
	case len(cfg.EDNSOptions) > 0:
		return func(code uint16) bool {
			for _, c := range cfg.EDNSOptions {
				if c == code {
					return code != loopguard.OptionCode // which is the loop guard's
				}
			}
			return false
		}
	}
	return nil
}

// Inherit has g begin with what prev knows, whose place it takes: the sockets,
// round trips, states and zones of the upstreams that both have. It is called
// before Start and before the first query; prev goes on until it is stopped.
func (g *Guard) Inherit(prev *Guard) error {
	g.follower.inherit(prev.follower)
	g.loops.inherit(prev.loops)
	p, err := g.newPool(g.follower.endpoints(), prev.pool.Load(), false)
	if err != nil {
		return err
	}
	g.pool.Swap(p).drain(0, nil)
	return nil
}

// running is what Start has started.
type running struct {
	cancel  context.CancelFunc
	wg      sync.WaitGroup // what follows the lists of upstreams
	untrack func()

	mu       sync.Mutex // held while the pool is replaced
	probing  func()     // ends the probes of the pool
	draining sync.WaitGroup
}

// Start begins to look after the pool.
func (g *Guard) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{cancel: cancel, untrack: g.env.Metrics.Track(g)}
	g.running = r
	p := g.pool.Load()
	if l := g.loops; l != nil {
		l.warn(p.endpoints())
		if l.g.cfg.Loop.Key == nil && l.cluster.Load() == nil && g.env.Cluster != nil {
			g.env.recoverer.Go(&r.wg, "asking what the cluster is", func() { l.learnCluster(ctx) })
		}
	}
	r.probing = p.probing(g.env.recoverer)
	g.follower.start(ctx, &r.wg)
}

// follow takes the upstreams for the pool that are listed now. Queries under
// way go on with the pool that they have begun with.
func (g *Guard) follow() {
	r := g.running
	r.mu.Lock()
	defer r.mu.Unlock()
	old, endpoints := g.pool.Load(), g.follower.endpoints()
	if old.serves(endpoints) {
		return
	}
	p, err := g.newPool(endpoints, old, true)
	if err != nil {
		g.env.Logf(LevelWarning, "upstreams of %s are not changed: %v", g.cfg.From, err)
		return
	}
	g.pool.Store(p)
	r.probing()
	if g.loops != nil {
		g.loops.warn(endpoints)
	}
	r.probing = p.probing(g.env.recoverer)
	g.env.recoverer.Go(&r.draining, "closing upstreams", func() { old.drain(g.cfg.longest()+drainEvery, p) })
	g.env.Logf(LevelInfo, "upstreams of %s are now %s; were %s", g.cfg.From, p, old)
}

// wake has the prober look for an upstream that wants a probe.
func (g *Guard) wake() {
	if p := g.pool.Load(); p != nil && p.prober != nil {
		p.prober.Wake()
	}
}

// Stop waits until the queries in flight are answered, then closes all
// sockets and ends all goroutines.
func (g *Guard) Stop() {
	g.rest()
	g.pool.Load().drain(g.cfg.longest()+drainEvery, nil)
	g.taps.close()
}

// rest ends the looking after the pool. Queries are still served.
func (g *Guard) rest() {
	if r := g.running; r != nil {
		r.cancel()
		r.wg.Wait()
		r.probing()
		r.draining.Wait()
		r.untrack()
		g.running = nil
		if o := g.pool.Load().observing; o != nil {
			o.summary.Flush()
		}
	}
}

// Zones returns the sizes of what is known of zones.
func (g *Guard) Zones() zones.Stats { return g.pool.Load().forwarder.Zones() }

// InFlight returns the number of client queries in flight.
func (g *Guard) InFlight() int64 { return g.inFlight.Load() }

// Snapshot returns what is known of each upstream, in the order of the pool.
func (g *Guard) Snapshot() []upstream.Snapshot {
	ups := g.pool.Load().upstreams
	out := make([]upstream.Snapshot, len(ups))
	for i, u := range ups {
		out[i] = u.Snapshot()
	}
	return out
}
