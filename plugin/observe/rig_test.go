package observe

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/forwarder"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/selector"
	"github.com/dnsguard/dnsguard/plugin/upstream"
)

const (
	ms          = time.Millisecond
	readTimeout = 2 * time.Second
)

// rig is a model of a pool, and what its upstreams have told their observers.
type rig struct {
	model *Model
	ups   []*upstream.Upstream

	mu   sync.Mutex
	told []string // attempts, as "1 timeout", and changes of state, as "1 ejected"
}

type observer struct {
	rig   *rig
	index int
}

func (o observer) Attempt(e upstream.End) { o.rig.tell(o.index, e.Kind) }

func (observer) Late(time.Duration) {}
func (observer) Local(error)        {}

func (o observer) State(c upstream.Change) {
	o.rig.tell(o.index, c.Now)
}

func (r *rig) tell(index int, what fmt.Stringer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = append(r.told, fmt.Sprint(index, " ", what))
}

// heard returns what was told since the pool had settled.
func (r *rig) heard() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.told)
}

// newRig makes a pool of n upstreams.
func newRig(n int, change ...func(*forwarder.Config)) *rig {
	r := new(rig)
	for i := range n {
		addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 53)
		r.ups = append(r.ups, upstream.New(upstream.Config{
			To: addr.String(), Addr: addr, Transport: "dns", Exchanger: Silent{}, ReadTimeout: readTimeout,
			Eject:    upstream.Eject{Failures: 5, Share: 0.5, Base: time.Second, Max: 30 * time.Second},
			Observer: observer{r, i},
		}, time.Now()))
	}
	policy, err := selector.New("adaptive")
	if err != nil {
		panic(err)
	}
	guard := forwarder.Config{Upstreams: r.ups, Policy: policy, Hedge: 0.05, Eject: true}
	for _, c := range change {
		c(&guard)
	}
	f := forwarder.New(guard)
	r.model = New(Config{
		Upstreams: r.ups, ReadTimeout: readTimeout, Policy: guard.Policy, Hedge: guard.Hedge, Forced: forwarder.LongAfter, Trust: guard.Trust,
		Table: f.Table(), Survey: f.Survey,
	})
	return r
}

func (r *rig) close() {
	for _, u := range r.ups {
		u.Close()
	}
}

// step is one attempt: who is asked, what comes of it, and after which time.
type step struct {
	by    int
	kind  outcome.Kind
	after time.Duration
}

// ask sends a query on its way, for A, and returns the verdict. Denials have an SOA of soa where that is not "".
func (r *rig) ask(name, soa string, steps ...step) Finding {
	return r.askType(name, dns.TypeA, soa, steps...)
}

func (r *rig) askType(name string, qtype uint16, soa string, steps ...step) Finding {
	q := r.model.Begin(time.Now(), Question{Name: name, Type: qtype})
	for _, s := range steps {
		q.Sent(time.Now(), s.by, false)
		time.Sleep(s.after)
		reply := exchange.Reply{Kind: s.kind}
		if s.kind.Answered() {
			reply.Msg, reply.RTT = new(dns.Msg), s.after
			if s.kind.Denied() && soa != "" {
				reply.Msg.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: soa, Rrtype: dns.TypeSOA, Class: dns.ClassINET}}}
			}
		}
		q.Ended(time.Now(), reply)
	}
	return q.End(false)
}

// settle lets all upstreams be known as 10 ms away.
func (r *rig) settle() {
	for n := range 20 {
		for i := range r.ups {
			r.ask(fmt.Sprintf("settle%d-%d.example.net.", n, i), "", step{i, outcome.OK, 10 * ms})
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = nil
}

func (r *rig) state(i int) string { return r.ups[i].Snapshot().State }

// bubble runs a test on a settled pool in simulated time.
func bubble(t *testing.T, n int, test func(t *testing.T, r *rig), change ...func(*forwarder.Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(n, change...)
		defer r.close()
		r.settle()
		test(t, r)
	})
}

// filtered is an NXDOMAIN with the Extended DNS Error "Blocked".
func filtered() exchange.Reply {
	m := new(dns.Msg)
	m.SetEdns0(1232, false)
	opt := m.IsEdns0()
	opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeBlocked})
	return exchange.Reply{Kind: outcome.NXDomain, Msg: m}
}

// pause lets time pass in the bubble.
func pause(d time.Duration) { time.Sleep(d) }
