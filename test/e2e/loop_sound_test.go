package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/test/fakedns"
)

// soundRow is a cluster that looks as if it had a loop, and has none.
type soundRow struct {
	name string
	// begin starts the servers, and returns those with dnsguard beside the replicas.
	begin func(c *sound) []*server
	// any is set where whatever is answered is right.
	any bool
	// replayed is set where what an upstream was sent comes in again, which is to be cut.
	replayed bool
}

type sound struct {
	*cluster
	corp *fake
}

const (
	corpServer    = "172.16.0.50" // of a private network
	otherCluster  = "172.16.0.60" // its DNS
	anythingHere  = "192.168.1.1" // answers everything, as a captive portal does
	anythingThere = "223.5.5.5"   // the same, with a public address
)

var soundRows = []soundRow{
	{name: "node-local tier", begin: func(c *sound) []*server {
		c.resolvConf(publicServer)
		c.begin(directive(), maxConcurrent)
		return c.tier(". "+dnsService, "")
	}},
	{name: "node-local tier with the same text", begin: func(c *sound) []*server {
		c.resolvConf(publicServer)
		c.begin(directive(), maxConcurrent)
		for _, n := range c.nodes {
			n.resolvConf(dnsService)
		}
		return c.tier(". /etc/resolv.conf", "max_concurrent 1000")
	}},
	{name: "two versions during an update", begin: func(c *sound) []*server {
		c.resolvConf(publicServer)
		corefile := c.corefile("", directive(), maxConcurrent)
		c.replicas[0].start(corefile)
		c.replicas[1].start(strings.Replace(corefile, "/etc/resolv.conf", publicServer+" "+corpServer, 1))
		for _, r := range c.replicas {
			r.awaited()
		}
		return c.tier(". "+dnsService, "")
	}},
	{name: "another resolv.conf on each node", begin: func(c *sound) []*server {
		c.replicas[0].resolvConf(publicServer)
		c.replicas[1].resolvConf(corpServer, publicServer)
		c.begin(directive(), maxConcurrent)
		return c.tier(". "+dnsService, "")
	}},
	{name: "stamps and probes are replayed", replayed: true, begin: func(c *sound) []*server {
		c.resolvConf(corpServer, publicServer)
		c.begin(directive(), maxConcurrent)
		return nil
	}},
	{name: "a portal that answers everything", any: true, begin: func(c *sound) []*server {
		c.resolvConf(anythingHere)
		c.begin(directive(), maxConcurrent)
		return nil
	}},
	{name: "a public server that answers everything", any: true, begin: func(c *sound) []*server {
		c.resolvConf(anythingThere)
		c.begin(directive(), maxConcurrent)
		return nil
	}},
	{name: "two clusters with the same Corefile", begin: func(c *sound) []*server {
		// The other cluster is one server, that has a key of its own.
		c.resolvConf(otherCluster)
		c.begin(directive(), "loop key "+c.key("this cluster"))
		other := &replica{host: c.host("other", otherCluster)}
		other.resolvConf(publicServer)
		other.start(c.corefile("", directive(), "loop key "+c.key("another cluster")))
		other.awaited()
		return []*server{other.server}
	}},
}

// TestLoopNone holds that no upstream is taken for looping, and no query is
// cut, where nothing loops.
func TestLoopNone(t *testing.T) {
	requires(t)
	requiresDirective(t, directive())
	for _, row := range soundRows {
		judgedApart(t, row.name, row.run)
	}
}

