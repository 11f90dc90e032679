package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// The faults of hosts begin at hostFaultAt, or before the first query, and
// are over at hostSoundAt; a second later all must be well.
const (
	hostFaultAt = 2 * time.Second
	hostSoundAt = 7 * time.Second
	hostWellAt  = hostSoundAt + time.Second
	hostEnd     = 10 * time.Second
	hostRate    = 40 // lookups per second and node
)

// hostRow is a fault of the node that CoreDNS runs on.
type hostRow struct {
	name    string
	options string
	early   bool                     // the fault is there before the first query
	before  func(n *host)            // what is done before CoreDNS starts
	begin   func(n *host, s *server) // begins the fault
	end     func(n *host, s *server) // and ends it
	serves  bool                     // no query fails meanwhile
	local   bool                     // attempts must have been counted as local
	most    time.Duration            // for a failure; 0: 1 s
	told    string                   // this must be in the log
}

// noProbes leaves no socket open before the first query.
const noProbes = "max_fails 0\n    loop off"

var hostRows = []hostRow{
	{name: "sound", begin: func(*host, *server) {}, end: func(*host, *server) {}, serves: true},
	{name: "no descriptors", begin: noDescriptors, end: descriptors, serves: true},
	{name: "no descriptors at first", options: noProbes, early: true, begin: noDescriptors, end: descriptors, local: true, told: "too many open files"},
	{name: "no ports", begin: noPorts, end: ports, serves: true},
	{name: "no ports at first", options: noProbes, early: true, begin: noPorts, end: ports, local: true, told: "a fault of this host"},
	{name: "no datagrams", begin: forbid("udp"), end: permit, serves: true, local: true, told: "operation not permitted"},
	{name: "no packets", begin: forbid("udp", "tcp"), end: permit, local: true, most: 2700 * time.Millisecond, told: "operation not permitted"},
	{name: "no buffers", before: secondLink, begin: noBuffers, end: buffers, local: true, most: clientTimeout, told: "no buffer space"},
	{name: "clock jumps", begin: jumpClock, end: func(_ *host, s *server) { s.jumpClock(0) }, serves: true},
	{name: "no route at first", early: true, before: noRoute, begin: func(*host, *server) {}, end: route},
}

// noDescriptors lets the process open nothing more.
func noDescriptors(n *host, s *server) { limitDescriptors(n, s, 3) }
func descriptors(n *host, s *server)   { limitDescriptors(n, s, 1024) }

func limitDescriptors(n *host, s *server, most uint64) {
	var limit unix.Rlimit
	err := unix.Prlimit(s.pid(), unix.RLIMIT_NOFILE, nil, &limit)
	if err == nil {
		limit.Cur = most
		err = unix.Prlimit(s.pid(), unix.RLIMIT_NOFILE, &limit, nil)
	}
	if err != nil {
		n.t.Error(err)
	}
}

// noPorts leaves two ports for sockets, which are taken.
func noPorts(n *host, _ *server) {
	n.sysctl("net/ipv4/ip_local_port_range", "61000 61001")
	for _, port := range []string{":61000", ":61001"} {
		if err := n.do(func() error {
			u, err := net.ListenPacket("udp4", port)
			if err != nil {
				return err
			}
			n.t.Cleanup(func() { u.Close() })
			l, err := net.Listen("tcp4", port)
			if err != nil {
				return err
			}
			n.t.Cleanup(func() { l.Close() })
			return nil
		}); err != nil {
			n.t.Error(err)
		}
	}
}

func ports(n *host, _ *server) { n.sysctl("net/ipv4/ip_local_port_range", "32768 60999") }

// forbid has the packet filter drop what the node sends: the kernel says so
// to whoever sends a datagram.
func forbid(protos ...string) func(*host, *server) {
	return func(n *host, _ *server) {
		var rules []string
		for _, p := range protos {
			rules = append(rules, "oif eth0 "+p+" dport 53 drop")
		}
		n.filter("output", rules...)
	}
}

func permit(n *host, _ *server) { n.filter("output") }

// secondLink gives the node a link of its own to the upstreams.
func secondLink(n *host) {
	l := n.lab
	l.ports++
	port := fmt.Sprintf("port%d", l.ports)
	l.ip("-n", l.sw, "link", "add", port, "type", "veth", "peer", "name", "eth1", "netns", n.ns)
	l.ip("-n", l.sw, "link", "set", port, "master", "br0", "up")
	l.ip("-n", n.ns, "link", "set", "eth1", "up")
	l.ip("-n", n.ns, "route", "add", hostUpstreams, "dev", "eth1", "src", n.addr.String())
}

// noBuffers has that link take less than is sent.
func noBuffers(n *host, _ *server) {
	n.run("tc", "qdisc", "add", "dev", "eth1", "root", "tbf", "rate", "16kbit", "burst", "1540", "limit", "200")
}

func buffers(n *host, _ *server) { n.run("tc", "qdisc", "del", "dev", "eth1", "root") }

// noRoute leaves the node no route but to the client.
func noRoute(n *host) {
	n.lab.ip("-n", n.ns, "route", "add", clientAddr, "dev", "eth0", "src", n.addr.String())
	n.lab.ip("-n", n.ns, "route", "del", "default")
}

