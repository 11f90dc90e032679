package resolvconf

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

// FuzzParse: of a file, whatever is in it, the addresses are taken that stand
// in the place of a name server, each once and in their order.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "nameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch a b\noptions ndots:5\n", "nameserver\nnameserver x\nnameserver 192.0.2.1 # one\r\n; no\n",
		"nameserver fe80::1%eth0\nnameserver ::ffff:192.0.2.1\nnameserver 192.0.2.1", "options ndots:99999999999999999999 timeout: attempts:\n", "\xff\xfe\x00",
		"nameserver 192.0.2.1:53\nnameserver 010.0.0.1\nNAMESERVER 192.0.2.1", strings.Repeat("nameserver 192.0.2.1\n", 20), "\tnameserver\v192.0.2.1\n",
		"nameserver\u00a0192.0.2.1\nnameserver\u0085192.0.2.2",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := Parse(text)
		if (err == nil) != (len(got) > 0) || err != nil && !errors.Is(err, ErrEmpty) {
			t.Fatalf("%v, %v", got, err)
		}
		rest := strings.Split(string(text), "\n")
		seen := make(map[netip.Addr]bool)
		for _, ip := range got {
			if seen[ip] || !ip.IsValid() || ip.Is4In6() {
				t.Errorf("%v", got)
			}
			seen[ip] = true
			for !lists(rest[0], ip) {
				if rest = rest[1:]; len(rest) == 0 {
					t.Fatalf("%v, of %q: %s is not there, or not at this place", got, text, ip)
				}
			}
		}
	})
}

// lists reports whether a line names an address as a name server.
func lists(line string, ip netip.Addr) bool {
	words := strings.Fields(line)
	if len(words) < 2 || words[0] != "nameserver" {
		return false
	}
	listed, err := netip.ParseAddr(words[1])
	return err == nil && listed.Unmap() == ip
}
