package forwarder

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/upstream"
	"github.com/dnsguard/dnsguard/plugin/zones"
)

// nx denies every name in 10 ms, nodata every type.
var (
	nx      = says(outcome.NXDomain, 10*ms)
	nodata  = says(outcome.NoData, 10*ms)
	refuses = says(outcome.Refused, 10*ms)
)

// TestDenial holds which denial is passed on, and after how long, where nothing is known of the zone.
func TestDenial(t *testing.T) {
	for name, tc := range map[string]struct {
		does   []behaviour
		want   outcome.Kind
		by     int
		within [2]time.Duration
		most   []int // queries, at least one each; a late verifier is asked again
	}{
		"a positive answer wins":         {[]behaviour{nx, good}, outcome.OK, 1, [2]time.Duration{20 * ms, 20 * ms}, []int{1, 1}},
		"over NODATA too":                {[]behaviour{nodata, good}, outcome.OK, 1, [2]time.Duration{20 * ms, 20 * ms}, []int{1, 1}},
		"and over two":                   {[]behaviour{nx, nx, says(outcome.OK, 30*ms)}, outcome.OK, 2, [2]time.Duration{40 * ms, 40 * ms}, []int{1, 1, 3}},
		"all deny":                       {[]behaviour{nx, nx, nx}, outcome.NXDomain, 0, [2]time.Duration{20 * ms, 20 * ms}, []int{1, 1, 1}},
		"the name exists":                {[]behaviour{nx, nodata}, outcome.NoData, 1, [2]time.Duration{20 * ms, 20 * ms}, []int{1, 1}},
		"the name exists, the other way": {[]behaviour{nodata, nx}, outcome.NoData, 0, [2]time.Duration{20 * ms, 20 * ms}, []int{1, 1}},
		"the other refuses":              {[]behaviour{nx, refuses}, outcome.NXDomain, 0, [2]time.Duration{20 * ms, 20 * ms}, []int{1, 1}},
		"the first refuses":              {[]behaviour{refuses, nx}, outcome.NXDomain, 1, [2]time.Duration{20 * ms, 20 * ms}, []int{1, 1}},
		"the other fails":                {[]behaviour{nx, says(outcome.ServFail, ms)}, outcome.NXDomain, 0, [2]time.Duration{11 * ms, 11 * ms}, []int{1, 1}},
		"the other's port is closed":     {[]behaviour{nx, says(outcome.ConnRefused, 0)}, outcome.NXDomain, 0, [2]time.Duration{10 * ms, 10 * ms}, []int{1, 1}},
		"the other is silent":            {[]behaviour{nx, silent}, outcome.NXDomain, 0, [2]time.Duration{100 * ms, 300 * ms}, []int{1, 3}},
		"the other is slow":              {[]behaviour{nx, says(outcome.OK, 150*ms)}, outcome.OK, 1, [2]time.Duration{160 * ms, 160 * ms}, []int{1, 3}},
		"alone":                          {[]behaviour{nx}, outcome.NXDomain, 0, [2]time.Duration{10 * ms, 10 * ms}, []int{1}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, r *rig) {
				a, took := r.ask(request("www.example.org."))
				if a.Kind != tc.want || a.Upstream != to(tc.by) || took < tc.within[0] || took > tc.within[1] {
					t.Errorf("%+v after %s, want %s of upstream %d within %v", a, took, tc.want, tc.by, tc.within)
				}
				for i, n := range r.counts() {
					if n < 1 || n > tc.most[i] {
						t.Errorf("upstream %d was asked %d times, want at most %d", i, n, tc.most[i])
					}
				}
				wantDisputed := 0
				if tc.want == outcome.OK {
					wantDisputed = len(tc.does) - 1 // all that are asked before the one that answers deny
				}
				if r.disputed != wantDisputed || r.deniers[to(tc.by)] != 0 {
					t.Errorf("%d disputes (%v), want %d, none of the winner's denials", r.disputed, r.deniers, wantDisputed)
				}
			}, tc.does...)
		})
	}
}

