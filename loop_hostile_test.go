package dnsguard

import (
	"context"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/loopguard"
)

// TestLoopManyStamps holds that a stamp of ours is found behind any number of others, and that of those few go on.
func TestLoopManyStamps(t *testing.T) {
	s := listen(t, answers)
	g := guard(t, Env{}, ".", s.addr)
	serve(t, g, query("www.example.org."))
	own := stampOf(s.last.Load())
	many := func() *dns.Msg {
		q := stamped("www.example.org.", nil)
		for i := range 500 {
			data := append([]byte{1, byte(i%loopguard.MaxHops + 1)}, make([]byte, 4*(i%3+1)+8)...)
			data[5] = byte(i)
			q.IsEdns0().Option = append(q.IsEdns0().Option, &dns.EDNS0_LOCAL{Code: loopguard.OptionCode, Data: data[:len(data)-i%2]})
		}
		return q
	}
	if m := serve(t, g, many()); m.Rcode != dns.RcodeSuccess {
		t.Error(m)
	}
	if got := stampsOf(s.last.Load()); len(got) != 1+maxForeign || string(got[0]) != string(own) {
		t.Errorf("%x were sent", got)
	}
	before := s.asked.Load()
	q := many()
	q.IsEdns0().Option = append(q.IsEdns0().Option, &dns.EDNS0_LOCAL{Code: loopguard.OptionCode, Data: own})
	if m := serve(t, g, q); !cut(m) || s.asked.Load() != before {
		t.Errorf("%v", m)
	}
}

// TestLoopFloodOwn holds that probes of this server's own are answered whatever floods come in.
func TestLoopFloodOwn(t *testing.T) {
	g := guard(t, Env{}, ".", listen(t, answers).addr)
	p := g.pool.Load().loops
	q := p.begin(&loopRound{m: p.members[0], at: time.Now()}, []string{"loop.dnsguard.internal."})[0]
	name := q.marks.key.Name(q.token, "loop.dnsguard.internal.")
	ours := probeName(g, 1, "loop.dnsguard.internal.")
	dropped := 0
	for i := range 20 * probesAnswered {
		for _, flood := range []string{ours, fmt.Sprintf("%016d", i) + ours[16:], fmt.Sprintf("%d.loop.dnsguard.internal.", i)} {
			rec := &discard{}
			if _, err := g.ServeDNS(t.Context(), rec, query(flood, txt)); err != nil {
				t.Fatal(err)
			}
			if rec.n == 0 {
				dropped++
			}
		}
	}
	if m := serve(t, g, query(name, txt)); len(m.Answer) != 1 || dropped == 0 {
		t.Errorf("%v; %d dropped", m, dropped)
	}
	if !q.seen {
		t.Error("not seen")
	}
}

// discard is a client by UDP.
type discard struct {
	counter
}

func (*discard) LocalAddr() net.Addr  { return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 53} }
func (*discard) RemoteAddr() net.Addr { return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 40212} }

// TestLoopForgedAnswer holds that an upstream which makes up answers to probes, from all that it has seen, is not taken for looping, though it be the only one.
func TestLoopForgedAnswer(t *testing.T) {
	strangers := loopguard.NewKey([]byte("a guess"))
	for what, forge := range map[string]func(g *Guard, name string) []string{
		"a copy of the name": func(_ *Guard, name string) []string { return []string{name} },
		"its labels":         func(_ *Guard, name string) []string { return strings.Split(name, ".")[:3] },
		"its MAC":            func(_ *Guard, name string) []string { return strings.Split(name, ".")[2:3] },
		"nothing":            func(*Guard, string) []string { return []string{""} },
		"many long texts":    func(*Guard, string) []string { return []string{strings.Repeat("0", 255), strings.Repeat("v", 255)} },
		"of another key":     func(_ *Guard, name string) []string { t, _ := anyToken(name); return []string{strangers.Answer(t)} },
		"of the same key, not for the question": func(g *Guard, name string) []string {
			tok, _ := anyToken(name)
			tok.Nonce[0]++
			return []string{g.pool.Load().loops.marks.Load().key.Answer(tok)}
		},
	} {
		secret := writeFile(t, "0123456789abcdef")
		var g *Guard
		ready := make(chan struct{})
		s := listen(t, answers)
		forged := func(m, q *dns.Msg) {
			<-ready
			m.SetReply(q)
			for _, text := range forge(g, strings.ToLower(q.Question[0].Name)) {
				m.Answer = append(m.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{text}})
			}
		}
		s.probed.Store(&forged)
		g = guard(t, Env{}, ".", s.addr, "loop key "+secret)
		close(ready)
		p := g.pool.Load().loops
		p.settle(t.Context(), 5*time.Second, "")
		if !hasAny(s) || len(looping(g)) > 0 || len(p.cameBack(time.Now())) > 0 {
			t.Errorf("%s: probed %t, looping %v, back %v", what, hasAny(s), looping(g), p.cameBack(time.Now()))
		}
	}
}

