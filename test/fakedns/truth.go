package fakedns

import (
	"hash/fnv"
	"net"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// Poison is the address in every forged reply: a client that sees it has
// been fooled.
var Poison = netip.MustParseAddr("192.0.2.66")

const ttl = 60

// hash is the one source of all that is made up: FNV-1a over the parts,
// mixed once more because FNV's upper bits are poor for short input.
func hash(parts ...string) uint64 {
	h := fnv.New64a()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	x := h.Sum64()
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// share maps a hash to 0 <= x < 1.
func share(h uint64) float64 { return float64(h>>11) / (1 << 53) }

// A returns the address that servers of the view know for the name; the
// usual view is "".
func A(view, name string) netip.Addr {
	h := hash(view, "A", dns.CanonicalName(name))
	return netip.AddrFrom4([4]byte{203, byte(h >> 16), byte(h >> 8), byte(h)})
}

// AAAA is A for IPv6.
func AAAA(view, name string) netip.Addr {
	h := hash(view, "AAAA", dns.CanonicalName(name))
	a := [16]byte{0x20, 0x01, 0x0d, 0xb8}
	for i := range 8 {
		a[8+i] = byte(h >> (8 * i))
	}
	return netip.AddrFrom16(a)
}

// TXT is A for text.
func TXT(view, name string) string { return "text of " + dns.CanonicalName(name) + view }

// Exists reports whether the name is in the DNS at all: a name whose first
// label begins with "nx" is not.
func Exists(name string) bool {
	return !strings.HasPrefix(strings.ToLower(name), "nx")
}

// HasType reports whether an existing name has data of the type: all names
// have A, AAAA and TXT, but those whose first label begins with "v4only" have no
// AAAA; the root has NS, so that probes are answered.
func HasType(name string, qtype uint16) bool {
	switch qtype {
	case dns.TypeA, dns.TypeTXT:
		return name != "."
	case dns.TypeAAAA:
		return name != "." && !strings.HasPrefix(strings.ToLower(name), "v4only")
	case dns.TypeNS:
		return name == "."
	}
	return false
}

// Right reports whether the reply is what a server of the view that truly
// knows the name would say: the right data, or the right denial.
func Right(view string, m *dns.Msg) bool {
	if m == nil || len(m.Question) != 1 {
		return false
	}
	q := m.Question[0]
	switch {
	case !Exists(q.Name):
		return m.Rcode == dns.RcodeNameError && len(m.Answer) == 0
	case m.Rcode != dns.RcodeSuccess:
		return false
	case !HasType(q.Name, q.Qtype):
		return len(m.Answer) == 0 && !m.Truncated
	case len(m.Answer) == 0:
		return false
	}
	want := data(view, q)[0]
	return dns.IsDuplicate(want, m.Answer[0])
}

// data returns the one record that a name truly has.
func data(view string, q dns.Question) []dns.RR {
	if q.Qtype == dns.TypeNS {
		h := dns.RR_Header{Name: q.Name, Rrtype: dns.TypeNS, Class: dns.ClassINET, Ttl: ttl}
		return []dns.RR{&dns.NS{Hdr: h, Ns: "a.root-servers.net."}}
	}
	return []dns.RR{record(view, q.Name, q.Name, q.Qtype)}
}

// record makes a record of owner with the data of name.
func record(view, owner, name string, qtype uint16) dns.RR {
	h := dns.RR_Header{Name: owner, Rrtype: qtype, Class: dns.ClassINET, Ttl: ttl}
	switch qtype {
	case dns.TypeAAAA:
		return &dns.AAAA{Hdr: h, AAAA: AAAA(view, name).AsSlice()}
	case dns.TypeTXT:
		return &dns.TXT{Hdr: h, Txt: []string{TXT(view, name)}}
	default:
		h.Rrtype = dns.TypeA
		return &dns.A{Hdr: h, A: net.IP(A(view, name).AsSlice())}
	}
}

// soa makes the SOA record of a denial.
func soa(zone string) dns.RR {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: dns.Fqdn(zone), Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl},
		Ns:  "ns.invalid.", Mbox: "hostmaster.invalid.",
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttl,
	}
}

// apex returns the zone that a true denial of the name names: its last two
// labels, as if every domain were registered below a top-level domain.
func apex(name string) string {
	i := dns.Split(name)
	if len(i) <= 2 {
		if len(i) == 0 {
			return "."
		}
		return name[i[len(i)-1]:]
	}
	return name[i[len(i)-2]:]
}

// within reports whether the name is in one of the zones.
func within(zones []string, name string) bool {
	for _, z := range zones {
		if dns.IsSubDomain(dns.CanonicalName(z), dns.CanonicalName(name)) {
			return true
		}
	}
	return false
}
