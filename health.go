package dnsguard

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/forwarder"
	"github.com/dnsguard/dnsguard/plugin/metrics"
	"github.com/dnsguard/dnsguard/plugin/probe"
	"github.com/dnsguard/dnsguard/plugin/recovery"
	"github.com/dnsguard/dnsguard/plugin/selector"
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
	// LookupHost returns the addresses of a host name among TO.
	LookupHost func(ctx context.Context, host string) ([]netip.Addr, error)
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

// pool is the upstreams of one directive, and what works on them.
type pool struct {
	upstreams []*upstream.Upstream
	forwarder *forwarder.Forwarder
	prober    *probe.Prober
	log       *stateLog
}

// lookupTimeoutAll bounds the lookups of all host names at the start.
const lookupTimeoutAll = 10 * time.Second

// New returns a Guard for a directive, with its pool, that does nothing yet.
func New(cfg Config, env Env) (*Guard, error) {
	env.fill(cfg)
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeoutAll)
	defer cancel()
	endpoints, err := expandTo(ctx, cfg.To, readResolvConf, env.LookupHost)
	if err != nil {
		return nil, err
	}
	if len(endpoints) > forwarder.MaxUpstreams {
		return nil, fmt.Errorf("%d upstreams: must be at most %d", len(endpoints), forwarder.MaxUpstreams)
	}
	g := &Guard{cfg: cfg, env: env}
	switch {
	case cfg.EDNSAll:
		g.passing = func(uint16) bool { return true }
	case len(cfg.EDNSOptions) > 0:
		g.passing = func(code uint16) bool {
			for _, c := range cfg.EDNSOptions {
				if c == code {
					return true
				}
			}
			return false
		}
	}
	if g.pool, err = newPool(cfg, env, endpoints); err != nil {
		return nil, err
	}
	return g, nil
}

func (e *Env) fill(cfg Config) {
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
	if e.LookupHost == nil {
		e.LookupHost = newLookup(cfg.Resolvers, e.recoverer)
	}
}

func (e *Env) draw(n int) int {
	return int(e.Rand64() % uint64(n))
}

func newPool(cfg Config, env Env, endpoints []Endpoint) (p *pool, err error) {
	p = &pool{log: newStateLog(env.Logf)}
	defer func() {
		if err != nil {
			p.closeUpstreams()
		}
	}()
	now := time.Now()
	for _, e := range endpoints {
		u, err := p.newUpstream(cfg, env, e, now)
		if err != nil {
			return p, err
		}
		p.upstreams = append(p.upstreams, u)
	}
	policy, err := selector.New(cfg.Policy)
	if err != nil {
		return p, err
	}
	p.forwarder = forwarder.New(forwarder.Config{
		Upstreams: p.upstreams, Policy: policy, ForceTCP: cfg.ForceTCP, PreferUDP: cfg.PreferUDP,
		Timeout: cfg.Timeout, Lost: max(lostWait, cfg.ReadTimeout), MaxAttempts: maxAttempts(cfg), Hedge: cfg.Hedge, Trust: cfg.NXDomainTrust,
		Eject: cfg.ejects(), Failfast: cfg.FailfastAllUnhealthy, Failover: cfg.Failover,
		Private: privateZones(cfg.PrivateZones, p.upstreams), Draw: env.draw, Observer: env.Metrics,
	})
	if cfg.MaxFails == 0 {
		return p, nil // as in forward: no health checks
	}
	p.prober, err = probe.New(probe.Config{
		Upstreams: p.upstreams, Interval: cfg.HealthInterval, Domain: cfg.HealthDomain, NoRec: cfg.HealthNoRec, TCP: cfg.ForceTCP,
		Recoverer: env.recoverer,
	})
	return p, err
}

// lostWait is how long a client waits where no upstream gives a sign of life,
// unless read_timeout is longer.
const lostWait = 2500 * time.Millisecond

// ejects reports whether upstreams are ever taken out.
func (c *Config) ejects() bool { return c.MaxFails > 0 && !c.Eject.Off }

// unbounded stands for max_connect_attempts 0.
const unbounded = 64

func maxAttempts(cfg Config) int {
	switch {
	case !cfg.MaxConnectAttemptsSet:
		return 0
	case cfg.MaxConnectAttempts == 0 || cfg.MaxConnectAttempts > unbounded:
		return unbounded
	default:
		return int(cfg.MaxConnectAttempts)
	}
}

