package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Addresses as a cluster by kubespray has them.
const (
	dnsService = "10.233.0.3"
	nodeLocal  = "169.254.25.10"
	// podGateway is the node, as each of its pods sees it.
	podGateway = "169.254.1.1"
	// publicServer is the upstream that no loop goes through.
	publicServer = "114.114.114.114"
)

// cluster is nodes with pods, a Service with the replicas of the cluster's
// DNS as its endpoints, a pod that asks, and a server outside.
//
// Each pod has a link to its node, which routes, so that no bridge hides a
// packet from the translation of addresses.
type cluster struct {
	*lab
	nodes    []*host
	replicas []*replica
	client   *host
	public   *fake
	named    int    // names asked for
	asks     string // the server that the client asks, and its port
	// hostNetwork has the replicas share their nodes' networks, one on each.
	hostNetwork bool
	// loop is the line of the loop plugin in the Corefile; it must not mind what dnsguard does.
	loop string
}

// replica is one of the pods of the cluster's DNS.
type replica struct {
	*host
	server *server
}

// newCluster makes all but the processes: see serve.
func newCluster(t testing.TB, replicas int, hostNetwork bool) *cluster {
	t.Helper()
	c := &cluster{lab: newLab(t), hostNetwork: hostNetwork, loop: "loop", asks: dnsService + ":53"}
	c.public = c.host("far", publicServer).fake(publicServer)
	nodes := 2
	if hostNetwork {
		nodes = replicas
	}
	for i := range nodes {
		n := c.host(fmt.Sprintf("node%d", i+1), fmt.Sprintf("192.168.121.%d", i+11))
		n.sysctl("net/ipv4/ip_forward", "1")
		c.ip("-n", n.ns, "addr", "add", nodeLocal+"/32", "dev", "lo")
		c.nodes = append(c.nodes, n)
	}
	for i, n := range c.nodes {
		for j, other := range c.nodes {
			if i != j {
				c.ip("-n", n.ns, "route", "add", podNetwork(j), "via", other.addr.String(), "dev", "eth0", "onlink")
			}
		}
	}
	for i := range replicas {
		h := c.nodes[i%nodes]
		if !hostNetwork {
			h = c.pod(i%nodes, i+2)
		}
		c.replicas = append(c.replicas, &replica{host: h})
	}
	c.client = c.pod(0, 100)
	for _, n := range c.nodes {
		c.service(n)
	}
	for _, r := range c.replicas {
		c.count(r)
	}
	return c
}

func podNetwork(node int) string { return fmt.Sprintf("10.233.%d.0/24", 64+node) }

// pod makes one on a node, with a link to it.
func (c *cluster) pod(node, last int) *host {
	c.t.Helper()
	n := c.nodes[node]
	name := fmt.Sprintf("pod%d-%d", node+1, last)
	addr := fmt.Sprintf("10.233.%d.%d", 64+node, last)
	h := &host{lab: c.lab, t: c.t, ns: c.namespace(name), addr: netip.MustParseAddr(addr)}
	c.ip("-n", n.ns, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", h.ns)
	c.ip("-n", n.ns, "addr", "add", podGateway+"/32", "dev", name)
	c.ip("-n", n.ns, "link", "set", name, "up")
	c.ip("-n", n.ns, "route", "add", addr+"/32", "dev", name)
	c.ip("-n", h.ns, "addr", "add", addr+"/32", "dev", "eth0")
	c.ip("-n", h.ns, "link", "set", "eth0", "up")
	c.ip("-n", h.ns, "route", "add", podGateway+"/32", "dev", "eth0")
	c.ip("-n", h.ns, "route", "add", "default", "via", podGateway, "dev", "eth0", "src", addr)
	return h
}

// service translates the Service's address on a node, as kube-proxy does: a
// replica at random for each flow, of those that live, and the node's own
// address for a pod that reaches itself and for what leaves the cluster.
func (c *cluster) service(n *host) {
	c.t.Helper()
	var ends, hairpins []string
	for _, r := range c.replicas {
		if r.server == nil || !r.server.ended() {
			ends = append(ends, fmt.Sprintf("%d : %s", len(ends), r.addr))
		}
		hairpins = append(hairpins, fmt.Sprintf("  ip saddr %[1]s ip daddr %[1]s masquerade\n", r.addr))
	}
	dnat := fmt.Sprintf("dnat to numgen random mod %d map { %s }", len(ends), strings.Join(ends, ", "))
	rules := fmt.Sprintf("  ip daddr %[1]s udp dport 53 %[2]s\n  ip daddr %[1]s tcp dport 53 %[2]s\n", dnsService, dnat)
	n.nft(fmt.Sprintf(`table ip e2e_service
delete table ip e2e_service
table ip e2e_service {
 chain pre {
  type nat hook prerouting priority dstnat
%[1]s }
 chain out {
  type nat hook output priority -100
%[1]s }
 chain post {
  type nat hook postrouting priority srcnat
%[2]s  ip daddr { 10.233.0.0/16, 192.168.121.0/24 } return
  ip saddr 10.233.64.0/18 oif eth0 masquerade
 }
}
`, rules, strings.Join(hairpins, "")))
}

// nft loads rules in the namespace.
func (h *host) nft(rules string) {
	h.t.Helper()
	cmd := h.command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		h.t.Fatalf("nft: %v\n%s\n%s", err, out, rules)
	}
}

