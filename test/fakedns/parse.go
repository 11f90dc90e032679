package fakedns

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// ParseFault reads one fault:
//
//	[from D] [to D] [every D for D]
//	[qtype T,...] [zone Z,...] [names P%] [p P%] [proto udp|tcp] [except probes]
//	KIND [argument...]
//
// The kinds are the words of Kind, or a response code in lower case. Arguments:
//
//	nxdomain | nodata   [soa ZONE]
//	delay | jitter      D
//	late                [D]        (3s)
//	loss                P%
//	duplicate           [N] [D]    (1, 2ms)
//	forge               [N] [D]    (10, 50ms)
//	big                 N
//	no-edns             formerr | badvers | silent | RCODE
//	tcp-close-idle      D
//	tcp-close-midquery  [N]        (1)
//	relay               [NAME] [strip-edns] [merge] [twice] [keep]
func ParseFault(line string) (Fault, error) {
	var f Fault
	words := strings.Fields(line)
	for len(words) > 0 {
		n, err := f.limit(words)
		if err != nil {
			return f, fmt.Errorf("fakedns: fault %q: %w", line, err)
		}
		if n == 0 {
			break
		}
		words = words[n:]
	}
	if len(words) == 0 {
		return f, fmt.Errorf("fakedns: fault %q: does not say what goes wrong", line)
	}
	if err := f.kind(words[0], words[1:]); err != nil {
		return f, fmt.Errorf("fakedns: fault %q: %w", line, err)
	}
	return f, nil
}

// limit reads one clause about time or queries, and returns how many words it
// took: 0 where words do not begin with one.
func (f *Fault) limit(words []string) (int, error) {
	if !slices.Contains([]string{"from", "to", "every", "qtype", "zone", "names", "p", "proto", "except"}, words[0]) {
		return 0, nil
	}
	if len(words) < 2 {
		return 0, fmt.Errorf("%s needs a value", words[0])
	}
	v := words[1]
	var err error
	switch words[0] {
	case "from":
		f.From, err = time.ParseDuration(v)
	case "to":
		f.To, err = time.ParseDuration(v)
	case "every":
		if len(words) < 4 || words[2] != "for" {
			return 0, fmt.Errorf("every D must be followed by for D")
		}
		if f.Every, err = time.ParseDuration(v); err == nil {
			f.For, err = time.ParseDuration(words[3])
		}
		if err == nil && (f.Every <= 0 || f.For <= 0) {
			err = fmt.Errorf("every %s for %s: must be more than 0", v, words[3])
		}
		return 4, err
	case "qtype":
		for t := range strings.SplitSeq(v, ",") {
			code, ok := dns.StringToType[strings.ToUpper(t)]
			if !ok {
				return 0, fmt.Errorf("unknown type %q", t)
			}
			f.Types = append(f.Types, code)
		}
	case "zone":
		f.Zones = zones(v)
	case "names":
		f.Names, err = ParseShare(v)
	case "p":
		f.Prob, err = ParseShare(v)
	case "proto":
		f.Datagrams, f.Streams = v == "udp", v == "tcp"
		if !f.Datagrams && !f.Streams {
			err = fmt.Errorf("proto %q: must be udp or tcp", v)
		}
	case "except":
		f.ExceptProbes = true
		if v != "probes" {
			err = fmt.Errorf("except %q: must be probes", v)
		}
	}
	return 2, err
}

// kind reads what goes wrong, and its arguments.
func (f *Fault) kind(word string, args []string) error {
	i := slices.Index(kindNames[:], word)
	if code, ok := rcodeOf(word); ok && i < 0 {
		f.Kind, f.Rcode = Rcode, code
		return none(args)
	}
	if i <= int(Rcode) {
		return fmt.Errorf("unknown word %q", word)
	}
	f.Kind = Kind(i)
	switch f.Kind {
	case NXDomain, NoData:
		if len(args) == 0 {
			return nil
		}
		if len(args) != 2 || args[0] != "soa" {
			return fmt.Errorf("%s takes soa ZONE, or nothing", word)
		}
		f.Zone = dns.Fqdn(args[1])
		return nil
	case NoEDNS:
		return f.noEDNS(args)
	case Relay:
		return f.relay(args)
	case Loss:
		if len(args) != 1 {
			return fmt.Errorf("loss needs a share, as in 10%%")
		}
		var err error
		f.P, err = ParseShare(args[0])
		return err
	}
	return f.amounts(word, args)
}

// amounts reads a number, a duration, or both in this order.
func (f *Fault) amounts(word string, args []string) error {
	var count, span bool // what the kind takes
	switch f.Kind {
	case Delay, Jitter, Late, TCPCloseIdle:
		span = true
	case Big, TCPCloseMidquery:
		count = true
	case Duplicate, Forge:
		count, span = true, true
	}
	if f.Kind == Forge {
		f.N, f.D = 10, 50*time.Millisecond
	}
	if count && len(args) > 0 {
		n, err := strconv.Atoi(args[0])
		if err == nil {
			if n < 1 {
				return fmt.Errorf("%s %d: must be at least 1", word, n)
			}
			f.N, args = n, args[1:]
		} else if !span {
			return fmt.Errorf("%s %q: must be a number", word, args[0])
		}
	}
	if span && len(args) > 0 {
		d, err := time.ParseDuration(args[0])
		if err != nil {
			return fmt.Errorf("%s: %w", word, err)
		}
		f.D, args = d, args[1:]
	}
	switch f.Kind {
	case Delay, Jitter, TCPCloseIdle:
		if f.D <= 0 {
			return fmt.Errorf("%s needs a duration", word)
		}
	case Big:
		if f.N == 0 {
			return fmt.Errorf("big needs a number of octets")
		}
	}
	return none(args)
}

func (f *Fault) noEDNS(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("no-edns needs formerr, badvers or silent")
	}
	if args[0] == "silent" {
		return nil
	}
	code, ok := rcodeOf(args[0])
	if !ok {
		return fmt.Errorf("no-edns %q: must be formerr, badvers or silent", args[0])
	}
	f.Rcode = code
	return nil
}

// relay reads to whom, and what is lost on the way.
func (f *Fault) relay(args []string) error {
	for _, a := range args {
		switch {
		case a == "strip-edns":
			f.Strip = true
		case a == "merge":
			f.Merge = true
		case a == "twice":
			f.Twice = true
		case a == "keep":
			f.Keep = true
		case f.Via == "":
			f.Via = a
		default:
			return none([]string{a})
		}
	}
	return nil
}

// rcodeOf knows the names of the IANA registry; to the library 16 is BADSIG.
func rcodeOf(word string) (int, bool) {
	if word == "badvers" {
		return dns.RcodeBadVers, true
	}
	code, ok := dns.StringToRcode[strings.ToUpper(word)]
	return code, ok
}

func none(args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unexpected %q", strings.Join(args, " "))
	}
	return nil
}

// ParseShare reads "30%" or "0.3".
func ParseShare(s string) (float64, error) {
	number, percent := strings.CutSuffix(s, "%")
	x, err := strconv.ParseFloat(number, 64)
	if percent {
		x /= 100
	}
	if err != nil || x < 0 || x > 1 {
		return 0, fmt.Errorf("%q: must be a share, as in 30%% or 0.3", s)
	}
	return x, nil
}

func zones(list string) []string {
	var out []string
	for z := range strings.SplitSeq(list, ",") {
		out = append(out, dns.Fqdn(z))
	}
	return out
}
