// Package outcome is the closed enum of what one attempt can come to.
//
// Everything that decides about an attempt switches on a Kind; nobody reads
// error text. The names are the values of the metric label "outcome". All
// functions are pure and may be called concurrently.
//
// Response codes: RFC 1035, section 4.1.1, RFC 2308 (NODATA), RFC 6891
// (BADVERS), RFC 7873 (BADCOOKIE).
package outcome

// Kind is what an attempt came to.
type Kind uint8

// The kinds, in the order of the question: was there an answer, was it
// usable, and what went wrong on the way.
const (
	Unknown     Kind = iota // nothing known yet; never reported
	OK                      // NOERROR with data, or another reply that a client can use
	NXDomain                // denied: the name does not exist
	NoData                  // denied: the name has no data of the type (RFC 2308, section 2.2)
	ServFail                // SERVFAIL
	Refused                 // REFUSED or NOTAUTH
	NotImp                  // NOTIMP
	FormErr                 // FORMERR
	BadVers                 // BADVERS, or any other complaint about EDNS
	BadCookie               // BADCOOKIE
	Truncated               // TC over a datagram
	Timeout                 // no reply in time
	ConnRefused             // port closed
	Unreachable             // no route, host or network unreachable, prohibited
	ConnReset               // connection closed or reset before the reply
	TLS                     // handshake or certificate failed
	Malformed               // the reply cannot be parsed
	Mismatched              // too many replies that do not belong to the query
	Local                   // a fault of this host: descriptors, buffers, ports, permissions
	Cancelled               // nobody waits any more; says nothing of the upstream
	Loop                    // the query came round

	Count // number of kinds
)

var names = [Count]string{
	Unknown: "unknown", OK: "ok", NXDomain: "nxdomain", NoData: "nodata", ServFail: "servfail",
	Refused: "refused", NotImp: "notimp", FormErr: "formerr", BadVers: "badvers", BadCookie: "badcookie",
	Truncated: "truncated", Timeout: "timeout", ConnRefused: "conn_refused", Unreachable: "unreachable",
	ConnReset: "conn_reset", TLS: "tls", Malformed: "malformed", Mismatched: "mismatched",
	Local: "local", Cancelled: "cancelled", Loop: "loop",
}

// String returns the value of the metric label.
func (k Kind) String() string {
	if k >= Count {
		return "invalid"
	}
	return names[k]
}

// Denied reports whether the reply denies the name or the type.
func (k Kind) Denied() bool { return k == NXDomain || k == NoData }

// Answered reports whether the upstream sent a reply that belongs to the
// query, whatever it says. Such an upstream is alive.
func (k Kind) Answered() bool { return k >= OK && k <= Truncated }

// Blameless reports whether the outcome says nothing about the upstream.
func (k Kind) Blameless() bool { return k == Unknown || k == Local || k == Cancelled }
