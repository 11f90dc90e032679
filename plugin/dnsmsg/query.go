// Package dnsmsg is the pure work on DNS messages: the query that goes to an
// upstream, what must match between a query and a reply, the reply that goes
// to the client, Extended DNS Errors, and the zone that a name belongs to.
//
// Nothing here keeps state, reads a clock or does I/O: all functions may be
// called concurrently on distinct messages.
//
// RFC 1035 (messages), RFC 6891 (EDNS, hop by hop), RFC 8914 (Extended DNS
// Errors), RFC 2308 (negative answers).
package dnsmsg

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/dns"
)

// UDPSize is the EDNS buffer size that upstreams are told: what fits a path
// of 1,280 octets without fragments (DNS flag day 2020).
const UDPSize = 1232

const headerLen = 12

// Header bits of octets 2 and 3 (RFC 1035, section 4.1.1; RFC 4035, section 3.2).
const (
	bitRD = 0x01 // octet 2
	bitAD = 0x20 // octet 3
	bitCD = 0x10 // octet 3
)

// Key identifies a question for which one upstream reply serves every client
// that asks it: the question, the flags that change an answer, and the options
// that upstreams see.
type Key struct {
	Name    string // lower case, fully qualified
	Type    uint16
	Class   uint16
	RD      bool
	CD      bool
	AD      bool
	DO      bool
	Stream  bool   // the client can take any size
	Size    uint16 // what the client can take in a datagram, where Stream is false
	Path    uint32 // a digest of the guards that it has come through; 0: none
	Options string // packed options that are passed on
}

// KeyOf returns the key of a client's query with one question. size is what
// the client can take in a datagram, stream whether it came by TCP or the
// like, options the packed EDNS options that are passed on.
func KeyOf(r *dns.Msg, stream bool, size int, options string) Key {
	q := r.Question[0]
	k := Key{
		Name: lower(q.Name), Type: q.Qtype, Class: q.Qclass,
		RD: r.RecursionDesired, CD: r.CheckingDisabled, AD: r.AuthenticatedData,
		Stream: stream, Options: options,
	}
	if !stream {
		k.Size = uint16(min(max(size, dns.MinMsgSize), dns.MaxMsgSize))
	}
	if opt := r.IsEdns0(); opt != nil {
		k.DO = opt.Do()
	}
	return k
}

func lower(s string) string {
	for i := range len(s) {
		if c := s[i]; 'A' <= c && c <= 'Z' {
			return strings.ToLower(s)
		}
	}
	return s
}

// Pack appends to buf[:0] the query for k as it goes to an upstream: ID 0, the
// question in the case of name, and our own OPT record with options in it. It
// returns the wire form and the offset behind the question.
func Pack(buf []byte, k Key, name string) ([]byte, int, error) {
	const optLen = 11
	need := headerLen + len(name) + 1 + 4 + optLen + len(k.Options) + 1
	if cap(buf) < need {
		buf = make([]byte, need)
	}
	buf = buf[:cap(buf)]
	clear(buf[:headerLen])
	if k.RD {
		buf[2] |= bitRD
	}
	if k.AD {
		buf[3] |= bitAD
	}
	if k.CD {
		buf[3] |= bitCD
	}
	buf[5], buf[11] = 1, 1 // QDCOUNT, ARCOUNT
	off, err := dns.PackDomainName(name, buf, headerLen, nil, false)
	if err != nil {
		return nil, 0, fmt.Errorf("name %q: %w", name, err)
	}
	if off-headerLen > 255 {
		return nil, 0, fmt.Errorf("name of %d octets: must be at most 255", off-headerLen) // RFC 1035, section 3.1
	}
	if off+4+optLen+len(k.Options) > len(buf) {
		return nil, 0, errors.New("query too long")
	}
	binary.BigEndian.PutUint16(buf[off:], k.Type)
	binary.BigEndian.PutUint16(buf[off+2:], k.Class)
	off += 4
	end := off
	buf[off] = 0 // root
	binary.BigEndian.PutUint16(buf[off+1:], dns.TypeOPT)
	binary.BigEndian.PutUint16(buf[off+3:], UDPSize)
	var flags uint32
	if k.DO {
		flags = 1 << 15
	}
	binary.BigEndian.PutUint32(buf[off+5:], flags)
	binary.BigEndian.PutUint16(buf[off+9:], uint16(len(k.Options)))
	off += optLen
	off += copy(buf[off:], k.Options)
	return buf[:off], end, nil
}

// ofHop reports whether an option concerns one hop alone.
func ofHop(code uint16) bool {
	return code == dns.EDNS0COOKIE || code == dns.EDNS0TCPKEEPALIVE || code == dns.EDNS0PADDING
}

// PassedOptions packs those EDNS options of r that pass allows, in their
// order. Options that belong to one hop are never passed: cookie (RFC 7873),
// TCP keepalive (RFC 7828), padding (RFC 7830).
func PassedOptions(r *dns.Msg, pass func(code uint16) bool) string {
	opt := r.IsEdns0()
	if opt == nil || len(opt.Option) == 0 {
		return ""
	}
	o := dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
	for _, e := range opt.Option {
		if c := e.Option(); !ofHop(c) && pass(c) {
			o.Option = append(o.Option, e)
		}
	}
	if len(o.Option) == 0 {
		return ""
	}
	buf := make([]byte, dns.Len(&o)+1)
	n, err := dns.PackRR(&o, buf, 0, nil, false)
	if err != nil || n < 11 {
		return ""
	}
	return string(buf[11:n])
}

// Unsupported says with which response code a query is to be answered that is
// not to be forwarded: NOTIMP for opcodes but QUERY and for zone transfers
// (RFC 5936, RFC 1995), FORMERR for a question count but one, a type that may
// not be asked for (RFC 6895, section 3.1) or more than one OPT record (RFC
// 6891, section 6.1.1), REFUSED for classes but IN and CH. ok is false where
// the query may be forwarded.
func Unsupported(r *dns.Msg) (rcode int, ok bool) {
	if r.Opcode != dns.OpcodeQuery {
		return dns.RcodeNotImplemented, true
	}
	if r.Response || len(r.Question) != 1 || manyOPT(r) {
		return dns.RcodeFormatError, true
	}
	q := r.Question[0]
	switch q.Qtype {
	case dns.TypeAXFR, dns.TypeIXFR, dns.TypeMAILA, dns.TypeMAILB:
		return dns.RcodeNotImplemented, true
	case dns.TypeNone, dns.TypeOPT, dns.TypeTSIG, dns.TypeTKEY:
		return dns.RcodeFormatError, true
	}
	switch q.Qclass {
	case dns.ClassINET, dns.ClassCHAOS:
	default:
		return dns.RcodeRefused, true
	}
	if _, valid := dns.IsDomainName(q.Name); !valid {
		return dns.RcodeFormatError, true
	}
	return 0, false
}

// manyOPT reports whether r has more than one OPT record.
func manyOPT(r *dns.Msg) bool {
	n := 0
	for _, rr := range r.Extra {
		if rr.Header().Rrtype == dns.TypeOPT {
			n++
		}
	}
	return n > 1
}
