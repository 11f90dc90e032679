package dnsguard

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/forwarder"
	"github.com/dnsguard/dnsguard/plugin/metrics"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/probe"
	"github.com/dnsguard/dnsguard/plugin/recovery"
	"github.com/dnsguard/dnsguard/plugin/selector"
	"github.com/dnsguard/dnsguard/plugin/upstream"
	"github.com/dnsguard/dnsguard/plugin/zones"
)

// pool is the upstreams of a directive, and what works on them. It never
// changes: where the list of upstreams does, another pool takes its place, which
// has the same members as far as they stay.
type pool struct {
	members   []*member
	upstreams []*upstream.Upstream // of members
	forwarder *forwarder.Forwarder // asked for nothing in mode observe
	prober    *probe.Prober        // nil: no health checks, or none of ours
	observing *observing           // nil in mode guard
	loops     *loopProber          // nil where nothing is done about loops

	users atomic.Int64 // queries under way
}

// member is one upstream of a directive.
type member struct {
	endpoint Endpoint
	up       *upstream.Upstream
	link     *link // nil in mode observe
	hop      *hop  // nil in mode guard
	loopSigns
}

// link is the way to a server: sockets, and the counters of its metrics. At a
// reload of the Corefile the new directive shares it with the old one.
type link struct {
	*exchange.Shared

	way    way
	counts *metrics.Upstream
}

// way is what the sockets to a server depend on.
type way struct {
	addr       netip.AddrPort
	transport  string
	serverName string
	tls        string // Config.tlsDigest
	source     netip.Addr

	expire, maxAge, readTimeout time.Duration
	maxIdle                     int
	dohMethod                   string
	recovers                    bool
}

func (g *Guard) wayTo(e Endpoint) way {
	cfg := &g.cfg
	w := way{
		addr: e.Addr, transport: e.Transport, source: cfg.SourceAddress, recovers: g.env.recoverer != nil,
		expire: cfg.Expire, maxAge: cfg.MaxAge, readTimeout: cfg.ReadTimeout, maxIdle: cfg.MaxIdleConns,
	}
	if e.Transport != "dns" {
		w.tls, w.dohMethod = cfg.tlsDigest, cfg.DoHMethod
		if w.serverName = e.ServerName; w.serverName == "" {
			w.serverName = cfg.TLSServerName
		}
	}
	return w
}

// newPool returns a pool for endpoints. What was learned in prev, which may be
// nil, is kept: its very members, if it is this directive's own pool; else
// sockets and knowledge of those for the same servers.
func (g *Guard) newPool(endpoints []Endpoint, prev *pool, own bool) (p *pool, err error) {
	p = &pool{}
	defer func() {
		if err != nil {
			p.closeAllBut(prev)
		}
	}()
	was := make([]int, len(endpoints))
	for i, e := range endpoints {
		var old *member
		if was[i] = prev.find(e); was[i] >= 0 {
			old = prev.members[was[i]]
		}
		m := old
		if old == nil || !own {
			if m, err = g.newMember(e, old); err != nil {
				return p, err
			}
		}
		p.members = append(p.members, m)
		p.upstreams = append(p.upstreams, m.up)
	}
	p.loops = g.newLoopProber(p.members, endpoints)
	if p.forwarder, err = g.newForwarder(p, prev, was); err == nil && g.cfg.Mode == ModeObserve {
		p.observing, err = g.newObserving(p)
		return p, err
	}
	if err != nil || g.cfg.MaxFails == 0 {
		return p, err // with max_fails 0 there are no health checks, as in forward
	}
	p.prober, err = probe.New(probe.Config{
		Upstreams: p.upstreams, Interval: g.cfg.HealthInterval, Domain: g.cfg.HealthDomain, NoRec: g.cfg.HealthNoRec, TCP: g.cfg.ForceTCP,
		Recoverer: g.env.recoverer,
	})
	return p, err
}

// find returns the index of the member for the same server as e; -1: none.
func (p *pool) find(e Endpoint) int {
	if p == nil {
		return -1
	}
	for i, m := range p.members {
		if m.endpoint.same(e) {
			return i
		}
	}
	return -1
}

// lostWait is how long a client waits where no upstream gives a sign of life,
// unless read_timeout is longer.
const lostWait = 2500 * time.Millisecond

func (g *Guard) newForwarder(p, prev *pool, was []int) (*forwarder.Forwarder, error) {
	cfg, ups := &g.cfg, p.upstreams
	policy, err := selector.New(cfg.Policy)
	if err != nil {
		return nil, err
	}
	c := forwarder.Config{
		Upstreams: ups, Policy: policy, ForceTCP: cfg.ForceTCP, PreferUDP: cfg.PreferUDP,
		Timeout: cfg.Timeout, Lost: max(lostWait, cfg.ReadTimeout), MaxAttempts: maxAttempts(cfg), Hedge: cfg.Hedge, Trust: cfg.NXDomainTrust,
		Eject: cfg.ejects(), Failfast: cfg.FailfastAllUnhealthy, Failover: cfg.Failover,
		Private: privateZones(cfg.PrivateZones, ups), Draw: g.env.draw, Observer: g.env.Metrics, Empty: g.follower.empty,
	}
	if p.loops != nil {
		c.Stamps = p.loops.stamps()
	}
	if prev != nil {
		c.Predecessor, c.Was = prev.forwarder, was
	}
	return forwarder.New(c), nil
}

// ejects reports whether upstreams are ever taken out.
func (c *Config) ejects() bool { return c.MaxFails > 0 && !c.Eject.Off }

// unbounded stands for max_connect_attempts 0.
const unbounded = 64

