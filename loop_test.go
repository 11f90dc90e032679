package dnsguard

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin/cache"
	"github.com/coredns/coredns/plugin/test"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/loopguard"
	"github.com/dnsguard/dnsguard/plugin/upstream"
)

// stampOf returns the stamp on a message; nil: none.
func stampOf(m *dns.Msg) []byte {
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if l, ok := o.(*dns.EDNS0_LOCAL); ok && l.Code == loopguard.OptionCode {
				return l.Data
			}
		}
	}
	return nil
}

// stampsOf returns all stamps on a message.
func stampsOf(m *dns.Msg) (all [][]byte) {
	for _, o := range m.IsEdns0().Option {
		if l, ok := o.(*dns.EDNS0_LOCAL); ok && l.Code == loopguard.OptionCode {
			all = append(all, l.Data)
		}
	}
	return all
}

// stamped returns a query with the data of a stamp.
func stamped(name string, data []byte) *dns.Msg {
	return query(name, func(m *dns.Msg) {
		m.SetEdns0(1232, false)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: loopguard.OptionCode, Data: data}}
	})
}

// looping returns the states of the upstreams that are looping.
func looping(g *Guard) (to []string) {
	for _, s := range g.Snapshot() {
		if s.State == upstream.Looping.String() {
			to = append(to, s.To)
		}
	}
	return to
}

// cut reports whether a reply says that its query has come back.
func cut(m *dns.Msg) bool { return m.Rcode == dns.RcodeServerFailure && dnsmsg.TellsOfLoop(m) }

// TestLoopReplayed holds what somebody achieves who has seen a stamp: that the query which carries it again is not forwarded, and no more.
func TestLoopReplayed(t *testing.T) {
	s := listen(t, answers)
	g := guard(t, Env{}, ".", s.addr)
	serve(t, g, query("www.example.org."))
	data := stampOf(s.last.Load())
	if len(data) != 2+4+8 {
		t.Fatalf("stamp %x", data)
	}
	before := s.asked.Load()
	for range 1000 {
		if m := serve(t, g, stamped("wWw.example.ORG.", data)); !cut(m) {
			t.Fatal(m)
		}
	}
	if n := s.asked.Load() - before; n != 0 || len(looping(g)) > 0 {
		t.Errorf("%d were forwarded, looping %v", n, looping(g))
	}
	for _, q := range []*dns.Msg{
		stamped("www.example.net.", data), query("www.example.org."), stamped("www.example.org.", nil),
		func() *dns.Msg { m := stamped("www.example.org.", data); m.Question[0].Qtype = dns.TypeAAAA; return m }(),
	} {
		if m := serve(t, g, q); m.Rcode != dns.RcodeSuccess {
			t.Errorf("%v", m)
		}
	}
	for i := range data {
		changed := append([]byte(nil), data...)
		changed[i]++
		for _, forged := range [][]byte{changed, data[:i], append(changed, 0)} {
			if m := serve(t, g, stamped("www.example.org.", forged)); m.Rcode != dns.RcodeSuccess {
				t.Errorf("%x: %v", forged, m)
			}
			if got := stampOf(s.last.Load()); string(got) != string(data) {
				t.Errorf("%x was sent, want our own %x", got, data)
			}
		}
	}
}

// TestLoopStampsOn holds where a query has been: through groups of the same key it goes on, up to eight times, and comes back to none of them.
func TestLoopStampsOn(t *testing.T) {
	first := listen(t, answers)
	g := guard(t, Env{}, ".", first.addr)
	serve(t, g, query("www.example.org."))
	data := stampOf(first.last.Load())
	guards := []*Guard{g}
	for range loopguard.MaxHops - 1 {
		s := listen(t, answers)
		next := guard(t, Env{}, ".", s.addr)
		if m := serve(t, next, stamped("www.example.org.", data)); m.Rcode != dns.RcodeSuccess {
			t.Fatalf("after %d groups: %v", len(guards), m)
		}
		data = stampOf(s.last.Load())
		guards = append(guards, next)
	}
	if len(data) != loopguard.MaxSize-4 {
		t.Errorf("%d octets", len(data))
	}
	s := listen(t, answers)
	if m := serve(t, guard(t, Env{}, ".", s.addr), stamped("www.example.org.", data)); !cut(m) || s.asked.Load() != 0 {
		t.Errorf("after %d groups: %v", len(guards), m)
	}
}

