package metrics

import "github.com/dnsguard/dnsguard/plugin/outcome"

// reason is why an upstream was ejected.
type reason uint8

// The reasons.
const (
	byTimeout    reason = iota // no reply
	byConnection               // port closed, no route, connection closed
	byTLS                      // handshake or certificate
	byRcode                    // replies that say failure
	byMalformed                // replies that cannot be used
	byLoop                     // queries came round
	byOther

	reasons
)

var reasonNames = [reasons]string{
	byTimeout: "timeout", byConnection: "connection", byTLS: "tls", byRcode: "rcode", byMalformed: "malformed", byLoop: "loop", byOther: "other",
}

// String returns the value of the metric label.
func (r reason) String() string { return reasonNames[r] }

func reasonOf(k outcome.Kind) reason {
	switch k {
	case outcome.Timeout:
		return byTimeout
	case outcome.ConnRefused, outcome.Unreachable, outcome.ConnReset:
		return byConnection
	case outcome.TLS:
		return byTLS
	case outcome.ServFail, outcome.Refused, outcome.NotImp, outcome.FormErr, outcome.BadVers, outcome.BadCookie:
		return byRcode
	case outcome.Malformed, outcome.Mismatched:
		return byMalformed
	case outcome.Loop:
		return byLoop
	default:
		return byOther
	}
}
