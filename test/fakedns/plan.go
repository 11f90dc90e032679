package fakedns

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// Proto is what carried a query.
type Proto string

// The protocols.
const (
	UDP Proto = "udp"
	TCP Proto = "tcp"
	TLS Proto = "tls"
)

// arrival is a query as it came.
type arrival struct {
	wire   []byte
	proto  Proto
	from   netip.AddrPort
	served int // queries answered on this connection before
}

// verdict is what becomes of a query: packets to send, an ICMP error, or the
// end of the connection.
type verdict struct {
	packets []packet
	errno   syscall.Errno // 0: none
	after   time.Duration // of errno, reset and hangup
	reset   bool
	hangup  bool
	relayed func(send func(wire []byte)) // who replies later; nil: nobody
}

// packet is one reply.
type packet struct {
	after time.Duration
	wire  []byte
	stray bool          // from another port than the one that was asked
	errno syscall.Errno // an ICMP error in its place; 0: none
}

// plan is a verdict in the making: the true reply, and what the faults have
// done to it so far.
type plan struct {
	in   arrival
	q, m *dns.Msg
	max  int // octets that the client can take

	delay      time.Duration
	copies     int
	copiesOver time.Duration
	forged     int
	forgedGap  time.Duration
	silent     bool
	errno      syscall.Errno
	reset      bool
	hangup     bool
	stray      bool
	relay      *Fault
	mangle     func([]byte) []byte
}

func newPlan(s *Server, in arrival, q *dns.Msg) *plan {
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = true
	p := &plan{in: in, q: q, m: m, max: dns.MaxMsgSize}
	opt := q.IsEdns0()
	if opt != nil {
		m.SetEdns0(1232, opt.Do())
	}
	if in.proto == UDP {
		p.max = dns.MinMsgSize
		if opt != nil {
			p.max = max(p.max, int(opt.UDPSize()))
		}
		limit := s.MaxUDP
		if limit == 0 {
			limit = 1232
		}
		p.max = min(p.max, limit)
	}
	return p
}

// deny makes the reply a denial, with an SOA record where a zone is given.
func (p *plan) deny(rcode int, zone string) {
	p.m.Rcode = rcode
	p.m.Answer, p.m.Ns = nil, nil
	if zone != "" {
		p.m.Ns = []dns.RR{soa(zone)}
	}
}

// verdict turns the plan into packets.
func (p *plan) verdict() verdict {
	v := verdict{errno: p.errno, after: p.delay, reset: p.reset, hangup: p.hangup}
	if p.silent || p.errno != 0 || p.reset || p.hangup {
		return v
	}
	p.m.Compress = true
	p.m.Truncate(p.max)
	wire, err := p.m.Pack()
	if err != nil {
		panic("fakedns: cannot pack its own reply: " + err.Error())
	}
	if p.mangle != nil {
		wire = p.mangle(wire)
	}
	at := p.delay
	if p.forged > 0 {
		v.packets = p.forgeries(wire)
		at += p.forgedGap
	}
	v.packets = append(v.packets, packet{after: at, wire: wire, stray: p.stray})
	for i := range p.copies {
		after := at + p.copiesOver*time.Duration(i+1)/time.Duration(p.copies)
		v.packets = append(v.packets, packet{after: after, wire: wire})
	}
	return v
}

// forgeries are replies that would be taken for wire, but for their ID. They
// come in up to 64 bursts, over half the time until the right reply. IDs
// are gone through in a mixed order; the right one is among them only where
// all 65,536 are tried.
func (p *plan) forgeries(wire []byte) []packet {
	fake := poisoned(p.q)(wire)
	id := binary.BigEndian.Uint16(fake)
	first := 1
	if p.forged >= 1<<16 {
		first = int(hash(question(p.q)) % (1 << 16))
	}
	burst := (p.forged + 63) / 64
	out := make([]packet, p.forged)
	for i := range out {
		w := append([]byte(nil), fake...)
		binary.BigEndian.PutUint16(w, id+uint16((first+i)*40503))
		out[i] = packet{after: p.delay + p.forgedGap*time.Duration(i/burst)/128, wire: w}
	}
	return out
}
