package fakedns

import (
	"slices"
	"time"

	"github.com/miekg/dns"
)

// Kind is what a fault does.
type Kind uint8

// The kinds. N, D, P, Rcode and Zone are fields of the Fault.
const (
	None Kind = iota

	// What the answer says.
	Rcode     // an empty reply with Rcode
	NXDomain  // denies the name, with the SOA of Zone where one is set
	NoData    // denies the type, likewise
	Truncated // over UDP: TC and no data
	Big       // data of N octets, truncated over UDP to what the client can take
	NoEDNS    // queries with EDNS get Rcode, or nothing where Rcode is 0
	BadCookie // queries by UDP without a server cookie get BADCOOKIE and one
	Echo      // the reply has the options of the query

	// Whether and when it comes.
	Drop        // nothing, neither reply nor connection
	Refuse      // the port is closed: ECONNREFUSED
	Unreachable // no route: EHOSTUNREACH (real sockets: as Drop)
	Delay       // D later
	Jitter      // up to D later, drawn for each query
	Loss        // a share P of the packets is lost; a stream resends after 200 ms
	Late        // as Delay, 3 s where D is 0: later than anybody waits
	Duplicate   // the reply N more times, the last D later

	// Forgery: all of it carries Poison.
	WrongID
	WrongQuestion
	WrongSource // from another port; a connected socket does not see it
	QR0         // a query in place of the reply
	Forge       // N replies with wrong IDs, the right one D later

	// Bytes that are not DNS; the ID is right where there is one.
	Corrupt
	CompressionLoop
	Empty
	Garbage

	// Streams.
	TCPRefuse
	TCPReset         // accepted, then reset by the first query
	TCPHang          // accepted, never answered
	TCPDropSYN       // connecting hangs
	TCPCloseIdle     // closed after D without a query
	TCPCloseMidquery // every connection is closed by the query after the N-th (at least 1)

	// TLS.
	TLSExpired
	TLSWrongName

	// The query goes on to whom Server.Relay knows as Via, whose reply it is.
	Relay

	// The client's own host; see Host.
	Descriptors // no socket can be opened: EMFILE
	Ports       // likewise: EADDRNOTAVAIL, EAGAIN
	Buffers     // no datagram can be sent: ENOBUFS
	Forbidden   // likewise, and no SYN: EPERM
	NoRoute     // ENETUNREACH, at once

	kinds
)

var kindNames = [kinds]string{
	Rcode: "rcode", NXDomain: "nxdomain", NoData: "nodata", Truncated: "truncated", Big: "big",
	NoEDNS: "no-edns", BadCookie: "badcookie", Echo: "echo-options",
	Drop: "drop", Refuse: "refuse-port", Unreachable: "unreachable", Delay: "delay", Jitter: "jitter",
	Loss: "loss", Late: "late", Duplicate: "duplicate",
	WrongID: "wrong-id", WrongQuestion: "wrong-question", WrongSource: "wrong-source", QR0: "qr0", Forge: "forge",
	Corrupt: "corrupt", CompressionLoop: "compression-loop", Empty: "empty", Garbage: "garbage",
	TCPRefuse: "tcp-refuse", TCPReset: "tcp-reset", TCPHang: "tcp-hang", TCPDropSYN: "tcp-drop-syn",
	TCPCloseIdle: "tcp-close-idle", TCPCloseMidquery: "tcp-close-midquery",
	TLSExpired: "tls-expired", TLSWrongName: "tls-wrong-name", Relay: "relay",
	Descriptors: "emfile", Ports: "no-ports", Buffers: "enobufs", Forbidden: "eperm", NoRoute: "no-route",
}

// String returns the word for the kind in ParseFault's language.
func (k Kind) String() string { return kindNames[k] }

// Fault is one thing that goes wrong: what, when, and for which queries.
// A field left zero limits nothing.
type Fault struct {
	Kind  Kind
	D     time.Duration
	N     int
	P     float64 // Loss: 0 to 1
	Rcode int
	Via   string // Relay: whom
	Strip bool   // Relay: without EDNS options
	Merge bool   // Relay: equal questions wait for one reply
	Twice bool   // Relay: sent once more a little later
	Keep  bool   // Relay: replies are kept for 4 s, as by a server that validates and has no keys
	Zone  string // owner of the SOA in a denial; "": no SOA

	// When, counted from the server's start: from From until To, and where Every
	// is set only during the first For of each Every.
	From, To   time.Duration
	Every, For time.Duration

	// Which queries.
	Filter
}

// Filter says which queries a fault is for.
type Filter struct {
	Types        []uint16
	Zones        []string // names below one of them
	Names        float64  // this share of the names, 0 to 1, the same names for all servers
	Prob         float64  // this share of the queries, 0 to 1
	Streams      bool     // only by TCP or TLS
	Datagrams    bool     // only by UDP
	ExceptProbes bool     // not for ". NS"
}

// active reports whether the fault is on at this time after the start.
func (f *Fault) active(t time.Duration) bool {
	if t < f.From || f.To > 0 && t >= f.To {
		return false
	}
	return f.Every == 0 || (t-f.From)%f.Every < f.For
}

// perQuery reports whether the fault needs a question to know whether it applies.
func (f *Filter) perQuery() bool {
	return len(f.Types) > 0 || len(f.Zones) > 0 || f.Names > 0 || f.ExceptProbes
}

// matches reports whether the fault is for this query; draw is a number from
// 0 to 1 that belongs to the query and the fault.
func (f *Filter) matches(q dns.Question, proto Proto, draw float64) bool {
	switch {
	case f.Streams && proto == UDP, f.Datagrams && proto != UDP:
		return false
	case len(f.Types) > 0 && !slices.Contains(f.Types, q.Qtype):
		return false
	case len(f.Zones) > 0 && !within(f.Zones, q.Name):
		return false
	case f.Names > 0 && share(hash("names", dns.CanonicalName(q.Name))) >= f.Names:
		return false
	case f.ExceptProbes && isProbe(q):
		return false
	}
	return f.Prob == 0 || draw < f.Prob
}

// isLoopProbe reports whether the question is one that only a loop has an answer to.
func isLoopProbe(q dns.Question) bool {
	n := q.Name
	return q.Qtype == dns.TypeTXT && len(n) > 38 && n[16] == '.' && n[24] == '.' && n[38] == '.'
}

// isProbe reports whether the question is the one that health checks ask.
func isProbe(q dns.Question) bool { return q.Name == "." && q.Qtype == dns.TypeNS }
