package fakedns

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// falsify makes the reply one that a careful client does not take.
func (p *plan) falsify(f *Fault) {
	switch f.Kind {
	case Forge:
		p.forged, p.forgedGap = max(f.N, 1), f.D
	case WrongSource:
		p.stray = true
		p.mangle = poisoned(p.q)
	case WrongID:
		p.mangle = then(poisoned(p.q), func(w []byte) []byte {
			binary.BigEndian.PutUint16(w, binary.BigEndian.Uint16(w)+1)
			return w
		})
	case QR0:
		p.mangle = then(poisoned(p.q), func(w []byte) []byte {
			w[2] &^= 0x80
			return w
		})
	case WrongQuestion:
		other := p.q.Copy()
		other.Question[0].Name = "other.invalid."
		p.mangle = poisoned(other)
	case Corrupt:
		p.mangle = corrupt
	case CompressionLoop:
		p.mangle = compressionLoop
	case Empty:
		p.mangle = func([]byte) []byte { return nil }
	case Garbage:
		p.mangle = garbage
	}
}

func then(first, second func([]byte) []byte) func([]byte) []byte {
	return func(w []byte) []byte { return second(first(w)) }
}

// poisoned replaces a reply by one to q, with the same ID, whose data is Poison.
func poisoned(q *dns.Msg) func([]byte) []byte {
	return func(w []byte) []byte {
		m := new(dns.Msg)
		m.SetReply(q)
		m.Id = binary.BigEndian.Uint16(w)
		m.RecursionAvailable = true
		h := dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: ttl}
		m.Answer = []dns.RR{&dns.A{Hdr: h, A: Poison.AsSlice()}}
		out, err := m.Pack()
		if err != nil {
			panic("fakedns: cannot pack a forgery: " + err.Error())
		}
		return out
	}
}

// questionEnd returns where the question of a well-formed message ends.
func questionEnd(w []byte) int {
	_, off, err := dns.UnpackDomainName(w, 12)
	if err != nil {
		return len(w)
	}
	return min(off+4, len(w))
}

// corrupt keeps header and question, and promises records that are not there.
func corrupt(w []byte) []byte {
	out := append([]byte(nil), w[:questionEnd(w)]...)
	out[3] &= 0xf0
	binary.BigEndian.PutUint16(out[6:], 3)
	return append(out, 0xc0, 0x0c, 0x00, 0x01, 0xff, 0xee, 0xdd)
}

// compressionLoop keeps header and question; the answer's owner points at itself.
func compressionLoop(w []byte) []byte {
	out := append([]byte(nil), w[:questionEnd(w)]...)
	out[3] &= 0xf0
	binary.BigEndian.PutUint16(out[6:], 1)
	at := len(out)
	out = append(out, 0xc0|byte(at>>8), byte(at))
	return append(out, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 1, 2, 3, 4)
}

// garbage has not even the ID.
func garbage(w []byte) []byte {
	out := make([]byte, 40)
	h := hash(string(w))
	for i := range out {
		h = h*6364136223846793005 + 1442695040888963407
		out[i] = byte(h >> 56)
	}
	return out
}
