package fakedns

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

func TestReplies(t *testing.T) {
	for _, c := range []struct {
		fault string
		edns  bool
		check func(m *dns.Msg, took time.Duration, err error) bool
	}{
		{"refused", true, rcode(dns.RcodeRefused)},
		{"badvers", true, rcode(dns.RcodeBadVers)},
		{"no-edns badvers", true, rcode(dns.RcodeBadVers)},
		{"no-edns formerr", true, rcode(dns.RcodeFormatError)},
		{"no-edns formerr", false, right},
		{"badcookie", true, rcode(dns.RcodeBadCookie)},
		{"nxdomain soa org", true, func(m *dns.Msg, _ time.Duration, _ error) bool {
			return m.Rcode == dns.RcodeNameError && m.Ns[0].Header().Name == "org."
		}},
		{"nodata", true, func(m *dns.Msg, _ time.Duration, _ error) bool {
			return m.Rcode == dns.RcodeSuccess && len(m.Answer)+len(m.Ns) == 0
		}},
		{"truncated", true, func(m *dns.Msg, _ time.Duration, _ error) bool { return m.Truncated && len(m.Answer) == 0 }},
		{"big 1200", true, func(m *dns.Msg, _ time.Duration, _ error) bool {
			m.Compress = true
			return !m.Truncated && m.Len() > 1150 && m.Len() <= 1200 && Right("", m)
		}},
		{"big 1200", false, func(m *dns.Msg, _ time.Duration, _ error) bool { return m.Truncated && len(m.Answer) < 35 }},
		{"big 4000", true, func(m *dns.Msg, _ time.Duration, _ error) bool { return m.Truncated && len(m.Answer) < 77 }},
		{"delay 1s", true, func(m *dns.Msg, took time.Duration, _ error) bool { return took == 1006*time.Millisecond }},
		{"late", true, func(m *dns.Msg, took time.Duration, _ error) bool { return took == 3006*time.Millisecond }},
		{"duplicate", true, right},
		{"forge 1", true, func(m *dns.Msg, _ time.Duration, _ error) bool { return m.Id != 77 && m.Id != 0 && !Right("", m) }},
		{"wrong-id", true, func(m *dns.Msg, _ time.Duration, _ error) bool { return m.Id == 78 && !Right("", m) }},
		{"qr0", true, func(m *dns.Msg, _ time.Duration, _ error) bool { return m.Id == 77 && !m.Response }},
		{"wrong-question", true, func(m *dns.Msg, _ time.Duration, _ error) bool {
			return m.Id == 77 && m.Response && m.Question[0].Name == "other.invalid."
		}},
		{"corrupt", true, broken},
		{"compression-loop", true, broken},
		{"empty", true, broken},
		{"garbage", true, broken},
	} {
		synctest.Test(t, func(t *testing.T) {
			n, _ := setup(t, "rtt 6ms", c.fault)
			conn := dial(t, n, "udp")
			defer conn.Close()
			m, took, err := ask(t, conn, "www.example.org", dns.TypeA, c.edns)
			if m == nil {
				m = new(dns.Msg)
			}
			if !c.check(m, took, err) {
				t.Errorf("%s: after %v, %v\n%v", c.fault, took, err, m)
			}
		})
	}
}

func rcode(want int) func(*dns.Msg, time.Duration, error) bool {
	return func(m *dns.Msg, _ time.Duration, err error) bool { return err == nil && m.Rcode == want }
}

func right(m *dns.Msg, _ time.Duration, err error) bool { return err == nil && Right("", m) }

func broken(_ *dns.Msg, _ time.Duration, err error) bool { return err != nil }

func TestForgeThenAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := setup(t, "rtt 6ms", "forge 3 50ms")
		c := dial(t, n, "udp")
		defer c.Close()
		began := time.Now()
		for i := range 4 {
			var m *dns.Msg
			var err error
			if i == 0 {
				m, _, err = ask(t, c, "a.example", dns.TypeA, true)
			} else {
				m, err = c.ReadMsg()
			}
			if err != nil || (m.Id == 77) != (i == 3) {
				t.Errorf("reply %d: %v, %v", i, m, err)
			}
		}
		if took := time.Since(began); took != 56*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
}

func TestChance(t *testing.T) {
	count := func(fault string) (n int) {
		s := &Server{Zones: []string{"."}}
		f, err := ParseFault(fault)
		if err != nil {
			t.Fatal(err)
		}
		s.Set(f)
		for i := range 1000 {
			q := new(dns.Msg)
			q.SetQuestion(string(rune('a'+i%26))+".example.", dns.TypeA)
			wire, _ := q.Pack()
			if len(s.receive(arrival{wire: wire, proto: UDP}).packets) == 0 {
				n++
			}
		}
		return n
	}
	for _, fault := range []string{"p 30% drop", "loss 30%"} {
		if a, b := count(fault), count(fault); a != b || a < 250 || a > 350 {
			t.Errorf("%s: %d and %d of 1000", fault, a, b)
		}
	}
	if n := count("names 30% drop"); n < 100 || n > 500 {
		t.Errorf("names: %d of 1000", n)
	}
}

func TestSprayTriesEveryID(t *testing.T) {
	q := new(dns.Msg)
	q.SetQuestion("a.example.", dns.TypeA)
	wire, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1 << 16, 1<<16 - 1} {
		s := &Server{Zones: []string{"."}}
		s.Set(Fault{Kind: Forge, N: n, D: 50 * time.Millisecond})
		ids := make(map[uint16]int)
		packets := s.receive(arrival{wire: wire, proto: UDP}).packets
		for _, p := range packets[:n] {
			ids[uint16(p.wire[0])<<8|uint16(p.wire[1])]++
		}
		if len(packets) != n+1 || len(ids) != n || ids[q.Id] != n-(1<<16-1) {
			t.Errorf("%d forgeries: %d packets, %d IDs, the right one %d times", n, len(packets), len(ids), ids[q.Id])
		}
	}
}