// TestLoopKeys holds that what others have stamped is nothing to us, and goes on to those who can read it.
func TestLoopKeys(t *testing.T) {
	s := listen(t, answers)
	file := func(text string) string { return "loop key " + writeFile(t, text) }
	one, same, other := guard(t, Env{}, ".", s.addr, file("0123456789abcdef")), guard(t, Env{}, ".", s.addr, file("0123456789abcdef\n")), guard(t, Env{}, ".", s.addr, file("0123456789abcdeg"))
	serve(t, one, query("www.example.org."))
	data := stampOf(s.last.Load())
	if m := serve(t, same, stamped("www.example.org.", data)); !cut(m) {
		t.Errorf("the same key: %v", m)
	}
	if m := serve(t, other, stamped("www.example.org.", data)); m.Rcode != dns.RcodeSuccess || len(stampOf(s.last.Load())) != len(data) {
		t.Errorf("another key: %v", m)
	}
	if got := stampsOf(s.last.Load()); len(got) != 2 || string(got[1]) != string(data) {
		t.Errorf("another key: %x were sent, want our own and %x", got, data)
	}
	back := stamped("www.example.org.", stampsOf(s.last.Load())[0])
	back.IsEdns0().Option = append(back.IsEdns0().Option, &dns.EDNS0_LOCAL{Code: loopguard.OptionCode, Data: data})
	if m := serve(t, one, back); !cut(m) {
		t.Errorf("back by another key: %v", m)
	}
	if m := serve(t, guard(t, Env{}, "org", s.addr, file("0123456789abcdef")), stamped("www.example.org.", data)); m.Rcode != dns.RcodeSuccess {
		t.Errorf("another FROM: %v", m)
	}
	off := guard(t, Env{}, ".", s.addr, "loop off")
	if m := serve(t, off, stamped("www.example.org.", data)); m.Rcode != dns.RcodeSuccess || stampOf(s.last.Load()) != nil {
		t.Errorf("loop off: %v", m)
	}
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := t.TempDir() + "/file"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestLoopPrivacy holds who sees stamps: no public upstream, and no client.
func TestLoopPrivacy(t *testing.T) {
	var mu sync.Mutex
	with := make(map[string]bool)
	s := listen(t, func(m, q *dns.Msg) {
		mu.Lock()
		with[q.Question[0].Name] = stampOf(q) != nil
		mu.Unlock()
		answers(m, q)
		m.Extra = append(m.Extra, q.IsEdns0()) // echoed
	})
	env := Env{Dial: func(ctx context.Context, network string, _ netip.AddrPort) (net.Conn, error) {
		return exchange.NetDial(netip.Addr{})(ctx, network, netip.MustParseAddrPort(s.addr))
	}}
	for addr, want := range map[string]bool{
		"127.0.0.1": true, "::1": true, "10.0.0.1": true, "172.31.0.1": true, "192.168.0.1": true, "169.254.20.10": true, "fe80::1": true, "fd00::1": true, "100.64.0.1": true,
		"192.0.2.1": false, "172.32.0.1": false, "100.128.0.1": false, "2001:db8::1": false, "8.8.8.8": false,
	} {
		for _, option := range []string{"", "edns_options all", "edns_options 65311"} {
			g := guard(t, env, ".", addr, option)
			name := strings.NewReplacer(":", "-", ".", "-", " ", "").Replace(addr+option) + ".example."
			m := serve(t, g, stamped(name, []byte("forged")))
			if stampOf(m) != nil {
				t.Errorf("%s, %q: the client got %v", addr, option, m)
			}
			mu.Lock()
			if got, ok := with[name]; !ok || got != want {
				t.Errorf("%s, %q: stamped %t, want %t", addr, option, got, want)
			}
			mu.Unlock()
		}
	}
}

// probeName returns the name of a probe of g's group.
func probeName(g *Guard, nonce byte, suffix string) string {
	m := g.pool.Load().loops.marks.Load()
	return m.key.Name(loopguard.Token{Nonce: loopguard.Nonce{nonce}, Group: m.group}, suffix)
}

// got reports whether the server was sent a probe for loops.
func (s *stub) got(name string) bool {
	_, ok := s.probes.Load(strings.ToLower(name))
	return ok
}

func txt(m *dns.Msg) { m.Question[0].Qtype = dns.TypeTXT }

// TestLoopProbed holds what probes are answered.
func TestLoopProbed(t *testing.T) {
	s := listen(t, code(dns.RcodeNameError))
	elsewhere := listen(t, answers)
	g, other := guard(t, Env{}, ".", s.addr), guard(t, Env{}, ".", elsewhere.addr)
	const suffix = "loop.dnsguard.internal."
	own := probeName(g, 1, suffix)
	marks := g.pool.Load().loops.marks.Load()
	token, _ := marks.key.ParseName(own)
	want := marks.key.Answer(token)
	for _, name := range []string{own, strings.ToUpper(own), probeName(g, 1, "www.example.org.")} {
		m := serve(t, g, query(name, txt))
		if len(m.Answer) != 1 || m.Answer[0].(*dns.TXT).Txt[0] != want || m.Answer[0].Header().Ttl != 0 || m.Answer[0].Header().Name != name {
			t.Errorf("%s: %v", name, m)
		}
	}
	for _, name := range []string{own, suffix, "x." + suffix, own[1:]} { // of another type; and what is above the names of probes
		if m := serve(t, g, query(name)); m.Rcode != dns.RcodeSuccess || len(m.Answer) != 0 {
			t.Errorf("%s: %v", name, m)
		}
	}
	if n := s.asked.Load(); n != 0 {
		t.Errorf("%d were forwarded", n)
	}
	if name := probeName(g, 1, "www.example.org."); serve(t, other, query(name, txt)).Rcode != dns.RcodeNameError || !elsewhere.got(name) {
		t.Error("in another group: not sent on")
	}
	for what, name := range map[string]string{"another key's": "0000000000000000" + own[16:], "another group's": probeName(other, 1, suffix)} {
		if m := serve(t, g, query(name, txt)); m.Rcode != dns.RcodeNameError || !s.got(name) {
			t.Errorf("%s: %v, sent on %t", what, m, s.got(name))
		}
	}
	if m := serve(t, guard(t, Env{}, ".", s.addr, "loop off"), query(own, txt)); m.Rcode != dns.RcodeNameError {
		t.Errorf("loop off: %v", m)
	}
	if len(looping(g)) > 0 {
		t.Error("looping")
	}
}

// TestLoopFlood holds that floods of probes, genuine or forged, are dealt with at a bounded rate, and that forged ones do not crowd out others.
func TestLoopFlood(t *testing.T) {
	s := listen(t, answers)
	g := guard(t, Env{}, ".", s.addr)
	own := probeName(g, 1, "loop.dnsguard.internal.")
	for what, name := range map[string]func(i int) string{
		"forged": func(i int) string { return fmt.Sprintf("%016d", i) + own[16:] },
		"odd":    func(i int) string { return fmt.Sprintf("%d.loop.dnsguard.internal.", i) },
		"ours":   func(int) string { return own },
	} {
		begin, answered, sent := time.Now(), 0, 0
		for i := range 5000 {
			rec := &counter{ResponseWriter: &test.ResponseWriter{}}
			if rcode, err := g.ServeDNS(t.Context(), rec, query(name(i), txt)); rcode != dns.RcodeSuccess || err != nil {
				t.Fatal(rcode, err)
			}
			answered += rec.n
			if s.got(name(i)) {
				sent++
			}
		}
		if most := probesAnswered * (2 + int(time.Since(begin)/time.Second)); answered > most || answered < probesAnswered {
			t.Errorf("%s: %d answered, want %d to %d", what, answered, probesAnswered, most)
		}
		if what == "forged" && sent < probesAnswered || what != "forged" && sent > 0 {
			t.Errorf("%s: %d sent on", what, sent)
		}
	}
	for _, listens := range []string{"dns://.:53", "quic://.:853"} { // the latter has an address of UDP
		rec := &counter{ResponseWriter: &test.ResponseWriter{TCP: listens == "dns://.:53"}}
		ctx := context.WithValue(t.Context(), dnsserver.Key{}, &dnsserver.Server{Addr: listens})
		for range 1000 {
			if _, err := g.ServeDNS(ctx, rec, query(own, txt)); err != nil {
				t.Fatal(err)
			}
		}
		if rec.n != 1000 {
			t.Errorf("%s: %d of 1000 were answered on a stream, where somebody waits", listens, rec.n)
		}
	}
	if len(looping(g)) > 0 {
		t.Error("looping")
	}
}

// TestLoopSeen holds that a probe of our own which comes in again is no proof, and is answered whatever else comes in.
func TestLoopSeen(t *testing.T) {
	g := guard(t, Env{}, ".", listen(t, code(dns.RcodeNameError)).addr)
	p := g.pool.Load().loops
	r := &loopRound{m: p.members[0], at: time.Now()}
	q := p.begin(r, []string{"loop.dnsguard.internal."})[0]
	name := q.marks.key.Name(q.token, "loop.dnsguard.internal.")
	for range 2 * probesAnswered {
		if m := serve(t, g, query(name, txt)); len(m.Answer) != 1 {
			t.Fatal(m)
		}
	}
	p.timedOut(r)
	if to := looping(g); len(to) > 0 {
		t.Errorf("%v", to)
	}
}

// TestLoopSuffix holds that a name which is given for probes loses none of those below it.
func TestLoopSuffix(t *testing.T) {
	s := listen(t, answers)
	g := guard(t, Env{}, ".", s.addr, "loop suffix example.org")
	for _, name := range []string{"example.org.", "www.example.org.", "dnsguard.example.org."} {
		if m := serve(t, g, query(name)); len(m.Answer) != 1 {
			t.Errorf("%s: %v", name, m)
		}
	}
	if zones := g.CacheBypassZones(); !slices.Contains(zones, "loop.dnsguard.example.org.") || slices.Contains(zones, "example.org.") {
		t.Errorf("%v", zones)
	}
}

// TestLoopSiblings holds that a probe of one directive is known by the one that is asked before.
func TestLoopSiblings(t *testing.T) {
	s := listen(t, code(dns.RcodeNameError))
	first := guard(t, Env{}, ".", s.addr, "next NXDOMAIN")
	second := guard(t, Env{}, ".", listen(t, answers).addr, "loop suffix corp")
	first.siblings = []*Guard{first, second}
	second.siblings = first.siblings
	name := probeName(second, 1, "loop.dnsguard.corp.")
	if m := serve(t, first, query(name, txt)); len(m.Answer) != 1 || s.got(name) {
		t.Errorf("%v", m)
	}
	if zones := first.CacheBypassZones(); !slices.Contains(zones, "loop.dnsguard.corp.") || !slices.Contains(zones, "loop.dnsguard.internal.") {
		t.Errorf("%v", zones)
	}
}

// TestLoopBlind holds that a public upstream is not told what group it is where everybody has the key.
func TestLoopBlind(t *testing.T) {
	for option, shared := range map[string]bool{"": false, "loop key " + writeFile(t, "0123456789abcdef"): true} {
		for addr, public := range map[string]bool{"192.0.2.1": true, "10.0.0.1": false} {
			g := guard(t, Env{}, ".", addr, option)
			p := g.pool.Load().loops
			group := p.begin(&loopRound{m: p.members[0], at: time.Now()}, []string{"loop.dnsguard.internal."})[0].token.Group
			if (group == p.marks.Load().group) != (shared || !public) {
				t.Errorf("%s, %q: group %d of %d", addr, option, group, p.marks.Load().group)
			}
		}
	}
}

// TestLoopWidely holds who is asked several times at once at the first sign of a loop: the only upstream, unless it is public.
func TestLoopWidely(t *testing.T) {
	for to, want := range map[string]bool{"10.0.0.1": true, "192.0.2.1": false, "10.0.0.1 10.0.0.2": false, "10.0.0.1 192.0.2.1": false} {
		g, err := New(mustParse(t, "dnsguard . "+to), Env{})
		if err != nil {
			t.Fatal(err)
		}
		p, now := g.pool.Load().loops, time.Now()
		for _, why := range []loopguard.Reason{loopguard.Coincidence, loopguard.Silence, loopguard.Failure, loopguard.Mate, loopguard.Returned} {
			p.suspect(now, p.members[0], why)
			if got := p.widely(now, p.members[0]); got != want {
				t.Errorf("%s, %v: %t", to, why, got)
			}
			if p.widely(now, p.members[0]) {
				t.Errorf("%s, %v: again, without a reason", to, why)
			}
		}
		if p.again(now); p.widely(now, p.members[0]) {
			t.Errorf("%s: at the start", to)
		}
		g.Stop()
	}
}

// TestLoopAwaited holds that the verdict of a probe is waited for from when it is due, also while it is being sent, and not before nor after.
func TestLoopAwaited(t *testing.T) {
	g, err := New(mustParse(t, "dnsguard . 10.0.0.1 10.0.0.2"), Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Stop)
	p, now := g.pool.Load().loops, time.Now()
	m, of := p.members[0], p.members[0].up.To()
	for _, step := range []struct {
		what string
		do   func()
		want bool
	}{
		{"due at the start", func() {}, true},
		{"being sent", func() { m.probing.Store(true); m.watch.Take(now, 0) }, true},
		{"with the verdict", func() { m.probing.Store(false) }, false},
		{"a wide one is due", func() { m.wider.Store(true) }, true},
	} {
		step.do()
		if _, busy := p.busy(now, tellWait, of); busy != step.want {
			t.Errorf("%s: %t", step.what, busy)
		}
	}
}

// TestLoopOnward holds to whom the probes of others go: no public upstream, and none where queries go to a public one.
func TestLoopOnward(t *testing.T) {
	s := listen(t, answers)
	env := Env{Dial: func(ctx context.Context, network string, _ netip.AddrPort) (net.Conn, error) {
		return exchange.NetDial(netip.Addr{})(ctx, network, netip.MustParseAddrPort(s.addr))
	}}
	other := guard(t, env, ".", "10.9.9.9")
	nonce := byte(0)
	for to, want := range map[string]bool{"192.0.2.1": false, "10.0.0.1": true, "10.0.0.1 192.0.2.1": true, "192.0.2.1 10.0.0.1": false} {
		g := guard(t, env, ".", to, "policy sequential")
		nonce++
		name := probeName(other, nonce, "loop.dnsguard.internal.")
		if m := serve(t, g, query(name, txt)); m.Rcode != dns.RcodeNameError || s.got(name) != want {
			t.Errorf("%s: sent on %t; %v", to, s.got(name), m)
		}
	}
}

type counter struct {
	dns.ResponseWriter
	n int
}

func (c *counter) WriteMsg(*dns.Msg) error { c.n++; return nil }

// TestLoopStock holds that the query of CoreDNS's loop plugin goes no further, and others do.
func TestLoopStock(t *testing.T) {
	s := listen(t, answers)
	g := guard(t, Env{}, ".", s.addr)
	hinfo := func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeHINFO }
	for name, ours := range map[string]bool{
		"5577006791947779410.8674665223082153551.": true, "5577006791947779410.8674665223082153551.example.org.": true,
		"5577006791947779410.example.org.": false, "www.example.org.": false, "1.2.in-addr.arpa.": false,
	} {
		before := s.asked.Load()
		serve(t, g, query(name, hinfo))
		if s.asked.Load() == before != ours {
			t.Errorf("%s: forwarded %t", name, ours)
		}
	}
}

