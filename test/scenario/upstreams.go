package scenario

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/dnsguard/dnsguard/test/fakedns"
)

// upstream is one server and its faults.
type upstream struct {
	addr   netip.AddrPort
	tls    bool
	server string // for fakedns.ParseServer
	faults []fakedns.Fault
}

// parseUpstream reads
//
//	ADDRESS SERVER   (the first line with this address)
//	ADDRESS FAULT    (all further ones)
//	host FAULT       (of the plugin's own host)
//	replicas N       (of the directive, which are asked in turn)
//	seen by NAME ADDRESS is ADDRESS
//
// where an address is 10.0.0.1, 10.0.0.1:5300, 10.0.0.1-15 (a range),
// tls://10.0.0.1, several of these joined by commas, or * for all so far.
func (s *Scenario) parseUpstream(line string) error {
	target, rest, _ := strings.Cut(line, " ")
	if target == "replicas" {
		n, err := strconv.Atoi(rest)
		if err != nil || n < 1 {
			return fmt.Errorf("replicas %q: must be a number", rest)
		}
		s.replicas = n
		return nil
	}
	if target == "seen" {
		p, err := parsePlace(rest)
		s.places = append(s.places, p)
		return err
	}
	if target == "host" {
		f, err := fakedns.ParseFault(rest)
		if err == nil && !f.Kind.OfHost() {
			err = fmt.Errorf("%q is no fault of the host", rest)
		}
		s.host = append(s.host, f)
		return err
	}
	for t := range strings.SplitSeq(target, ",") {
		found, err := s.targets(t)
		if err != nil {
			return err
		}
		for _, u := range found {
			if err := s.addUpstream(u, strings.TrimSpace(rest), t == "*"); err != nil {
				return err
			}
		}
	}
	return nil
}

// place is a network in which an address belongs to another server.
type place struct {
	name     string // of the replica or the Corefile
	from, to netip.AddrPort
}

// parsePlace reads "by NAME ADDRESS is ADDRESS".
func parsePlace(text string) (p place, err error) {
	f := strings.Fields(text)
	if len(f) != 5 || f[0] != "by" || f[3] != "is" {
		return p, fmt.Errorf("seen %s: must be seen by NAME ADDRESS is ADDRESS", text)
	}
	p.name = f[1]
	if p.from, err = netip.ParseAddrPort(withPort(f[2])); err == nil {
		p.to, err = netip.ParseAddrPort(withPort(f[4]))
	}
	return p, err
}

func (s *Scenario) addUpstream(u upstream, text string, known bool) error {
	i := slices.IndexFunc(s.upstreams, func(x upstream) bool { return x.addr == u.addr })
	if i < 0 && !known {
		if _, err := fakedns.ParseServer(text); err != nil {
			return err
		}
		u.server = text
		s.upstreams = append(s.upstreams, u)
		return nil
	}
	f, err := fakedns.ParseFault(text)
	if err == nil && f.Kind.OfHost() {
		err = fmt.Errorf("%q is a fault of the host", text)
	}
	if err != nil {
		return err
	}
	s.upstreams[i].faults = append(s.upstreams[i].faults, f)
	return nil
}

// targets reads one address or range.
func (s *Scenario) targets(text string) ([]upstream, error) {
	if text == "*" {
		return slices.Clone(s.upstreams), nil
	}
	u := upstream{}
	port := uint16(53)
	host, isTLS := strings.CutPrefix(text, "tls://")
	if isTLS {
		u.tls, port = true, 853
	}
	if first, last, ok := strings.Cut(host, "-"); ok {
		return ranged(u, port, first, last)
	}
	if addr, err := netip.ParseAddrPort(host); err == nil {
		u.addr = addr
		return []upstream{u}, nil
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return nil, fmt.Errorf("upstream %q: must be an address", text)
	}
	u.addr = netip.AddrPortFrom(addr, port)
	return []upstream{u}, nil
}

func ranged(u upstream, port uint16, first, last string) ([]upstream, error) {
	addr, err := netip.ParseAddr(first)
	end, err2 := strconv.ParseUint(last, 10, 8)
	if err != nil || err2 != nil || !addr.Is4() {
		return nil, fmt.Errorf("upstreams %s-%s: must be a range, as in 10.0.0.1-15", first, last)
	}
	var out []upstream
	for a := addr; a.As4()[3] <= byte(end); a = a.Next() {
		u.addr = netip.AddrPortFrom(a, port)
		out = append(out, u)
		if a.As4()[3] == 255 {
			break
		}
	}
	return out, nil
}