// TestDisputedLate holds whose denial counts as disputed where the other reply comes after the client has been answered.
func TestDisputedLate(t *testing.T) {
	for name, tc := range map[string]struct {
		does []behaviour
		want map[string]int
	}{
		"the denial is late":          {[]behaviour{says(outcome.NXDomain, 60*ms), good}, map[string]int{to(0): 1}},
		"the answer comes thrice":     {[]behaviour{nx, says(outcome.OK, 700*ms)}, map[string]int{to(0): 1}},
		"a denial comes once more":    {[]behaviour{nx, says(outcome.NXDomain, 150*ms), says(outcome.OK, 155*ms)}, map[string]int{to(0): 1, to(1): 1}},
		"a denial that nobody doubts": {[]behaviour{nx, says(outcome.NXDomain, 700*ms)}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, r *rig) {
				r.ask(request("www.example.org."))
				r.pause(time.Second)
				if !maps.Equal(r.deniers, tc.want) {
					t.Errorf("disputed %v, want %v", r.deniers, tc.want)
				}
			}, tc.does...)
		})
	}
}

// TestNameExists holds that a server which is wrong about most names is believed
// where it says that one exists, until it has said so of names of others.
func TestNameExists(t *testing.T) {
	public := within("corp.test.", nx, good)
	for name, tc := range map[string]struct {
		internal behaviour
		want     outcome.Kind
	}{
		"denies other names": {within("corp.test.", nodata, nx), outcome.NoData},
		"denies no name":     {nodata, outcome.NXDomain},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, r *rig) {
				for _, zone := range []string{"example.org.", "example.com.", "example.net."} {
					r.ask(request("www." + zone))
				}
				for i := range 40 {
					if a, _ := r.ask(request(fmt.Sprintf("n%d.corp.test.", i))); a.Kind != tc.want {
						t.Fatalf("query %d: %+v, want %s", i, a, tc.want)
					}
				}
			}, tc.internal, public)
		})
	}
}

// TestVerifiersByTCP holds that the denial of a server which is known to be wrong
// is checked by TCP where those who are right do not answer by UDP.
func TestVerifiersByTCP(t *testing.T) {
	for name, udp := range map[string]behaviour{"refused": says(outcome.ConnRefused, 0), "silent": silent} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, r *rig) {
				for i := range 5 {
					r.ask(request(fmt.Sprintf("n%d.example.org.", i)))
				}
				r.servers[1].set(byTCP(good, udp))
				if a, took := r.ask(request("www.example.org.")); a.Kind != outcome.OK || took > 100*ms {
					t.Errorf("%+v after %s", a, took)
				}
			}, nx, good)
		})
	}
}

// TestVerifiersThatKnow holds that the attempts there are go to those first who
// know the zone, where a denial is no use without them.
func TestVerifiersThatKnow(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.ask(request("www.example.org."))
		w := newWalk(r.f)
		w.req = request("mail.example.org.")
		w.held.verify = zones.Of(0) | zones.Of(1) | zones.Of(2)
		for credible, want := range map[bool][2]zones.Set{
			true:  {0, w.held.verify},
			false: {zones.Of(2), zones.Of(0) | zones.Of(1)},
		} {
			if w.held.credible = credible; w.verifiers(time.Now()) != want {
				t.Errorf("credible %t: %b, want %b", credible, w.verifiers(time.Now()), want)
			}
		}
	}, nx, nodata, good)
}

func TestDenialTrusted(t *testing.T) {
	inBubble(t, func(c *Config) { c.Trust = true }, func(t *testing.T, r *rig) {
		for i := range 5 {
			if a, _ := r.ask(request(fmt.Sprintf("n%d.example.org.", i))); a.Kind != outcome.NXDomain {
				t.Errorf("%+v", a)
			}
		}
		if got := r.counts(); !slices.Equal(got, []int{5, 0}) {
			t.Errorf("asked %v", got)
		}
	}, nx, good)
}

