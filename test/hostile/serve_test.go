package hostile

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"runtime"
	"slices"
	"strings"
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

var addresses = [2]netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:53"), netip.MustParseAddrPort("10.0.0.2:53")}

// setting is a directive to serve queries by.
type setting struct {
	corefile string
	most     int // attempts for one query
}

var settings = []setting{
	{"dnsguard . 10.0.0.1", 3},
	{"dnsguard . 10.0.0.1 10.0.0.2", 4},
	{"dnsguard . 10.0.0.1 10.0.0.2 {\n force_tcp\n max_idle_conns 1\n}", 4},
	{"dnsguard . 10.0.0.1 10.0.0.2 {\n nxdomain trust\n policy sequential\n hedge off\n}", 4},
	{"dnsguard . 10.0.0.1 10.0.0.2 {\n edns_options all\n policy round_robin\n hedge 100%\n}", 4},
	{"dnsguard . 10.0.0.1 10.0.0.2 {\n max_fails 0\n failover NXDOMAIN NOTAUTH\n prefer_udp\n}", 4},
	{"dnsguard . 10.0.0.1 10.0.0.2 {\n eject failures 1 base 10ms max 20ms\n failfast_all_unhealthy_upstreams\n timeout 1s\n read_timeout 100ms\n}", 4},
	{
		"dnsguard example.org 10.0.0.1 10.0.0.2 10.0.0.3 {\n except sub.example.org\n private_zones private.example.org at 10.0.0.2\n" +
			" next NXDOMAIN\n next_on_nodata\n expire 0s\n max_concurrent 2\n}", 5,
	},
	{"dnsguard . 10.0.0.1 10.0.0.2 {\n max_connect_attempts 1\n policy random\n max_age 10s\n}", 1},
	{"dnsguard . tls://10.0.0.1:53 tls://10.0.0.2%dns.example:53", 4},
	{"dnsguard . https://10.0.0.1:53", 3},
	{"dnsguard . /dev/null", 4}, // which lists what lists says
}

// configs are the settings, parsed. Nobody changes a Config.
var configs = sync.OnceValue(func() []dnsguard.Config {
	var all []dnsguard.Config
	for _, s := range settings {
		c, err := dnsguard.Parse(caddy.NewTestController("dns", s.corefile))
		if err != nil || len(c) != 1 {
			panic(fmt.Sprintf("%s: %v", s.corefile, err))
		}
		all = append(all, c[0])
	}
	return all
})

// lists are what a file with upstreams has in it, one after the other.
var lists = []string{
	"nameserver 10.0.0.1\nnameserver 10.0.0.2\n", "nameserver 10.0.0.2\n", "", "nameserver 10.0.0.2\nnameserver 10.0.0.1\n", "\xff\nnameserver x\n", "nameserver 10.0.0.1",
}

// next is the plugin behind.
type next struct{}

func (next) Name() string { return "forward" }

func (next) ServeDNS(ctx context.Context, _ dns.ResponseWriter, _ *dns.Msg) (int, error) {
	ctx.Value(visitKey{}).(*visit).passed = true
	return dns.RcodeSuccess, nil
}

