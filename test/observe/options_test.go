package observe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/metadata"
	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/test/fakedns"
)

// asked counts what clients' queries came to at an upstream.
func asked(s *fakedns.Server) int {
	st := s.Stats()
	return st.Queries - st.Probes
}

// total counts it for all upstreams.
func (c *contender) total() (n int) {
	for _, s := range c.up {
		n += asked(s)
	}
	return n
}

// TestDown is about an upstream that health checks find down: whether it is
// asked, how many are where all are down, and that it is asked again when it is back.
func TestDown(t *testing.T) {
	type row struct {
		faulty  int
		options string
		// once down, for each query: attempts at the first upstream, and at all
		first, all int
		rcode      string
		second     string // what is wrong with the second of only two; "": there are three
	}
	cases := map[string]row{
		"one":                 {1, "", 0, 1, "NOERROR", ""},
		"one of two":          {1, "", 0, 4, "SERVFAIL", "except probes drop"},
		"one, max_fails 0":    {1, "max_fails 0", 1, 2, "NOERROR", ""},
		"all":                 {3, "", -1, 1, "SERVFAIL", ""},
		"all, failfast":       {3, "failfast_all_unhealthy_upstreams", 0, 0, "SERVFAIL", ""},
		"one, failfast":       {1, "failfast_all_unhealthy_upstreams", 0, 1, "NOERROR", ""},
		"all, one attempt":    {3, "max_connect_attempts 1", -1, 1, "SERVFAIL", ""},
		"all, at any cost":    {3, "max_connect_attempts 0", -1, 1, "SERVFAIL", ""},
		"two":                 {2, "", 0, 1, "NOERROR", ""},
		"two, one attempt":    {2, "max_connect_attempts 1", 0, 1, "NOERROR", ""},
		"all, never counted":  {3, "max_fails 0", 2, 6, "SERVFAIL", ""},
		"all, one, uncounted": {3, "max_fails 0\nmax_connect_attempts 1", 1, 1, "SERVFAIL", ""},
	}
	each(t, cases, func(t *testing.T, r row) {
		// An empty datagram is no reply for forward, and a failure at once for its health checks.
		servers := pool(3, r.faulty, "empty")
		if r.second != "" {
			servers = func() []*fakedns.Server { return []*fakedns.Server{server("empty"), server(r.second)} }
		}
		s := setting{servers: servers, options: []string{"policy sequential", "read_timeout 100ms", "health_check 10ms", r.options}}
		stock, ours := contest(t, s)
		for _, c := range []*contender{stock, ours} {
			settled := func(i int) error {
				first, all := asked(c.up[0]), c.total()
				got := c.ask(t.Context(), query{name: fmt.Sprintf("n%d.example.org.", i)})
				if !strings.HasPrefix(got.returned, r.rcode) {
					return fmt.Errorf("%s: %s", c.name, got)
				}
				if n := asked(c.up[0]) - first; r.first >= 0 && n != r.first {
					return fmt.Errorf("%s: the first was asked %d times, want %d", c.name, n, r.first)
				}
				if n := c.total() - all; n != r.all {
					return fmt.Errorf("%s: %d attempts, want %d", c.name, n, r.all)
				}
				return nil
			}
			eventually(t, func() error {
				for i := range 5 {
					if err := settled(i); err != nil {
						return err
					}
				}
				return nil
			})
			for _, up := range c.up {
				up.Set() // well again
			}
			eventually(t, func() error {
				first := asked(c.up[0])
				if got := c.ask(t.Context(), query{name: "www.example.org."}); !strings.HasPrefix(got.returned, "NOERROR") || asked(c.up[0]) != first+1 {
					return fmt.Errorf("%s: not back: %s", c.name, got)
				}
				return nil
			})
		}
	})
}

// TestDeadline is about how long attempts are made: nobody replies, and their number is not bounded.
func TestDeadline(t *testing.T) {
	stock, ours := contest(t, setting{servers: pool(2, 2, "drop"), options: []string{"read_timeout 700ms", "health_check 1h", "max_connect_attempts 0"}})
	var wg sync.WaitGroup
	for _, c := range []*contender{stock, ours} {
		wg.Go(func() {
			began := time.Now()
			r := c.ask(t.Context(), query{name: "www.example.org."})
			if took := time.Since(began); took < 5*time.Second || took > 8*time.Second || !strings.HasPrefix(r.returned, "SERVFAIL: read udp") {
				t.Errorf("%s: %s after %v", c.name, r, took)
			}
			if n := c.total(); n < 7 || n > 8 {
				t.Errorf("%s: %d attempts", c.name, n)
			}
		})
	}
	wg.Wait()
}