// TestDisputeLearned holds that names of a zone go to who is right there, and other names to the first as ever.
func TestDisputeLearned(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.ask(request("www.example.org."))
		r.counts()
		for i := range 50 {
			if a, took := r.ask(request(fmt.Sprintf("n%d.example.org.", i))); a.Kind != outcome.OK || took != 10*ms {
				t.Fatalf("%+v after %s", a, took)
			}
		}
		if got := r.counts(); got[0] != 0 || got[1] != 50 {
			t.Errorf("asked %v, want the one that is right", got)
		}
		if a, _ := r.ask(request("db.corp.test.")); a.Kind != outcome.OK || a.Upstream != to(0) {
			t.Errorf("%+v, want the first, which is right elsewhere", a)
		}
	}, within("example.org.", nx, good), good)
}

// TestAgreement holds that denials on which the pool agrees cost one query each, but for a sample.
func TestAgreement(t *testing.T) {
	for _, does := range []behaviour{nx, nodata} {
		inBubble(t, nil, func(t *testing.T, r *rig) {
			for i := range 10 {
				r.ask(request(fmt.Sprintf("n%d.example.org.", i)))
			}
			r.counts()
			const n = 1000
			for i := range n {
				if a, took := r.ask(request(fmt.Sprintf("m%d.example.org.", i))); !a.Kind.Denied() || took > 30*ms {
					t.Fatalf("%+v after %s", a, took)
				}
			}
			got := r.counts()
			if sum := got[0] + got[1] + got[2]; sum < n+2*n/50-5 || sum > n*11/10 {
				t.Errorf("asked %v for %d queries, want one each and a sample of one in 50", got, n)
			}
		}, does, does, does)
	}
}

// TestWrongIsNotBelieved holds that an upstream which is known to be wrong in a zone is not believed while the right one cannot be reached.
func TestWrongIsNotBelieved(t *testing.T) {
	for name, away := range map[string]behaviour{"silent": silent, "SERVFAIL": says(outcome.ServFail, ms), "closed": says(outcome.ConnRefused, 0)} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, r *rig) {
				if a, _ := r.ask(request("www.example.org.")); a.Kind != outcome.OK {
					t.Fatalf("%+v", a)
				}
				r.servers[1].set(away)
				for i := range 20 {
					a, took := r.ask(request(fmt.Sprintf("n%d.example.org.", i)))
					if a.Msg != nil && a.Msg.Rcode != dns.RcodeServerFailure || took > 2500*ms || a.EDE.Text == "" {
						t.Fatalf("query %d: %+v after %s, want a failure", i, a, took)
					}
				}
			}, nx, good)
		})
	}
}

// TestRefuserStays holds that a resolver which refuses the names of others stays in the pool: it is the only one for its own zone.
func TestRefuserStays(t *testing.T) {
	for name, public := range map[string]behaviour{"others answer": good, "others deny": nx} {
		for kind, own := range map[string]behaviour{"refuses": refuses, "denies": nx} {
			t.Run(kind+", "+name, func(t *testing.T) {
				inBubble(t, nil, func(t *testing.T, r *rig) {
					for i := range 300 {
						r.ask(request(fmt.Sprintf("www.example%d.org.", i)))
						r.pause(10 * ms)
						if s := r.ups[0].State(); s != upstream.Healthy {
							t.Fatalf("%s after %d queries: %s", s, i+1, r.ups[0].Snapshot().Reason)
						}
					}
					for i := range 20 {
						if a, _ := r.ask(request(fmt.Sprintf("n%d.corp.test.", i))); a.Kind != outcome.OK || a.Upstream != to(0) {
							t.Fatalf("%+v, want the answer of the only one that knows", a)
						}
					}
				}, within("corp.test.", good, own), within("corp.test.", nx, public))
			})
		}
	}
}

// TestSplitHorizon holds that names which only one of two upstreams knows are all found.
func TestSplitHorizon(t *testing.T) {
	knows := func(parity byte) behaviour {
		return func(m *dns.Msg, o exchange.Options) (exchange.Reply, time.Duration) {
			if m.Question[0].Name[0]%2 == parity {
				return good(m, o)
			}
			return nx(m, o)
		}
	}
	inBubble(t, nil, func(t *testing.T, r *rig) {
		for i := range 200 {
			name := string(rune('a'+i%26)) + fmt.Sprintf("%d.example.org.", i/26)
			if a, _ := r.ask(request(name)); a.Kind != outcome.OK {
				t.Fatalf("query %d, %s: %+v", i, name, a)
			}
		}
	}, knows(0), knows(1))
}