// resolvConf is the file of all replicas.
func (c *cluster) resolvConf(servers ...string) {
	c.t.Helper()
	for _, r := range c.replicas {
		r.resolvConf(servers...)
	}
}

// begin starts the replicas, under the wrapper where one is given, and
// returns when each serves or has ended.
func (c *cluster) begin(directive, options string, wrapper ...string) {
	c.t.Helper()
	for _, r := range c.replicas {
		bind := ""
		if c.hostNetwork {
			bind = "bind " + r.addr.String()
		}
		r.start(c.corefile(bind, directive, options), wrapper...)
	}
	for _, r := range c.replicas {
		r.awaited()
	}
}

// start starts the replica with a Corefile.
func (r *replica) start(corefile string, wrapper ...string) {
	r.t.Helper()
	path := filepath.Join(r.tempDir(), "Corefile")
	if err := os.WriteFile(path, []byte(corefile), 0o644); err != nil {
		r.t.Fatal(err)
	}
	argv := append(append([]string{}, wrapper...), coreDNS(r.t), "-conf", path)
	r.server = &server{process: r.host.start("coredns on "+r.addr.String(), argv...), corefile: path, client: r.httpClient()}
	r.lab.subject = r.server.process
}

// awaited returns when the replica serves or has ended.
func (r *replica) awaited() {
	r.t.Helper()
	eventually(r.t, 20*time.Second, nil, func() error {
		if r.server.ended() {
			return nil
		}
		a, err := r.ask(r.addrPort(53), ready, dns.TypeTXT)
		if err == nil && len(a.Answer) == 0 {
			err = errors.New("no data yet")
		}
		return err
	})
}

// maxConcurrent is an option of the field reports' Corefile, which bounds how
// much is under way, and so the storm of a loop.
const maxConcurrent = "max_concurrent 1000"

// corefile is that of the field reports, which see.
func (c *cluster) corefile(bind, directive, options string) string {
	return fmt.Sprintf(`
ready.e2e.test:53 {
    %[1]s
    template IN TXT . {
        answer "{{ .Name }} 0 IN TXT ready"
    }
}
.:53 {
    %[1]s
    errors
    health {
        lameduck 5s
    }
    ready
    template IN A kubernetes.default.svc.cluster.local {
        answer "{{ .Name }} 5 IN A 10.96.0.1"
    }
    template IN ANY cluster.local {
        rcode NXDOMAIN
        authority "cluster.local. 30 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 30"
    }
    prometheus :9153
    %[2]s . /etc/resolv.conf {
        %[3]s
    }
    cache 30
    %[4]s
    reload
    loadbalance
}
`, bind, directive, options, c.loop)
}

// listening waits until something listens on the port 53 of an address in
// the namespace, which no query shows without going the way under test, or
// the process has ended.
func (h *host) listening(addr string, p *process) {
	h.t.Helper()
	ip := net.ParseIP(addr).To4()
	want := fmt.Sprintf(" %02X%02X%02X%02X:0035 ", ip[3], ip[2], ip[1], ip[0])
	eventually(h.t, 15*time.Second, nil, func() error {
		if p.ended() {
			return nil
		}
		return h.do(func() error {
			for _, proto := range []string{"udp", "tcp"} {
				b, err := os.ReadFile("/proc/thread-self/net/" + proto)
				if err != nil {
					return err
				}
				if !strings.Contains(string(b), want) {
					return fmt.Errorf("nothing listens on %s port 53 of %s", proto, addr)
				}
			}
			return nil
		})
	})
}
