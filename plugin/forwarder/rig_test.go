package forwarder

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/selector"
	"github.com/dnsguard/dnsguard/plugin/upstream"
)

const ms = time.Millisecond

// never is the delay of a reply that does not come.
const never time.Duration = -1

// behaviour is what a server does with a query.
type behaviour func(m *dns.Msg, o exchange.Options) (exchange.Reply, time.Duration)

var rcodes = map[outcome.Kind]int{
	outcome.NXDomain: dns.RcodeNameError, outcome.ServFail: dns.RcodeServerFailure, outcome.Refused: dns.RcodeRefused,
	outcome.NotImp: dns.RcodeNotImplemented, outcome.FormErr: dns.RcodeFormatError, outcome.BadVers: dns.RcodeBadVers, outcome.BadCookie: dns.RcodeBadCookie,
}

// says ends every query with k after a while; a denial has the SOA of the two last labels.
func says(k outcome.Kind, after time.Duration) behaviour {
	return func(m *dns.Msg, o exchange.Options) (exchange.Reply, time.Duration) {
		r := exchange.Reply{Kind: k, Local: &net.UDPAddr{}}
		if o.TCP {
			r.Proto = exchange.TCP
		}
		if !k.Answered() {
			return r, after
		}
		r.RTT, r.Msg = after, new(dns.Msg)
		r.Msg.SetRcode(m, rcodes[k])
		name := m.Question[0].Name
		switch {
		case k == outcome.OK:
			r.Msg.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: []byte{192, 0, 2, 1}}}
		case k.Denied():
			zone := name
			for dns.CountLabel(zone) > 2 {
				zone = dnsmsg.Parent(zone)
			}
			r.Msg.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET}}}
		case k == outcome.Truncated:
			r.Msg.Truncated = true
		}
		if m.IsEdns0() != nil {
			r.Msg.SetEdns0(dnsmsg.UDPSize, false)
		}
		return r, after
	}
}

// good answers in 10 ms, silent does not.
var (
	good   = says(outcome.OK, 10*ms)
	silent = says(outcome.OK, never)
)

// byTCP does one thing by TCP and another by UDP.
func byTCP(tcp, udp behaviour) behaviour {
	return func(m *dns.Msg, o exchange.Options) (exchange.Reply, time.Duration) {
		if o.TCP {
			return tcp(m, o)
		}
		return udp(m, o)
	}
}

// within does one thing for the names of a zone and another for the rest.
func within(zone string, in, out behaviour) behaviour {
	return func(m *dns.Msg, o exchange.Options) (exchange.Reply, time.Duration) {
		if dnsmsg.Within(m.Question[0].Name, zone) {
			return in(m, o)
		}
		return out(m, o)
	}
}

// server is an exchange.Exchanger with a behaviour.
type server struct {
	mu      sync.Mutex
	does    behaviour
	asked   []string      // names, with how they were sent
	connect time.Duration // for so long a query by TCP waits for a connection
}

type call struct {
	once *sync.Once
	stop func() bool
	sent time.Time
	went bool // it has been sent: no fault of this host kept it from that
}

func (c call) Begun() time.Time {
	if time.Now().Before(c.sent) {
		return time.Time{}
	}
	return c.sent
}

// warm is a query that is of no further interest.
func warm() []byte {
	m := new(dns.Msg)
	m.SetQuestion("warm.test.", dns.TypeA)
	wire, _ := m.Pack()
	return wire
}

func (c call) Cancel() bool {
	inTime := false
	c.once.Do(func() { inTime = true })
	if c.stop != nil {
		c.stop()
	}
	return inTime
}

func (c call) Sent() (exchange.Sent, bool) { return exchange.Sent{}, c.went }

func (s *server) Start(q *exchange.Query, opt exchange.Options, sink exchange.Sink) exchange.Handle {
	m := new(dns.Msg)
	if err := m.Unpack(q.Wire); err != nil {
		panic(err)
	}
	if opt.NoEDNS {
		m.Extra = nil
	}
	how := m.Question[0].Name
	if opt.TCP {
		how += " tcp"
	}
	if opt.NoEDNS {
		how += " plain"
	}
	s.mu.Lock()
	does, wait := s.does, time.Duration(0)
	if opt.TCP {
		wait = s.connect
	}
	s.asked = append(s.asked, how)
	s.mu.Unlock()
	r, after := does(m, opt)
	c := call{once: new(sync.Once), sent: time.Now().Add(wait), went: r.Kind != outcome.Local || after > 0}
	if after != never {
		c.stop = time.AfterFunc(wait+after, func() { c.once.Do(func() { sink.Done(r) }) }).Stop
	}
	return c
}

