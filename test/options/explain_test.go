package options

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/test/fakedns"
)

// told is one text of an explanation, by its keys.
type told map[string]string

// explain asks the first directive about its upstreams, or about a name.
func (l *lab) explain(about string) []told {
	l.t.Helper()
	r := l.ask(query{name: about + "upstreams.dnsguard.", qtype: dns.TypeTXT, class: dns.ClassCHAOS, tcp: true})
	if r.rcode() != "NOERROR" || r.took != 0 {
		l.t.Fatalf("%s: %s after %s", about, r.rcode(), r.took)
	}
	var all []told
	for _, rr := range r.msg.Answer {
		one := make(told)
		for _, pair := range rr.(*dns.TXT).Txt {
			key, value, ok := strings.Cut(pair, "=")
			if _, twice := one[key]; !ok || twice {
				l.t.Errorf("%q in %v", pair, rr)
			}
			one[key] = value
		}
		all = append(all, one)
	}
	return all
}

// TestExplain is about who may ask.
func TestExplain(t *testing.T) {
	for option, want := range map[string]string{
		"":                           "REFUSED", // the client is 10.1.0.1
		"explain to 10.1.0.1":        "NOERROR",
		"explain to ::/0 10.0.0.0/8": "NOERROR",
		"explain to 10.1.0.2/31":     "REFUSED",
		"explain off":                "NXDOMAIN", // said by the upstream
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, &fakedns.Server{RTT: ms}, server(ms))
			l.corefile(directive("10.0.0.1", option))
			l.settle()
			r := l.ask(query{name: "upstreams.dnsguard.", qtype: dns.TypeTXT, class: dns.ClassCHAOS})
			if n := asked(l.up[0]); r.rcode() != want || (n > 0) != (option == "explain off") {
				t.Errorf("%q: %s, the upstream was asked %d times; want %s", option, r.rcode(), n, want)
			}
		})
	}
}

// TestExplainStates follows an upstream that dies and comes back.
func TestExplainStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, server(10*ms), server(20*ms))
		l.corefile(directive("10.0.0.1 10.0.0.2", "explain to 10.1.0.0/16"))
		began := time.Now()
		want := func(when string, i int, keys told) {
			t.Helper()
			got := l.explain("")[i]
			for k, v := range keys {
				if got[k] != v {
					t.Errorf("%s: upstream %d has %s=%q, want %q; %v", when, i, k, got[k], v, got)
				}
			}
		}
		want("at the start", 0, told{"from": ".", "to": "10.0.0.1:53", "transport": "dns", "state": "unknown", "for": "0s", "last_reply": "never", "attempts_1m": "0", "directive": "", "share": "", "reason": ""})
		l.settle()
		for i := range 200 {
			l.a(fmt.Sprintf("n%d.example.org.", i))
		}
		want("healthy", 0, told{"state": "healthy", "srtt": "10ms", "expected": "10ms", "loss": "0.0%", "since": began.Add(510 * ms).UTC().Format(time.RFC3339), "reason": "", "ejections": ""})
		first, second := l.explain("")[0], l.explain("")[1]
		if first["share"] < "95.0%" || first["share"] > "99.9%" || first["attempts_1m"] != "200" || second["attempts_1m"] == "0" {
			t.Errorf("shares %s and %s, of %s and %s attempts; the second gets trials alone", first["share"], second["share"], first["attempts_1m"], second["attempts_1m"])
		}
		fail(l.up[0], "refuse-port")
		for i := range 100 {
			l.a(fmt.Sprintf("m%d.example.org.", i))
		}
		want("dead", 0, told{"state": "ejected", "reason": "conn_refused: 5 failures in a row", "ejections": "1"})
		want("dead", 1, told{"state": "healthy"})
		if got := l.explain("www.example.org."); got[0]["first"] != "10.0.0.2:53" || got[2]["rank"] != "out" || got[2]["order"] != "2" || got[2]["why"] != "ejected: conn_refused: 5 failures in a row" {
			t.Errorf("a name while one is dead: %v", got)
		}
		fail(l.up[0])
		for i := range 600 {
			l.a(fmt.Sprintf("k%d.example.org.", i))
		}
		want("back", 0, told{"state": "healthy", "reason": "", "until": ""})
	})
}