// anyToken reads the token of a probe's name, whoever has made it.
func anyToken(name string) (token loopguard.Token, raw []byte) {
	l := strings.Split(strings.ToUpper(name), ".")
	for _, label := range l[:3] {
		b, err := base32.HexEncoding.WithPadding(base32.NoPadding).DecodeString(label)
		if err != nil {
			return token, nil
		}
		raw = append(raw, b...)
	}
	copy(token.Nonce[:], raw)
	token.Group = loopguard.Group(raw[10])<<24 | loopguard.Group(raw[11])<<16 | loopguard.Group(raw[12])<<8 | loopguard.Group(raw[13])
	return token, raw
}

func hasAny(s *stub) (found bool) {
	s.probes.Range(func(_, _ any) bool { found = true; return false })
	return found
}

// TestLoopTellsNothing holds that neither stamps nor probes have in them what a cluster is known by, nor what it is made of, and that to have tried all addresses is no use without the key.
func TestLoopTellsNothing(t *testing.T) {
	const uid, addr, public = "1b4e28ba-2fa1-11d2-883f-0016d3cca427", "10.20.30.40", "192.0.2.77"
	s := listen(t, answers)
	env := Env{Dial: func(ctx context.Context, network string, _ netip.AddrPort) (net.Conn, error) {
		return exchange.NetDial(netip.Addr{})(ctx, network, netip.MustParseAddrPort(s.addr))
	}}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := hex.DecodeString(strings.ReplaceAll(uid, "-", ""))
	if err != nil {
		t.Fatal(err)
	}
	ip, publicIP := netip.MustParseAddr(addr).As4(), netip.MustParseAddr(public).As4()
	secrets := []string{uid, string(raw), addr, string(ip[:]), public, string(publicIP[:]), "kube-system", "corp.example", string(raw[:4])}
	if len(host) > 5 { // a shorter one is there by chance
		secrets = append(secrets, host)
	}
	g := guard(t, env, ".", addr+" "+public, "except corp.example")
	g.loops.known(uid)
	p := g.pool.Load().loops
	p.settle(t.Context(), 5*time.Second, "")
	serve(t, g, query("www.example.org."))
	var seen []string
	s.probes.Range(func(name, _ any) bool {
		_, binary := anyToken(name.(string)) //nolint:forcetypeassert // as stored
		seen = append(seen, name.(string), string(binary))
		return true
	})
	if len(seen) == 0 {
		t.Fatal("no probes")
	}
	key := p.marks.Load().key
	seen = append(seen, string(key.Append(nil, loopguard.Stamp{}.Next(p.marks.Load().group), appendQuestion(nil, query("www.example.org.")))))
	for _, text := range seen {
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%q is in %q", secret, text)
			}
		}
	}
	guess := guard(t, env, ".", addr+" "+public, "except corp.example").pool.Load().loops.marks.Load()
	if guess.group == p.marks.Load().group {
		t.Error("who knows the addresses, and no key, knows the group")
	}
}
