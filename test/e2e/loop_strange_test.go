package e2e

import (
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/loopguard"
	"github.com/dnsguard/dnsguard/test/fakedns"
)

// What clients, and others who see queries, do that may look like a loop, until the returned function is called.

// insists sends each question again and again, from one socket under one ID, as
// a resolver does that has had no reply; with options at random.
func (c *sound) insists(from *host, questions []question) (stop func()) {
	c.t.Helper()
	var packets [][]byte
	for i, q := range questions {
		m := new(dns.Msg)
		m.SetQuestion(q.name, q.qtype)
		m.SetEdns0(1232, false)
		addOptions(m.IsEdns0(), uint64(i))
		m.Id = uint16(i)
		wire, err := m.Pack()
		if err != nil {
			c.t.Fatal(err)
		}
		packets = append(packets, wire)
	}
	conn, err := from.dial("udp", c.asks)
	if err != nil {
		c.t.Fatal(err)
	}
	const times = 3
	return c.every(20*time.Millisecond, func(i int) {
		for _, p := range packets[max(0, min(i, len(packets))-times):min(i, len(packets))] {
			_, _ = conn.Write(p)
		}
	}, conn)
}

// addOptions adds some, also such as have the code of stamps, and their form.
func addOptions(opt *dns.OPT, seed uint64) {
	chance := rand.New(rand.NewPCG(seed, 0))
	bytes := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(chance.Uint32())
		}
		return b
	}
	stamp := &dns.EDNS0_LOCAL{Code: loopguard.OptionCode, Data: append([]byte{1, 1}, bytes(4+8)...)}
	junk := &dns.EDNS0_LOCAL{Code: loopguard.OptionCode, Data: bytes(chance.IntN(40))}
	other := &dns.EDNS0_LOCAL{Code: dns.EDNS0LOCALSTART + uint16(chance.IntN(100)), Data: bytes(chance.IntN(40))}
	options := []dns.EDNS0{stamp, junk, other}
	opt.Option = append(opt.Option, options[:1+chance.IntN(len(options))]...)
}

// replays sends all replicas what a server was sent last: a query with a stamp, and a probe. stop returns how often.
func (c *sound) replays(server *fake, from *host) (stop func() int) {
	c.t.Helper()
	var conns []net.Conn
	for _, r := range c.replicas {
		conn, err := from.dial("udp", r.addrPort(53))
		if err != nil {
			c.t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	sent := 0
	end := c.every(20*time.Millisecond, func(int) {
		for _, is := range []func(r *fakedns.Record) bool{
			func(r *fakedns.Record) bool {
				return slices.Contains(r.Options, loopguard.OptionCode) && !r.LoopProbe()
			},
			(*fakedns.Record).LoopProbe,
		} {
			seen, ok := server.Latest(is)
			if !ok {
				continue
			}
			for _, conn := range conns {
				_, _ = conn.Write(seen.Wire)
				sent++
			}
		}
	}, conns...)
	return func() int { end(); return sent }
}

// every calls f again and again until it is stopped, and closes the connections then.
func (c *sound) every(d time.Duration, f func(i int), conns ...net.Conn) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(d)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			case <-tick.C:
				f(i)
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
		for _, conn := range conns {
			conn.Close()
		}
	}
}
