//go:build linux

package main

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestPatch(t *testing.T) {
	for _, tt := range []struct {
		name    string
		qtype   uint16
		edns    bool
		answers int
	}{
		{"a.example.", dns.TypeA, false, 1},
		{"a.example.", dns.TypeA, true, 1},
		{".", dns.TypeNS, true, 0},
	} {
		q := new(dns.Msg)
		q.SetQuestion(tt.name, tt.qtype)
		if tt.edns {
			q.SetEdns0(1232, true)
		}
		wire, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		var buf [packetSize]byte
		n := patch(&buf, copy(buf[:], wire))
		m := new(dns.Msg)
		if err := m.Unpack(buf[:n]); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if m.Id != q.Id || !m.Response || m.Question[0] != q.Question[0] || len(m.Answer) != tt.answers || len(m.Extra) != 0 {
			t.Errorf("%s: the reply is\n%v", tt.name, m)
		}
	}
}

func TestPatchRefusesWhatIsNoQuery(t *testing.T) {
	for _, msg := range [][]byte{
		nil,
		make([]byte, 11),
		make([]byte, 40), // no question
		{0, 1, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1},     // a reply
		{0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 0x0c, 0, 1},     // a pointer
		{0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, 'a', 'b', 'c'},     // no end
		{0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, 'a', 'b', 'c', 0},  // no type
		{0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 60, 'a', 'b', 'c', 0}, // a label beyond the end
	} {
		var buf [packetSize]byte
		if n := patch(&buf, copy(buf[:], msg)); n != 0 {
			t.Errorf("patch(% x) = %d", msg, n)
		}
	}
}

// The load asks the stub directly, in both kinds of loop, and with a delay.
func TestLoadAgainstStub(t *testing.T) {
	e, err := newEngine([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, -1, true)
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	base := loadConfig{
		to: e.stubs[0].addr, sockets: 3, warm: 20 * time.Millisecond, measure: 200 * time.Millisecond,
		timeout: time.Second, wantAnswer: true,
	}
	for _, tt := range []struct {
		name              string
		outstanding, rate int
		delay             time.Duration
		least, most       uint64
	}{
		{"closed", 10, 0, 0, 1, 1 << 40},
		{"open", 0, 1000, 0, 100, 210}, // fewer where the machine is busy
		{"open, late", 0, 1000, 50 * time.Millisecond, 100, 210},
	} {
		cfg := base
		cfg.outstanding, cfg.rate = tt.outstanding, tt.rate
		e.setDelay(tt.delay)
		r, err := e.do(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if r.answered < tt.least || r.answered > tt.most || r.failed != 0 || r.latency.quantile(0.01) < tt.delay*98/100 {
			t.Errorf("%s: %d answered, %d failed, p1 %v", tt.name, r.answered, r.failed, r.latency.quantile(0.01))
		}
	}
}

// Without replies, every query of an open loop fails.
func TestLoadAgainstNothing(t *testing.T) {
	e, err := newEngine(nil, -1, true)
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	addr, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	r, err := e.do(t.Context(), loadConfig{
		to: addr, sockets: 2, rate: 1000, measure: 100 * time.Millisecond, timeout: 50 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.answered != 0 || r.failed < 90 || r.failed > 110 {
		t.Errorf("%d answered, %d failed", r.answered, r.failed)
	}
}

func TestLoadIsCancelled(t *testing.T) {
	e, err := newEngine([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, -1, true)
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err = e.do(ctx, loadConfig{to: e.stubs[0].addr, sockets: 1, rate: 100, measure: time.Hour, timeout: time.Second})
	if err == nil {
		t.Error("no error")
	}
}

func TestWorld(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	zones := make(map[string]bool)
	missing, inside := 0, 0
	for range 10_000 {
		name := draw(rnd, true)
		tr := lookup(name)
		zones[tr.zone] = true
		if !tr.exists {
			missing++
		}
		if tr.scope == internal {
			inside++
		}
		q := new(dns.Msg)
		q.SetQuestion(name, dns.TypeA)
		if !right(name, (&behaviour{}).reply(q)) {
			t.Fatalf("%s: the truth is not right", name)
		}
		deny := behaviour{public: denyNodata, internal: denyRefused}
		if tr.exists && right(name, deny.reply(q)) {
			t.Fatalf("%s: a denial is right", name)
		}
	}
	if len(zones) != worldZones+1 || missing < 600 || missing > 900 || inside < 2300 || inside > 2700 {
		t.Errorf("%d zones, %d missing, %d internal", len(zones), missing, inside)
	}
}
