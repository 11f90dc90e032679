package dnsguard

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/coredns/coredns/request"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
	"github.com/dnsguard/dnsguard/plugin/explain"
)

// Queries of class CH that ask the directives themselves. The first directive
// of a server block answers for all of them, whatever their zones, and
// however many queries are in flight. Nothing is forwarded.

// explains reports whether a query is for the directives themselves.
func (g *Guard) explains(r *dns.Msg) bool {
	if len(r.Question) != 1 || r.Question[0].Qclass != dns.ClassCHAOS || !g.explainsAny() {
		return false
	}
	k, _ := explain.Parse(r.Question[0].Name)
	return k != explain.Foreign
}

// explainsAny reports whether any directive of the server block is explained to anybody.
func (g *Guard) explainsAny() bool {
	return slices.ContainsFunc(g.siblings, func(s *Guard) bool { return s.audience != nil })
}

// CacheBypassZones implements the cache plugin's ZoneBypasser: the cache would
// keep an answer for seconds though its TTL is 0, and drop the reason of a
// refusal; and fill up with the names of probes for loops.
func (g *Guard) CacheBypassZones() (zones []string) {
	if g.explainsAny() {
		zones = append(zones, explain.Zone)
	}
	for _, s := range g.siblings { // the server asks only one of them
		if s.loops != nil {
			zones = append(zones, s.loops.suffixes...)
		}
	}
	slices.Sort(zones)
	return slices.Compact(zones)
}

// explain answers a query for the directives themselves.
func (g *Guard) explain(state *request.Request) (int, error) {
	r := state.Req
	if rcode, unsupported := dnsmsg.Unsupported(r); unsupported {
		return g.write(state.W, dnsmsg.Failure(r, rcode, dnsmsg.EDE{Code: dns.ExtendedErrorCodeNotSupported, Text: "not forwarded"}))
	}
	now := time.Now()
	client, _ := netip.ParseAddr(state.IP()) // one that is no address is nobody's
	told := make([]bool, len(g.siblings))    // which of them the client is told of
	for i, s := range g.siblings {
		told[i] = s.audience != nil && s.audience.Has(now, client)
	}
	if !slices.Contains(told, true) {
		return g.write(state.W, dnsmsg.Failure(r, dns.RcodeRefused, dnsmsg.EDE{
			Code: dns.ExtendedErrorCodeProhibited, Text: "explained to this host alone, and to the networks of the option explain",
		}))
	}
	m := new(dns.Msg)
	m.SetReply(r)
	m.RecursionAvailable = true
	var texts []explain.Text
	switch kind, about := explain.Parse(r.Question[0].Name); kind {
	case explain.Pool:
		texts = g.explainPools(now, told)
	case explain.Name:
		texts = g.explainName(now, about, told)
	case explain.Nothing:
		m.Rcode = dns.RcodeNameError
	case explain.Empty, explain.Foreign:
	}
	if t := r.Question[0].Qtype; t == dns.TypeTXT || t == dns.TypeANY {
		m.Answer = txtRecords(r.Question[0].Name, texts)
	}
	return g.write(state.W, m)
}

// explainPools tells of the upstreams.
func (g *Guard) explainPools(now time.Time, told []bool) (texts []explain.Text) {
	for i, s := range g.siblings {
		if told[i] {
			texts = append(texts, g.named(i).Pool(now, s.Snapshot(), s.follower.empty())...)
		}
	}
	return texts
}

// explainName tells what each directive would do with a query for a name.
func (g *Guard) explainName(now time.Time, name string, told []bool) (texts []explain.Text) {
	taken := "" // by which directive
	for i, s := range g.siblings {
		d, why := g.named(i), ""
		switch zone := s.excepted(name); {
		case !dnsmsg.Within(name, s.cfg.From):
			why = "not in " + s.cfg.From
		case zone != "":
			why = fmt.Sprintf("in %s, which is excepted: passed to the next plugin", zone)
		case taken != "":
			why = taken + " comes before, and takes it"
		case told[i]:
			taken = "dnsguard " + s.cfg.From
			texts = append(texts, d.Name(name, s.pool.Load().forwarder.Explain(now, name))...)
		default:
			taken = "another directive"
		}
		if told[i] && why != "" {
			texts = append(texts, d.Passed(name, why))
		}
	}
	return texts
}

// named is what directive i of the server block is called.
func (g *Guard) named(i int) explain.Directive {
	d := explain.Directive{From: g.siblings[i].cfg.From}
	if mode := g.siblings[i].cfg.Mode; mode != ModeGuard {
		d.Mode = mode
	}
	if len(g.siblings) > 1 {
		d.Number = i + 1
	}
	return d
}

// txtRecords turns texts into records of the name.
func txtRecords(name string, texts []explain.Text) []dns.RR {
	// The library takes strings in presentation format (RFC 1035, section 5.1).
	escape := strings.NewReplacer(`\`, `\\`)
	rrs := make([]dns.RR, 0, len(texts))
	for _, t := range texts {
		rr := &dns.TXT{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeTXT, Class: dns.ClassCHAOS}}
		for _, s := range t {
			rr.Txt = append(rr.Txt, escape.Replace(s))
		}
		rrs = append(rrs, rr)
	}
	return rrs
}

// interfaceAddrs returns the addresses of this host's interfaces.
func interfaceAddrs() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of the interfaces: %w", err)
	}
	ips := make([]netip.Addr, 0, len(all))
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				ips = append(ips, ip.Unmap())
			}
		}
	}
	return ips, nil
}
