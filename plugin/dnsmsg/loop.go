package dnsmsg

import (
	"strings"

	"github.com/miekg/dns"
)

// loopText begins the text of an Extended DNS Error about a loop. Nothing is
// decided by it but whom a failure tells against.
const loopText = "forwarding loop"

// Loop says that queries to some upstreams come back.
func Loop(via string) EDE {
	return EDE{Code: dns.ExtendedErrorCodeOther, Text: loopText + " via " + via}
}

// TellsOfLoop reports whether a reply says that its query came round.
func TellsOfLoop(m *dns.Msg) bool {
	opt := m.IsEdns0()
	if opt == nil {
		return false
	}
	for _, o := range opt.Option {
		if e, ok := o.(*dns.EDNS0_EDE); ok && e.InfoCode == dns.ExtendedErrorCodeOther && strings.HasPrefix(e.ExtraText, loopText) {
			return true
		}
	}
	return false
}
