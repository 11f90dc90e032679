package dnsguard

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/dnsguard/dnsguard/plugin/resolvconf"
	"github.com/dnsguard/dnsguard/plugin/upstream"
)

// path says for people by which way queries to an upstream come back, and what
// to do about it.
func (l *loops) path(e Endpoint) string {
	return fmt.Sprintf("%s names %s, which forwards back to this service%s", l.whereNamed(e), e.Addr.Addr(), cure(e))
}

// whereNamed says where an upstream is listed.
func (l *loops) whereNamed(e Endpoint) string {
	for _, to := range l.g.cfg.To {
		if to.Text != e.Source {
			continue
		}
		if to.File == "" {
			break
		}
		if text, err := l.g.env.ReadFile(to.File); err == nil {
			if n := resolvconf.Line(text, e.Addr.Addr()); n > 0 {
				return fmt.Sprintf("%s line %d", e.Source, n)
			}
		}
		return e.Source
	}
	return "the directive's " + e.Source
}

// cure says what to do about an upstream that forwards back.
func cure(e Endpoint) string {
	if nodeLocal[e.Addr.Addr().Unmap()] {
		return "; that is the usual address of a cache on each node: have this service's pods use a resolv.conf without it (kubelet's resolvConf), or name its upstreams here"
	}
	return "; name another server there, or take this service out of what that one forwards to"
}

// nodeLocal are the usual addresses of caches on each node: those of NodeLocalDNS, and of installers that set it up. Never written to.
var nodeLocal = map[netip.Addr]bool{
	netip.AddrFrom4([4]byte{169, 254, 20, 10}): true,
	netip.AddrFrom4([4]byte{169, 254, 25, 10}): true,
	netip.AddrFrom4([4]byte{169, 254, 10, 10}): true,
	netip.AddrFrom4([4]byte{169, 254, 10, 11}): true,
}

// Warning is something about an upstream that people should know, for what shows
// it: a page, or events.
type Warning struct {
	Kind     WarningKind
	Upstream string // host:port
	Text     string // for people
}

// WarningKind is what a Warning is about.
type WarningKind string

// The kinds.
const (
	WarnLoop   WarningKind = "loop"      // queries to the upstream come back, and none are sent
	WarnPartly WarningKind = "loop-part" // those for some names do
	WarnMay    WarningKind = "may-loop"  // its address makes that likely
)

// Warnings returns what there is to be warned of now, in the order of the upstreams.
func (g *Guard) Warnings() []Warning {
	p := g.pool.Load()
	if p.loops == nil {
		return nil
	}
	var out []Warning
	for _, m := range p.members {
		s := m.up.Snapshot()
		if s.State == upstream.Looping.String() {
			out = append(out, Warning{WarnLoop, s.To, s.Reason})
		} else if z := m.partial.Load(); z.recent(time.Now()) {
			out = append(out, Warning{WarnPartly, s.To, g.loops.partly(m.endpoint, z.name)})
		} else if why := g.loops.likely(m.endpoint); why != "" {
			out = append(out, Warning{WarnMay, s.To, why})
		}
	}
	return out
}

// zoneLoop is a name below which queries come back.
type zoneLoop struct {
	name string
	at   time.Time // when one did last
}

func (z *zoneLoop) recent(now time.Time) bool {
	const counts = 10 * time.Minute
	return z != nil && now.Sub(z.at) < counts
}

// partly says that queries for some names come back.
func (l *loops) partly(e Endpoint, name string) string {
	return fmt.Sprintf("queries to upstream %s for %s come back, those for other names do not: %s forwards them to this service, which knows no answer", e.Addr, name, e.Addr.Addr())
}

// warnPartly tells of that, seldom.
func (l *loops) warnPartly(now time.Time, m *member, name string) {
	if l.due(&l.toldPartly, now) {
		l.g.env.Logf(LevelWarning, "%s", l.partly(m.endpoint, name))
	}
}

// warnDivided tells seldom that only some of what is behind an upstream's address leads back.
func (l *loops) warnDivided(now time.Time, m *member) {
	if l.due(&l.toldDivided, now) {
		l.g.env.Logf(LevelWarning, "some queries to upstream %s come back, others do not: of the servers behind %s, which %s names, a part forwards to this service", m.up.To(), m.endpoint.Addr.Addr(), l.whereNamed(m.endpoint))
	}
}

// due reports whether it is time to tell of something again, and if so takes now for when it was told.
func (l *loops) due(told *time.Time, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !told.IsZero() && now.Sub(*told) < logSeldom {
		return false
	}
	*told = now
	return true
}

// warn tells once of each upstream whose address makes a loop likely.
func (l *loops) warn(endpoints []Endpoint) {
	for _, e := range endpoints {
		why := l.likely(e)
		if why == "" {
			continue
		}
		l.mu.Lock()
		known := l.warned[e.Addr]
		l.warned[e.Addr] = true
		l.mu.Unlock()
		if !known {
			l.g.env.Logf(LevelWarning, "%s", why)
		}
	}
}

// likely says why queries to an upstream may well come back; "": nothing speaks for it.
func (l *loops) likely(e Endpoint) string {
	env, ip := &l.g.env, e.Addr.Addr().Unmap()
	var what string
	switch {
	case env.Listens(e.Addr):
		what = "where this server itself listens"
	case nodeLocal[ip]:
		what = "the usual address of a cache on each node, which mostly forwards to the cluster's DNS"
	case isService(env.Getenv, ip):
		what = "the address of the cluster's own DNS Service"
	case ip.IsLoopback():
		what = "a loopback address; what listens there must not forward to this service"
	case isAmong(env.OwnAddrs, ip):
		what = "an address of this host or pod; what listens there must not forward to this service"
	default:
		return ""
	}
	return fmt.Sprintf("queries to upstream %s may come back: %s names %s, %s", e.Addr, l.whereNamed(e), ip, what)
}

// isService reports whether an address is that of the cluster's DNS Service, as
// far as the environment of a pod tells.
func isService(getenv func(string) string, ip netip.Addr) bool {
	for _, name := range []string{"KUBE_DNS_SERVICE_HOST", "COREDNS_SERVICE_HOST"} {
		if service, err := netip.ParseAddr(getenv(name)); err == nil && service.Unmap() == ip {
			return true
		}
	}
	return false
}

func isAmong(addrs func() ([]netip.Addr, error), ip netip.Addr) bool {
	all, _ := addrs() // without them, it is not
	return slices.Contains(all, ip)
}
