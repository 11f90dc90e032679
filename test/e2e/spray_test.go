package e2e

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/dnsguard/dnsguard/test/fakedns"
)

const (
	allIDs = 1 << 16
	sprays = 100
	// The true reply by UDP comes after all forgeries.
	trueReply = 400 * time.Millisecond
	// What a system call sends at once: the kernel cuts it into datagrams.
	segments = 64
)

// attacker sends packets in the names of others.
type attacker struct {
	*host
	target *host

	mu    sync.Mutex
	conns map[netip.AddrPort]*net.UDPConn // by the address in whose name
}

// attacker puts a host on the switch that has the addresses of others, without
// telling anybody.
func (l *lab) attacker(target *host, names ...netip.Addr) *attacker {
	l.t.Helper()
	a := &attacker{host: l.host("attacker", "10.40.255.1"), target: target, conns: make(map[netip.AddrPort]*net.UDPConn)}
	a.sysctl("net/ipv4/conf/all/arp_ignore", "1")
	a.sysctl("net/ipv4/conf/all/arp_announce", "2")
	mac := target.run("cat", "/sys/class/net/eth0/address")
	l.ip("-n", a.ns, "neigh", "replace", target.addr.String(), "lladdr", mac[:17], "dev", "eth0", "nud", "permanent")
	for _, n := range names {
		l.ip("-n", a.ns, "addr", "add", n.String()+"/32", "dev", "lo")
	}
	return a
}

// as returns a socket that sends in the name of an address.
func (a *attacker) as(name netip.AddrPort) (*net.UDPConn, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.conns[name]; c != nil {
		return c, nil
	}
	var c *net.UDPConn
	err := a.do(func() (err error) {
		c, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(name))
		return err
	})
	if err != nil {
		return nil, err
	}
	a.t.Cleanup(func() { c.Close() })
	a.conns[name] = c
	return c, nil
}

// spray sends forged replies to a query, with all IDs from first on.
func (a *attacker) spray(query []byte, from netip.AddrPort, to netip.AddrPort, first uint16, n int) error {
	c, err := a.as(from)
	if err != nil {
		return err
	}
	forged, err := forgery(query)
	if err != nil {
		return err
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, len(forged)) }); cerr != nil || err != nil {
		return fmt.Errorf("UDP_SEGMENT: %w", err)
	}
	burst := make([]byte, 0, segments*len(forged))
	for i := range n {
		binary.BigEndian.PutUint16(forged, first+uint16(i))
		burst = append(burst, forged...)
		if len(burst) == cap(burst) || i == n-1 {
			if _, err := c.WriteToUDPAddrPort(burst, to); err != nil {
				return err
			}
			burst = burst[:0]
		}
	}
	return nil
}

// forgery is a reply to the query with an address that nothing has.
func forgery(query []byte) ([]byte, error) {
	var q dns.Msg
	if err := q.Unpack(query); err != nil {
		return nil, err
	}
	m := new(dns.Msg).SetReply(&q)
	m.RecursionAvailable = true
	m.Answer = []dns.RR{&dns.A{
		Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 300}, A: fakedns.Poison.AsSlice(),
	}}
	return m.Pack()
}

// victim is an upstream whose replies by UDP take their time, and which lets
// an attacker know of each query.
type victim struct {
	*host
	seen  func(query []byte, upstream, from netip.AddrPort)
	delay time.Duration
	wg    sync.WaitGroup
}

