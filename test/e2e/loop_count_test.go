package e2e

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/test/fakedns"
)

// Names that clients ask for in a cluster with a loop begin with
// loopPrefix, so that the packet filter knows them from probes, and from
// what a validating server asks besides, also in the letter case that another
// server has given them.
const (
	loopPrefix = "lpq"
	loopZone   = "example.com."
)

// count has the packet filter of a replica count the queries that come to
// it: from the client, and from anywhere else. Of a TCP stream it counts the segments that are pushed.
// A replica that has refused one of the client's names has cut the loop: what comes
// to it before that, or is sent on by it all the same, is early.
func (c *cluster) count(r *replica) {
	c.t.Helper()
	name := ""
	for _, b := range []byte(strings.ToUpper(loopPrefix)) {
		name += fmt.Sprintf("%02x", b)
	}
	c.t.Helper()
	here := ""
	if c.hostNetwork {
		here = fmt.Sprintf("  ip daddr != %s return\n", r.addr)
	}
	r.nft(fmt.Sprintf(`table inet e2e_loop {
 counter returned {
 }
 counter early {
 }
 set cut {
  type inet_service
  flags dynamic
  timeout 1h
 }
 counter others {
 }
 chain c {
  type filter hook input priority 0
%[3]s  ip saddr %[1]s udp dport 53 return
  udp dport 53 @th,168,40 0x%[4]x return
  udp dport 53 @th,168,24 & 0xdfdfdf == 0x%[2]s counter name returned udp dport != @cut counter name early return
  tcp dport 53 @ih,120,24 & 0xdfdfdf == 0x%[2]s counter name returned tcp dport != @cut counter name early return
  udp dport 53 @th,168,24 & 0xdfdfdf == 0x%[2]s return
  tcp dport 53 @ih,120,24 & 0xdfdfdf == 0x%[2]s return
  udp dport 53 counter name others
  tcp dport 53 tcp flags & psh == psh counter name others
 }
 chain out {
  type filter hook output priority 0
  udp dport 53 @th,168,24 & 0xdfdfdf == 0x%[2]s udp dport @cut counter name early
  tcp dport 53 @ih,120,24 & 0xdfdfdf == 0x%[2]s tcp dport @cut counter name early
  udp sport 53 @th,92,4 2 @th,168,24 & 0xdfdfdf == 0x%[2]s add @cut { udp sport }
  tcp sport 53 @ih,44,4 2 @ih,120,24 & 0xdfdfdf == 0x%[2]s add @cut { tcp sport }
 }
}
`, c.client.addr, name, here, ready[:5]))
}

// counts are queries that came to all replicas.
type counts struct {
	returned int64 // the client's, come round: all that came but once
	early    int64 // of these those that came to a replica before it refused one, and what it sent on afterwards
	others   int64 // of any other name, come round: probes, questions of validating servers
}

var counters = regexp.MustCompile(`counter (\w+) {\s+packets (\d+)`)

func (c *cluster) counts() counts {
	c.t.Helper()
	var sum counts
	if c.asks != dnsService+":53" { // through a cache of each node, which is not the client
		sum.returned = -int64(c.named)
	}
	for _, r := range c.replicas {
		for _, m := range counters.FindAllStringSubmatch(r.run("nft", "list", "counters", "table", "inet", "e2e_loop"), -1) {
			n, err := strconv.ParseInt(m[2], 10, 64)
			if err != nil {
				c.t.Fatal(err)
			}
			switch m[1] {
			case "returned":
				sum.returned += n
			case "early":
				sum.early += n
			case "others":
				sum.others += n
			}
		}
	}
	return sum
}

// uncut forgets which replicas have refused a name.
func (c *cluster) uncut() {
	c.t.Helper()
	for _, r := range c.replicas {
		r.run("nft", "flush", "set", "inet", "e2e_loop", "cut")
	}
}

func (n counts) since(before counts) counts {
	return counts{n.returned - before.returned, n.early - before.early, n.others - before.others}
}

// question is one for a name that was not asked for before.
func (c *cluster) question() question {
	c.named++
	q := question{name: fmt.Sprintf("%s%d.%s", loopPrefix, c.named, loopZone), qtype: dns.TypeA}
	q.addr = fakedns.A("", q.name)
	return q
}

func (c *cluster) questions(n int) []question {
	var out []question
	for range n {
		out = append(out, c.question())
	}
	return out
}

// ask asks one question, as a stub does that waits for five seconds.
func (c *cluster) ask() answer { return c.askAt(c.asks) }

// askAt asks another server, such as one of the replicas.
func (c *cluster) askAt(to string) answer {
	c.t.Helper()
	q := c.question()
	q.again = true
	return c.client.loaders([]string{to}, 1, 1, []question{q}).run()[0]
}

func (a answer) String() string {
	what := a.wrong
	if what == "" {
		what = "right"
	}
	return fmt.Sprintf("%s in %v", what, a.took.Round(100*time.Microsecond))
}

// served says why a replica does not serve a name of the cluster.
func (c *cluster) served() error {
	c.t.Helper()
	for _, r := range c.replicas {
		a, err := c.client.ask(r.addrPort(53), "kubernetes.default.svc.cluster.local.", dns.TypeA)
		if err == nil && len(a.Answer) == 0 {
			err = errors.New(dns.RcodeToString[a.Rcode])
		}
		if err != nil {
			return fmt.Errorf("%s does not serve a name of the cluster: %w", r.addr, err)
		}
	}
	return nil
}

// burden is the most that any replica has at the moment.
type burden struct {
	memory      int // MB resident
	descriptors int
	ended       int // replicas that are no more
}

func (c *cluster) burden() burden {
	c.t.Helper()
	var b burden
	for _, r := range c.replicas {
		if r.server.ended() {
			b.ended++
			continue
		}
		dir := fmt.Sprintf("/proc/%d/", r.server.pid())
		status, err := os.ReadFile(dir + "status")
		open, err2 := os.ReadDir(dir + "fd")
		if err != nil || err2 != nil { // it is about to
			b.ended++
			continue
		}
		if m := residentKB.FindSubmatch(status); m != nil {
			kb, _ := strconv.Atoi(string(m[1]))
			b.memory = max(b.memory, kb>>10)
		}
		b.descriptors = max(b.descriptors, len(open))
	}
	return b
}

var residentKB = regexp.MustCompile(`VmRSS:\s+(\d+) kB`)

func (b burden) String() string {
	return fmt.Sprintf("%d MB, %d descriptors, %d ended", b.memory, b.descriptors, b.ended)
}

// killed ends all replicas.
func (c *cluster) killed() {
	for _, r := range c.replicas {
		r.server.kill()
	}
}
