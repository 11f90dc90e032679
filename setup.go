package dnsguard

import (
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	clog "github.com/coredns/coredns/plugin/pkg/log"

	"github.com/dnsguard/dnsguard/plugin/metrics"
)

var log = clog.NewWithPlugin(pluginName)

func init() { plugin.Register(pluginName, setup) }

func setup(c *caddy.Controller) error {
	configs, err := Parse(c)
	if err != nil {
		return plugin.Error(pluginName, err)
	}
	env := Env{Logf: logf, Debug: dnsserver.GetConfig(c).Debug, Metrics: metrics.OfProcess(metrics.Options{
		Namespace: plugin.Namespace, Buckets: plugin.TimeBuckets, NativeFactor: plugin.NativeHistogramBucketFactor,
	})}
	env.Listens, env.Cluster = listens(dnsserver.GetConfig(c)), ownCluster(os.Getenv)
	guards := make([]*Guard, len(configs))
	for i, cfg := range configs {
		if guards[i], err = New(cfg, env); err != nil {
			return plugin.Error(pluginName, cfg.at.wrap(err))
		}
	}
	letChaosIn()
	f := familyOf(c)
	for i, g := range guards {
		g.siblings = guards
		dnsserver.GetConfig(c).AddPlugin(func(next plugin.Handler) plugin.Handler {
			if g.Next = next; i+1 < len(guards) {
				g.Next = guards[i+1]
			}
			return g
		})
		f.add(c.Key+" "+g.cfg.From, g)
		c.OnStartup(func() error {
			if prev := f.predecessor(g, caddy.Instances()); prev != nil {
				if err := g.Inherit(prev); err != nil {
					return plugin.Error(pluginName, g.cfg.at.wrap(err))
				}
			}
			if g.loops != nil {
				g.loops.cached = dnsserver.GetConfig(c).Handler("cache") != nil
			}
			g.taps = tapsFrom(dnsserver.GetConfig(c).Handler("dnstap"), g.env.recoverer)
			g.Start()
			return nil
		})
	}
	return nil
}

// letChaosIn has the server hand over queries of class CH, as it does where
// there is forward: they are forwarded, or ask about upstreams. The server
// reads the map when it is made, after the set-up of its plugins.
var letChaosIn = sync.OnceFunc(func() { dnsserver.EnableChaos[pluginName] = struct{}{} })

// listens returns whether a server block's own server is asked at an address.
func listens(c *dnsserver.Config) func(netip.AddrPort) bool {
	return func(addr netip.AddrPort) bool {
		if strconv.Itoa(int(addr.Port())) != c.Port {
			return false
		}
		for _, host := range c.ListenHosts {
			if ip, err := netip.ParseAddr(host); err == nil && !ip.IsUnspecified() {
				if ip.Unmap() == addr.Addr().Unmap() {
					return true
				}
				continue
			}
			if addr.Addr().IsLoopback() || isOwn(addr.Addr()) {
				return true
			}
		}
		return false
	}
}

// isOwn reports whether an address is one of this host's.
func isOwn(ip netip.Addr) bool {
	addrs, _ := interfaceAddrs() // without them, none is
	return slices.Contains(addrs, ip.Unmap())
}

func logf(level Level, format string, args ...any) {
	switch level {
	case LevelError:
		log.Errorf(format, args...)
	case LevelWarning:
		log.Warningf(format, args...)
	default:
		log.Infof(format, args...)
	}
}
