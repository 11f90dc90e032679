package forwardlike

import (
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// records parses records.
func records(texts ...string) []dns.RR {
	rrs := make([]dns.RR, len(texts))
	for i, text := range texts {
		rr, err := dns.NewRR(text)
		if err != nil {
			panic(err)
		}
		rrs[i] = rr
	}
	return rrs
}

// text is a whole message in words, but for its ID and OPT record.
func text(m *dns.Msg) string {
	if m == nil {
		return "no reply"
	}
	m.Id = 0
	m.Extra = append([]dns.RR(nil), m.Extra...)
	kept := m.Extra[:0]
	for _, rr := range m.Extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			kept = append(kept, rr)
		}
	}
	m.Extra = kept
	return strings.Join(strings.Fields(m.String()), " ")
}

// TestReply holds that the client gets the upstream's reply, whatever is in it.
func TestReply(t *testing.T) {
	soa := records("example.org. 300 IN SOA ns.example.org. host.example.org. 1 2 3 4 5")
	for name, reply := range map[string]func(m *dns.Msg){
		"an address": func(m *dns.Msg) { m.Answer = records("www.example.org. 60 IN A 192.0.2.1") },
		"an alias, authority and glue": func(m *dns.Msg) {
			m.Answer = records("www.example.org. 60 IN CNAME a.example.org.", "a.example.org. 61 IN A 192.0.2.1", "a.example.org. 61 IN A 192.0.2.2")
			m.Ns, m.Extra = records("example.org. 62 IN NS ns.example.org."), records("ns.example.org. 63 IN A 192.0.2.53")
		},
		"authoritative":       func(m *dns.Msg) { m.Authoritative, m.Answer = true, records("www.example.org. 60 IN A 192.0.2.1") },
		"recursion available": func(m *dns.Msg) { m.RecursionAvailable, m.Answer = true, records("www.example.org. 60 IN A 192.0.2.1") },
		"NODATA":              func(m *dns.Msg) { m.Ns = soa },
		"NODATA without SOA":  func(*dns.Msg) {},
		"NXDOMAIN":            func(m *dns.Msg) { m.Rcode, m.Ns = dns.RcodeNameError, soa },
		"NXDOMAIN of an alias": func(m *dns.Msg) {
			m.Rcode, m.Ns, m.Answer = dns.RcodeNameError, soa, records("www.example.org. 60 IN CNAME a.example.org.")
		},
		"a referral":             func(m *dns.Msg) { m.Ns = records("example.org. 62 IN NS ns.example.org.") },
		"SERVFAIL":               func(m *dns.Msg) { m.Rcode = dns.RcodeServerFailure },
		"REFUSED":                func(m *dns.Msg) { m.Rcode = dns.RcodeRefused },
		"NOTIMP":                 func(m *dns.Msg) { m.Rcode = dns.RcodeNotImplemented },
		"YXDOMAIN":               func(m *dns.Msg) { m.Rcode = dns.RcodeYXDomain },
		"an unknown code":        func(m *dns.Msg) { m.Rcode = 12 },
		"another type":           func(m *dns.Msg) { m.Answer = records("www.example.org. 60 IN TXT \"text\"") },
		"an unknown type":        func(m *dns.Msg) { m.Answer = records(`www.example.org. 60 IN TYPE65280 \# 2 abcd`) },
		"records of other names": func(m *dns.Msg) { m.Answer = records("other.example. 60 IN A 192.0.2.1") },
	} {
		t.Run(name, func(t *testing.T) {
			replies := make(map[string]string)
			for _, plugin := range plugins {
				register()
				s := &scene{t: t, plugin: plugin}
				s.handle(func(w dns.ResponseWriter, q *dns.Msg) {
					m := new(dns.Msg).SetReply(q)
					reply(m)
					_ = w.WriteMsg(m)
				})
				s.forwarding("$0")
				for _, network := range []string{"udp", "tcp"} {
					replies[plugin] += network + ": " + text(s.send(network, query("www.example.org."))) + "\n"
				}
			}
			if replies["forward"] != replies["dnsguard"] {
				t.Errorf("\nforward\n%s\ndnsguard\n%s", replies["forward"], replies["dnsguard"])
			}
		})
	}
}

