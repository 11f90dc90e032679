//go:build linux

package main

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

const (
	worldZones    = 40
	hostsPerZone  = 10
	internalZone  = "corp.internal."
	missingShare  = 0.1  // of public names: NXDOMAIN is the truth
	internalShare = 0.25 // of all names, where the scenario has any
)

// scope says who can know a name.
type scope uint8

const (
	public scope = iota
	internal
	root // ". NS", which probes ask for
)

// truth is what a name is in the world that the upstreams serve.
type truth struct {
	scope  scope
	zone   string
	exists bool
	addr   netip.Addr
}

// lookup returns the truth about name. It is derived from the name alone, so
// that a client can tell a right answer without asking anybody.
func lookup(name string) truth {
	name = strings.ToLower(name)
	if name == "." {
		return truth{scope: root, zone: ".", exists: true}
	}
	t := truth{scope: public, exists: !strings.HasPrefix(name, "missing")}
	if dns.IsSubDomain(internalZone, name) {
		t.scope, t.zone = internal, internalZone
	} else if labels := dns.SplitDomainName(name); len(labels) >= 2 {
		t.zone = dns.Fqdn(strings.Join(labels[len(labels)-2:], "."))
	}
	h := fnv.New32a()
	h.Write([]byte(name))
	sum := h.Sum32()
	t.addr = netip.AddrFrom4([4]byte{198, 18, byte(sum >> 8), byte(sum)})
	return t
}

// draw returns a name to ask for.
func draw(rnd *rand.Rand, withInternal bool) string {
	if withInternal && rnd.Float64() < internalShare {
		return fmt.Sprintf("app%d.%s", rnd.IntN(hostsPerZone*4), internalZone)
	}
	tld := [...]string{"com", "net", "org"}
	n := rnd.IntN(worldZones)
	zone := fmt.Sprintf("dnsbench%02d.%s.", n, tld[n%len(tld)])
	if rnd.Float64() < missingShare {
		return fmt.Sprintf("missing%d.%s", rnd.IntN(1000), zone)
	}
	return fmt.Sprintf("host%d.%s", rnd.IntN(hostsPerZone), zone)
}

// right reports whether reply is the truth about the A record of name.
func right(name string, reply *dns.Msg) bool {
	t := lookup(name)
	if !t.exists {
		return reply.Rcode == dns.RcodeNameError
	}
	if reply.Rcode != dns.RcodeSuccess || reply.Truncated || len(reply.Answer) != 1 {
		return false
	}
	a, ok := reply.Answer[0].(*dns.A)
	if !ok {
		return false
	}
	got, _ := netip.AddrFromSlice(a.A.To4())
	return got == t.addr
}