func (*server) Close() {}

// got returns what the server was asked since the last call.
func (s *server) got() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = nil
	return asked
}

func (s *server) set(b behaviour) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.does = b
}

// rig is a forwarder with servers behind it, and what its observer was told.
type rig struct {
	t       *testing.T
	f       *Forwarder
	ups     []*upstream.Upstream
	servers []*server

	mu                  sync.Mutex
	hedges              [3]int
	disputed, coalesced int
	deniers             map[string]int // disputed, by whose denial it was
	allEjected          int
}

func (r *rig) Hedge(e HedgeEvent) { r.mu.Lock(); r.hedges[e]++; r.mu.Unlock() }
func (r *rig) Coalesced()         { r.mu.Lock(); r.coalesced++; r.mu.Unlock() }
func (r *rig) AllEjected()        { r.mu.Lock(); r.allEjected++; r.mu.Unlock() }

func (r *rig) Disputed(to string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.disputed++
	if r.deniers == nil {
		r.deniers = make(map[string]int)
	}
	r.deniers[to]++
}

type nobody struct{}

func (nobody) Attempt(upstream.End)  {}
func (nobody) Late(time.Duration)    {}
func (nobody) State(upstream.Change) {}
func (nobody) Local(error)           {}

// inBubble runs f under synctest with a forwarder whose upstreams are asked in their order, and have answered ten queries in 10 ms each.
func inBubble(t *testing.T, change func(c *Config), f func(t *testing.T, r *rig), does ...behaviour) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t}
		policy, err := selector.New("sequential")
		if err != nil {
			t.Fatal(err)
		}
		cfg := Config{Policy: policy, Timeout: 4500 * ms, Hedge: 0.1, Eject: true, Draw: func(n int) int { return n - 1 }, Observer: r}
		for i := range does {
			s := &server{does: good}
			r.servers = append(r.servers, s)
			r.ups = append(r.ups, upstream.New(upstream.Config{
				To: fmt.Sprintf("192.0.2.%d:53", i+1), Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 53),
				Transport: "dns", Exchanger: s, ReadTimeout: 2 * time.Second, Linger: 5 * time.Second, Observer: nobody{},
				Eject: upstream.Eject{Failures: 5, Share: 0.5, Base: time.Second, Max: 30 * time.Second},
			}, time.Now()))
		}
		cfg.Upstreams = r.ups
		if change != nil {
			change(&cfg)
		}
		r.f = New(cfg)
		for i, u := range r.ups {
			for range 10 {
				u.Send(time.Now(), &exchange.Query{Wire: warm()}, new(upstream.Attempt), nil)
				time.Sleep(10 * ms)
				synctest.Wait()
			}
			r.servers[i].got()
			r.servers[i].set(does[i])
		}
		f(t, r)
		r.f.Close()
		for i, u := range r.ups {
			time.Sleep(6 * time.Second)
			if n := u.Snapshot().Outstanding; n != 0 {
				t.Errorf("upstream %d: %d attempts outstanding long after", i, n)
			}
			u.Close()
		}
	})
}

func request(name string) *Request {
	return &Request{Name: name, Key: dnsmsg.Key{Name: name, Type: dns.TypeA, Class: dns.ClassINET, RD: true, Size: 1232}}
}

// ask forwards a query and returns the answer, and how long it took.
func (r *rig) ask(q *Request) (Answer, time.Duration) {
	r.t.Helper()
	begin := time.Now()
	a := r.f.Forward(r.t.Context(), q)
	took := time.Since(begin)
	synctest.Wait()
	if a.Msg != nil && (len(a.Msg.Question) != 1 || a.Msg.Question[0].Name != q.Name) {
		r.t.Errorf("a reply to another question: %v", a.Msg)
	}
	return a, took
}

// pause lets time pass.
func (*rig) pause(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// counts returns how many queries each server got since the last call.
func (r *rig) counts() []int {
	var n []int
	for _, s := range r.servers {
		n = append(n, len(s.got()))
	}
	return n
}

// to is the name of an upstream.
func to(i int) string { return fmt.Sprintf("192.0.2.%d:53", i+1) }

// later forwards a query in a goroutine.
func (r *rig) later(ctx context.Context, q *Request) <-chan Answer {
	c := make(chan Answer, 1)
	go func() { c <- r.f.Forward(ctx, q) }()
	return c
}
