package dnsmsg

import (
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// EDE is an Extended DNS Error (RFC 8914, section 2): why there is no answer.
type EDE struct {
	Code uint16 // RFC 8914, section 4; miekg/dns's ExtendedErrorCode constants
	Text string // for people
}

// Finish turns m, an upstream's reply, into the reply to r: ID, question and
// flags of r; the upstream's OPT, which belongs to its hop, replaced by one of
// ours that carries the upstream's Extended DNS Errors, where r has EDNS and
// there are any, and those options that pass allows, which may be nil for none,
// as far as there is room. m is changed and must belong to the caller.
func Finish(m, r *dns.Msg, pass func(code uint16) bool) {
	m.Id = r.Id
	m.Response = true
	m.Opcode = r.Opcode
	m.Question = r.Question
	m.RecursionDesired = r.RecursionDesired
	m.CheckingDisabled = r.CheckingDisabled
	m.Zero = false
	if ropt := r.IsEdns0(); !r.AuthenticatedData && (ropt == nil || !ropt.Do()) {
		m.AuthenticatedData = false // RFC 6840, section 5.8
	}
	opt := TakeOPT(m)
	if opt == nil || r.IsEdns0() == nil {
		if m.Rcode > 0xf { // an extended code cannot be said without EDNS (RFC 6891, section 6.1.3)
			m.Rcode = dns.RcodeServerFailure
		}
		return
	}
	var ours []dns.EDNS0
	for _, o := range opt.Option {
		if e, ok := o.(*dns.EDNS0_EDE); ok {
			ours = append(ours, EDE{Code: e.InfoCode, Text: e.ExtraText}.option())
		} else if pass != nil && !ofHop(o.Option()) && pass(o.Option()) {
			ours = append(ours, o)
		}
	}
	addOptions(m, r, ours)
	if m.Rcode > 0xf {
		ourOPT(m, r) // which carries its upper bits
	}
}

// TakeOPT removes the OPT records of m, and what signs it as a message: both
// belong to the hop it came over. It returns the first OPT record of the
// additional section, nil where there is none.
func TakeOPT(m *dns.Msg) *dns.OPT {
	var opt *dns.OPT
	for _, rr := range m.Extra {
		if o, ok := rr.(*dns.OPT); ok {
			opt = o
			break
		}
	}
	m.Answer, m.Ns, m.Extra = withoutMeta(m.Answer), withoutMeta(m.Ns), withoutMeta(m.Extra)
	return opt
}

// withoutMeta removes the records that are about a message and its hop.
func withoutMeta(section []dns.RR) []dns.RR {
	if !slices.ContainsFunc(section, isMeta) {
		return section
	}
	return slices.DeleteFunc(section, isMeta)
}

// isMeta reports whether a record is OPT (RFC 6891), TSIG (RFC 8945) or SIG(0)
// (RFC 2931). A reply with TSIG in it would not be truncated for the client,
// either.
func isMeta(rr dns.RR) bool {
	switch rr := rr.(type) {
	case *dns.OPT, *dns.TSIG:
		return true
	case *dns.SIG:
		return rr.TypeCovered == dns.TypeNone
	}
	return false
}

// Failure returns a reply to r with an rcode, and with e where r has EDNS and
// e has a text.
func Failure(r *dns.Msg, rcode int, e EDE) *dns.Msg {
	m := new(dns.Msg)
	m.SetRcode(r, rcode)
	m.RecursionAvailable = true
	if e.Text != "" {
		AddEDE(m, r, e)
	}
	return m
}

// AddEDE adds e to m, a reply to r, where r has EDNS and there is room.
func AddEDE(m, r *dns.Msg, e EDE) {
	if r.IsEdns0() != nil {
		addOptions(m, r, []dns.EDNS0{e.option()})
	}
}

func (e EDE) option() dns.EDNS0 {
	const most = 200 // octets of text: the reply must fit a datagram
	if len(e.Text) > most {
		e.Text = strings.ToValidUTF8(e.Text[:most], "")
	}
	return &dns.EDNS0_EDE{InfoCode: e.Code, ExtraText: e.Text}
}

// addOptions adds options to the OPT record of m, a reply to r, which has one.
// Those are left out that would make header, question and OPT record longer
// than what the sender of r takes: truncating a reply leaves these three.
func addOptions(m, r *dns.Msg, options []dns.EDNS0) {
	if len(options) == 0 {
		return
	}
	opt := ourOPT(m, r)
	rest := dns.Msg{Question: m.Question}
	room := max(dns.MinMsgSize, int(r.IsEdns0().UDPSize())) - rest.Len() - dns.Len(opt)
	for _, o := range options {
		if n := optionLen(o); n <= room {
			opt.Option = append(opt.Option, o)
			room -= n
		}
	}
}

// optionLen returns the octets of an option, its code and length among them.
func optionLen(o dns.EDNS0) int {
	none := dns.OPT{Hdr: dns.RR_Header{Name: "."}}
	one := none
	one.Option = []dns.EDNS0{o}
	return dns.Len(&one) - dns.Len(&none)
}

// ourOPT returns the OPT record of m, a reply to r, which has one; it is added
// where there is none.
func ourOPT(m, r *dns.Msg) *dns.OPT {
	if opt := m.IsEdns0(); opt != nil {
		return opt
	}
	opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
	opt.SetUDPSize(UDPSize)
	if r.IsEdns0().Do() {
		opt.SetDo()
	}
	m.Extra = append(m.Extra, opt)
	return opt
}

// Filtered reports whether a denial says itself that it is no matter of
// existence: the answer is blocked, censored, filtered or prohibited (RFC 8914,
// sections 4.16 to 4.19).
func Filtered(m *dns.Msg) bool {
	opt := m.IsEdns0()
	if opt == nil {
		return false
	}
	for _, o := range opt.Option {
		if e, ok := o.(*dns.EDNS0_EDE); ok && e.InfoCode >= dns.ExtendedErrorCodeBlocked && e.InfoCode <= dns.ExtendedErrorCodeProhibited {
			return true
		}
	}
	return false
}

// SOA returns the owner name of the SOA record in the authority section of a
// denial, in lower case, or "" (RFC 2308, section 3).
func SOA(m *dns.Msg) string {
	for _, rr := range m.Ns {
		if rr.Header().Rrtype == dns.TypeSOA {
			return lower(rr.Header().Name)
		}
	}
	return ""
}
