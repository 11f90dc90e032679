package hostile

import (
	"encoding/binary"
	"net"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// kind is what a message is.
type kind uint8

// The kinds. n and raw are the fields of a reply.
const (
	kindData     kind = iota // an address, whatever was asked for
	kindNXDomain             // with the SOA of the parent of the name
	kindNoData               // likewise
	kindBareNX               // without an SOA
	kindBareNoData
	kindRcode     // the code n, up to 4095
	kindTC        // truncated, nothing in it
	kindTCData    // truncated, with data
	kindReferral  // to the servers of a zone
	kindCNAMELoop // a -> b -> a
	kindTTL       // data for ever
	kindBig       // n octets of data, at most 65,535, whatever the transport
	kindTwoOPT
	kindEDE      // n Extended DNS Errors; raw is a text
	kindFiltered // NXDOMAIN with EDE 15 to 18
	kindOPT      // an option n with raw in it
	kindBadCookie
	kindTSIG
	kindRecord     // a record of type n with raw in it
	kindHeader     // nothing but the header, with the code n
	kindNoQuestion // the code n, without the question
	kindOther      // another question
	kindCase       // the name in another case
	kindEcho       // the query
	kindRaw        // raw behind header and question
	kindGarbage    // raw
	kindLoop       // an owner that points at itself

	kinds
)

func (k kind) takesNumber() bool {
	switch k {
	case kindRcode, kindBig, kindEDE, kindFiltered, kindOPT, kindRecord, kindHeader, kindNoQuestion:
		return true
	}
	return false
}

func (k kind) takesBytes() bool {
	switch k {
	case kindEDE, kindOPT, kindRecord, kindRaw, kindGarbage:
		return true
	}
	return false
}

// make makes the message in reply to a query.
func (r *reply) make(query []byte) []byte {
	return r.tamper(r.message(query))
}

func (r *reply) message(query []byte) []byte {
	q := new(dns.Msg)
	if r.kind == kindGarbage || q.Unpack(query) != nil || len(q.Question) != 1 {
		return slices.Clone(r.raw)
	}
	if r.kind == kindEcho {
		return slices.Clone(query)
	}
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = true
	if q.IsEdns0() != nil {
		m.SetEdns0(1232, q.IsEdns0().Do())
	}
	r.fill(m)
	m.Compress = true
	wire, err := m.Pack()
	if err != nil { // of a question that cannot be packed again
		return slices.Clone(query)
	}
	switch r.kind {
	case kindHeader:
		wire = wire[:headerLen]
	case kindRaw:
		wire = append(wire[:questionEnd(wire)], r.raw...)
	case kindRecord:
		wire = appendRecord(wire[:questionEnd(wire)], r.n, r.raw)
	case kindLoop:
		end := questionEnd(wire)
		wire = append(wire[:end], 0xc0, byte(end), 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1)
		clear(wire[6:headerLen])
		wire[7] = 1
	}
	return wire
}

func questionEnd(wire []byte) int {
	_, off, err := dns.UnpackDomainName(wire, headerLen)
	if err != nil {
		return len(wire)
	}
	return off + 4
}

// appendRecord appends a record to header and question that need not make sense.
func appendRecord(b []byte, rrtype uint16, data []byte) []byte {
	b = append(b, 0xc0, headerLen)
	b = binary.BigEndian.AppendUint16(b, rrtype)
	b = append(b, 0, dns.ClassINET, 0, 0, 0, 60)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	clear(b[6:headerLen])
	b[7] = 1
	return append(b, data...)
}

// fill makes an empty reply what the kind says.
func (r *reply) fill(m *dns.Msg) {
	name := m.Question[0].Name
	switch r.kind {
	case kindData:
		m.Answer = []dns.RR{address(name, 60)}
	case kindTTL:
		m.Answer = []dns.RR{address(name, 0xffffffff)}
	case kindCase:
		m.Question[0].Name = flip(name)
		m.Answer = []dns.RR{address(name, 60)}
	case kindTC:
		m.Truncated = true
	case kindTCData:
		m.Truncated = true
		m.Answer = []dns.RR{address(name, 60)}
	case kindReferral:
		m.RecursionAvailable = false
		zone := parent(name)
		m.Ns = []dns.RR{&dns.NS{Hdr: header(zone, dns.TypeNS), Ns: "ns.invalid."}}
		m.Extra = append(m.Extra, address("ns.invalid.", 60))
	case kindCNAMELoop:
		m.Answer = []dns.RR{
			&dns.CNAME{Hdr: header(name, dns.TypeCNAME), Target: "b.invalid."},
			&dns.CNAME{Hdr: header("b.invalid.", dns.TypeCNAME), Target: name},
		}
	case kindBig:
		for range min(int(r.n)/16, 4000) {
			m.Answer = append(m.Answer, address(name, 60))
		}
	case kindTSIG:
		m.Answer = slices.Repeat([]dns.RR{address(name, 60)}, 40)
		m.Extra = append(m.Extra, &dns.TSIG{
			Hdr: dns.RR_Header{Name: "key.", Rrtype: dns.TypeTSIG, Class: dns.ClassANY}, Algorithm: dns.HmacSHA256, MAC: "00", MACSize: 1,
		})
	case kindOther:
		m.Question[0].Name = "other.invalid."
		m.Answer = []dns.RR{address("other.invalid.", 60)}
	case kindNoQuestion:
		m.Question = nil
		m.Rcode = int(r.n & 0xf)
	case kindHeader:
		m.Rcode = int(r.n & 0xf)
	case kindRcode:
		m.Rcode = int(r.n & 0xfff)
		if m.Rcode > 0xf && m.IsEdns0() == nil {
			m.SetEdns0(1232, false)
		}
	default:
		r.deny(m)
		r.extend(m)
	}
}

// deny makes a reply a denial.
func (r *reply) deny(m *dns.Msg) {
	zone := parent(m.Question[0].Name)
	switch r.kind {
	case kindNXDomain, kindBareNX, kindFiltered:
		m.Rcode = dns.RcodeNameError
	}
	switch r.kind {
	case kindNXDomain, kindNoData:
		m.Ns = []dns.RR{&dns.SOA{Hdr: header(zone, dns.TypeSOA), Ns: "ns.invalid.", Mbox: "a.invalid.", Minttl: 60}}
	}
}

// extend plays tricks with EDNS.
func (r *reply) extend(m *dns.Msg) {
	if r.kind < kindTwoOPT || r.kind > kindBadCookie {
		return
	}
	opt := m.IsEdns0()
	if opt == nil {
		m.SetEdns0(1232, false)
		opt = m.IsEdns0()
	}
	switch r.kind {
	case kindTwoOPT:
		m.Answer = []dns.RR{address(m.Question[0].Name, 60), opt}
		m.Extra = append(m.Extra, opt)
	case kindEDE:
		m.Answer = []dns.RR{address(m.Question[0].Name, 60)}
		for i := range min(int(r.n), 60_000/(6+len(r.raw))) {
			opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: r.n ^ uint16(i), ExtraText: string(r.raw)})
		}
	case kindFiltered:
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeBlocked + r.n%4})
	case kindOPT:
		m.Answer = []dns.RR{address(m.Question[0].Name, 60)}
		opt.Option = append(opt.Option, &dns.EDNS0_LOCAL{Code: r.n, Data: r.raw})
	case kindBadCookie:
		m.Rcode = dns.RcodeBadCookie
		opt.Option = append(opt.Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "01020304050607081112131415161718"})
	}
}

func (t *tampering) tamper(b []byte) []byte {
	if len(b) >= 4 {
		binary.BigEndian.PutUint16(b, binary.BigEndian.Uint16(b)^t.id)
		binary.BigEndian.PutUint16(b[2:], binary.BigEndian.Uint16(b[2:])^t.flags)
	}
	if t.at > 0 && t.at < len(b) {
		b[t.at] ^= t.by
	}
	return append(b[:len(b)-min(t.cut, len(b))], t.more...)
}

func header(owner string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: owner, Rrtype: rrtype, Class: dns.ClassINET, Ttl: 60}
}

// Address is in all data that peers make up.
var Address = net.IPv4(192, 0, 2, 66).To4()

func address(owner string, ttl uint32) dns.RR {
	h := header(owner, dns.TypeA)
	h.Ttl = ttl
	return &dns.A{Hdr: h, A: Address}
}

func parent(name string) string {
	off, end := dns.NextLabel(name, 0)
	if end {
		return "."
	}
	return name[off:]
}

// flip changes the case of all letters.
func flip(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z':
			return r - 'A' + 'a'
		}
		return r
	}, name)
}
