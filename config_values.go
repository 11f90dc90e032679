package dnsguard

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// span is what a value may be, in numbers and in words.
type span[T cmp.Ordered] struct {
	min, max T
	want     string
}

// holds reports whether v is in the span. NaN is in none.
func (s span[T]) holds(v T) bool { return v >= s.min && v <= s.max }

// The spans of all options, for the parser and for Validate. Never written to.
var (
	spanNotNegative  = span[time.Duration]{0, math.MaxInt64, "a duration of 0 or more, such as 10s"}
	spanPositive     = span[time.Duration]{1, math.MaxInt64, "a duration of more than 0, such as 2s"}
	spanTimeout      = span[time.Duration]{100 * time.Millisecond, time.Minute, "a duration from 100ms to 60s"}
	spanEjectBase    = span[time.Duration]{10 * time.Millisecond, 10 * time.Minute, "a duration from 10ms to 10m"}
	spanEjectMax     = span[time.Duration]{10 * time.Millisecond, time.Hour, "a duration from base to 1h"}
	spanLoopInterval = span[time.Duration]{time.Second, time.Hour, "a duration from 1s to 1h"}
	spanCount        = span[int]{0, math.MaxInt, "a whole number of 0 or more"}
	spanFailures     = span[int]{1, 1000, "a whole number from 1 to 1000"}
	spanHedge        = span[float64]{0, 1, "a share between 0 and 1, a percentage, or off"}
	spanEjectShare   = span[float64]{math.SmallestNonzeroFloat64, 1, "a share of more than 0 up to 1, or a percentage"}
)

// badValue is the error for a value in a Corefile.
func badValue(text, want string) error { return fmt.Errorf("%q: must be %s", text, want) }

func parseDuration(text string, in span[time.Duration]) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || !in.holds(d) {
		return 0, badValue(text, in.want)
	}
	return d, nil
}

func parseInt(text string, in span[int]) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || !in.holds(n) {
		return 0, badValue(text, in.want)
	}
	return n, nil
}

func parseUint32(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, badValue(text, fmt.Sprintf("a whole number from 0 to %d", uint32(math.MaxUint32)))
	}
	return uint32(n), nil
}

// parseShare reads 0.05 or 5%.
func parseShare(text string, in span[float64]) (float64, error) {
	digits, percent := strings.CutSuffix(text, "%")
	share, err := strconv.ParseFloat(digits, 64)
	if percent {
		share /= 100
	}
	if err != nil || !in.holds(share) {
		return 0, badValue(text, in.want)
	}
	return share, nil
}

func oneOf(text string, words ...string) (string, error) {
	if !slices.Contains(words, text) {
		return "", badValue(text, orList(words))
	}
	return text, nil
}

// orList returns "a, b or c".
func orList(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

func parseRcodes(args []string) ([]int, error) {
	codes := make([]int, 0, len(args))
	for _, arg := range args {
		code, ok := dns.StringToRcode[strings.ToUpper(arg)]
		if !ok {
			return nil, badValue(arg, "a response code, such as NXDOMAIN, SERVFAIL or REFUSED")
		}
		codes = append(codes, code)
	}
	return codes, nil
}

// parseAddr is netip.ParseAddr, but for zones that are no name of an interface:
// they are what is left of brackets and a port.
func parseAddr(text string) (netip.Addr, error) {
	ip, err := netip.ParseAddr(text)
	if err == nil && strings.ContainsAny(ip.Zone(), "[]:%/") {
		return netip.Addr{}, errors.New("bad zone")
	}
	return ip, err
}

func parseIP(text string) (netip.Addr, error) {
	ip, err := parseAddr(text)
	if err != nil {
		return netip.Addr{}, badValue(text, "an IP address without a port")
	}
	return ip.Unmap(), nil
}

const wantNetwork = "an IP address, or a network in CIDR notation whose bits after the prefix are 0, such as 10.0.0.0/8"

// parseNetwork reads a network, or an address, which is the network of itself.
func parseNetwork(text string) (netip.Prefix, error) {
	if ip, err := netip.ParseAddr(text); err == nil && ip.Zone() == "" {
		ip = ip.Unmap()
		return netip.PrefixFrom(ip, ip.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || !validNetwork(p) {
		return netip.Prefix{}, badValue(text, wantNetwork)
	}
	return p, nil
}

func validNetwork(p netip.Prefix) bool { return p.IsValid() && p == p.Masked() && !p.Addr().Is4In6() }

// parseAddrPort reads an IP address with or without a port. The error says
// nothing about which text it was.
func parseAddrPort(text string, port uint16) (netip.AddrPort, error) {
	host, port, portErr := splitPort(text, port)
	ip, err := parseAddr(host)
	if err = cmp.Or(err, portErr); err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(ip.Unmap(), port), nil
}

// splitPort returns the host, and its port or the given one. The host is good
// even where the port is not.
func splitPort(text string, port uint16) (string, uint16, error) {
	host, digits, err := net.SplitHostPort(text)
	if err != nil { // no port
		return strings.Trim(text, "[]"), port, nil
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || n == 0 {
		return host, 0, fmt.Errorf("port %w", badValue(digits, "a number from 1 to 65535"))
	}
	return host, uint16(n), nil
}

// isHost reports whether name can be looked up for addresses: letters, digits,
// hyphens and underscores, and an ending that no address has (RFC 1123, section 2.1).
func isHost(name string) bool {
	name = strings.TrimSuffix(name, ".")
	if _, ok := dns.IsDomainName(name); !ok || name == "" {
		return false
	}
	for _, r := range name {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.", r) {
			return false
		}
	}
	last := name[strings.LastIndexByte(name, '.')+1:]
	return strings.Trim(last, "0123456789") != ""
}

func isServerName(name string) bool {
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	return isHost(name)
}

// nearest returns the word that is most like a mistyped one, or "" where none
// is like it.
func nearest(word string, words []string) string {
	best, bestDistance := "", max(2, len(word)/3)+1
	for _, w := range words {
		if d := distance(word, w); d < bestDistance {
			best, bestDistance = w, d
		}
	}
	return best
}

// distance returns the number of octets to insert, delete or replace to make b
// out of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
