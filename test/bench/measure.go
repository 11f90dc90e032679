//go:build linux

package main

import (
	"context"
	"time"
)

const (
	loadSockets   = 16
	saturating    = 200 // outstanding: few enough for the default receive buffer of the server's socket
	fixedRate     = 5000
	inFlight      = 10_000
	inFlightDelay = 1500 * time.Millisecond // below forward's read timeout of 2 s
)

// costs makes the measurements of the cost part.
type costs struct {
	*bench
	engine *engine
}

// run makes all the measurements that are selected, interleaved.
func (c *costs) run(ctx context.Context) error {
	if err := c.capacity(ctx); err != nil {
		return err
	}
	servers := []kind{whoami, forward, guard}
	for round := range c.rounds {
		for _, k := range servers {
			if err := c.both(ctx, k, round+1); err != nil {
				return err
			}
		}
		for _, k := range servers[1:] {
			if err := c.memoryInFlight(ctx, k, round+1); err != nil {
				return err
			}
		}
	}
	for _, k := range servers {
		if err := c.allocations(ctx, k); err != nil {
			return err
		}
	}
	return c.profile(ctx)
}

// start starts a server of kind k on free ports.
func (c *costs) start(ctx context.Context, k kind) (*server, error) {
	listen, err := freePort()
	if err != nil {
		return nil, err
	}
	return c.launch(ctx, k, corefile{listen: listen})
}

// launch starts a server of kind k with what cf has, and the stubs.
func (c *costs) launch(ctx context.Context, k kind, cf corefile, env ...string) (*server, error) {
	cf.directive = c.directive(k)
	for _, s := range c.engine.stubs {
		cf.upstreams = append(cf.upstreams, s.addr)
	}
	return startServer(ctx, c.binary, c.dir, string(k), cf, c.cpus, env...)
}

// load returns what all loads towards s have in common.
func (c *costs) load(s *server) loadConfig {
	return loadConfig{
		to:         s.addr,
		sockets:    loadSockets,
		warm:       c.warm,
		measure:    c.duration,
		timeout:    5 * time.Second,
		wantAnswer: s.name != string(whoami), // whose answer is in the additional section
		cpuTime:    s.cpuTime,
	}
}

// do makes the load towards s, and turns what was seen into a sample.
func (c *costs) do(ctx context.Context, s *server, name string, round int, cfg loadConfig) (sample, error) {
	r, err := c.engine.do(ctx, cfg)
	if err != nil {
		return sample{}, err
	}
	if err := s.check(); err != nil {
		return sample{}, err
	}
	return toSample(name, s.name, round, r), nil
}

func toSample(name, server string, round int, r *loadResult) sample {
	return sample{
		Measurement: name,
		Server:      server,
		Round:       round,
		Queries:     r.answered + r.failed,
		Errors:      r.failed,
		QPS:         r.qps(),
		CPU:         micros(r.cpu) / float64(max(r.answered, 1)),
		Busy:        r.cpu.Seconds() / r.took.Seconds(),
		P50:         micros(r.latency.quantile(0.5)),
		P99:         micros(r.latency.quantile(0.99)),
		P999:        micros(r.latency.quantile(0.999)),
		Max:         micros(r.latency.max),
		Late:        micros(r.late),
	}
}

// capacity measures what the load and a stub reach with nothing between them:
// a server that comes near is not what is measured.
func (c *costs) capacity(ctx context.Context) error {
	if !c.selected("saturation") {
		return nil
	}
	r, err := c.engine.do(ctx, loadConfig{
		to:          c.engine.stubs[0].addr,
		sockets:     loadSockets,
		outstanding: saturating,
		warm:        c.warm,
		measure:     c.duration,
		timeout:     time.Second,
		wantAnswer:  true,
	})
	if err != nil {
		return err
	}
	r.cpu = r.own
	return c.add(toSample("saturation", capacityServer, 0, r))
}

// both measures saturation and the fixed rate, with one process.
func (c *costs) both(ctx context.Context, k kind, round int) error {
	if !c.selected("saturation") && !c.selected("rate") {
		return nil
	}
	s, err := c.start(ctx, k)
	if err != nil {
		return err
	}
	defer s.stop()
	idle, err := c.idle(ctx, s)
	if err != nil {
		return err
	}
	if c.selected("saturation") {
		cfg := c.load(s)
		cfg.outstanding, cfg.timeout = saturating, time.Second
		m, err := c.do(ctx, s, "saturation", round, cfg)
		if err != nil {
			return err
		}
		m.Idle = idle
		if _, m.Peak, err = s.memory(); err != nil {
			return err
		}
		if err := c.add(m); err != nil {
			return err
		}
	}
	if c.selected("rate") {
		cfg := c.load(s)
		cfg.rate = fixedRate
		m, err := c.do(ctx, s, "rate", round, cfg)
		if err != nil {
			return err
		}
		m.Idle = idle
		return c.add(m)
	}
	return nil
}

// idle returns the memory that s has after a few queries, and a rest.
func (c *costs) idle(ctx context.Context, s *server) (int64, error) {
	cfg := c.load(s)
	cfg.rate, cfg.warm, cfg.measure = 1000, 0, c.warm
	if _, err := c.do(ctx, s, "", 0, cfg); err != nil {
		return 0, err
	}
	if err := pause(ctx, c.warm); err != nil {
		return 0, err
	}
	now, _, err := s.memory()
	return now, err
}

// memoryInFlight measures the memory that many outstanding queries take: the
// stubs wait, and the rate is such that inFlight queries are outstanding.
func (c *costs) memoryInFlight(ctx context.Context, k kind, round int) error {
	if !c.selected("inflight") {
		return nil
	}
	s, err := c.start(ctx, k)
	if err != nil {
		return err
	}
	defer s.stop()
	idle, err := c.idle(ctx, s)
	if err != nil {
		return err
	}
	c.engine.setDelay(inFlightDelay)
	defer c.engine.setDelay(0)
	if err := s.resetPeak(); err != nil {
		return err
	}
	cfg := c.load(s)
	cfg.rate = int(inFlight / inFlightDelay.Seconds())
	cfg.warm = inFlightDelay
	m, err := c.do(ctx, s, "inflight", round, cfg)
	if err != nil {
		return err
	}
	m.Idle = idle
	if _, m.Peak, err = s.memory(); err != nil {
		return err
	}
	return c.add(m)
}

// pause waits for d, or for the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
