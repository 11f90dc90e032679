package hostile

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/caddy"
	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard"
	"github.com/dnsguard/dnsguard/test/fakedns"
	"github.com/dnsguard/dnsguard/test/tape"
)

// policy is a setting in which a good upstream is to prevail.
type policy struct {
	dnsguard.Config
	prompt bool // the nearest upstream goes first, so that it does not matter how slow the other one is
}

// policies are those that verify denials. The hostile one is asked first, last, or by chance.
var policies = sync.OnceValue(func() []policy {
	var all []policy
	for _, to := range []string{"10.0.0.1 10.0.0.2", "10.0.0.2 10.0.0.1"} {
		for _, option := range []string{"", "policy sequential", "policy round_robin\n hedge off", "prefer_udp\n policy random", "force_tcp", "max_fails 0\n edns_options all"} {
			c, err := dnsguard.Parse(caddy.NewTestController("dns", "dnsguard . "+to+" {\n"+option+"\n}"))
			if err != nil {
				panic(err)
			}
			all = append(all, policy{c[0], c[0].Policy == dnsguard.PolicyAdaptive})
		}
	}
	return all
})

// What the good upstream takes for a reply, and what a fault of the other one,
// as long as that has never been slow, may add: to an answer; and to a denial, which the other one is asked about,
// for as long as it shows that it is alive.
const (
	goodRTT    = 6 * time.Millisecond
	faultCosts = 250 * time.Millisecond
	doubtCosts = 1500 * time.Millisecond
)

// believed is after how many agreed denials one is enough.
const believed = 4

// FuzzBesideGood: with a good upstream beside the hostile one, each client gets
// the truth, in time: the hostile one costs no more than a faulty one. It may have its say in three ways, which it
// could by telling lies in good form whoever forwards: by data, which nobody
// can contradict; by a denial that it calls a matter of policy; and by a denial
// once it has earned belief, with data for any question, or by agreeing on so
// many denials that one is enough.
func FuzzBesideGood(f *testing.F) {
	for i, s := range Scripts() {
		for j, c := range besides {
			f.Add(byte(i+j), []byte(c), []byte(s))
		}
	}
	policies() // outside of bubbles
	f.Fuzz(func(t *testing.T, conf byte, client, script []byte) {
		synctest.Test(t, func(t *testing.T) {
			before := runtime.NumGoroutine()
			network := fakedns.NewNet()
			bad := New(script)
			network.AddPeer(addresses[0], bad)
			network.Add(addresses[1], &fakedns.Server{Zones: []string{"."}, RTT: goodRTT})
			p := policies()[int(conf)%len(policies())]
			g := newGuard(t, p.Config, network, uint64(conf))
			g.Start()
			w := witness{t: t, bad: bad, g: g, prompt: p.prompt}
			for x, n := tape.New(client), 0; n < 8; n++ {
				w.ask(x)
				if x.Done() {
					break
				}
			}
			g.Stop()
			checkStopped(t, network, before, bad)
		})
	})
}

// besides are seeds of clients beside a good upstream.
var besides = []string{
	"",
	"\x00\x01\x00\x00\x02\x00\x00\x03\x00",
	"\x00\x01\x02\x01\x00\x03\x00\x05\x01\x07",
	"\x00\x03\x00\x00\x04\x00\x00\x05\x00\x00\x06\x00\x00\x00\x00",
}

// witness asks, and judges what it is told.
type witness struct {
	t       *testing.T
	bad     *Peer
	g       handler
	prompt  bool
	denials int // queries that were truly denied
}

// ask asks one question, and once more by TCP where the reply is truncated.
func (w *witness) ask(x *tape.Tape) {
	how := x.Byte()
	if how&1 != 0 {
		time.Sleep(x.Wait())
	}
	m := new(dns.Msg)
	m.SetQuestion(tape.Of(x, "www.example.org.", "mail.example.org.", "www.example.com.", "nx1.example.org.", "nx2.example.org.", "nx.example.com.", "wWw.a.example.net."), dns.TypeA)
	m.Id = uint16(x.Byte())
	if how&2 != 0 {
		m.Question[0].Qtype = dns.TypeAAAA
	}
	if how&4 != 0 {
		m.SetEdns0(1232, how&8 != 0)
	}
	v := &visit{errand: errand{msg: m, tcp: how&16 != 0}}
	for {
		v.call(w.g)
		synctest.Wait()
		if !fakedns.Exists(m.Question[0].Name) {
			w.denials++
		}
		got := v.check(w.t)
		if got == nil {
			return
		}
		w.judge(v, got)
		if !got.Truncated() || v.tcp {
			return
		}
		v = &visit{errand: errand{msg: m, tcp: true}}
	}
}

// judge holds that the reply is true, or a lie that is allowed, and in time.
func (w *witness) judge(v *visit, m *Message) {
	q := v.msg.Question[0]
	full, earned := new(dns.Msg), w.bad.Gave()
	exists := fakedns.Exists(q.Name)
	right := full.Unpack(v.replies[0]) == nil && fakedns.Right("", full)
	most := goodRTT + faultCosts
	if !exists { // "denied" is true; that one says NODATA and the other NXDOMAIN cannot be settled
		most += doubtCosts
	}
	if v.tcp {
		most += goodRTT // to connect
	}
	// Who has given data before is believed against a denial; when that one does
	// not reply the denial, which would be remembered, is not passed on.
	allowed := right || !exists && earned && m.Rcode == dns.RcodeServerFailure && m.Empty()
	for _, r := range w.bad.Account(QuestionOf(q)).Replies {
		allowed = allowed || r.Says(m) && w.may(v, &r, exists)
	}
	if v.took > most && w.prompt && !earned && !w.bad.Slow() {
		w.t.Errorf("%v, more than %v, for %v: %+v", v.took, most, v.msg, m)
	}
	if !allowed {
		w.t.Errorf("neither true nor what may be told (earned %t, denials %d):\n%+v\nto %v", earned, w.denials, m, v.msg)
	}
}

// may reports whether the client may be told what the hostile one has said.
func (w *witness) may(v *visit, r *Reply, exists bool) bool {
	switch {
	case r.Cut && !v.tcp: // the client is to ask again
		return true
	case r.Msg == nil:
		return false
	case r.Msg.Data():
		return true
	case r.Msg.Denies():
		return !exists || r.Msg.Filtered() || w.bad.Gave() || w.denials >= believed
	}
	return false
}