func route(n *host, _ *server) {
	n.lab.ip("-n", n.ns, "route", "add", "default", "dev", "eth0", "src", n.addr.String())
}

// jumpClock sets the clock ahead by an hour, and then behind.
func jumpClock(n *host, s *server) {
	s.jumpClock(time.Hour)
	time.AfterFunc((hostSoundAt-hostFaultAt)/2, func() { s.jumpClock(-time.Hour) })
}

const hostUpstreams = "10.30.0.0/24"

// Faults of the host that CoreDNS runs on, each on a node of its own, all at
// the same time: no upstream is blamed for them, and a second after their end
// all is well. What can be answered meanwhile is; what cannot fails in time.
func TestHostFaults(t *testing.T) {
	requires(t, "tc")
	requiresDirective(t, directive())
	judged(t, func(v *verdict) {
		l := newLab(t)
		far, client := l.host("far", "10.30.0.254"), l.host("client", clientAddr)
		var fakes []*fake
		for i := range 3 {
			fakes = append(fakes, far.fake(fmt.Sprintf("10.30.0.%d", i+1)))
		}
		n := int(hostEnd/time.Second) * hostRate
		nodes, servers := make([]*host, len(hostRows)), make([]*server, len(hostRows))
		var subjects []*subject
		for i, row := range hostRows {
			nodes[i] = l.host(fmt.Sprintf("node%d", i), fmt.Sprintf("10.31.0.%d", i+1))
			if row.before != nil {
				row.before(nodes[i])
			}
			servers[i] = nodes[i].coredns(readyBlock + block(5400, addresses(fakes, " "), row.options))
			if row.early {
				row.begin(nodes[i], servers[i])
			}
			subjects = append(subjects, &subject{addr: nodes[i].addrPort(5400), questions: known(n, fmt.Sprintf("node%d.test", i), dns.TypeA)})
		}
		control := &subject{addr: fakes[0].to(), questions: known(n, "control.test", dns.TypeA)}
		client.crowd(hostRate, append(subjects, control), map[time.Duration]func(){
			hostFaultAt: func() {
				for i, row := range hostRows {
					if !row.early {
						row.begin(nodes[i], servers[i])
					}
				}
			},
			hostSoundAt: func() {
				for i, row := range hostRows {
					row.end(nodes[i], servers[i])
				}
			},
		})
		c := control.all()
		v.control(c)
		t.Logf("asked directly: %d wrong of %d, p50 %v, p99 %v, max %v", c.wrong, c.total, c.p50, c.p99, c.max)
		for i, row := range hostRows {
			row.judge(t, v, servers[i], subjects[i], c)
			servers[i].alive()
			servers[i].kill()
		}
	})
}

func (row *hostRow) judge(t *testing.T, v *verdict, s *server, sub *subject, control figures) {
	t.Helper()
	before, meanwhile, after := sub.window(0, hostFaultAt), sub.window(hostFaultAt, hostSoundAt), sub.window(hostWellAt, hostEnd)
	if row.early {
		before, meanwhile = figures{}, sub.window(0, hostSoundAt)
	}
	local := s.metric("coredns_dnsguard_attempts_total", `outcome="local"`)
	t.Logf("%-24s before: %d wrong of %d; meanwhile: %d of %d, p50 %v, max %v; after: %d of %d, max %v; %v local; %s", row.name, before.wrong, before.total,
		meanwhile.wrong, meanwhile.total, meanwhile.p50.Round(time.Millisecond/10), meanwhile.max.Round(time.Millisecond/10), after.wrong, after.total, after.max.Round(time.Millisecond/10), local, meanwhile.why())
	if before.wrong+after.wrong > 0 {
		v.errorf("%s: %d of %d wrong before, %d of %d a second after: %s %s", row.name, before.wrong, before.total, after.wrong, after.total, before.why(), after.why())
	}
	if row.serves && meanwhile.wrong > 0 {
		v.errorf("%s: %d of %d wrong meanwhile: %s", row.name, meanwhile.wrong, meanwhile.total, meanwhile.why())
	}
	if !row.serves && meanwhile.wrong == 0 {
		v.errorf("%s: nothing fails meanwhile, so that this row shows nothing", row.name)
	}
	most := row.most
	if most == 0 {
		most = time.Second
	}
	if meanwhile.max > most+control.max {
		v.softf("%s: a lookup took %v meanwhile, at most %v", row.name, meanwhile.max, most+control.max)
	}
	if silent := meanwhile.reasons["no answer"]; silent > 0 {
		v.errorf("%s: %d lookups without an answer meanwhile", row.name, silent)
	}
	if row.local && local == 0 {
		v.errorf("%s: no attempt was counted as local", row.name)
	}
	if row.told != "" && len(s.log.lines(row.told)) != 1 {
		v.errorf("%s: %d lines in the log with %q, want 1:\n%s", row.name, len(s.log.lines(row.told)), row.told, s.log.tail(logTail))
	}
	if blamed := s.log.lines("is ejected"); len(blamed) > 0 && (row.local || row.serves) {
		v.errorf("%s: upstreams were blamed:\n%s", row.name, strings.Join(blamed, "\n"))
	}
}
