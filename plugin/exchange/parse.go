package exchange

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

var (
	errShortCount = errors.New("fewer records than the header promises")
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

// unpack is dns.Msg.Unpack, made strict about record counts, and safe from
// a panic over hostile bytes.
func unpack(b []byte) (m *dns.Msg, err error) {
	defer func() {
		if r := recover(); r != nil {
			m, err = nil, fmt.Errorf("parser gave up: %v", r)
		}
	}()
	m = new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		return nil, err
	}
	// The parser takes a message that ends early at a record's end for whole.
	if len(b) > headerLen &&
		(len(m.Answer) != int(binary.BigEndian.Uint16(b[6:])) ||
			len(m.Ns) != int(binary.BigEndian.Uint16(b[8:])) ||
			len(m.Extra) != int(binary.BigEndian.Uint16(b[10:]))) {
		return nil, errShortCount
	}
	return m, nil
}

// unpackHead unpacks header and question, as if no records followed.
func unpackHead(b []byte) (*dns.Msg, error) {
	head := make([]byte, len(b))
	copy(head, b)
	clear(head[6:headerLen])
	return unpack(head)
}
