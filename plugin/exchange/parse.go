package exchange

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

var (
	errShortCount = errors.New("fewer records than the header promises")
	errUnsendable = errors.New("record data that cannot be passed on")
	errMisplaced  = errors.New("OPT or TSIG outside of the additional section")
	errTooLarge   = errors.New("datagram is larger than the buffer")
)

// parse unpacks a reply that belongs to its query and says what it came to.
// A datagram that was cut and cannot be parsed still is a sign to ask by TCP:
// it comes back as Truncated, with header and question alone.
func parse(b []byte, datagram bool) (m *dns.Msg, kind outcome.Kind, err error) {
	m, err = unpack(b)
	if err == nil {
		return m, outcome.Classify(m, datagram), nil
	}
	if datagram && truncated(b) {
		if m, headErr := unpackHead(b); headErr == nil {
			return m, outcome.Truncated, nil
		}
	}
	return nil, outcome.Malformed, err
}

// unpack is dns.Msg.Unpack, made strict about what is where, safe from a panic
// over hostile bytes, and content with record data that it need not understand.
func unpack(b []byte) (m *dns.Msg, err error) {
	defer func() {
		if r := recover(); r != nil {
			m, err = nil, fmt.Errorf("parser gave up: %v", r)
		}
	}()
	m = new(dns.Msg)
	if err = m.Unpack(b); err == nil {
		err = checkCounts(m, b)
	}
	if err != nil || !allEveryday(m) {
		if m = unpackOpaque(b); m == nil {
			return nil, cmp.Or(err, errUnsendable)
		}
	}
	if misplaced(m.Answer) || misplaced(m.Ns) {
		return nil, errMisplaced
	}
	return m, nil
}

// checkCounts: the parser takes a message that ends early at a record's end for whole.
func checkCounts(m *dns.Msg, b []byte) error {
	if len(b) > headerLen &&
		(len(m.Answer) != int(binary.BigEndian.Uint16(b[6:])) ||
			len(m.Ns) != int(binary.BigEndian.Uint16(b[8:])) ||
			len(m.Extra) != int(binary.BigEndian.Uint16(b[10:]))) {
		return errShortCount
	}
	return nil
}

// misplaced reports whether a section that is to hold data has records that are
// about the message (RFC 6891, section 6.1.1; RFC 8945, section 5.1): one that
// holds nothing else would pass for an answer.
func misplaced(section []dns.RR) bool {
	for _, rr := range section {
		switch rr.(type) {
		case *dns.OPT, *dns.TSIG:
			return true
		}
	}
	return false
}

// unpackHead unpacks header and question, as if no records followed.
func unpackHead(b []byte) (m *dns.Msg, err error) {
	defer func() {
		if r := recover(); r != nil {
			m, err = nil, fmt.Errorf("parser gave up: %v", r)
		}
	}()
	head := make([]byte, len(b))
	copy(head, b)
	clear(head[6:headerLen])
	m = new(dns.Msg)
	return m, m.Unpack(head)
}
