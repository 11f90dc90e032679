package exchange

import (
	"encoding/binary"
	"encoding/hex"

	"github.com/miekg/dns"
)

// The library reads the data of all types that it knows, and is stricter about
// some than resolvers are, to whom they are octets. What it does not read, or
// reads and then cannot write or read again, would make the whole reply one
// that no client gets, and whoever publishes such a record could have upstreams
// taken out for it. So that data is passed on as it came (RFC 3597, section 3),
// where it can have no compressed names in it.

// unpackOpaque unpacks a message with such records; nil where it is malformed
// otherwise.
func unpackOpaque(b []byte) *dns.Msg {
	m, err := unpackHead(b)
	if err != nil || len(b) <= headerLen {
		return nil
	}
	off := headerLen
	for range m.Question {
		if _, off, err = dns.UnpackDomainName(b, off); err != nil {
			return nil
		}
		off += 4
	}
	for i, section := range []*[]dns.RR{&m.Answer, &m.Ns, &m.Extra} {
		for range binary.BigEndian.Uint16(b[6+2*i:]) {
			rr, next := unpackRecord(b, off)
			if rr == nil {
				return nil
			}
			*section = append(*section, rr)
			off = next
		}
	}
	if opt := m.IsEdns0(); opt != nil {
		m.Rcode |= opt.ExtendedRcode()
	}
	return m
}

// unpackRecord unpacks the record at off, and returns the offset behind it; nil
// where there is none.
func unpackRecord(b []byte, off int) (dns.RR, int) {
	if off >= len(b) { // where the library finds an empty record
		return nil, 0
	}
	rr, next, err := dns.UnpackRR(b, off)
	if err == nil && everyday(rr) {
		return rr, next
	}
	name, off, nameErr := dns.UnpackDomainName(b, off)
	if nameErr != nil || off+10 > len(b) {
		return nil, 0
	}
	h := dns.RR_Header{
		Name: name, Rrtype: binary.BigEndian.Uint16(b[off:]), Class: binary.BigEndian.Uint16(b[off+2:]),
		Ttl: binary.BigEndian.Uint32(b[off+4:]), Rdlength: binary.BigEndian.Uint16(b[off+8:]),
	}
	off += 10
	if next = off + int(h.Rdlength); next > len(b) {
		return nil, 0
	}
	data, again := hex.EncodeToString(b[off:next]), new(dns.RFC3597)
	if err == nil {
		err = again.ToRFC3597(rr)
	}
	switch {
	case err == nil && again.Rdata == data:
		return rr, next
	case opaque(h.Rrtype):
		return &dns.RFC3597{Hdr: h, Rdata: data}, next
	case err == nil && data != "" && sendable(&dns.Msg{Answer: []dns.RR{rr}}): // there were compressed names in it
		return rr, next
	}
	return nil, 0
}

// opaque reports whether the data of a type may be taken for octets. It must
// not where it may have compressed names in it (RFC 3597, section 4), where it
// is an address, which everybody reads, and where it is about the message.
func opaque(rrtype uint16) bool {
	switch rrtype {
	case dns.TypeA, dns.TypeAAAA, dns.TypeOPT, dns.TypeTSIG,
		dns.TypeNS, dns.TypeMD, dns.TypeMF, dns.TypeCNAME, dns.TypeSOA, dns.TypeMB, dns.TypeMG, dns.TypeMR, dns.TypePTR, dns.TypeMINFO, dns.TypeMX,
		dns.TypeRP, dns.TypeAFSDB, dns.TypeRT, dns.TypeSIG, dns.TypePX, dns.TypeNXT, dns.TypeNAPTR, dns.TypeSRV:
		return false
	}
	return true
}

// sendable reports whether a message can be packed, and a client can then read it.
func sendable(m *dns.Msg) bool {
	wire, err := m.Pack()
	return err == nil && new(dns.Msg).Unpack(wire) == nil
}

// allEveryday reports whether a message has everyday records alone.
func allEveryday(m *dns.Msg) bool {
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if !everyday(rr) {
				return false
			}
		}
	}
	return true
}

// everyday reports whether a record is of a type that most replies consist of,
// and that the library writes as it has read it. The library takes data that
// ends early: then what is missing becomes zeros, or nothing where a name has
// to be, which nobody can read.
func everyday(rr dns.RR) bool {
	switch rr := rr.(type) {
	case *dns.OPT, *dns.RFC3597:
		return true
	case *dns.A, *dns.AAAA, *dns.CNAME, *dns.NS, *dns.PTR, *dns.TXT:
		return rr.Header().Rdlength > 0
	case *dns.MX:
		return rr.Mx != ""
	case *dns.SRV:
		return rr.Target != ""
	case *dns.SOA:
		return rr.Mbox != ""
	case *dns.RRSIG:
		return rr.SignerName != ""
	case *dns.NSEC:
		return rr.NextDomain != ""
	case *dns.DS:
		return rr.Digest != ""
	case *dns.DNSKEY:
		return rr.PublicKey != ""
	}
	return false
}
