package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// oddLab has a node with three upstreams, which are asked for nothing yet.
func oddLab(t *testing.T, options string, faults ...string) (s *server, client *host, fakes []*fake) {
	t.Helper()
	requires(t)
	requiresDirective(t, directive())
	l := newLab(t)
	far, node := l.host("far", "10.50.0.254"), l.host("node", nodeAddr)
	client = l.host("client", clientAddr)
	for i := range 3 {
		fakes = append(fakes, far.fake(fmt.Sprintf("10.50.0.%d", i+1), faults...))
	}
	s = node.coredns(readyBlock + block(5400, addresses(fakes, " "), options))
	begin(fakes)
	return s, client, fakes
}

const oddPort = nodeAddr + ":5400"

// received counts the queries to all, probes apart.
func received(fakes []*fake) (n int) {
	for _, f := range fakes {
		n += f.received(0, time.Hour)
	}
	return n
}

// exchange sends bytes, and returns the reply; nil: there is none, and by TCP
// the connection was closed.
func (h *host) exchange(network, server string, wire []byte) ([]byte, error) {
	c, err := h.dial(network, server)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return nil, err
	}
	if network == "tcp" {
		wire = append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...)
	}
	if _, err := c.Write(wire); err != nil {
		return nil, err
	}
	buf := make([]byte, 64<<10)
	if network == "udp" {
		n, err := c.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, nil
		}
		return buf[:n], err
	}
	if _, err := io.ReadFull(c, buf[:2]); err != nil {
		return nil, nil
	}
	n, err := io.ReadFull(c, buf[:binary.BigEndian.Uint16(buf)])
	return buf[:n], err
}

// Messages that are not for a forwarder are refused as the RFCs say, or not
// answered at all, and none is sent on; odd but lawful ones are answered.
func TestOddQueries(t *testing.T) {
	s, client, fakes := oddLab(t, "")
	const name = "www.example.com."
	query := func(change func(m *dns.Msg)) []byte {
		m := new(dns.Msg).SetQuestion(name, dns.TypeA)
		change(m)
		wire, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return wire
	}
	opcode := func(o int) []byte { return query(func(m *dns.Msg) { m.Opcode = o }) }
	qtype := func(q uint16) []byte { return query(func(m *dns.Msg) { m.Question[0].Qtype = q }) }
	class := func(c uint16) []byte { return query(func(m *dns.Msg) { m.Question[0].Qclass = c }) }
	patch := func(at int, b ...byte) []byte {
		wire := query(func(*dns.Msg) {})
		copy(wire[at:], b)
		return wire
	}
	label := strings.Repeat("a", 63) + "."
	no := []int{dns.RcodeNotImplemented, dns.RcodeRefused, dns.RcodeFormatError}
	coreDNS := []int{dns.RcodeServerFailure} // what CoreDNS itself says, before any plugin is asked
	for what, c := range map[string]struct {
		wire []byte
		want []int // nil: no reply, or any of no
	}{
		"UPDATE":                        {opcode(dns.OpcodeUpdate), no},
		"NOTIFY":                        {opcode(dns.OpcodeNotify), no},
		"STATUS":                        {opcode(dns.OpcodeStatus), no},
		"IQUERY":                        {opcode(dns.OpcodeIQuery), no},
		"DSO":                           {opcode(dns.OpcodeStateful), no},
		"an unassigned opcode":          {opcode(15), no},
		"AXFR":                          {qtype(dns.TypeAXFR), no},
		"IXFR":                          {qtype(dns.TypeIXFR), no},
		"MAILA":                         {qtype(dns.TypeMAILA), no},
		"OPT as a question":             {qtype(dns.TypeOPT), no},
		"TKEY":                          {qtype(dns.TypeTKEY), no},
		"class NONE":                    {class(dns.ClassNONE), no},
		"class ANY":                     {class(dns.ClassANY), no},
		"class HS":                      {class(dns.ClassHESIOD), no},
		"no question":                   {query(func(m *dns.Msg) { m.Question = nil }), no},
		"two questions":                 {query(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), no},
		"a response":                    {query(func(m *dns.Msg) { m.Response = true }), nil},
		"more questions than there are": {patch(4, 0, 2), nil},
		"more records than there are":   {patch(6, 0, 9), nil},
		"a name that points at itself":  {patch(12, 0xc0, 12), nil},
		"a name without an end":         {patch(12, 63), nil},
		"a header alone":                {patch(0)[:12], coreDNS},
		"half a header":                 {patch(0)[:6], nil},
		"two OPT records": {query(func(m *dns.Msg) {
			m.SetEdns0(1232, false)
			m.Extra = append(m.Extra, m.Extra[0])
		}), no},
	} {
		for _, network := range []string{"udp", "tcp"} {
			reply, err := client.exchange(network, oddPort, c.wire)
			var m dns.Msg
			switch {
			case err != nil:
				t.Errorf("%s by %s: %v", what, network, err)
			case reply == nil && c.want == nil:
			case reply == nil:
				t.Errorf("%s by %s: no reply", what, network)
			case m.Unpack(reply) != nil:
				t.Errorf("%s by %s: a reply that is none: %x", what, network, reply)
			case !m.Response || !slices.Contains(append(no, c.want...), m.Rcode) || m.Id != binary.BigEndian.Uint16(c.wire):
				t.Errorf("%s by %s: %v", what, network, &m)
			}
		}
	}
	if n := received(fakes); n > 0 {
		t.Errorf("%d queries were sent on", n)
	}
	for what, q := range map[string]struct {
		name  string
		qtype uint16
		data  bool
	}{
		"labels of 63 octets":  {label + label + label + "example.", dns.TypeA, true},
		"a name of 255 octets": {label + label + label + strings.Repeat("b", 61) + ".", dns.TypeA, true},
		"upper case":           {"WWW.ExAmPlE.CoM.", dns.TypeA, true},
		"escaped":              {`a\.b\032c\000.example.com.`, dns.TypeA, true},
		"an unknown type":      {name, 65280, false},
		"ANY":                  {name, dns.TypeANY, false},
		"HTTPS":                {name, dns.TypeHTTPS, false},
	} {
		m, err := client.ask(oddPort, q.name, q.qtype)
		if err != nil || m.Rcode != dns.RcodeSuccess || (len(m.Answer) > 0) != q.data || !echoes(m, q.name) {
			t.Errorf("%s: %v %v", what, m, err)
		}
	}
	s.alive()
}