// TestQuery is about what of a client's query the upstream sees.
func TestQuery(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(m *dns.Msg)
		want   verdict
	}{
		{"plain", func(*dns.Msg) {}, same("rd www.example.org. A IN")},
		{"without recursion", func(m *dns.Msg) { m.RecursionDesired = false }, same("www.example.org. A IN")},
		{"checking disabled", func(m *dns.Msg) { m.CheckingDisabled = true }, same("rd cd www.example.org. A IN")},
		{"authenticated data", func(m *dns.Msg) { m.AuthenticatedData = true }, same("rd ad www.example.org. A IN")},
		{"letter case", func(m *dns.Msg) { m.Question[0].Name = "WwW.eXample.org." }, same("rd WwW.eXample.org. A IN")},
		{"the root", func(m *dns.Msg) { m.Question[0] = dns.Question{Name: ".", Qtype: dns.TypeSOA, Qclass: dns.ClassINET} }, same("rd . SOA IN")},
		{"another type", func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeHTTPS }, same("rd www.example.org. HTTPS IN")},
		{"an unknown type", func(m *dns.Msg) { m.Question[0].Qtype = 65280 }, same("rd www.example.org. TYPE65280 IN")},
		{"all types", func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeANY }, same("rd www.example.org. ANY IN")},
		{"class CH", func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, same("rd www.example.org. A CH")},
		{"class HS", func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassHESIOD }, verdict{"rd www.example.org. A HS", "nothing, REFUSED"}},
		{"an odd name", func(m *dns.Msg) { m.Question[0].Name = `_a.\000\032.b\.c.example.` }, same(`rd _a.\000\ .b\.c.example. A IN`)},
		{"DNSSEC", func(m *dns.Msg) { m.SetEdns0(4096, true) }, same("rd do www.example.org. A IN")},
		{"transfer", func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }, verdict{"rd www.example.org. AXFR IN", "nothing, NOTIMP"}},
		{"opcode NOTIFY", func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, verdict{"rd www.example.org. A IN", "nothing, NOTIMP"}},
		{"signed", func(m *dns.Msg) {
			m.Extra = []dns.RR{&dns.TSIG{
				Hdr: dns.RR_Header{Name: "key.", Rrtype: dns.TypeTSIG, Class: dns.ClassANY}, Algorithm: dns.HmacSHA256,
				TimeSigned: 1_700_000_000, Fudge: 300, MACSize: 1, MAC: "00", OrigId: m.Id,
			}}
		}, same("rd www.example.org. A IN")},
		{"with records in it", func(m *dns.Msg) { m.Answer = records("www.example.org. 60 IN A 192.0.2.9") }, same("rd www.example.org. A IN")},
		{"opcode UPDATE", func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, same("nothing, NOTIMP")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			play(t, tc.want, func(s *scene) string {
				got := make(chan *dns.Msg, 10)
				s.handle(func(w dns.ResponseWriter, q *dns.Msg) {
					if q.Question[0].Qtype != dns.TypeNS { // probe
						got <- q
					}
					_ = w.WriteMsg(new(dns.Msg).SetReply(q))
				})
				s.forwarding("$0")
				m := query("www.example.org.")
				tc.change(m)
				r := s.send("udp", m)
				select {
				case q := <-got:
					return words(q)
				default:
					return "nothing, " + s.describe(r)
				}
			})
		})
	}
}

// words is what a query says.
func words(q *dns.Msg) string {
	flags := ""
	for _, f := range []struct {
		name string
		set  bool
	}{{"rd ", q.RecursionDesired}, {"cd ", q.CheckingDisabled}, {"ad ", q.AuthenticatedData}, {"do ", q.IsEdns0() != nil && q.IsEdns0().Do()}, {"tsig ", q.IsTsig() != nil}} {
		if f.set {
			flags += f.name
		}
	}
	return fmt.Sprintf("%s%s %s %s", flags, q.Question[0].Name, dns.Type(q.Question[0].Qtype), dns.Class(q.Question[0].Qclass))
}

// TestEDNS is about the OPT record that a client gets back.
func TestEDNS(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(m *dns.Msg)
		want   string
	}{
		{"none", func(*dns.Msg) {}, "NOERROR with data, no OPT"},
		{"EDNS", func(m *dns.Msg) { m.SetEdns0(1232, false) }, "NOERROR with data, OPT"},
		{"DNSSEC", func(m *dns.Msg) { m.SetEdns0(1232, true) }, "NOERROR with data, OPT with DO"},
		{"a version to come", func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }, "BADSIG, OPT"}, // the name that the library has for BADVERS
	} {
		t.Run(tc.name, func(t *testing.T) {
			play(t, same(tc.want), func(s *scene) string {
				s.handle(func(w dns.ResponseWriter, q *dns.Msg) {
					m := reply(q)
					if opt := q.IsEdns0(); opt != nil {
						m.SetEdns0(1400, opt.Do())
					}
					_ = w.WriteMsg(m)
				})
				s.forwarding("$0")
				m := query("www.example.org.")
				tc.change(m)
				r := s.send("udp", m)
				words := s.describe(r)
				switch opt := r.IsEdns0(); {
				case opt == nil:
					words += ", no OPT"
				case opt.Do():
					words += ", OPT with DO"
				default:
					words += ", OPT"
				}
				return words
			})
		})
	}
}
