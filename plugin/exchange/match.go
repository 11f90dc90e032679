package exchange

import (
	"bytes"
	"encoding/binary"

	"github.com/miekg/dns"
)

// headerLen is the length of the header (RFC 1035, section 4.1.1).
const headerLen = 12

// isResponse reports whether b begins as a reply to a QUERY: QR set, opcode 0.
func isResponse(b []byte) bool {
	return len(b) >= headerLen && b[2]&0x80 != 0 && b[2]&0x78 == 0
}

func messageID(b []byte) uint16 { return binary.BigEndian.Uint16(b) }

// truncated reports the TC bit.
func truncated(b []byte) bool { return b[2]&0x02 != 0 }

// answers reports whether the response b repeats the question of q. The name
// is compared without regard to ASCII case (RFC 4343). Some servers leave the
// question out where they refuse to look at the query.
func answers(b []byte, q *Query) bool {
	if !hasQuestion(b) {
		return mayOmitQuestion(b)
	}
	if len(b) < q.QuestionEnd {
		return false
	}
	want := q.Wire[headerLen:q.QuestionEnd]
	got := b[headerLen:q.QuestionEnd]
	if bytes.Equal(want, got) {
		return true
	}
	name := len(want) - 4
	return bytes.Equal(want[name:], got[name:]) && equalFold(want[:name], got[:name])
}

// hasQuestion reports whether b carries exactly one question.
func hasQuestion(b []byte) bool {
	return b[4] == 0 && b[5] == 1 && len(b) > headerLen
}

// mayOmitQuestion reports whether b is an empty reply with a code that says
// that the query was not looked at.
func mayOmitQuestion(b []byte) bool {
	if len(b) > headerLen && (b[4] != 0 || b[5] != 0) {
		return false
	}
	switch b[3] & 0x0f {
	case dns.RcodeFormatError, dns.RcodeServerFailure, dns.RcodeNotImplemented, dns.RcodeRefused:
		return true
	}
	return false
}

// equalFold compares two names on the wire. Length octets are below 'A', so
// that they need no care.
func equalFold(a, b []byte) bool {
	for i, x := range a {
		if x != b[i] && lower(x) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c | 0x20
	}
	return c
}

// fingerprint is a short, case-blind mark of a question section. It tells late
// replies from forged ones once the query itself has been let go; it decides
// nothing else, and so need not be strong.
func fingerprint(question []byte) uint32 {
	const (
		prime = 0x9e3779b97f4a7c15
		fold  = 0x2020202020202020
	)
	h := uint64(len(question))
	for len(question) >= 8 {
		h = (h ^ (binary.LittleEndian.Uint64(question) | fold)) * prime
		h ^= h >> 29
		question = question[8:]
	}
	for _, c := range question {
		h = (h ^ uint64(c|0x20)) * prime
	}
	return uint32(h >> 32)
}

// repeats reports whether the response b repeats a question of n octets with
// the given fingerprint.
func repeats(b []byte, n int, mark uint32) bool {
	if !hasQuestion(b) {
		return mayOmitQuestion(b)
	}
	end := headerLen + n
	return len(b) >= end && fingerprint(b[headerLen:end]) == mark
}