// TestExplainZones is about an internal and a public upstream, and what is learned of them.
func TestExplainZones(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		internal := &fakedns.Server{Zones: []string{"corp.example."}, RTT: 5 * ms}
		public := &fakedns.Server{Zones: []string{"."}, Except: []string{"corp.example."}, RTT: 20 * ms}
		l := newLab(t, internal, public)
		l.corefile(directive("10.0.0.1 10.0.0.2", "explain to 10.1.0.1", "private_zones corp.test lab.corp.test at 10.0.0.1"))
		l.settle()
		for i := range 4 {
			l.a(fmt.Sprintf("n%d.example.org.", i))
		}
		learned := time.Now()
		for _, s := range l.up {
			s.Reset()
		}
		got := l.explain("WWW.Example.org.")
		want := []told{
			{"from": ".", "name": "www.example.org.", "forwarded": "yes", "first": "10.0.0.2:53", "policy": "adaptive", "zone": "example.org."},
			{"order": "1", "to": "10.0.0.2:53", "rank": "fit", "credibility": "good", "why": "has answered in example.org."},
			{"order": "2", "to": "10.0.0.1:53", "rank": "unfit", "credibility": "bad", "why": "has denied in example.org. what another one answered", "expected": "5ms"},
		}
		for i, keys := range want {
			for k, v := range keys {
				if got[i][k] != v {
					t.Errorf("text %d has %s=%q, want %q", i, k, got[i][k], v)
				}
			}
		}
		until, err := time.Parse(time.RFC3339, got[0]["zone_until"])
		if left := until.Sub(learned); err != nil || left < 14*time.Minute || left > 15*time.Minute {
			t.Errorf("known until %q", got[0]["zone_until"])
		}
		got = l.explain("db.lab.corp.test.")
		if len(got) != 3 || got[0]["private_zone"] != "lab.corp.test." || got[0]["first"] != "10.0.0.1:53" || got[2]["order"] != "never" || got[2]["to"] != "10.0.0.2:53" {
			t.Errorf("a private name: %v", got)
		}
		if got := l.explain(`\..`); got[0]["name"] != "." || got[0]["first"] != "10.0.0.1:53" {
			t.Errorf("the root: %v", got)
		}
		time.Sleep(16 * time.Minute)
		if got := l.explain("www.example.org."); got[0]["zone"] != "" || got[1]["credibility"] != "" {
			t.Errorf("16 minutes later: %v", got)
		}
		if asked(internal)+asked(public) != 0 {
			t.Errorf("%d and %d queries were sent", asked(internal), asked(public))
		}
	})
}

// TestExplainedFirst holds that who is said to be asked first is asked first, whatever the policy, and that asking does not change who that is.
func TestExplainedFirst(t *testing.T) {
	for _, policy := range []string{"adaptive", "random", "round_robin", "sequential"} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, server(10*ms), server(10*ms), server(10*ms), server(40*ms))
			l.corefile(directive("10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4", "explain to 10.1.0.1", "policy "+policy, "hedge off"))
			l.settle()
			for i := range 40 {
				l.a(fmt.Sprintf("w%d.example.org.", i))
			}
			firsts := make(map[string]bool)
			for i := range 30 {
				name := fmt.Sprintf("n%d.example.org.", i)
				for range 3 {
					l.explain(name)
				}
				foretold := strings.Split(l.explain(name)[0]["first"], ",")
				l.a(name)
				var first string
				var at time.Duration
				for _, s := range l.up {
					for _, q := range queries(s, name) {
						if first == "" || q.At < at {
							first, at = s.Name, q.At
						}
					}
				}
				if !slices.Contains(foretold, first) {
					t.Errorf("%s: %s was asked first, foretold %v", policy, first, foretold)
				}
				firsts[first] = true
			}
			if want := map[string]int{"adaptive": 3, "random": 4, "round_robin": 4, "sequential": 1}[policy]; len(firsts) != want {
				t.Errorf("%s: %v were asked first, want %d of them", policy, firsts, want)
			}
		})
	}
}