// TestHealthByTCP is about what carries health checks.
func TestHealthByTCP(t *testing.T) {
	for option, want := range map[string]fakedns.Proto{"": fakedns.UDP, "force_tcp": fakedns.TCP, "prefer_udp": fakedns.UDP} {
		stock, ours := contest(t, setting{servers: pool(1, 1, "except probes empty"), options: []string{
			"read_timeout 100ms", "max_connect_attempts 1", option,
		}})
		for _, c := range []*contender{stock, ours} {
			c.ask(t.Context(), query{name: "www.example.org."})
			eventually(t, func() error {
				for _, r := range c.up[0].Log() {
					if r.Probe() && r.Proto == want {
						return nil
					}
				}
				return fmt.Errorf("%s, %q: no health check by %s", c.name, option, want)
			})
		}
	}
}

// TestShares is about policies that leave the order to chance.
func TestShares(t *testing.T) {
	const n = 900
	for _, policy := range []string{"", "policy random"} {
		for _, upstreams := range []int{2, 3} {
			stock, ours := contest(t, setting{servers: pool(upstreams, 0, ""), options: []string{policy}})
			for _, c := range []*contender{stock, ours} {
				for i := range n {
					c.ask(t.Context(), query{name: fmt.Sprintf("n%d.example.org.", i)})
				}
				for i, s := range c.up {
					if got := asked(s); got < n/upstreams-100 || got > n/upstreams+100 { // six deviations
						t.Errorf("%s, %q: upstream %d of %d got %d of %d", c.name, policy, i, upstreams, got, n)
					}
				}
			}
		}
	}
	ours := setting{servers: pool(3, 0, ""), options: []string{"policy adaptive"}}.contender(t, "dnsguard") // forward does not know it
	for i := range n {
		ours.ask(t.Context(), query{name: fmt.Sprintf("n%d.example.org.", i)})
	}
	for i, s := range ours.up {
		if got := asked(s); got < n/3-100 || got > n/3+100 {
			t.Errorf("adaptive: upstream %d got %d of %d", i, got, n)
		}
	}
}

// TestSecondChance is about the order after the first: two of three refuse, and failover goes on.
func TestSecondChance(t *testing.T) {
	const n = 900
	stock, ours := contest(t, setting{servers: pool(3, 2, "refused"), options: []string{"failover REFUSED"}})
	for _, c := range []*contender{stock, ours} {
		for i := range n {
			if got := c.ask(t.Context(), query{name: fmt.Sprintf("n%d.example.org.", i)}); got.returned != "NOERROR" {
				t.Fatalf("%s: %s", c.name, got)
			}
		}
		for i, s := range c.up[:2] { // each is before the good one half of the time
			if got := asked(s); got < n/2-100 || got > n/2+100 {
				t.Errorf("%s: upstream %d got %d of %d", c.name, i, got, n)
			}
		}
	}
}

// TestConcurrent is about max_concurrent, and that without it there is no bound.
func TestConcurrent(t *testing.T) {
	for option, refused := range map[string]int{"max_concurrent 2": 3, "max_concurrent 0": 0, "": 0} {
		stock, ours := contest(t, setting{servers: pool(1, 1, "delay 400ms"), options: []string{option}})
		for _, c := range []*contender{stock, ours} {
			var (
				mu  sync.Mutex
				got []string
				wg  sync.WaitGroup
			)
			for i := range 5 {
				wg.Go(func() {
					r := c.ask(t.Context(), query{name: fmt.Sprintf("n%d.example.org.", i)})
					mu.Lock()
					defer mu.Unlock()
					got = append(got, r.returned)
				})
			}
			wg.Wait()
			slices.Sort(got)
			want := slices.Repeat([]string{"NOERROR"}, 5-refused)
			want = append(want, slices.Repeat([]string{"REFUSED: concurrent queries exceeded maximum 2"}, refused)...)
			if !slices.Equal(got, want) {
				t.Errorf("%s, %q: %q", c.name, option, got)
			}
		}
		if got := ours.counter("max_concurrent_rejects_total"); got != refused {
			t.Errorf("%q: %d counted as rejected", option, got)
		}
	}
}

