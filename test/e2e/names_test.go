package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// record is a name with its addresses; an address that is not valid is none.
type record struct {
	name string // fully qualified
	v4   netip.Addr
	v6   netip.Addr
}

// zone is a zone and what is in it, the same on every server that has it.
type zone struct {
	name    string
	records []record
	extra   []string // further records, as in zone files
}

// soa is the SOA record of a zone, as it stands in zone files.
func (z zone) soa() string {
	ns := "ns1." + z.name
	if z.name == "." {
		ns = "a.root-servers.net."
	}
	return fmt.Sprintf("%s 300 IN SOA %s hostmaster.%s 1 3600 600 86400 60", z.name, ns, ns)
}

const (
	publicZones  = 500
	privateHosts = 300
	privateZone  = "corp.internal."
)

var (
	publicSuffixes = []string{"com", "net", "org", "io", "de", "co.uk", "com.cn", "github.io"}
	publicHosts    = []string{"", "www", "api", "mail", "img", "cdn"}
)

// public returns zones as on the Internet: 500 of them with 6 names each,
// under several public suffixes. Every fourth name has no IPv6 address.
func public() []zone {
	zones := make([]zone, 0, publicZones)
	for i := range publicZones {
		z := zone{name: fmt.Sprintf("site%03d.%s.", i, publicSuffixes[i%len(publicSuffixes)])}
		hosts := publicHosts
		if i == 0 { // the name that the third report tells of
			z.name, hosts = "tbsite.net.", []string{"", "www", "api", "mail", "img", "jmenv"}
		}
		for j, host := range hosts {
			r := record{name: z.name, v4: netip.AddrFrom4([4]byte{198, 18 + byte(i>>8), byte(i), byte(j + 1)})}
			if host != "" {
				r.name = host + "." + z.name
			}
			if (i+j)%4 != 0 {
				r.v6 = netip.MustParseAddr(fmt.Sprintf("2001:db8:%x::%x", i, j+1))
			}
			z.records = append(z.records, r)
		}
		zones = append(zones, z)
	}
	return zones
}

// private returns the zone that internal servers alone know. Its names have
// no IPv6 address.
func private() zone {
	z := zone{name: privateZone}
	for i := range privateHosts {
		z.records = append(z.records, record{
			name: fmt.Sprintf("app%03d.%s", i, privateZone),
			v4:   netip.AddrFrom4([4]byte{10, 99, byte(i >> 8), byte(i)}),
		})
	}
	return z
}

// question is what a client asks, and the only right answer to it.
type question struct {
	name  string
	qtype uint16
	rcode int
	addr  netip.Addr // not valid: no data
	again bool       // was asked before in the same load
}

func (r record) questions() (a, aaaa question) {
	return question{name: r.name, qtype: dns.TypeA, addr: r.v4},
		question{name: r.name, qtype: dns.TypeAAAA, addr: r.v6}
}

// missing returns n questions for names that do not exist: in zones that do,
// as of typing errors, and below none, as of search lists.
func missing(zones []zone, n int) []question {
	out := make([]question, 0, n)
	for i := range n {
		q := question{qtype: dns.TypeA, rcode: dns.RcodeNameError}
		if i%2 == 0 {
			q.name = fmt.Sprintf("wwww%d.%s", i, zones[i%len(zones)].name)
		} else {
			q.name = fmt.Sprintf("db%d.prod.svc.office.", i)
		}
		out = append(out, q)
	}
	return out
}

// private reports whether only internal servers have the name.
func (q question) private() bool { return strings.HasSuffix(q.name, "."+privateZone) }

// publicQuestions asks for every public name by A and AAAA.
func publicQuestions(zones []zone) []question {
	var out []question
	for _, z := range zones {
		for _, r := range z.records {
			a, aaaa := r.questions()
			out = append(out, a, aaaa)
		}
	}
	return out
}

// mix puts the questions in an order of chance, the same each time, and
// repeats some until there are n.
func mix(n int, questions ...question) []question {
	draw := rand.New(rand.NewPCG(1, 2))
	out := slices.Clone(questions)
	for len(out) < n {
		out = append(out, questions[draw.IntN(len(questions))])
	}
	draw.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	out = out[:n]
	type key struct {
		name  string
		qtype uint16
	}
	seen := make(map[key]bool)
	for i, q := range out {
		k := key{q.name, q.qtype}
		out[i].again = seen[k]
		seen[k] = true
	}
	return out
}
