package dnsguard

import (
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
	env := Env{Logf: logf, Metrics: metrics.OfProcess(metrics.Options{
		Namespace: plugin.Namespace, Buckets: plugin.TimeBuckets, NativeFactor: plugin.NativeHistogramBucketFactor,
	})}
	guards := make([]*Guard, len(configs))
	for i, cfg := range configs {
		if guards[i], err = New(cfg, env); err != nil {
			for _, g := range guards[:i] {
				g.Stop()
			}
			return plugin.Error(pluginName, err)
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
		c.OnShutdown(func() error { g.Stop(); return nil })
	}
	return nil
}

func logf(level Level, format string, args ...any) {
	if level == LevelWarning {
		log.Warningf(format, args...)
		return
	}
	log.Infof(format, args...)
}