// listen serves UDP and TCP at an address of the victim.
func (v *victim) listen(addr netip.Addr) {
	v.t.Helper()
	at := netip.AddrPortFrom(addr, 53)
	var udp *net.UDPConn
	var tcp *net.TCPListener
	if err := v.do(func() (err error) {
		if udp, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at)); err != nil {
			return err
		}
		tcp, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at))
		return err
	}); err != nil {
		v.t.Fatal(err)
	}
	v.wg.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := udp.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			query := append([]byte(nil), buf[:n]...)
			reply, probe := v.reply(query)
			delay := v.delay
			if probe {
				delay = 0
			} else {
				v.seen(query, at, from)
			}
			time.AfterFunc(delay, func() { _, _ = udp.WriteToUDPAddrPort(reply, from) })
		}
	})
	server := &dns.Server{Listener: tcp, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		wire, err := q.Pack()
		if err == nil {
			reply, _ := v.reply(wire)
			_, _ = w.Write(reply)
		}
	})}
	v.wg.Go(func() { _ = server.ActivateAndServe() })
	v.t.Cleanup(func() { udp.Close(); tcp.Close() })
}

// reply is the true one; probe says that it is to a probe.
func (v *victim) reply(query []byte) (reply []byte, probe bool) {
	var q dns.Msg
	if q.Unpack(query) != nil || len(q.Question) != 1 {
		return nil, false
	}
	m := new(dns.Msg).SetReply(&q)
	m.RecursionAvailable = true
	name := q.Question[0].Name
	if name != "." {
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: fakedns.A("", name).AsSlice()}}
	}
	reply, _ = m.Pack()
	return reply, name == "."
}

// luck is after how many wrong ones the right ID comes: not among the very
// first, where it would be in one spray of thousands, and early enough for the
// target's buffer, which does not hold all.
const luck = 32

// sprayLab has an upstream at many addresses, and an attacker who sees the
// port of each query and forges a reply with every ID.
func sprayLab(t *testing.T, n int) (node, client *host, upstreams []netip.Addr, count *atomic.Int64, done func()) {
	l := newLab(t)
	node, client = l.host("node", nodeAddr), l.host("client", clientAddr)
	v := &victim{host: l.host("victim", "10.40.255.2"), delay: trueReply}
	for i := range n {
		addr := netip.AddrFrom4([4]byte{10, 40, byte(i / 250), byte(i%250 + 1)})
		upstreams = append(upstreams, addr)
		l.ip("-n", v.ns, "addr", "add", addr.String()+"/32", "dev", "eth0")
	}
	a := l.attacker(node, upstreams...)
	count = new(atomic.Int64)
	var spraying sync.WaitGroup
	v.seen = func(query []byte, upstream, from netip.AddrPort) {
		spraying.Go(func() {
			if err := a.spray(query, upstream, from, binary.BigEndian.Uint16(query)-luck, allIDs); err != nil {
				t.Error(err)
			}
			count.Add(1)
		})
	}
	for _, addr := range upstreams {
		v.listen(addr)
	}
	return node, client, upstreams, count, spraying.Wait
}

