//go:build linux

package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// upstreamDelay is how far away the upstreams of the fault part are.
const upstreamDelay = 6 * time.Millisecond

// denial is how an upstream says no to what it does not serve.
type denial uint8

const (
	denyNothing     denial = iota
	denyNXDomainSOA        // with the SOA of the root, as a resolver without the Internet
	denyNXDomain           // with nothing
	denyNodata             // NOERROR, with the SOA of the root
	denyRefused
	denyServfail
)

// behaviour is what an upstream does. The zero value serves everything.
type behaviour struct {
	public   denial  // what becomes of public names
	internal denial  // what becomes of internal names
	silent   bool    // nothing is answered
	loss     float64 // share of UDP queries that are lost
}

// upstream is a slow server with a fault, by UDP and TCP. Safe for concurrent use.
type upstream struct {
	addr netip.AddrPort

	does    atomic.Pointer[behaviour]
	queries atomic.Uint64 // received, the probes and the lost ones too
	ended   sync.WaitGroup
	servers []*dns.Server
}

// newUpstream starts an upstream that serves everything at addr.
func newUpstream(addr netip.AddrPort) (*upstream, error) {
	u := &upstream{addr: addr}
	u.does.Store(&behaviour{})
	packets, err := net.ListenPacket("udp4", addr.String())
	if err != nil {
		return nil, fmt.Errorf("upstream %s: %w", addr, err)
	}
	streams, err := net.Listen("tcp4", addr.String())
	if err != nil {
		packets.Close()
		return nil, fmt.Errorf("upstream %s: %w", addr, err)
	}
	u.servers = []*dns.Server{{PacketConn: packets, Handler: u}, {Listener: streams, Handler: u}}
	for _, s := range u.servers {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		u.ended.Go(func() { s.ActivateAndServe() })
		<-started
	}
	return u, nil
}

// close ends the upstream, and waits for it.
func (u *upstream) close() {
	for _, s := range u.servers {
		s.Shutdown()
	}
	u.ended.Wait()
}

// ServeDNS answers one query, late, or not at all. Each has its own goroutine.
func (u *upstream) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	u.queries.Add(1)
	does := u.does.Load()
	_, udp := w.RemoteAddr().(*net.UDPAddr)
	if does.silent || len(q.Question) != 1 || udp && rand.Float64() < does.loss {
		return
	}
	reply := does.reply(q)
	time.Sleep(upstreamDelay)
	w.WriteMsg(reply)
}

// reply returns the answer to q.
func (b *behaviour) reply(q *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = true
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(1232, opt.Do())
	}
	question := q.Question[0]
	t := lookup(question.Name)
	no := b.public
	switch t.scope {
	case internal:
		no = b.internal
	case root: // even who denies names has a root, unless it refuses everything
		if no != denyRefused && no != denyServfail {
			no = denyNothing
		}
	}
	switch no {
	case denyNXDomainSOA:
		m.Rcode, m.Ns = dns.RcodeNameError, []dns.RR{soa(".")}
	case denyNXDomain:
		m.Rcode = dns.RcodeNameError
	case denyNodata:
		m.Ns = []dns.RR{soa(".")}
	case denyRefused:
		m.Rcode = dns.RcodeRefused
	case denyServfail:
		m.Rcode = dns.RcodeServerFailure
	default:
		tell(m, question, t)
	}
	return m
}

// tell fills in the truth.
func tell(m *dns.Msg, q dns.Question, t truth) {
	head := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 30}
	switch {
	case !t.exists:
		m.Rcode, m.Ns = dns.RcodeNameError, []dns.RR{soa(t.zone)}
	case t.scope == root && q.Qtype == dns.TypeNS:
		m.Answer = []dns.RR{&dns.NS{Hdr: head, Ns: "a.root-servers.net."}}
	case t.scope != root && q.Qtype == dns.TypeA:
		m.Answer = []dns.RR{&dns.A{Hdr: head, A: t.addr.AsSlice()}}
	default:
		m.Ns = []dns.RR{soa(t.zone)}
	}
}

func soa(zone string) dns.RR {
	if zone == "" {
		zone = "."
	}
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60},
		Ns:  "ns.invalid.", Mbox: "hostmaster.invalid.",
		Serial: 1, Refresh: 1800, Retry: 900, Expire: 604800, Minttl: 60,
	}
}