func (p *pool) newUpstream(cfg Config, env Env, e Endpoint, now time.Time) (*upstream.Upstream, error) {
	to := e.Addr.String()
	counts := env.Metrics.Upstream(to)
	tlsConfig := cfg.TLS
	if e.ServerName != "" {
		tlsConfig = cfg.TLS.Clone()
		tlsConfig.ServerName = e.ServerName
		tlsConfig.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	}
	ex, err := exchange.New(exchange.Config{
		Addr: e.Addr, Transport: e.Transport, Dial: env.Dial, TLS: tlsConfig, SourceAddress: cfg.SourceAddress,
		Expire: max(cfg.Expire, time.Millisecond), MaxAge: cfg.MaxAge, MaxIdle: cfg.MaxIdleConns, ReadTimeout: cfg.ReadTimeout,
		DoHMethod: cfg.DoHMethod, Rand64: env.Rand64, Events: counts, Recoverer: env.recoverer,
	})
	if err != nil {
		return nil, fmt.Errorf("upstream %s: %w", e.Source, err)
	}
	return upstream.New(upstream.Config{
		To: to, Addr: e.Addr, Transport: e.Transport, Exchanger: ex,
		ReadTimeout: cfg.ReadTimeout, Linger: max(cfg.Timeout, 5*time.Second),
		Eject: upstream.Eject{
			Off: !cfg.ejects(), Failures: cfg.Eject.Failures, Share: cfg.Eject.Share, Base: cfg.Eject.Base, Max: cfg.Eject.Max,
		},
		TCPOnly:  cfg.ForceTCP,
		Observer: observer{counts, p.log},
		Wake:     p.wake, Recoverer: env.recoverer,
	}, now), nil
}

// observer counts attempts and logs changes of state.
type observer struct {
	*metrics.Upstream
	log *stateLog
}

func (o observer) State(c upstream.Change) { o.log.state(time.Now(), c) }

func (p *pool) wake() {
	if p.prober != nil {
		p.prober.Wake()
	}
}

func (p *pool) closeUpstreams() {
	for _, u := range p.upstreams {
		u.Close()
	}
}

// privateZones finds the upstreams that serve each private zone: those named,
// else all with an address that is not public.
func privateZones(private []PrivateZone, ups []*upstream.Upstream) []forwarder.PrivateZone {
	out := make([]forwarder.PrivateZone, 0, len(private))
	for _, z := range private {
		var at zones.Set
		for i, u := range ups {
			ip := u.Addr().Addr()
			serves := !publicAddr(ip)
			if len(z.At) > 0 {
				serves = false
				for _, a := range z.At {
					serves = serves || a.WithZone("") == ip.WithZone("")
				}
			}
			if serves {
				at |= zones.Of(i)
			}
		}
		out = append(out, forwarder.PrivateZone{Zone: z.Zone, At: at})
	}
	return out
}

var cgnat = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598

// publicAddr reports whether an address is reached over the public Internet.
func publicAddr(ip netip.Addr) bool {
	ip = ip.Unmap()
	return !ip.IsPrivate() && !ip.IsLoopback() && !ip.IsLinkLocalUnicast() && !cgnat.Contains(ip)
}

// running is what Start has started.
type running struct {
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	untrack func()
}

// Start begins to look after the pool. Queries are served before as well.
func (g *Guard) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	g.running = &running{cancel: cancel, untrack: g.env.Metrics.Track(g.Snapshot)}
	if g.pool.prober != nil {
		g.env.recoverer.Go(&g.running.wg, "the prober", func() { g.pool.prober.Run(ctx) })
	}
}

// drainEvery is how often Stop looks whether the queries in flight are done.
const drainEvery = 10 * time.Millisecond

// Stop waits until the queries in flight are answered, then closes all
// sockets and ends all goroutines.
func (g *Guard) Stop() {
	tick := time.NewTicker(drainEvery)
	defer tick.Stop()
	for end := time.Now().Add(g.cfg.Timeout + drainEvery); g.inFlight.Load() > 0 && time.Now().Before(end); {
		<-tick.C
	}
	g.rest()
	g.pool.forwarder.Close()
	g.pool.closeUpstreams()
}

// rest ends the looking after the pool. Queries are still served.
func (g *Guard) rest() {
	if r := g.running; r != nil {
		g.running = nil
		r.cancel()
		r.wg.Wait()
		r.untrack()
	}
}

// Snapshot returns what is known of each upstream, in the order of the pool.
func (g *Guard) Snapshot() []upstream.Snapshot {
	out := make([]upstream.Snapshot, len(g.pool.upstreams))
	for i, u := range g.pool.upstreams {
		out[i] = u.Snapshot()
	}
	return out
}
