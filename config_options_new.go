package dnsguard

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// The options that forward does not have.

const (
	ejectArgs   = "off | eject [failures N] [share SHARE|PERCENT%] [base DURATION] [max DURATION]"
	explainTo   = "to NETWORK..."
	explainArgs = "off | explain " + explainTo
)

// ednsOptionNames are the codes that have a name in edns_options, from IANA's
// registry of EDNS0 option codes. Never written to.
var ednsOptionNames = map[string]uint16{
	"llq":            dns.EDNS0LLQ,
	"update-lease":   dns.EDNS0UL,
	"nsid":           dns.EDNS0NSID,
	"dau":            dns.EDNS0DAU,
	"dhu":            dns.EDNS0DHU,
	"n3u":            dns.EDNS0N3U,
	"ecs":            dns.EDNS0SUBNET,
	"expire":         dns.EDNS0EXPIRE,
	"cookie":         dns.EDNS0COOKIE,
	"tcp-keepalive":  dns.EDNS0TCPKEEPALIVE,
	"padding":        dns.EDNS0PADDING,
	"chain":          13, // RFC 7901
	"key-tag":        14, // RFC 8145
	"ede":            dns.EDNS0EDE,
	"client-tag":     16,
	"server-tag":     17,
	"report-channel": dns.EDNS0REPORTING,
	"zoneversion":    dns.EDNS0ZONEVERSION,
}

func setMode(s *stanza, args []string) (err error) {
	s.Mode, err = oneOf(args[0], modes...)
	return err
}

func setTimeout(s *stanza, args []string) (err error) {
	s.Timeout, err = parseDuration(args[0], spanTimeout)
	return err
}

func setHedge(s *stanza, args []string) (err error) {
	s.HedgeSet = true
	if args[0] == "off" {
		return nil
	}
	s.Hedge, err = parseShare(args[0], spanHedge)
	return err
}

func setNXDomain(s *stanza, args []string) error {
	word, err := oneOf(args[0], "verify", "trust")
	s.NXDomainTrust = word == "trust"
	return err
}

func setEject(s *stanza, args []string) error {
	if args[0] == "off" {
		if len(args) > 1 {
			return fmt.Errorf("off: found %s; usage: eject off", counted(len(args)-1))
		}
		s.Eject.Off = true
		return nil
	}
	seen := make(map[string]bool)
	for ; len(args) > 0; args = args[2:] {
		name := args[0]
		set, ok := ejectSetters[name]
		switch {
		case !ok:
			return badValue(name, "off, or failures N, share SHARE, base DURATION, max DURATION")
		case seen[name]:
			return fmt.Errorf("%s: given twice", name)
		case len(args) == 1:
			return fmt.Errorf("%s: found no argument", name)
		}
		if err := set(&s.Eject, args[1]); err != nil {
			return fmt.Errorf("%s %w", name, err)
		}
		seen[name] = true
	}
	if s.Eject.Max > 0 && s.Eject.Max < s.Eject.Base {
		return s.Eject.maxBelowBase()
	}
	return nil
}

// ejectSetters are the parts of eject. Never written to.
var ejectSetters = map[string]func(e *EjectConfig, text string) error{
	"failures": func(e *EjectConfig, text string) (err error) {
		e.Failures, err = parseInt(text, spanFailures)
		return err
	},
	"share": func(e *EjectConfig, text string) (err error) {
		e.Share, err = parseShare(text, spanEjectShare)
		return err
	},
	"base": func(e *EjectConfig, text string) (err error) {
		e.Base, err = parseDuration(text, spanEjectBase)
		return err
	},
	"max": func(e *EjectConfig, text string) (err error) {
		e.Max, err = parseDuration(text, spanEjectMax)
		return err
	},
}

func setPrivateZones(s *stanza, args []string) error {
	names, at := args, []netip.Addr(nil)
	if i := slices.Index(args, "at"); i >= 0 {
		names = args[:i]
		if i == len(args)-1 {
			return errors.New("at: found no argument; usage: private_zones ZONE... [at IP...]")
		}
		for _, arg := range args[i+1:] {
			ip, err := parseIP(arg)
			if err != nil {
				return fmt.Errorf("at %w", err)
			}
			at = append(at, ip)
		}
	}
	if len(names) == 0 {
		return errors.New("at: found no ZONE before it; usage: private_zones ZONE... [at IP...]")
	}
	for _, name := range names {
		zones, err := parseZone(name)
		if err != nil {
			return err
		}
		for _, zone := range zones {
			if slices.ContainsFunc(s.PrivateZones, func(z PrivateZone) bool { return z.Zone == zone }) {
				return fmt.Errorf("%q: given twice", name)
			}
			s.PrivateZones = append(s.PrivateZones, PrivateZone{Zone: zone, At: at})
		}
	}
	return nil
}

func setEDNSOptions(s *stanza, args []string) error {
	if slices.Contains(args, "all") {
		if len(args) > 1 {
			return errors.New("all: cannot be given together with codes")
		}
		s.EDNSAll = true
		return nil
	}
	for _, arg := range args {
		code, err := parseEDNSCode(arg)
		if err != nil {
			return err
		}
		if !slices.Contains(s.EDNSOptions, code) {
			s.EDNSOptions = append(s.EDNSOptions, code)
		}
	}
	return nil
}

func parseEDNSCode(text string) (uint16, error) {
	if code, ok := ednsOptionNames[strings.ToLower(text)]; ok {
		return code, nil
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return 0, badValue(text, fmt.Sprintf("all, a code from 1 to %d, or one of %s", math.MaxUint16,
			strings.Join(slices.Sorted(maps.Keys(ednsOptionNames)), ", ")))
	}
	return uint16(n), nil
}

func setExplain(s *stanza, args []string) error {
	switch {
	case args[0] == "off" && len(args) > 1:
		return fmt.Errorf("off: found %s; usage: explain off", counted(len(args)-1))
	case args[0] == "off":
		s.Explain.Off = true
		return nil
	case args[0] != "to":
		return badValue(args[0], "off, or "+explainTo)
	case len(args) == 1:
		return fmt.Errorf("to: found no argument; usage: explain %s", explainTo)
	}
	for _, arg := range args[1:] {
		network, err := parseNetwork(arg)
		if err != nil {
			return fmt.Errorf("to %w", err)
		}
		s.Explain.To = append(s.Explain.To, network)
	}
	return nil
}