func (row *soundRow) run(t *testing.T, v *verdict) {
	c := &sound{cluster: newCluster(t, 2, false)}
	far := c.host("away", corpServer)
	const slow = "zone slow.test delay 1s"
	c.corp = far.fake(corpServer, slow)
	late, err := fakedns.ParseFault(slow)
	if err != nil {
		t.Fatal(err)
	}
	c.public.Set(late)
	c.anything(far)
	more := row.begin(c)
	if len(more) == len(c.nodes) {
		c.asks = nodeLocal + ":53"
	}
	second := c.pod(1, 101)
	questions := c.mix(int(shortOr(5*time.Second, time.Minute)/time.Second) * loopRate / 2)
	again := second.loader(c.asks, loopRate/2, questions)
	done := make(chan []answer, 1)
	go func() { done <- again.run() }()
	stop, replayed := c.insists(second, questions), func() int { return 0 }
	if row.replayed {
		replayed = c.replays(c.corp, second)
	}
	answers := append(c.client.load(c.asks, loopRate/2, questions), <-done...)
	stop()
	replays := replayed()
	f := measure(append(questions, questions...), answers)
	t.Logf("%d of %d wrong (%s), p50 %v, max %v", f.wrong, f.total, f.why(), f.p50, f.max)
	if f.wrong > 0 && !row.any {
		v.errorf("%d of %d wrong: %s", f.wrong, f.total, f.why())
	}
	for _, r := range c.replicas {
		more = append(more, r.server)
	}
	allCut := 0.0
	for _, s := range more {
		if s.ended() {
			v.errorf("%s has ended: %v", s.name, s.err)
			continue
		}
		cut, found, probes := s.metric("coredns_dnsguard_loop_cut_queries_total"), s.metric("coredns_dnsguard_loop_detected_total"), s.metric("coredns_dnsguard_loop_probes_total", `"sent"`)
		t.Logf("%s: %v queries cut, %v loops, %v probes", s.name, cut, found, probes)
		allCut += cut
		if row.replayed {
			cut = 0
		}
		if cut+found > 0 {
			v.errorf("%s: %v queries cut, %v upstreams taken for looping:\n%s", s.name, cut, found, strings.Join(s.log.lines("plugin/dnsguard"), "\n"))
		}
		if probes == 0 {
			v.errorf("%s has sent no probe, so that this shows nothing", s.name)
		}
	}
	if row.replayed && (allCut == 0 || int(allCut) > replays) {
		v.errorf("%v queries cut of %d that were sent again", allCut, replays)
	}
}

// mix are questions, some of whose answers are late, as pairs of A and AAAA.
func (c *sound) mix(n int) []question {
	var out []question
	for i := range n {
		q := question{name: fmt.Sprintf("%s%d.%s", loopPrefix, i/2, loopZone), qtype: dns.TypeA}
		if i/2%10 == 0 {
			q.name = fmt.Sprintf("%s%d.slow.test.", loopPrefix, i/2)
		}
		q.addr = fakedns.A("", q.name)
		if i%2 == 1 {
			q.qtype, q.addr = dns.TypeAAAA, fakedns.AAAA("", q.name)
		}
		out = append(out, q)
	}
	return out
}

// tier is dnsguard as the node-local cache of all nodes.
func (c *sound) tier(to, options string) []*server {
	c.t.Helper()
	var out []*server
	for _, n := range c.nodes {
		r := &replica{host: &host{lab: n.lab, t: n.t, ns: n.ns, addr: n.addr}}
		corefile := fmt.Sprintf("%[1]s:53 {\n bind %[2]s %[3]s\n template IN TXT . {\n  answer \"{{ .Name }} 0 IN TXT ready\"\n }\n}\n.:53 {\n bind %[2]s %[3]s\n errors\n cache 30\n reload\n loop\n prometheus :9153\n %[4]s %[5]s {\n  %[6]s\n }\n}\n",
			ready, nodeLocal, n.addr, directive(), to, options)
		r.start(corefile)
		r.awaited()
		out = append(out, r.server)
	}
	return out
}

// key writes one to a file.
func (c *sound) key(text string) string {
	c.t.Helper()
	path := filepath.Join(c.nodes[0].tempDir(), "key")
	if err := os.WriteFile(path, []byte(text+" has a key of its own\n"), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return path
}

// anything has two addresses answer every question of every type.
func (c *sound) anything(h *host) {
	c.t.Helper()
	var bind string
	for _, addr := range []string{anythingHere, anythingThere} {
		c.ip("-n", h.ns, "addr", "add", addr+"/32", "dev", "eth0")
		bind += " " + addr
	}
	corefile := ".:53 {\n bind" + bind + "\n template IN A . {\n  answer \"{{ .Name }} 60 IN A 192.0.2.1\"\n }\n template IN AAAA . {\n  answer \"{{ .Name }} 60 IN AAAA 2001:db8::1\"\n }\n" +
		" template IN ANY . {\n  answer \"{{ .Name }} 60 IN TXT \\\"log in first\\\"\"\n }\n}\n"
	hopOf(anythingHere, "Corefile", corefile, coreDNS(c.t), "-conf", "%DIR%/Corefile")(h, "")
}
