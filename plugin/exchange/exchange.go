// Package exchange sends one query to one address over one transport, and
// gives back the reply that belongs to it, or what went wrong.
//
// An Exchanger is asynchronous: Start returns at once, and the Sink is told.
// No goroutine is spent on a query that goes by UDP, TCP or TLS: many
// outstanding queries share a socket or a connection, whose one reader hands
// out the replies. The exchanger judges nothing and retries nothing, but for
// one redial where the peer had closed an idle connection.
//
// All methods may be called concurrently.
//
// RFC 1035 (messages), RFC 5452 (matching, ports and IDs), RFC 7766 (TCP,
// pipelining), RFC 7858 (TLS), RFC 8484 (HTTPS), RFC 9250 (QUIC).
package exchange

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/recovery"
)

// Proto is what carried a query.
type Proto uint8

// The protocols.
const (
	UDP Proto = iota
	TCP
	TLS
	HTTPS
	QUIC

	ProtoCount
)

var protoNames = [ProtoCount]string{"udp", "tcp", "tcp-tls", "https", "quic"}

// String returns the value of the metric label "proto", as in CoreDNS.
func (p Proto) String() string { return protoNames[p] }

// Query is what is asked. It is shared by all the attempts made for one
// client query, and nobody changes it after the first Start.
type Query struct {
	// Wire is the packed query with ID 0: header, one question, and at most
	// one additional record, our OPT.
	Wire []byte
	// QuestionEnd is the offset behind the question: Wire[12:QuestionEnd] is
	// the question section, and Wire[QuestionEnd:] the OPT record or nothing.
	QuestionEnd int
	// Keep says that the replies are to keep their octets: Reply.Wire.
	Keep bool
}

// AppendTo appends the query to b as it goes on the wire under an ID.
func (q *Query) AppendTo(b []byte, id uint16, noEDNS bool) []byte {
	at := len(b)
	if noEDNS {
		b = append(b, q.Wire[:q.QuestionEnd]...)
		binary.BigEndian.PutUint16(b[at+10:], 0)
	} else {
		b = append(b, q.Wire...)
	}
	binary.BigEndian.PutUint16(b[at:], id)
	return b
}

// Options says how to send a query.
type Options struct {
	TCP    bool // by TCP, where the transport is plain DNS
	Fresh  bool // from a socket, and so a port, that no other query has used
	NoEDNS bool // without the OPT record
	// NoRedial leaves it to the caller what to do when the peer closes a connection that had been in use.
	NoRedial bool
}

// Reply is the end of an exchange.
type Reply struct {
	Kind  outcome.Kind
	Msg   *dns.Msg      // the reply where there is one, its ID not to be relied on; owned by the receiver
	Size  int           // octets of the reply on the wire
	Wire  []byte        // the reply as it came, where Query.Keep asked for it (over QUIC: as packed again); owned by the receiver
	Proto Proto         // what carried it
	Local net.Addr      // our end of the socket; nil where there was none
	RTT   time.Duration // from sending (after any handshake) to the reply; 0 where there was no reply
	Stale bool          // with ConnReset: the connection had been in use, and was closed as idle ones are; nobody is to blame
	Err   error         // the detail behind Kind, with address and transport; for people
}

// Sent is how a query went out.
type Sent struct {
	At    time.Time // when it was written
	ID    uint16    // its message ID; 0 over HTTPS and QUIC
	Local net.Addr  // our end of the socket
}

// Sink is told the end of an exchange.
type Sink interface {
	// Done is called once, possibly before Start has returned, from any
	// goroutine, with no lock of the exchanger held. It must not block, and must not call Close:
	// mostly it is a reader that calls, and other replies wait behind it. It is not called after
	// Cancel has returned true.
	Done(Reply)
}

// Handle is an exchange under way.
type Handle interface {
	// Cancel gives the exchange up and reports whether that was in time: if
	// so the sink will not be told. A reply that comes later is recognised as
	// late, and is not taken for a forgery.
	Cancel() bool
	// Begun returns when the query had an open connection, or a socket, to go
	// out over: what is late is counted from then. The zero time: it waits for a
	// connection to be opened. Over QUIC it is a guess.
	Begun() time.Time
	// Sent tells how the query went out, during the exchange and after it;
	// false: it has not, or, over QUIC, it is not known before the end.
	Sent() (Sent, bool)
}

// Exchanger sends queries to one address.
type Exchanger interface {
	// Start sends q. The exchanger sets no limit to how long a reply may
	// take: the caller ends the wait with Cancel.
	Start(q *Query, opt Options, sink Sink) Handle
	// Close ends all exchanges, telling their sinks outcome.Cancelled, closes all
	// sockets, and waits for the goroutines.
	Close()
}

// DialFunc opens a connected socket; network is "udp" or "tcp".
type DialFunc func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error)

// Events is told what belongs to no single exchange. Its methods may be called
// concurrently and must not block.
type Events interface {
	// Mismatched: a datagram or message came that belongs to no query (RFC 5452, section 9.1).
	Mismatched()
	// Late: a reply came to an exchange that had been cancelled. rtt is counted from its sending.
	Late(rtt time.Duration)
	// Sockets: the number of open sockets changed by n.
	Sockets(p Proto, n int)
	// Conn: a connection of a stream transport was needed; reused says whether an open one could be taken.
	Conn(p Proto, reused bool)
	// Fault: this host, not the upstream, made a dial, a read or a write fail.
	Fault(f outcome.Fault)
}

// Config is what an Exchanger needs to know.
type Config struct {
	// Addr is the address of the upstream.
	Addr netip.AddrPort
	// Transport is "dns", "tls", "https" or "quic" (CoreDNS's plugin/pkg/transport).
	Transport string
	// Dial opens sockets. The standard one is NetDial.
	Dial DialFunc
	// TLS is the client configuration for tls, https and quic; its ServerName is set where it is known.
	TLS *tls.Config
	// SourceAddress is the local address of all sockets; zero: the kernel chooses. Dial obeys it already; QUIC needs it here.
	SourceAddress netip.Addr
	// Expire is how long an idle socket or connection is kept. More than 0; 10 s as in forward.
	Expire time.Duration
	// MaxAge is how long a connection may be used in all; 0: for ever. (UDP sockets have their own shorter bound.)
	MaxAge time.Duration
	// MaxIdle is the number of idle connections kept per transport; 0: no bound but the exchanger's own.
	MaxIdle int
	// ReadTimeout bounds exchanges of the transports that cannot be left to the caller (quic).
	ReadTimeout time.Duration
	// ConnectTimeout bounds connecting by TCP and, twice this, the TLS handshake. Default 500 ms.
	ConnectTimeout time.Duration
	// DoHMethod is GET or POST.
	DoHMethod string
	// Rand64 draws unpredictable bits (a CSPRNG): message IDs, choice of socket.
	Rand64 func() uint64
	// Events is told what belongs to no single exchange.
	Events Events
	// Recoverer recovers the goroutines; nil: a panic ends the process.
	Recoverer *recovery.Recoverer
}