// newGuard makes the directive at work. It is called in a bubble.
func newGuard(t *testing.T, c dnsguard.Config, network *fakedns.Net, seed uint64) *dnsguard.Guard {
	t.Helper()
	chance := rand.New(rand.NewPCG(seed, 1))
	var mu sync.Mutex
	reads := int(seed)
	g, err := dnsguard.New(c, dnsguard.Env{
		Debug: true,
		ReadFile: func(string) ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			reads++
			return []byte(lists[reads/3%len(lists)]), nil
		},
		OwnAddrs: func() ([]netip.Addr, error) { return []netip.Addr{client}, nil },
		Dial:     network.Dial,
		Rand64: func() uint64 {
			mu.Lock()
			defer mu.Unlock()
			return chance.Uint64()
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	g.Next = next{}
	return g
}

// FuzzServeDNS: whatever upstreams reply and clients ask, each client gets one
// reply, in time, that it can use, and that is an upstream's own reply to its
// question or says that there is none. No query is asked too often, and nothing
// stays behind.
func FuzzServeDNS(f *testing.F) {
	all := Scripts()
	for i, s := range all {
		for conf := range settings {
			if i%len(settings) == conf || conf < 2 {
				f.Add(byte(conf), []byte(errands[i%len(errands)]), []byte(s), []byte(all[(i+7)%len(all)]))
			}
		}
	}
	configs() // outside of bubbles
	f.Fuzz(func(t *testing.T, conf byte, script, one, two []byte) {
		synctest.Test(t, func(t *testing.T) {
			n := int(conf) % len(settings)
			before := runtime.NumGoroutine()
			network := fakedns.NewNet()
			peers := []*Peer{New(one), New(two)}
			for i, p := range peers {
				network.AddPeer(addresses[i], p)
			}
			visits := visitAll(readErrands(tape.New(script)), func() *dnsguard.Guard { return newGuard(t, configs()[n], network, uint64(conf)) })
			checkStopped(t, network, before, peers...)
			asks := make(map[Question]int)
			for _, v := range visits {
				if len(v.msg.Question) == 1 {
					asks[QuestionOf(v.msg.Question[0])]++
				}
				if limit := configs()[n].Timeout + time.Millisecond; v.took > limit {
					t.Errorf("%v, more than %v, for %v", v.took, limit, v.msg)
				}
				if m := v.check(t); m != nil {
					checkOrigin(t, m, peers)
				}
			}
			for q, times := range asks {
				checkSends(t, q, times*settings[n].most, peers)
			}
		})
	})
}

// visitAll serves all errands, and stops the plugin when the last has begun.
func visitAll(errands []errand, build func() *dnsguard.Guard) []*visit {
	var wg sync.WaitGroup
	var all []*visit
	g := build()
	g.Start()
	for _, e := range errands {
		time.Sleep(e.after)
		if e.reload {
			synctest.Wait() // the server lets those in that it has accepted, before it stops the old one
			old := g
			g = build()
			if err := g.Inherit(old); err != nil {
				panic(err)
			}
			g.Start()
			wg.Go(old.Stop)
		}
		v, h := &visit{errand: e}, g
		all = append(all, v)
		wg.Go(func() { v.call(h) })
	}
	synctest.Wait() // all are in flight, or over
	g.Stop()
	wg.Wait()
	return all
}

// checkStopped holds that nothing stays when the plugin has been stopped.
func checkStopped(t *testing.T, network *fakedns.Net, before int, peers ...*Peer) {
	t.Helper()
	synctest.Wait()
	if open := network.Open(); len(open) > 0 {
		t.Errorf("left open: %v", open)
	}
	serving := 0
	for _, p := range peers {
		serving += p.Serving()
	}
	if runtime.NumGoroutine()-before-serving > 0 { // else it is not worth the time
		for _, stack := range bubbled() {
			if !strings.Contains(stack, "(*Peer).Stream") {
				t.Errorf("a goroutine left:\n%s", stack)
			}
		}
	}
	for _, p := range peers {
		p.Wait()
	}
	synctest.Wait()
}

var bubble = regexp.MustCompile(`^goroutine \d+ .*(synctest bubble \d+)`)

// bubbled returns the stacks of the goroutines in the caller's bubble, but for
// the caller and the test's own.
func bubbled() (stacks []string) {
	buf := make([]byte, 1<<20)
	all := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
	own := bubble.FindStringSubmatch(all[0])
	for _, s := range all[1:] {
		if m := bubble.FindStringSubmatch(s); m != nil && m[1] == own[1] && !strings.Contains(s, "testing/synctest.") {
			stacks = append(stacks, s)
		}
	}
	return stacks
}

// checkOrigin holds that a reply is what an upstream said to the question, or
// nothing but a code.
func checkOrigin(t *testing.T, m *Message, peers []*Peer) {
	t.Helper()
	if q := m.Questions[0]; q.Qclass == dns.ClassCHAOS && explained(q.Name) {
		return
	}
	own := slices.Contains([]int{dns.RcodeServerFailure, dns.RcodeRefused, dns.RcodeFormatError, dns.RcodeNotImplemented}, m.Rcode)
	if own && m.Empty() {
		return
	}
	for _, p := range peers {
		for _, r := range p.Account(QuestionOf(m.Questions[0])).Replies {
			if r.Says(m) {
				return
			}
		}
	}
	t.Errorf("no upstream said so:\n%+v", m)
}

// checkSends holds how often a question may be asked; probes ask for NS of the root.
func checkSends(t *testing.T, q Question, most int, peers []*Peer) {
	t.Helper()
	if q.Name == "." && q.Type == dns.TypeNS {
		return
	}
	sends := 0
	for _, p := range peers {
		a := p.Account(q)
		sends += a.Sends
		most += a.Redone
	}
	if sends > most {
		t.Errorf("%s %s was asked %d times, want at most %d", q.Name, dns.TypeToString[q.Type], sends, most)
	}
}
