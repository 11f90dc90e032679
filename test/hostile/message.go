package hostile

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// Message is a message as the tests read it: data that need not be understood
// is taken for octets.
type Message struct {
	ID        uint16
	Flags     uint16 // with the code in the lower four bits
	Rcode     int    // the whole of it, with EDNS
	Questions []dns.Question
	Answer    []string // records in words, but those about the message
	Ns        []string
	Extra     []string
	EDE       []uint16 // codes of Extended DNS Errors
	OPT       int      // records of the kind, in any section
	TSIG      int
}

const headerLen = 12

var (
	errShort = errors.New("message too short")
	errTypes = errors.New("record data too short or too long")
)

// Read reads a message. It is strict about lengths and counts, but for a
// header alone, which may promise anything.
func Read(wire []byte) (*Message, error) {
	if len(wire) < headerLen {
		return nil, errShort
	}
	m := &Message{ID: binary.BigEndian.Uint16(wire), Flags: binary.BigEndian.Uint16(wire[2:])}
	m.Rcode = int(m.Flags & 0xf)
	if len(wire) == headerLen {
		return m, nil
	}
	off := headerLen
	for range binary.BigEndian.Uint16(wire[4:]) {
		name, next, err := dns.UnpackDomainName(wire, off)
		if err != nil || next+4 > len(wire) {
			return nil, fmt.Errorf("question: %w", cmpErr(err))
		}
		m.Questions = append(m.Questions, dns.Question{
			Name: name, Qtype: binary.BigEndian.Uint16(wire[next:]), Qclass: binary.BigEndian.Uint16(wire[next+2:]),
		})
		off = next + 4
	}
	for i, section := range []*[]string{&m.Answer, &m.Ns, &m.Extra} {
		for range binary.BigEndian.Uint16(wire[6+2*i:]) {
			next, err := m.record(wire, off, section)
			if err != nil {
				return nil, fmt.Errorf("record at %d: %w", off, err)
			}
			off = next
		}
	}
	return m, nil
}

func cmpErr(err error) error {
	if err == nil {
		return errShort
	}
	return err
}

// record reads the record at off into a section, and returns the offset behind it.
func (m *Message) record(wire []byte, off int, section *[]string) (int, error) {
	name, at, err := dns.UnpackDomainName(wire, off)
	if err != nil || at+10 > len(wire) {
		return 0, cmpErr(err)
	}
	rrtype, data := binary.BigEndian.Uint16(wire[at:]), at+10
	end := data + int(binary.BigEndian.Uint16(wire[at+8:]))
	if end > len(wire) {
		return 0, errShort
	}
	rr, next, rrErr := dns.UnpackRR(wire, off)
	if !understood(rrtype) && (rrErr != nil || !named(rrtype)) {
		ttl := binary.BigEndian.Uint32(wire[at+4:])
		class := binary.BigEndian.Uint16(wire[at+2:])
		*section = append(*section, fmt.Sprintf("%s %d %d %d %s", strings.ToLower(name), rrtype, class, ttl, hex.EncodeToString(wire[data:end])))
		return end, nil
	}
	if rrErr != nil || next != end {
		return 0, fmt.Errorf("%w: %w", errTypes, rrErr)
	}
	switch rr := rr.(type) {
	case *dns.OPT:
		m.OPT++
		m.Rcode |= rr.ExtendedRcode()
		for _, o := range rr.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				m.EDE = append(m.EDE, e.InfoCode)
			}
		}
	case *dns.TSIG:
		m.TSIG++
	case *dns.SIG:
		if rr.TypeCovered != dns.TypeNone { // else it signs the message
			*section = append(*section, strings.ToLower(rr.String()))
		}
	default:
		*section = append(*section, strings.ToLower(rr.String()))
	}
	return end, nil
}

// understood reports whether every program must understand the data of a type:
// it is about the message, an address, or may have compressed names in it.
func understood(rrtype uint16) bool {
	switch rrtype {
	case dns.TypeOPT, dns.TypeTSIG, dns.TypeA, dns.TypeAAAA, dns.TypeNS, dns.TypeMD, dns.TypeMF, dns.TypeCNAME, dns.TypeSOA,
		dns.TypeMB, dns.TypeMG, dns.TypeMR, dns.TypePTR, dns.TypeMINFO, dns.TypeMX, dns.TypeRP, dns.TypeAFSDB, dns.TypeRT,
		dns.TypeSIG, dns.TypePX, dns.TypeNXT, dns.TypeNAPTR, dns.TypeSRV:
		return true
	}
	return false
}

// named reports whether the data of a type is compared in words where it can be
// read: some compress the names in it though they must not (RFC 4034, sections
// 3.1.7 and 4.1.1).
func named(rrtype uint16) bool { return rrtype == dns.TypeRRSIG || rrtype == dns.TypeNSEC }

// Response reports whether the message is one to a query of an opcode.
func (m *Message) Response(opcode int) bool {
	return m.Flags&0x8000 != 0 && int(m.Flags>>11&0xf) == opcode
}

// Truncated reports the TC bit.
func (m *Message) Truncated() bool { return m.Flags&0x0200 != 0 }

// Data reports whether the message is an answer: it has data, or YXDOMAIN, which
// is as good (RFC 6672, section 2.2).
func (m *Message) Data() bool {
	return m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0 || m.Rcode == dns.RcodeYXDomain
}

// Denies reports whether the message says that the name, or the type, does not exist.
func (m *Message) Denies() bool {
	return m.Rcode == dns.RcodeNameError || m.Rcode == dns.RcodeSuccess && len(m.Answer) == 0
}

// Filtered reports whether the message says that its denial is a matter of
// policy (RFC 8914, sections 4.16 to 4.19).
func (m *Message) Filtered() bool {
	return slices.ContainsFunc(m.EDE, func(code uint16) bool {
		return code >= dns.ExtendedErrorCodeBlocked && code <= dns.ExtendedErrorCodeProhibited
	})
}

// Empty reports whether there are no records.
func (m *Message) Empty() bool { return len(m.Answer)+len(m.Ns)+len(m.Extra) == 0 }

// within reports whether all records of m are in other, in the same sections.
func (m *Message) within(other *Message) bool {
	for _, s := range [][2][]string{{m.Answer, other.Answer}, {m.Ns, other.Ns}, {m.Extra, other.Extra}} {
		for _, rr := range s[0] {
			if !slices.Contains(s[1], rr) {
				return false
			}
		}
	}
	return true
}