// TestLoopUncached holds that the cache keeps nothing that is said to a query which came back, however it is written.
func TestLoopUncached(t *testing.T) {
	s := listen(t, answers)
	g := guard(t, Env{}, ".", s.addr)
	g.loops.cached = true
	serve(t, g, query("www.example.org."))
	data := stampOf(s.last.Load())
	for name, wrapped := range map[string]bool{"alone": false, "wrapped": true} {
		c := cache.New()
		c.Next = test.HandlerFunc(func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
			if wrapped {
				w = &dns64{w}
			}
			return g.ServeDNS(ctx, w, r)
		})
		for _, q := range []*dns.Msg{stamped("www.example.org.", data), query("www.example.org.", edns)} {
			rec := &counter{ResponseWriter: &test.ResponseWriter{}}
			rcode, err := c.ServeDNS(t.Context(), rec, q)
			first := stampOf(q) != nil
			if err != nil || first && wrapped != (rec.n == 0 && rcode == dns.RcodeServerFailure) || !first && (rec.n != 1 || rcode != dns.RcodeSuccess) {
				t.Errorf("%s, %d written, rcode %d, %v", name, rec.n, rcode, err)
			}
		}
	}
}

// dns64 stands for a plugin that wraps the writer.
type dns64 struct{ dns.ResponseWriter }

