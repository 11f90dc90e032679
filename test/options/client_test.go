package options

import (
	"net"
	"sync"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/test/fakedns"
)

// query is what a client asks. Without more: A, in class IN, by UDP, without EDNS.
type query struct {
	name    string
	qtype   uint16
	class   uint16
	tcp     bool
	size    uint16
	options []dns.EDNS0
}

// reply is what the client gets: nothing where msg is nil.
type reply struct {
	msg  *dns.Msg
	took time.Duration
}

// right reports whether the client was told the truth.
func (r reply) right() bool { return fakedns.Right("", r.msg) }

// rcode names the response code.
func (r reply) rcode() string {
	if r.msg == nil {
		return "none"
	}
	return dns.RcodeToString[r.msg.Rcode]
}

// ask asks the first directive.
func (l *lab) ask(q query) reply { return l.askOf(l.guards[0], q) }

// a asks for an address by UDP.
func (l *lab) a(name string) reply { return l.ask(query{name: name}) }

func (l *lab) askOf(h plugin.Handler, q query) reply {
	l.t.Helper()
	m := new(dns.Msg).SetQuestion(q.name, dns.TypeA)
	if q.qtype != 0 {
		m.Question[0].Qtype = q.qtype
	}
	if q.class != 0 {
		m.Question[0].Qclass = q.class
	}
	if q.size > 0 || len(q.options) > 0 {
		m.SetEdns0(max(q.size, 1232), false)
		m.IsEdns0().Option = q.options
	}
	w := &writer{tcp: q.tcp}
	began := time.Now()
	rcode, err := h.ServeDNS(l.t.Context(), request.NewScrubWriter(m, w), m)
	r := reply{w.msg, time.Since(began)}
	if r.msg == nil && plugin.ClientWrite(rcode) {
		l.t.Errorf("%s: rcode %d, error %v, and nothing was written", q.name, rcode, err)
	}
	return r
}

// together asks all names at once, and returns the replies in their order.
func (l *lab) together(names []string, each query) []reply {
	out := make([]reply, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			q := each
			q.name = name
			out[i] = l.ask(q)
		})
	}
	wg.Wait()
	return out
}

// writer is the client's dns.ResponseWriter.
type writer struct {
	tcp bool
	msg *dns.Msg
}

func (w *writer) WriteMsg(m *dns.Msg) error {
	wire, err := m.Pack()
	if err != nil {
		return err
	}
	_, err = w.Write(wire)
	return err
}

func (w *writer) Write(wire []byte) (int, error) {
	w.msg = new(dns.Msg)
	return len(wire), w.msg.Unpack(wire)
}

func (w *writer) LocalAddr() net.Addr { return &net.UDPAddr{IP: net.IPv4(10, 96, 0, 10), Port: 53} }

func (w *writer) RemoteAddr() net.Addr {
	if w.tcp {
		return &net.TCPAddr{IP: net.IPv4(10, 1, 0, 1), Port: 40_000}
	}
	return &net.UDPAddr{IP: net.IPv4(10, 1, 0, 1), Port: 40_000}
}

func (w *writer) Close() error        { return nil }
func (w *writer) TsigStatus() error   { return nil }
func (w *writer) TsigTimersOnly(bool) {}
func (w *writer) Hijack()             {}