// echoes reports whether the name is repeated in the case of the query.
func echoes(m *dns.Msg, name string) bool {
	var want, got [256]byte
	n, err := dns.PackDomainName(name, want[:], 0, nil, false)
	k, err2 := dns.PackDomainName(m.Question[0].Name, got[:], 0, nil, false)
	return err == nil && err2 == nil && n == k && want == got
}

// Five hundred equal questions at once, and a client that asks again before
// it is answered, cost one upstream query.
func TestHerd(t *testing.T) {
	judged(t, func(v *verdict) {
		s, client, fakes := oddLab(t, "", "delay 300ms")
		warm := known(30, "warm.test", dns.TypeA) // so that it is known how long replies take
		v.right("warming up", measure(warm, client.load(oddPort, 30, warm)))
		before := received(fakes)
		same := slices.Repeat(known(1, "herd.test", dns.TypeA), 500)
		f := measure(same, client.load(oddPort, 5000, same))
		v.right("500 at once", f)
		n := received(fakes) - before
		t.Logf("500 equal questions: %d wrong, the slowest took %v, %d upstream queries", f.wrong, f.max, n)
		if n > 2 {
			v.softf("%d upstream queries for 500 equal questions at once", n)
		}
		c, err := client.dial("udp", oddPort)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		before = received(fakes)
		packet := known(2, "again.test", dns.TypeA)[1].pack(t.Fatal, true)
		for range 3 {
			if _, err := c.Write(packet); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		buf := make([]byte, 4096)
		for range 3 { // one reply each
			_ = c.SetReadDeadline(time.Now().Add(clientTimeout))
			if _, err := c.Read(buf); err != nil {
				v.errorf("a query sent three times: %v", err)
			}
		}
		if n := received(fakes) - before; n > 2 {
			v.softf("%d upstream queries for a question sent three times", n)
		}
		v.disturbed = f.max > 2*settlingMax
		s.alive()
		s.kill()
	})
}

// SERVFAIL from all for one name: each is asked once, and that is remembered
// for a moment.
func TestServfailFromAll(t *testing.T) {
	s, client, fakes := oddLab(t, "", "servfail")
	for range 5 {
		m, err := client.ask(oddPort, "bad.example.com.", dns.TypeA)
		if err != nil || m.Rcode != dns.RcodeServerFailure {
			t.Errorf("%v %v, want SERVFAIL", m, err)
		}
	}
	for i, f := range fakes {
		if n := f.received(0, time.Hour); n < 1 || n > 2 { // 2: the five took longer than a second
			t.Errorf("upstream %d was asked %d times", i+1, n)
		}
	}
	s.alive()
}

// Ten times as many queries as may be in flight: the rest is told so at once.
func TestOverload(t *testing.T) {
	judged(t, func(v *verdict) {
		s, client, fakes := oddLab(t, "max_concurrent 30", "from 1s to 4s delay 1s")
		many := known(1500, "example.com", dns.TypeA)
		sub := &subject{addr: oddPort, questions: many}
		client.crowd(300, []*subject{sub}, nil)
		meanwhile, after := sub.window(1500*time.Millisecond, 4*time.Second), sub.window(4500*time.Millisecond, time.Hour)
		rejects := s.metric("coredns_dnsguard_max_concurrent_rejects_total")
		t.Logf("%d wrong of %d, p50 %v, max %v: %s; %v rejected; after: %d of %d wrong", meanwhile.wrong, meanwhile.total, meanwhile.p50, meanwhile.max,
			meanwhile.why(), rejects, after.wrong, after.total)
		if meanwhile.reasons["no answer"] > 0 || meanwhile.wrong == meanwhile.total || rejects < 100 {
			v.errorf("of %d, %d without an answer, %d wrong, %v rejected", meanwhile.total, meanwhile.reasons["no answer"], meanwhile.wrong, rejects)
		}
		v.right("afterwards", after)
		if meanwhile.p50 > 50*time.Millisecond || meanwhile.max > allDeadMax {
			v.softf("p50 %v, max %v", meanwhile.p50, meanwhile.max)
		}
		if n := received(fakes); n > 900 {
			v.softf("%d upstream queries for 1500 lookups", n)
		}
		v.disturbed = after.p99 > 5*roundTrip
		s.alive()
		s.kill()
	})
}