// TestNext is about replies that send a query to the next forwarding plugin.
func TestNext(t *testing.T) {
	for _, options := range [][]string{{""}, {"next NXDOMAIN"}, {"next_on_nodata"}, {"next REFUSED", "next NXDOMAIN", "next_on_nodata"}} {
		for _, fault := range []string{"", "nxdomain", "nodata", "refused", closed} {
			t.Run(fmt.Sprint(options, fault), func(t *testing.T) {
				second := setting{servers: pool(1, 0, "")}
				first := setting{servers: pool(1, 1, fault), options: slices.Concat(options, quick)}
				var got [2]result
				var seen [2][]string
				for i, name := range []string{"forward", "dnsguard"} {
					behind := second.contender(t, name)
					first.next = behind.handler
					c := first.contender(t, name)
					got[i], seen[i] = c.ask(t.Context(), query{name: "www.example.org."}), sent(behind.up[0])
				}
				if got[0] != got[1] || !slices.Equal(seen[0], seen[1]) {
					t.Errorf("forward  %s, the next was asked %q\ndnsguard %s, the next was asked %q", got[0], seen[0], got[1], seen[1])
				}
			})
		}
	}
}

// TestZones is about names that are not the directive's: they go to the next plugin.
func TestZones(t *testing.T) {
	s := setting{servers: pool(1, 0, ""), options: []string{"except lab.example.org other.example"}, next: echo{}}
	agree(t, s,
		query{name: "www.example.org."}, query{name: "lab.example.org."}, query{name: "a.b.Lab.Example.org."}, query{name: "xlab.example.org."},
		query{name: `x\.lab.example.org.`}, query{name: "www.other.example."}, query{name: "."},
	)
}

// echo is a plugin that says NOTZONE.
type echo struct{}

func (echo) Name() string { return "echo" }

func (echo) ServeDNS(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	return dns.RcodeNotZone, w.WriteMsg(new(dns.Msg).SetRcode(r, dns.RcodeNotZone))
}

// TestOddMessages is about what a guard would not forward: forward does, as it came.
func TestOddMessages(t *testing.T) {
	odd := func(change func(m *dns.Msg)) query {
		m := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA)
		change(m)
		return query{msg: m}
	}
	cases := map[string]query{
		"NOTIFY":        odd(func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }),
		"UPDATE":        odd(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }),
		"no question":   odd(func(m *dns.Msg) { m.Question = nil }),
		"two questions": odd(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }),
		"AXFR":          odd(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }),
		"ANY":           odd(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeANY }),
		"CH":            odd(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }),
		"a response":    odd(func(m *dns.Msg) { m.Response = true }),
		"flags":         odd(func(m *dns.Msg) { m.RecursionDesired, m.AuthenticatedData, m.CheckingDisabled = false, true, true }),
		"EDNS options": odd(func(m *dns.Msg) {
			m.SetEdns0(4096, true)
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"}, &dns.EDNS0_NSID{Code: dns.EDNS0NSID}}
		}),
		"TSIG":               odd(func(m *dns.Msg) { m.SetTsig("key.example.", dns.HmacSHA256, 300, 1) }),
		"a name that is not": {msg: &dns.Msg{Question: []dns.Question{{Name: strings.Repeat("a", 64) + ".example.", Qtype: dns.TypeA, Qclass: dns.ClassINET}}}},
	}
	each(t, cases, func(t *testing.T, q query) {
		agree(t, setting{servers: pool(2, 0, ""), options: append(quick, "policy sequential")}, q)
	})
}