func maxAttempts(cfg *Config) int {
	switch {
	case !cfg.MaxConnectAttemptsSet:
		return 0
	case cfg.MaxConnectAttempts == 0 || cfg.MaxConnectAttempts > unbounded:
		return unbounded
	default:
		return int(cfg.MaxConnectAttempts)
	}
}

// newMember returns a member for e. old, which may be nil, is another
// directive's member for the same server.
func (g *Guard) newMember(e Endpoint, old *member) (*member, error) {
	cfg := &g.cfg
	m := &member{endpoint: e}
	c := upstream.Config{
		To: e.Addr.String(), Addr: e.Addr, Transport: e.Transport, ReadTimeout: cfg.ReadTimeout,
		Eject: upstream.Eject{
			Off: !cfg.ejects(), Failures: cfg.Eject.Failures, Share: cfg.Eject.Share, Base: cfg.Eject.Base, Max: cfg.Eject.Max,
		},
		TCPOnly: cfg.ForceTCP, Recoverer: g.env.recoverer,
	}
	if old != nil {
		c.Predecessor = old.up
	}
	if cfg.Mode == ModeObserve {
		g.observeMember(m, c)
		m.up.LoopEnded(time.Now()) // nobody would find its end
		return m, nil
	}
	c.Linger, c.Wake = max(cfg.Timeout, 5*time.Second), g.wake
	if g.loops != nil {
		c.Doubt = func(k outcome.Kind) { g.doubt(m, k) }
	}
	if old != nil && old.link != nil {
		if old.link.way == g.wayTo(e) && old.link.Join() {
			m.link = old.link
		}
	}
	if m.link == nil {
		var err error
		if m.link, err = g.newLink(e); err != nil {
			return nil, err
		}
	}
	c.Exchanger, c.Observer = m.link, observer{m.link.counts, g.log}
	m.up = upstream.New(c, time.Now())
	g.watchLoops(m, old)
	return m, nil
}

func (g *Guard) newLink(e Endpoint) (*link, error) {
	cfg := &g.cfg
	counts := g.env.Metrics.Upstream(e.Addr.String())
	tlsConfig := cfg.TLS
	if e.ServerName != "" {
		tlsConfig = cfg.TLS.Clone()
		tlsConfig.ServerName = e.ServerName
		tlsConfig.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	}
	x, err := exchange.New(exchange.Config{
		Addr: e.Addr, Transport: e.Transport, Dial: g.env.Dial, TLS: tlsConfig, SourceAddress: cfg.SourceAddress,
		Expire: max(cfg.Expire, time.Millisecond), MaxAge: cfg.MaxAge, MaxIdle: cfg.MaxIdleConns, ReadTimeout: cfg.ReadTimeout,
		DoHMethod: cfg.DoHMethod, Rand64: g.env.Rand64, Events: counts, Recoverer: g.env.recoverer,
	})
	if err != nil {
		return nil, fmt.Errorf("upstream %s: %w", e.Source, err)
	}
	return &link{Shared: exchange.Share(countedLink{x, counts}), way: g.wayTo(e), counts: counts}, nil
}

// observer counts attempts and logs changes of state, and faults of this host.
type observer struct {
	*metrics.Upstream
	log *stateLog
}

func (o observer) State(c upstream.Change) {
	o.Upstream.State(c)
	o.log.state(time.Now(), c)
}

// countedLink is an exchanger whose counters end with it.
type countedLink struct {
	exchange.Exchanger
	counts *metrics.Upstream
}

// Close implements exchange.Exchanger.
func (c countedLink) Close() {
	c.Exchanger.Close()
	c.counts.Close() // only now, when there is nothing more to tell
}

func (o observer) Local(err error) { o.log.local(time.Now(), err) }

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

// probing probes, and returns what ends that.
func (p *pool) probing(r *recovery.Recoverer) (end func()) {
	if p.observing != nil {
		p.observing.start()
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	if p.prober != nil {
		r.Go(&wg, "the prober", func() { p.prober.Run(ctx) })
	}
	if p.loops != nil {
		r.Go(&wg, "the prober for loops", func() { p.loops.run(ctx) })
	}
	return func() { cancel(); wg.Wait() }
}

// drainEvery is how often it is looked whether the queries in flight are done.
const drainEvery = 10 * time.Millisecond

// drain waits until no query uses the pool, at most for d, and then ends it.
// Members that next, which may be nil, has too remain.
func (p *pool) drain(d time.Duration, next *pool) {
	tick := time.NewTicker(drainEvery)
	defer tick.Stop()
	for end := time.Now().Add(d); p.users.Load() > 0 && time.Now().Before(end); {
		<-tick.C
	}
	p.forwarder.Close()
	if p.observing != nil {
		p.observing.summary.Flush()
	}
	p.closeAllBut(next)
}

func (p *pool) closeAllBut(other *pool) {
	for _, m := range p.members {
		if i := other.find(m.endpoint); i < 0 || other.members[i] != m {
			m.close()
		}
	}
}

func (m *member) close() {
	m.up.Close()
	if m.hop != nil {
		m.hop.close()
	}
}

// endpoints returns the upstreams as they were listed.
func (p *pool) endpoints() []Endpoint {
	all := make([]Endpoint, len(p.members))
	for i, m := range p.members {
		all[i] = m.endpoint
	}
	return all
}

// serves reports whether the pool is for the very endpoints, in their order.
func (p *pool) serves(endpoints []Endpoint) bool {
	return slices.EqualFunc(p.members, endpoints, func(m *member, e Endpoint) bool { return m.endpoint.same(e) })
}

// String lists the upstreams.
func (p *pool) String() string {
	if len(p.members) == 0 {
		return "none"
	}
	var b strings.Builder
	for i, m := range p.members {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(m.up.To())
	}
	return b.String()
}
