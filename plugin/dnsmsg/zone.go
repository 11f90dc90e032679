package dnsmsg

import (
	"strings"

	"github.com/miekg/dns"
	"golang.org/x/net/publicsuffix"
)

// Registrable returns the domain that the holder of name has registered,
// which is the widest that one authority is likely to rule: one label below
// the public suffix, or the suffix itself where it is a private one (as
// cloudfront.net). name is lower case and fully qualified; so is the result.
// The root, and names that are public suffixes, are their own.
func Registrable(name string) string {
	if len(name) < 2 {
		return "."
	}
	bare := withoutEscapes(name[:len(name)-1])
	suffix, icann := publicsuffix.PublicSuffix(bare)
	if len(suffix) >= len(bare) {
		return name
	}
	if !icann && strings.Contains(suffix, ".") {
		return name[len(bare)-len(suffix):]
	}
	i := strings.LastIndexByte(bare[:len(bare)-len(suffix)-1], '.')
	return name[i+1:]
}

// withoutEscapes returns a name of the same length with other octets in the
// place of escaped ones, so that each dot is one between labels (RFC 1035, section 5.1).
func withoutEscapes(name string) string {
	if strings.IndexByte(name, '\\') < 0 {
		return name
	}
	b := []byte(name)
	for i := 0; i < len(b); i++ {
		if b[i] == '\\' && i+1 < len(b) {
			b[i], b[i+1] = '_', '_' // which is in no public suffix; the digits of \DDD do no harm
			i++
		}
	}
	return string(b)
}

// Parent returns name less its first label; the root is its own parent.
func Parent(name string) string {
	off, end := dns.NextLabel(name, 0)
	if end {
		return "."
	}
	return name[off:]
}

// Within reports whether name is zone or below it; both lower case and fully qualified.
func Within(name, zone string) bool {
	if zone == "." {
		return true
	}
	if !strings.HasSuffix(name, zone) {
		return false
	}
	cut := len(name) - len(zone)
	return cut == 0 || (name[cut-1] == '.' && !escaped(name, cut-1))
}

// escaped reports whether the octet at i of a name in presentation format is
// preceded by an odd number of backslashes (RFC 1035, section 5.1).
func escaped(name string, i int) bool {
	odd := false
	for i--; i >= 0 && name[i] == '\\'; i-- {
		odd = !odd
	}
	return odd
}