// TestLoopOption holds what several lines of the option come to, and what the defaults are for other zones.
func TestLoopOption(t *testing.T) {
	key := writeFile(t, " 0123456789abcdef \n")
	c := mustParse(t, block("loop on", "loop interval 2m", "loop key "+key))
	if c.Loop.Off || c.Loop.Interval != 2*time.Minute || string(c.Loop.Key) != "0123456789abcdef" {
		t.Errorf("%+v", c.Loop)
	}
	for _, lines := range [][]string{{"loop off", "loop on"}, {"loop off", "loop off"}, {"loop interval 1m", "loop off"}, {"loop off", "loop interval 1m"}} {
		wantError(t, block(lines...), "Testfile:3 - Error during parsing: loop off: cannot be given together with another line of loop")
	}
	for text, want := range map[string]string{
		"dnsguard . 192.0.2.1":                                        "[loop.dnsguard.empty.as112.arpa. loop.dnsguard.internal.]",
		"dnsguard example.org 192.0.2.1":                              "[loop.dnsguard.example.org.]",
		"dnsguard 10.0.0.0/8 192.0.2.1":                               "[loop.dnsguard.10.in-addr.arpa.]",
		"dnsguard . 192.0.2.1 {\nexcept internal\n}":                  "[loop.dnsguard.empty.as112.arpa.]",
		"dnsguard . 192.0.2.1 {\nexcept internal arpa\n}":             "[loop.dnsguard.]",
		"dnsguard . 192.0.2.1 {\nexcept internal\nloop suffix a b\n}": "[a. b.]",
	} {
		if got := fmt.Sprint(mustParse(t, text).Loop.Suffixes); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}
