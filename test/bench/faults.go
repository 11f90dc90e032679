//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// healthy is the scenario that all others are compared with.
const healthy = "healthy"

// scenario is a pool of upstreams with a fault.
type scenario struct {
	name     string
	pool     []behaviour
	internal bool // ask for internal names too
	// onset: the fault begins after a healthy time as long as the settling;
	// otherwise it is there from the start, as a wrong configuration is.
	onset bool
}

func denying(d denial) []behaviour {
	return []behaviour{{public: d}, {public: d}, {}}
}

var scenarios = []scenario{
	{name: healthy, pool: make([]behaviour, 3)},
	{name: "nxdomain-soa", pool: denying(denyNXDomainSOA)},
	{name: "nxdomain", pool: denying(denyNXDomain)},
	{name: "nodata", pool: denying(denyNodata)},
	{name: "refused", pool: denying(denyRefused)},
	{name: "servfail", pool: denying(denyServfail)},
	{name: "drop", pool: []behaviour{{silent: true}, {}, {}}, onset: true},
	{name: "loss", pool: []behaviour{{loss: 0.1}, {loss: 0.1}, {loss: 0.1}}},
	{name: "split", pool: []behaviour{{public: denyNXDomainSOA}, {internal: denyNXDomainSOA}}, internal: true},
}

// faults runs the fault part: each scenario with forward, then with dnsguard.
func (b *bench) faults(ctx context.Context) error {
	for _, s := range scenarios {
		// Without a healthy run there is nothing to compare with.
		needed := s.name == healthy && b.anyFault()
		if !needed && !b.selected("faults") && !b.selected(s.name) {
			continue
		}
		for _, k := range []kind{forward, guard} {
			if err := b.fault(ctx, s, k); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	return nil
}

func (b *bench) anyFault() bool {
	for _, s := range scenarios {
		if b.selected(s.name) {
			return true
		}
	}
	return false
}

// fault runs one scenario with one server.
func (b *bench) fault(ctx context.Context, s scenario, k kind) error {
	pool, err := startPool(len(s.pool))
	if err != nil {
		return err
	}
	defer pool.close()
	listen, err := freePort()
	if err != nil {
		return err
	}
	cf := corefile{listen: listen, directive: b.directive(k), upstreams: pool.addrs()}
	if !s.onset {
		pool.become(s.pool)
	}
	srv, err := startServer(ctx, b.binary, b.dir, string(k), cf, b.cpus)
	if err != nil {
		return err
	}
	defer srv.stop()

	c, err := newFaultClient(listen, s.internal)
	if err != nil {
		return err
	}
	var reader sync.WaitGroup
	reader.Go(c.read)
	defer reader.Wait()
	defer c.conn.Close()

	if s.onset {
		if _, err := c.ask(ctx, b.settle); err != nil {
			return err
		}
		pool.become(s.pool)
	}
	before := pool.queries()
	settling, err := c.ask(ctx, b.settle)
	if err != nil {
		return err
	}
	between := pool.queries()
	settled, err := c.ask(ctx, b.duration)
	if err != nil {
		return err
	}
	if err := c.drain(ctx); err != nil {
		return err
	}
	after := pool.queries()
	if err := srv.check(); err != nil {
		return err
	}
	if err := b.add(settling.sample(s.name, k, "settling", between-before, b.settle)); err != nil {
		return err
	}
	return b.add(settled.sample(s.name, k, "settled", after-between, b.duration))
}

func (r *faultResult) sample(scenario string, k kind, phase string, upstream uint64, took time.Duration) sample {
	return sample{
		Measurement: scenario,
		Server:      string(k),
		Phase:       phase,
		Round:       1,
		Queries:     r.sent,
		Errors:      r.sent - r.right,
		QPS:         float64(r.sent) / took.Seconds(),
		Right:       float64(r.right) / float64(max(r.sent, 1)),
		Upstream:    float64(upstream) / float64(max(r.sent, 1)),
		P50:         micros(r.latency.quantile(0.5)),
		P99:         micros(r.latency.quantile(0.99)),
		P999:        micros(r.latency.quantile(0.999)),
		Max:         micros(r.latency.max),
		Late:        micros(r.late),
	}
}

// pool is the upstreams of a scenario, on addresses of their own.
type pool []*upstream

func startPool(n int) (pool, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	var p pool
	for i := range n {
		addr := netip.AddrFrom4([4]byte{127, 0, 0, byte(11 + i)})
		u, err := newUpstream(netip.AddrPortFrom(addr, port.Port()))
		if err != nil {
			p.close()
			return nil, err
		}
		p = append(p, u)
	}
	return p, nil
}

func (p pool) become(all []behaviour) {
	for i, u := range p {
		u.does.Store(&all[i])
	}
}

func (p pool) addrs() []netip.AddrPort {
	var all []netip.AddrPort
	for _, u := range p {
		all = append(all, u.addr)
	}
	return all
}

func (p pool) queries() uint64 {
	var n uint64
	for _, u := range p {
		n += u.queries.Load()
	}
	return n
}

func (p pool) close() {
	for _, u := range p {
		u.close()
	}
}
