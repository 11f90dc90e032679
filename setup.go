package dnsguard

import (
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
	// Without this the server refuses all classes but IN (version.bind CH), which it does not where there is a forward.
	dnsserver.EnableChaos[pluginName] = struct{}{}
	env := Env{Logf: logf, Debug: dnsserver.GetConfig(c).Debug, Metrics: metrics.OfProcess(metrics.Options{
		Namespace: plugin.Namespace, Buckets: plugin.TimeBuckets, NativeFactor: plugin.NativeHistogramBucketFactor,
	})}
	guards := make([]*Guard, len(configs))
	for i, cfg := range configs {
		if guards[i], err = New(cfg, env); err != nil {
			for _, g := range guards[:i] {
				g.Stop()
			}
			return plugin.Error(pluginName, cfg.at.wrap(err))
		}
	}
	for i, g := range guards {
		dnsserver.GetConfig(c).AddPlugin(func(next plugin.Handler) plugin.Handler {
			if g.Next = next; i+1 < len(guards) {
				g.Next = guards[i+1]
			}
			return g
		})
		c.OnStartup(func() error { g.Start(); return nil })
	}
	endWith(c, guards)
	return nil
}

// endWith ends the guards with the server. At a reload the old server has
// stopped by then, and what is in flight is waited for. When the process ends
// the server still answers, for as long as the health plugin's lameduck lasts:
// then everything that a query needs must stay.
func endWith(c *caddy.Controller, guards []*Guard) {
	reload := false
	c.OnRestart(func() error { reload = true; return nil })
	c.OnRestartFailed(func() error { reload = false; return nil })
	c.OnShutdown(func() error {
		var wg sync.WaitGroup
		for _, g := range guards {
			if reload {
				g.env.recoverer.Go(&wg, "stopping", g.Stop)
			} else {
				g.rest()
			}
		}
		wg.Wait()
		return nil
	})
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
