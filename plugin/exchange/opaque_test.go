package exchange

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// record makes a reply to q with one record of a type.
func record(q *Query, rrtype uint16, data string) []byte {
	b := append([]byte(nil), q.Wire[:q.QuestionEnd]...)
	b[2], b[7], b[11] = b[2]|0x80, 1, 0
	b = append(b, 0xc0, headerLen)
	b = binary.BigEndian.AppendUint16(b, rrtype)
	b = append(b, 0, dns.ClassINET, 0, 0, 0, 60)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	return append(b, data...)
}

// TestOpaque holds that clients get record data which the library does not
// understand, or does not write as it came, and that an upstream is not blamed for it.
func TestOpaque(t *testing.T) {
	q := query("www.example.org")
	for _, tc := range []struct {
		name   string
		rrtype uint16
		data   string
		want   outcome.Kind
		kept   bool // as RFC3597
	}{
		{"HTTPS", dns.TypeHTTPS, "\x00\x01\x00\x00\x01\x00\x03\x02h2", outcome.OK, false},
		{"HTTPS with an empty ALPN", dns.TypeHTTPS, "\x00\x01\x00\x00\x01\x00\x01\x00", outcome.OK, true},
		{"HTTPS cut off", dns.TypeHTTPS, "\x00\x01\x00\x00\x01\x00\x09\x02h2", outcome.OK, true},
		{"TXT of wrong length", dns.TypeTXT, "\x09abc", outcome.OK, true},
		{"NSEC3 cut off", dns.TypeNSEC3, "\x02\x00\x72\x7e\x3b", outcome.OK, true},
		{"unknown type", 65280, "\x00", outcome.OK, true},
		{"nothing of an unknown type", 65280, "", outcome.OK, true},
		{"DNSKEY cut off", dns.TypeDNSKEY, "00", outcome.OK, true},
		{"DNSKEY without data", dns.TypeDNSKEY, "", outcome.OK, true},
		{"MX without data", dns.TypeMX, "", outcome.Malformed, false},
		{"A", dns.TypeA, "\xc0\x00\x02\x01", outcome.OK, false},
		{"A of wrong length", dns.TypeA, "\xc0\x00\x02", outcome.Malformed, false},
		{"MX cut off", dns.TypeMX, "\x00\x01\x03", outcome.Malformed, false},
		{"SOA without data", dns.TypeSOA, "", outcome.Malformed, false},
		{"SOA with one name", dns.TypeSOA, "\x00", outcome.Malformed, false},
		{"OPT for an answer", dns.TypeOPT, "", outcome.Malformed, false},
		{"TSIG for an answer", dns.TypeTSIG, "", outcome.Malformed, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			wire := record(q, tc.rrtype, tc.data)
			m, kind, err := parse(wire, true)
			if kind != tc.want || (m == nil) != (tc.want == outcome.Malformed) || (err != nil) != (m == nil) {
				t.Fatalf("%s, %v: %v", kind, err, m)
			}
			if m == nil {
				return
			}
			if _, kept := m.Answer[0].(*dns.RFC3597); kept != tc.kept {
				t.Errorf("kept as it was: %t", kept)
			}
			m.Compress = true
			if got, err := m.Pack(); err != nil || !bytes.Equal(got, wire) {
				t.Errorf("passed on as\n%x, want\n%x (%v)", got, wire, err)
			}
		})
	}
}

// TestOpaqueBesides holds that the other records of such a message are read.
func TestOpaqueBesides(t *testing.T) {
	q := query("www.example.org")
	wire := record(q, dns.TypeTXT, "\x09abc")
	m := new(dns.Msg)
	if err := m.Unpack(answer(q.Wire)); err != nil {
		t.Fatal(err)
	}
	a := make([]byte, 100)
	n, err := dns.PackRR(m.Answer[0], a, 0, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	wire = append(wire, a[:n]...)
	wire = append(wire, 0, 0, byte(dns.TypeOPT), 4, 208, 1, 0, 0, 0, 0, 0) // BADVERS
	wire[7], wire[11] = 2, 1
	got, kind, err := parse(wire, true)
	if err != nil || kind != outcome.BadVers || len(got.Answer) != 2 || got.Answer[1].String() != m.Answer[0].String() || got.IsEdns0() == nil {
		t.Errorf("%s, %v: %v", kind, err, got)
	}
	for _, n := range []int{1, 5, 12, 20} {
		if m, kind, err := parse(wire[:len(wire)-n], true); kind != outcome.Malformed {
			t.Errorf("%d octets short: %s, %v: %v", n, kind, err, m)
		}
	}
}