// An attacker on the way, who sees the ports and not the IDs: a hundred
// sprays of all 65,536 IDs, and none is accepted.
func TestSprayedIDs(t *testing.T) {
	requires(t)
	requiresDirective(t, directive())
	if directive() == dnsguard {
		t.Run(forward, func(t *testing.T) {
			node, client, upstreams, count, done := sprayLab(t, 1)
			s := node.coredns(plain(forward, upstreams[0].String(), ""))
			poisoned := 0
			for i := range 10 {
				m, err := client.askFor(nodeAddr+":53", fmt.Sprintf("n%d.example.com.", i), dns.TypeA, clientTimeout)
				if err == nil && len(m.Answer) > 0 && m.Answer[0].(*dns.A).A.String() == fakedns.Poison.String() {
					poisoned++
				}
			}
			done()
			t.Logf("forward: %d of 10 answers are forged, %d sprays", poisoned, count.Load())
			if poisoned == 0 {
				t.Error("forward passes, so that this test shows nothing")
			}
			s.alive()
		})
	}
	node, client, upstreams, count, done := sprayLab(t, sprays)
	half := sprays / 2
	list := func(addrs []netip.Addr) string {
		var fakes []*fake
		for _, a := range addrs {
			fakes = append(fakes, &fake{addr: a})
		}
		return node.servers(fakes)
	}
	s := node.coredns(readyBlock + block(5400, list(upstreams[:half]), "policy round_robin\n nxdomain trust") +
		block(5401, list(upstreams[half:]), "policy round_robin\n nxdomain trust"))
	// Upstreams that have never been heard are asked last: wait for the probes.
	eventually(t, 20*time.Second, s.process, func() error {
		if n := s.metric("coredns_dnsguard_attempts_total", `outcome="nodata"`); n < sprays {
			return fmt.Errorf("%v of %d upstreams have answered a probe", n, sprays)
		}
		return nil
	})
	asked, wrong, slow := 0, 0, time.Duration(0)
	for i := 0; count.Load() < sprays && i < 4*sprays; i++ {
		q := known(i+1, "example.com", dns.TypeA)[i]
		begin := time.Now()
		m, err := client.askFor(fmt.Sprintf("%s:%d", nodeAddr, 5400+i%2), q.name, dns.TypeA, clientTimeout)
		slow = max(slow, time.Since(begin))
		asked++
		if err != nil || len(m.Answer) == 0 || m.Answer[0].(*dns.A).A.String() != q.addr.String() {
			wrong++
			t.Errorf("%s: %v %v, want %v", q.name, m, err, q.addr)
		}
	}
	done()
	hits := s.metric("coredns_dnsguard_mismatched_replies_total")
	t.Logf("%d lookups, %d wrong, the slowest took %v; %d sprays, %v forgeries seen", asked, wrong, slow, count.Load(), hits)
	if n := count.Load(); n < sprays || hits < 6*sprays {
		t.Errorf("%d sprays and %v forgeries seen, want %d and %d", n, hits, sprays, 6*sprays)
	}
	s.alive()
}

// An attacker who sees nothing: he guesses port and ID while an upstream takes
// its time. It changes nothing.
func TestSprayedPorts(t *testing.T) {
	requires(t)
	requiresDirective(t, directive())
	judged(t, func(v *verdict) {
		l := newLab(t)
		node, client, far := l.host("node", nodeAddr), l.host("client", clientAddr), l.host("far", "10.41.0.1")
		fakes := []*fake{far.fake("10.41.0.2", "delay 50ms"), far.fake("10.41.0.3", "delay 50ms")}
		a := l.attacker(node, fakes[0].addr, fakes[1].addr)
		s := node.coredns(readyBlock + block(5400, addresses(fakes, " "), ""))
		questions := known(240, "example.com", dns.TypeA)
		sub, control := &subject{addr: node.addrPort(5400), questions: questions}, &subject{addr: fakes[0].to(), questions: questions}
		var sent atomic.Int64
		stop := make(chan struct{})
		var spraying sync.WaitGroup
		spraying.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				query := questions[rand.IntN(len(questions))].pack(t.Fatal, false)
				port := 32768 + rand.IntN(28232)
				from := netip.AddrPortFrom(fakes[i%2].addr, 53)
				if err := a.spray(query, from, netip.AddrPortFrom(node.addr, uint16(port)), uint16(rand.Uint32()), segments); err != nil {
					t.Error(err)
					return
				}
				sent.Add(segments)
			}
		})
		client.crowd(40, []*subject{sub, control}, nil)
		close(stop)
		spraying.Wait()
		c, f := control.all(), sub.all()
		v.control(c)
		v.right("while ports are sprayed", f)
		t.Logf("%d wrong of %d, p50 %v, max %v; directly: p50 %v, max %v; %d forgeries, %v seen", f.wrong, f.total, f.p50, f.max, c.p50, c.max,
			sent.Load(), s.metric("coredns_dnsguard_mismatched_replies_total"))
		if blamed := s.log.lines("is ejected"); len(blamed) > 0 {
			v.errorf("upstreams were blamed: %q", blamed)
		}
		s.alive()
		s.kill()
	})
}