// TestPrivateZones holds that nobody but those named is asked for a private name, whatever happens.
func TestPrivateZones(t *testing.T) {
	private := func(at zones.Set) func(c *Config) {
		return func(c *Config) { c.Private, c.Hedge = []PrivateZone{{"test.", 1}, {"corp.test.", at}}, 1 }
	}
	third := zones.Of(2)
	for name, does := range map[string]behaviour{
		"answers": good, "denies": nx, "no data": nodata, "refuses": refuses, "fails": says(outcome.ServFail, ms), "silent": silent,
		"closed": says(outcome.ConnRefused, 0), "no EDNS": says(outcome.FormErr, ms), "truncated": says(outcome.Truncated, ms), "host": says(outcome.Local, 0),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, private(third), func(t *testing.T, r *rig) {
				for i := range 30 {
					r.pause(300 * ms) // so that trials are due
					r.ask(request(fmt.Sprintf("n%d.corp.test.", i)))
				}
				if got := r.counts(); got[0] != 0 || got[1] != 0 || got[2] == 0 {
					t.Errorf("asked %v, want the third alone", got)
				}
				r.ask(request("www.example.org."))
				r.ask(request("www.notcorp.test."))
				if got := r.counts(); got[0] < 2 {
					t.Errorf("asked %v for other names", got)
				}
			}, good, good, does)
		})
	}
	inBubble(t, private(0), func(t *testing.T, r *rig) {
		if a, _ := r.ask(request("corp.test.")); a.Msg != nil || a.Kind != outcome.Refused || !slices.Equal(r.counts(), []int{0}) {
			t.Errorf("%+v, want nobody asked", a)
		}
	}, good)
}

// TestTruncated holds when a truncated reply is passed on, and when more is fetched by TCP.
func TestTruncated(t *testing.T) {
	cut := says(outcome.Truncated, 5*ms)
	bare := func(m *dns.Msg, o exchange.Options) (exchange.Reply, time.Duration) {
		r, d := cut(m, o)
		r.Msg.Extra = nil // the server does not speak EDNS
		return r, d
	}
	size := func(n uint16) func(q *Request) { return func(q *Request) { q.Key.Size = n } }
	stream := func(q *Request) { q.Key.Stream, q.Key.Size = true, 0 }
	const name = "www.example.org."
	for what, tc := range map[string]struct {
		change func(c *Config)
		q      func(q *Request)
		does   behaviour
		want   outcome.Kind
		asked  []string
	}{
		"passed on":                       {nil, size(1232), byTCP(good, cut), outcome.Truncated, []string{name}},
		"passed on, small buffer":         {nil, size(512), byTCP(good, bare), outcome.Truncated, []string{name}},
		"the client has a larger buffer":  {nil, size(4096), byTCP(good, cut), outcome.OK, []string{name, name + " tcp"}},
		"the upstream had no EDNS":        {nil, size(1232), byTCP(good, bare), outcome.OK, []string{name, name + " tcp"}},
		"the client came by TCP":          {nil, stream, byTCP(good, cut), outcome.OK, []string{name + " tcp"}},
		"TCP client, UDP preferred":       {func(c *Config) { c.PreferUDP = true }, stream, byTCP(good, cut), outcome.OK, []string{name, name + " tcp"}},
		"UDP client, UDP preferred":       {func(c *Config) { c.PreferUDP = true }, size(1232), byTCP(good, cut), outcome.OK, []string{name, name + " tcp"}},
		"UDP client, TCP forced":          {func(c *Config) { c.ForceTCP = true }, size(512), byTCP(good, cut), outcome.OK, []string{name + " tcp"}},
		"TCP forced, UDP preferred":       {func(c *Config) { c.ForceTCP, c.PreferUDP = true, true }, size(512), byTCP(good, cut), outcome.OK, []string{name + " tcp"}},
		"TCP does not work":               {nil, size(4096), byTCP(says(outcome.ConnRefused, 0), cut), outcome.Truncated, []string{name, name + " tcp"}},
		"a failure by TCP, cut is better": {nil, size(4096), byTCP(says(outcome.ServFail, ms), cut), outcome.Truncated, []string{name, name + " tcp"}},
	} {
		t.Run(what, func(t *testing.T) {
			inBubble(t, tc.change, func(t *testing.T, r *rig) {
				q := request(name)
				tc.q(q)
				a, _ := r.ask(q)
				if got := r.servers[0].got(); a.Kind != tc.want || !slices.Equal(got, tc.asked) {
					t.Errorf("%+v, asked %q; want %s, %q", a, got, tc.want, tc.asked)
				}
			}, tc.does)
		})
	}
}

