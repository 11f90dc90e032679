package fakedns

import (
	"math"
	"strconv"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// apply does to the plan what the fault does; draw is a number from 0 to 1.
func (p *plan) apply(f *Fault, draw float64) {
	switch f.Kind {
	case Rcode:
		p.deny(f.Rcode, "")
	case NXDomain:
		p.deny(dns.RcodeNameError, f.Zone)
	case NoData:
		p.deny(dns.RcodeSuccess, f.Zone)
	case Truncated:
		if p.in.proto == UDP {
			p.deny(dns.RcodeSuccess, "")
			p.m.Truncated = true
		}
	case Big:
		p.grow(f.N)
	case NoEDNS:
		p.refuseEDNS(f.Rcode)
	case BadCookie:
		p.demandCookie()
	case Echo:
		p.echo()
	case Delay, Late, Jitter, Loss, Duplicate:
		p.postpone(f, draw)
	case Relay:
		p.relay = f
	case Drop:
		p.silent = true
	case Refuse:
		p.errno = syscall.ECONNREFUSED
	case Unreachable:
		p.errno = syscall.EHOSTUNREACH
	case WrongID, WrongQuestion, WrongSource, QR0, Forge, Corrupt, CompressionLoop, Empty, Garbage:
		p.falsify(f)
	case TCPReset, TCPHang, TCPCloseMidquery:
		p.breakStream(f)
	}
}

// postpone changes when the reply comes, and how often.
func (p *plan) postpone(f *Fault, draw float64) {
	switch f.Kind {
	case Delay:
		p.delay += f.D
	case Late:
		p.delay += or(f.D, 3*time.Second)
	case Jitter:
		p.delay += time.Duration(draw * float64(f.D))
	case Duplicate:
		p.copies, p.copiesOver = max(f.N, 1), or(f.D, 2*time.Millisecond)
	case Loss:
		if draw >= f.P {
			return
		}
		if p.in.proto == UDP {
			p.silent = true
			return
		}
		// The stream's sender times out, and doubles its timer while it loses on.
		again := 5
		if f.P < 1 {
			again = int(min(math.Log(draw/f.P+1e-9)/math.Log(f.P), 5))
		}
		p.delay += 200 * time.Millisecond << max(again, 0)
	}
}

// breakStream does what only happens to connections.
func (p *plan) breakStream(f *Fault) {
	switch {
	case p.in.proto == UDP:
	case f.Kind == TCPReset:
		p.reset = true
	case f.Kind == TCPHang:
		p.silent = true
	case f.Kind == TCPCloseMidquery:
		p.hangup = p.in.served >= max(f.N, 1)
	}
}

// grow fills the answer up to n octets, the true record first.
func (p *plan) grow(n int) {
	if len(p.m.Answer) == 0 || p.m.Question[0].Qtype == dns.TypeNS {
		return
	}
	q := p.m.Question[0]
	p.m.Compress = true
	each := dns.Len(p.m.Answer[0]) - len(q.Name) + 1 // the owner compresses to two octets
	missing := n - p.m.Len()
	for i := 0; i < missing/each; i++ {
		p.m.Answer = append(p.m.Answer, record("big", q.Name, strconv.Itoa(i)+"."+q.Name, q.Qtype))
	}
}

// refuseEDNS is a server that knows no EDNS.
func (p *plan) refuseEDNS(rcode int) {
	p.m.Extra = nil
	if p.q.IsEdns0() == nil {
		return
	}
	if rcode == 0 {
		p.silent = true
		return
	}
	p.deny(rcode, "")
	if rcode > 15 {
		p.m.SetEdns0(1232, false)
	}
}

// demandCookie is a server that insists on its cookie by UDP (RFC 7873, section 5.2.3).
func (p *plan) demandCookie() {
	if p.in.proto != UDP {
		return
	}
	client := "0102030405060708"
	if opt := p.q.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			c, ok := o.(*dns.EDNS0_COOKIE)
			if ok && len(c.Cookie) > 16 {
				return
			}
			if ok {
				client = c.Cookie
			}
		}
	}
	p.deny(dns.RcodeBadCookie, "")
	if p.m.IsEdns0() == nil {
		p.m.SetEdns0(1232, false)
	}
	opt := p.m.IsEdns0()
	opt.Option = append(opt.Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: client + "1112131415161718"})
}

// echo is a server that has every option of the query in its reply.
func (p *plan) echo() {
	if in, out := p.q.IsEdns0(), p.m.IsEdns0(); in != nil && out != nil {
		out.Option = append(out.Option, in.Option...)
	}
}

func or(d, other time.Duration) time.Duration {
	if d == 0 {
		return other
	}
	return d
}
