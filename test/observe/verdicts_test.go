package observe

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/test/fakedns"
)

// TestOutcomes is about what each attempt is counted as.
func TestOutcomes(t *testing.T) {
	type row struct {
		fault string
		want  string
		tcp   bool
	}
	each(t, map[string]row{
		"answered":               {"", "ok", false},
		"denied":                 {"nxdomain", "nxdomain", false},
		"no data":                {"nodata", "nodata", false},
		"refused":                {"refused", "refused", false},
		"SERVFAIL":               {"servfail", "servfail", false},
		"NOTIMP":                 {"notimp", "notimp", false},
		"truncated":              {"truncated", "truncated", false},
		"silent":                 {"drop", "timeout", false},
		"silent by TCP":          {"tcp-hang", "timeout", true},
		"closed":                 {closed, "conn_refused", false},
		"closed by TCP":          {closed, "conn_refused", true},
		"reset":                  {"tcp-reset", "conn_reset", true},
		"hung up":                {"tcp-close-midquery 1", "ok", true}, // by the second query only
		"another question":       {"wrong-question", "mismatched", false},
		"not DNS":                {"corrupt", "truncated", false}, // as which forward passes it on
		"not DNS by TCP":         {"corrupt", "malformed", true},
		"garbage":                {"garbage", "timeout", false}, // with another ID, which forward waits on
		"garbage by TCP":         {"garbage", "malformed", true},
		"more than the datagram": {"big 4000", "truncated", false},
	}, func(t *testing.T, tc row) {
		c := setting{servers: pool(1, 1, tc.fault), options: append(quick, "max_connect_attempts 1")}.contender(t, "dnsguard")
		c.ask(t.Context(), query{name: "www.example.org.", tcp: tc.tcp})
		proto := map[bool]string{false: "proto=udp", true: "proto=tcp"}[tc.tcp]
		eventually(t, func() error { // a time-out is counted by the model's own clock
			all, want := c.counter("attempts_total"), c.counter("attempts_total", "outcome="+tc.want, proto)
			if all != 1 || want != 1 {
				return fmt.Errorf("%d attempts counted, %d of them as %s by %s", all, want, tc.want, proto)
			}
			return nil
		})
	})
}

// ask100 asks for a hundred names, sixteen at a time, and counts the results by code.
func (c *contender) ask100(round int) map[string]int {
	got := make(map[string]int)
	var mu sync.Mutex
	turns := make(chan struct{}, 16)
	var wg sync.WaitGroup
	for i := range 100 {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			r := c.ask(c.t.Context(), query{name: fmt.Sprintf("n%d.example%d.org.", i, round%2)})
			code, _, _ := strings.Cut(r.returned, ":")
			if _, status, ok := strings.Cut(r.reply, "status: "); ok {
				code, _, _ = strings.Cut(status, ",")
			}
			mu.Lock()
			defer mu.Unlock()
			got[code]++
		})
	}
	wg.Wait()
	return got
}

// TestVerdicts: the verdicts point at the one of three upstreams that is bad, and at no other.
func TestVerdicts(t *testing.T) {
	type row struct {
		fault   string
		rcode   string // what clients get of it; "": nothing wrong
		verdict string // on those, or where nothing is wrong on a third of the queries; "": none
		state   string // of the bad one in the end
		log     string // a line has it
	}
	each(t, map[string]row{
		"refuses":       {"refused", "REFUSED", "retried", "healthy", "gone on to another upstream after"},
		"says SERVFAIL": {"servfail", "SERVFAIL", "retried", "ejected", "gone on to another upstream after"},
		"denies":        {"nxdomain", "NXDOMAIN", "disputed", "healthy", "doubted"},
		"is silent":     {"drop", "", "hedged", "ejected", "asked once more for"},
		"is closed":     {closed, "", "", "ejected", "is ejected for 10m"}, // forward goes on by itself, at no cost
		"nothing":       {"", "", "", "healthy", ""},
	}, func(t *testing.T, r row) {
		c := setting{servers: pool(3, 1, r.fault), options: []string{
			"read_timeout 400ms", "health_check 1h", "eject base 10m max 10m",
		}}.contender(t, "dnsguard")
		const rounds = 8
		wrong := 0
		for round := range rounds {
			got := c.ask100(round)
			wrong += got[r.rcode]
			if got["NOERROR"]+got[r.rcode] != 100 {
				t.Fatalf("clients got %v", got)
			}
		}
		if n := c.counter("observed_queries_total"); n != 100*rounds {
			t.Errorf("%d verdicts on %d queries", n, 100*rounds)
		}
		bad := "to=" + c.guard.Snapshot()[0].To
		if r.verdict != "" {
			want := wrong
			if r.rcode == "" {
				want = 100 * rounds / 3
			}
			// A denial is disputed from the second time on that the question is asked.
			if n := c.counter("observed_queries_total", "verdict="+r.verdict, bad); n < want/2 || wrong > 0 && n > wrong {
				t.Errorf("%d %s queries, want %d at the most", n, r.verdict, want)
			}
		}
		for _, verdict := range []string{"retried", "disputed"} {
			all := c.counter("observed_queries_total", "verdict="+verdict)
			if n := c.counter("observed_queries_total", "verdict="+verdict, bad); n != all || verdict != r.verdict && n > 0 {
				t.Errorf("%d %s queries because of the bad upstream, %d in all", n, verdict, all)
			}
		}
		if got := c.guard.Snapshot()[0].State; got != r.state {
			t.Errorf("the bad upstream is %s, want %s", got, r.state)
		}
		for _, s := range c.guard.Snapshot()[1:] {
			if s.State == "ejected" { // a busy machine may make it suspect for a moment
				t.Errorf("a good one is %s: %s", s.State, s.Reason)
			}
		}
		c.guard.Stop()
		c.checkLog(r.log)
	})
}