// TestEDNS holds that an upstream which does not cope with EDNS is asked without, and from then on at once.
func TestEDNS(t *testing.T) {
	for _, k := range []outcome.Kind{outcome.FormErr, outcome.NotImp, outcome.BadVers} {
		inBubble(t, nil, func(t *testing.T, r *rig) {
			for i, want := range [][]string{{"n0.test.", "n0.test. plain"}, {"n1.test. plain"}, {"n2.test. plain"}} {
				a, _ := r.ask(request(fmt.Sprintf("n%d.test.", i)))
				if got := r.servers[0].got(); a.Kind != outcome.OK || !slices.Equal(got, want) {
					t.Errorf("%s: %+v, asked %q, want %q", k, a, got, want)
				}
			}
		}, func(m *dns.Msg, o exchange.Options) (exchange.Reply, time.Duration) {
			if o.NoEDNS {
				return good(m, o)
			}
			return says(k, ms)(m, o)
		})
	}
	// SERVFAIL with EDNS and without is no matter of EDNS.
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.ask(request("n0.test."))
		if got := r.servers[0].got(); !slices.Equal(got, []string{"n0.test."}) {
			t.Errorf("asked %q", got)
		}
	}, says(outcome.ServFail, ms))
}

// TestDistrust holds that an upstream is asked by TCP for a while where datagrams are no proof of who sent them: forged replies come, or it
// wants cookies.
func TestDistrust(t *testing.T) {
	cut := func(m *dns.Msg, o exchange.Options) (exchange.Reply, time.Duration) {
		r, d := refuses(m, o)
		r.Msg.Truncated = true
		return r, d
	}
	byBoth := [][]string{{"n0.test.", "n0.test. tcp"}, {"n1.test. tcp"}}
	for name, tc := range map[string]struct {
		does behaviour
		k    outcome.Kind
		want [][]string
	}{
		"forgeries":              {byTCP(good, says(outcome.Mismatched, ms)), outcome.OK, byBoth},
		"BADCOOKIE":              {byTCP(good, says(outcome.BadCookie, ms)), outcome.OK, byBoth},
		"REFUSED with TC":        {byTCP(good, cut), outcome.OK, byBoth},
		"REFUSED":                {byTCP(good, refuses), outcome.Refused, [][]string{{"n0.test."}, {"n1.test."}}},
		"REFUSED with TC by TCP": {cut, outcome.Refused, byBoth},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, r *rig) {
				for i, want := range tc.want {
					a, _ := r.ask(request(fmt.Sprintf("n%d.test.", i)))
					if got := r.servers[0].got(); a.Kind != tc.k || !slices.Equal(got, want) {
						t.Errorf("%+v, asked %q, want %q", a, got, want)
					}
				}
				r.pause(30 * time.Second)
				r.servers[0].set(good)
				r.ask(request("n2.test."))
				if got := r.servers[0].got(); !slices.Equal(got, []string{"n2.test."}) {
					t.Errorf("asked %q half a minute later", got)
				}
			}, tc.does)
		})
	}
}

// TestOwnHop holds that complaints about our own EDNS or cookies are not passed on to clients.
func TestOwnHop(t *testing.T) {
	for _, k := range []outcome.Kind{outcome.BadVers, outcome.BadCookie} {
		for _, most := range []int{0, 1} {
			inBubble(t, func(c *Config) { c.MaxAttempts = most }, func(t *testing.T, r *rig) {
				if a, _ := r.ask(request("n0.test.")); a.Msg != nil || a.EDE.Text == "" {
					t.Errorf("%s, at most %d attempts: %+v, want a failure of ours", k, most, a)
				}
			}, says(k, ms))
		}
	}
}