// TestPackets compares what goes over the wire, octet by octet but for the ID.
func TestPackets(t *testing.T) {
	queries := []query{
		{name: "www.example.org."},
		{name: "WWW.Example.org.", size: 1232},
		{name: "www.example.org.", size: 512, qtype: dns.TypeTXT},
		{msg: &dns.Msg{MsgHdr: dns.MsgHdr{CheckingDisabled: true}, Question: []dns.Question{{Name: "x.example.", Qtype: dns.TypeMX, Qclass: dns.ClassINET}}}},
	}
	for _, check := range []string{"", "health_check 10ms no_rec", "health_check 10ms domain Probe.example.org", "health_check 10ms no_rec domain probe.example.org"} {
		var got [2][]string
		for i, name := range []string{"forward", "dnsguard"} {
			addr, packets := capture(t)
			c := &contender{t: t, name: name}
			c.handler = c.build(addr, []string{"read_timeout 100ms", "max_connect_attempts 1", check}, nil)
			if check == "" {
				for _, q := range queries {
					c.ask(t.Context(), q)
				}
				got[i] = packets(len(queries))
				continue
			}
			c.ask(t.Context(), queries[0])
			got[i] = packets(3) // and two health checks
		}
		if slices.Sort(got[0]); !slices.Equal(got[0], sorted(got[1])) {
			t.Errorf("%q:\nforward  sent %q\ndnsguard sent %q", check, got[0], got[1])
		}
	}
}

func sorted(s []string) []string { slices.Sort(s); return s }

// capture is an upstream that says nothing. packets waits for n packets, and returns those that differ.
func capture(t *testing.T) (addr string, packets func(n int) []string) {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	var mu sync.Mutex
	var got []string
	go func() {
		buf := make([]byte, 4096)
		for {
			n, _, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			mu.Lock()
			got = append(got, string(buf[2:n]))
			mu.Unlock()
		}
	}()
	return pc.LocalAddr().String(), func(n int) []string {
		eventually(t, func() error {
			mu.Lock()
			defer mu.Unlock()
			if len(got) < n {
				return fmt.Errorf("%d packets, want %d", len(got), n)
			}
			return nil
		})
		mu.Lock()
		defer mu.Unlock()
		slices.Sort(got)
		return slices.Compact(slices.Clone(got))
	}
}

// TestConnections is about how long connections are kept, and how many.
func TestConnections(t *testing.T) {
	type row struct {
		options []string
		wait    time.Duration // between two queries by TCP
		conns   int
	}
	each(t, map[string]row{
		"kept":            {nil, 50 * ms, 1},
		"expired":         {[]string{"expire 100ms"}, 400 * ms, 3},
		"not expired":     {[]string{"expire 10s"}, 50 * ms, 1},
		"not kept at all": {[]string{"expire 0s"}, 20 * ms, 3},
		"many, one kept":  {[]string{"max_idle_conns 1"}, 50 * ms, 1},
		"old, unlimited":  {[]string{"expire 4s", "max_age 0s"}, 1500 * ms, 1},
		"old, in use":     {[]string{"expire 2500ms", "max_age 2500ms"}, 1500 * ms, 2},
	}, func(t *testing.T, r row) {
		stock, ours := contest(t, setting{servers: pool(1, 0, ""), options: r.options})
		for _, c := range []*contender{stock, ours} {
			for i := range 3 {
				c.ask(t.Context(), query{name: fmt.Sprintf("n%d.example.org.", i), tcp: true})
				<-time.After(r.wait)
			}
			if got := c.up[0].Stats().Conns; got != r.conns {
				t.Errorf("%s: %d connections, want %d", c.name, got, r.conns)
			}
		}
	})
}

// TestIdleConnections is about how many connections remain after many queries at once.
func TestIdleConnections(t *testing.T) {
	for option, kept := range map[string]int{"": 5, "max_idle_conns 2": 2} {
		stock, ours := contest(t, setting{servers: pool(1, 1, "delay 100ms"), options: []string{option}})
		for _, c := range []*contender{stock, ours} {
			burst := func() {
				var wg sync.WaitGroup
				for i := range 5 {
					wg.Go(func() { c.ask(t.Context(), query{name: fmt.Sprintf("n%d.example.org.", i), tcp: true}) })
				}
				wg.Wait()
			}
			burst()
			before := c.up[0].Stats().Conns
			burst()
			if got := c.up[0].Stats().Conns - before; got != 5-kept {
				t.Errorf("%s, %q: %d new connections, want %d", c.name, option, got, 5-kept)
			}
		}
	}
}