// checkLog reports where no line of the log has the text, or any line does not say that it was observed.
func (c *contender) checkLog(text string) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	found := text == ""
	for _, line := range c.lines {
		found = found || strings.Contains(line, text)
		if text == "" && strings.Contains(line, "the guard would have") {
			c.t.Errorf("log, though nothing was wrong: %s", line)
		}
		if !strings.HasPrefix(line, "observed: ") {
			c.t.Errorf("log: %s", line)
		}
	}
	if !found {
		c.t.Errorf("log, which is to have %q: %q", text, c.lines)
	}
}

// TestNotForwarded is about queries that a guard answers itself.
func TestNotForwarded(t *testing.T) {
	c := setting{servers: pool(1, 0, ""), options: quick}.contender(t, "dnsguard")
	m := new(dns.Msg).SetQuestion("example.org.", dns.TypeAXFR)
	c.ask(t.Context(), query{msg: m})
	if n := c.counter("observed_queries_total", "verdict=not_forwarded", "to="+c.guard.Snapshot()[0].To); n != 1 {
		t.Errorf("%d verdicts", n)
	}
	if n := c.counter("attempts_total"); n != 0 {
		t.Errorf("%d attempts counted", n)
	}
	if asked(c.up[0]) != 1 {
		t.Error("not forwarded")
	}
}

// TestGuardOptions: the options that forward does not have say what is watched
// for. The first of two upstreams goes wrong once it is known.
func TestGuardOptions(t *testing.T) {
	type row struct {
		fault   string
		option  string
		verdict string // on the last query
		state   string // of the first upstream after it
	}
	each(t, map[string]row{
		"all is well":             {"", "", "same", "healthy"},
		"denied":                  {"nxdomain", "", "verified", "healthy"},
		"denied, trusted":         {"nxdomain", "nxdomain trust", "same", "healthy"},
		"late":                    {"delay 150ms", "", "hedged", "healthy"},
		"late, no budget":         {"delay 150ms", "hedge off", "same", "healthy"},
		"very late, no budget":    {"delay 700ms", "hedge off", "hedged", "healthy"},
		"port closed":             {"refuse-port", "", "other_upstream", "ejected"},
		"port closed, never out":  {"refuse-port", "eject off", "same", "healthy"},
		"port closed, not yet":    {"refuse-port", "eject failures 30", "same", "healthy"},
		"port closed, at once":    {"refuse-port", "eject failures 1", "other_upstream", "ejected"},
		"never out, as forward":   {"refuse-port", "max_fails 0", "same", "healthy"},
		"another's private names": {"", "private_zones example.org at $1", "other_upstream", "healthy"},
		"its private names":       {"", "private_zones example.org at $0", "same", "healthy"},
	}, func(t *testing.T, r row) {
		for try := 1; ; try++ { // a busy machine makes replies late
			got := observeFault(t, r.fault, r.option, r.verdict)
			if want := r.verdict + ", " + r.state; got == want {
				return
			} else if try == tries {
				t.Errorf("the last query is %s, want %s", got, want)
				return
			}
		}
	})
}

// observeFault brings a fault on the first of two upstreams, and returns the
// given verdict if that is the one on the last query, and the state of the upstream.
func observeFault(t *testing.T, fault, option, verdict string) string {
	t.Helper()
	c := setting{servers: pool(2, 0, ""), options: []string{
		"health_check 1h", "policy sequential", "read_timeout 2s", option,
	}}.contender(t, "dnsguard")
	ask := func(i int) { c.ask(t.Context(), query{name: fmt.Sprintf("n%d.example.org.", i)}) }
	for i := range 20 {
		ask(i)
	}
	if fault != "" {
		f, err := fakedns.ParseFault(fault)
		if err != nil {
			t.Fatal(err)
		}
		c.up[0].Set(f)
	}
	if fault == "refuse-port" {
		c.waitClosed(0)
	}
	if !strings.HasPrefix(fault, "delay") { // what is late again and again is not later than usual
		for i := range 6 {
			ask(100 + i)
		}
	}
	before := c.counter("observed_queries_total", "verdict="+verdict)
	ask(200)
	if c.counter("observed_queries_total", "verdict="+verdict) != before+1 {
		verdict = "something else"
	}
	return verdict + ", " + c.guard.Snapshot()[0].State
}
