package hostile

import (
	"encoding/binary"
	"strings"

	"github.com/miekg/dns"
)

// Question is a question as replies are compared with it: without regard to case.
type Question struct {
	Name        string // lower case
	Type, Class uint16
}

// QuestionOf returns the question of a message that has one.
func QuestionOf(q dns.Question) Question {
	return Question{Name: strings.ToLower(q.Name), Type: q.Qtype, Class: q.Qclass}
}

// Reply is a message that may be taken for the reply to a query.
type Reply struct {
	Msg *Message // nil where it cannot be read
	Cut bool     // has TC set
}

func newReply(wire []byte) Reply {
	m, _ := Read(wire)
	return Reply{Msg: m, Cut: wire[2]&0x02 != 0}
}

// Says reports whether what a client got may be made of r: nothing added, and
// nothing left out but by truncation. An extended code cannot be said to a
// client without EDNS.
func (r *Reply) Says(m *Message) bool {
	if r.Msg == nil { // cut somewhere, which is a sign to ask by TCP
		return r.Cut && m.Truncated() && m.Empty()
	}
	if r.Msg.Rcode != m.Rcode && (r.Msg.Rcode <= 0xf || m.Rcode != dns.RcodeServerFailure) {
		return false
	}
	return m.within(r.Msg) && (m.Truncated() || r.Cut || len(m.Answer) == len(r.Msg.Answer))
}

// ledger is what was asked from one socket, or over one connection.
type ledger struct {
	asked  []asked
	spoilt bool // it will fail, and nobody upstream is to blame
}

type asked struct {
	id       uint16
	question Question
	answered bool
}

// readQuery returns question and ID of a query.
func readQuery(wire []byte) (q Question, id uint16, ok bool) {
	m, err := Read(wire)
	if err != nil || len(m.Questions) != 1 {
		return q, 0, false
	}
	return QuestionOf(m.Questions[0]), m.ID, true
}

// answers reports whether a message may be taken for a reply to a question that
// was asked with an ID (RFC 5452, section 9.1). Without a question it has to
// say that the query was not understood, or not looked at.
func answers(wire []byte, id uint16, q Question) bool {
	if len(wire) < headerLen || binary.BigEndian.Uint16(wire) != id || wire[2]&0xf8 != 0x80 {
		return false
	}
	if n := binary.BigEndian.Uint16(wire[4:]); n == 0 || len(wire) == headerLen {
		switch wire[3] & 0xf {
		case dns.RcodeFormatError, dns.RcodeServerFailure, dns.RcodeNotImplemented, dns.RcodeRefused:
			return true
		}
		return false
	} else if n != 1 {
		return false
	}
	name, off, err := dns.UnpackDomainName(wire, headerLen)
	return err == nil && len(wire) >= off+4 &&
		QuestionOf(dns.Question{Name: name, Qtype: binary.BigEndian.Uint16(wire[off:]), Qclass: binary.BigEndian.Uint16(wire[off+2:])}) == q
}