// TestClosedIdle is about a connection that the upstream has closed meanwhile: nobody is blamed, and nothing is lost.
func TestClosedIdle(t *testing.T) {
	stock, ours := contest(t, setting{servers: pool(1, 1, "tcp-close-idle 50ms"), options: quick})
	for _, c := range []*contender{stock, ours} {
		for i := range 3 {
			if got := c.ask(t.Context(), query{name: fmt.Sprintf("n%d.example.org.", i), tcp: true}); got.returned != "NOERROR" {
				t.Errorf("%s: %s", c.name, got)
			}
			<-time.After(200 * ms)
		}
	}
	if diff := compareSent(stock, ours); diff != nil {
		t.Error(diff)
	}
	if n := ours.counter("attempts_total"); n != 3 || ours.counter("attempts_total", "outcome=ok") != 3 {
		t.Errorf("%d attempts counted, want 3 that were answered", n)
	}
}

// TestSource is about source_address.
func TestSource(t *testing.T) {
	for _, tcp := range []bool{false, true} {
		stock, ours := contest(t, setting{servers: pool(1, 0, ""), options: []string{"source_address 127.200.0.9"}})
		for _, c := range []*contender{stock, ours} {
			c.ask(t.Context(), query{name: "www.example.org.", tcp: tcp})
			if log := c.up[0].Log(); len(log) != 1 || log[0].From.Addr().String() != "127.200.0.9" {
				t.Errorf("%s: %v", c.name, log)
			}
		}
	}
}

// TestGone is about clients that go away.
func TestGone(t *testing.T) {
	for _, fault := range []string{"", "drop"} {
		stock, ours := contest(t, setting{servers: pool(2, 2, fault), options: append(quick, "policy sequential")})
		var got [2]result
		for i, c := range []*contender{stock, ours} {
			ctx, cancel := context.WithTimeout(t.Context(), 100*ms)
			got[i] = c.ask(ctx, query{name: "www.example.org."})
			cancel()
			<-ctx.Done()
			if r := c.ask(ctx, query{name: "late.example.org."}); r.returned != "SERVFAIL: no healthy proxies" {
				t.Errorf("%s, gone before: %s", c.name, r)
			}
		}
		if got[0] != got[1] {
			t.Errorf("%q: forward %s, dnsguard %s", fault, got[0], got[1])
		}
		if n := ours.counter("observed_queries_total", "verdict=cancelled"); n == 0 {
			t.Errorf("%q: none is counted as cancelled", fault)
		}
	}
}

// TestMetadata is about what other plugins are told.
func TestMetadata(t *testing.T) {
	stock, ours := contest(t, setting{servers: pool(2, 1, closed), options: append(quick, "policy sequential")})
	for _, c := range []*contender{stock, ours} {
		ctx := metadata.ContextWithMetadata(t.Context())
		c.ask(ctx, query{name: "www.example.org."})
		f := metadata.ValueFunc(ctx, "forward/upstream")
		if f == nil {
			t.Fatalf("%s: no metadata", c.name)
		}
		if got := f(); !strings.HasPrefix(got, "127.") || strings.HasSuffix(got, ":5353") {
			t.Errorf("%s: %s, want the second upstream", c.name, got)
		}
	}
}

// TestStop: what is in flight is answered, and nothing stays open.
func TestStop(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ended := make(chan error, 1)
	asked := make(chan struct{})
	go func() {
		conn, err := l.Accept()
		if err != nil {
			ended <- err
			return
		}
		defer conn.Close()
		c := &dns.Conn{Conn: conn}
		q, err := c.ReadMsg()
		if err != nil {
			ended <- err
			return
		}
		close(asked)
		<-time.After(200 * ms)
		ended <- errors.Join(c.WriteMsg(new(dns.Msg).SetReply(q)), untilClosed(conn))
	}()
	c := &contender{t: t, name: "dnsguard"}
	c.handler = c.build(l.Addr().String(), nil, nil)
	done := make(chan result, 1)
	go func() { done <- c.ask(t.Context(), query{name: "www.example.org.", tcp: true}) }()
	<-asked
	c.guard.Stop()
	if r := <-done; r.returned != "NOERROR" || r.reply == "" {
		t.Errorf("in flight: %s", r)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// untilClosed waits until the other end closes.
func untilClosed(conn net.Conn) error {
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil {
		return errors.New("not closed, but more")
	} else if nerr, ok := errors.AsType[net.Error](err); ok && nerr.Timeout() {
		return errors.New("still open")
	}
	return nil
}

var _ plugin.Handler = echo{}
