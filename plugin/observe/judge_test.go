package observe

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/forwarder"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/selector"
	"github.com/dnsguard/dnsguard/plugin/zones"
)

const (
	name  = "www.example.org."
	other = "mail.example.org."
)

func trust(c *forwarder.Config)     { c.Trust = true }
func noBudget(c *forwarder.Config)  { c.Hedge = 0 }
func keepFirst(c *forwarder.Config) { c.Policy, _ = selector.New("sequential") }
func atRandom(c *forwarder.Config)  { c.Policy, _ = selector.New("random") }

// private keeps the names in corp.example for upstream 0.
func private(c *forwarder.Config) {
	c.Private = []forwarder.PrivateZone{{Zone: "corp.example.", At: zones.Of(0)}}
}

// secret keeps those in example.org for nobody.
func secret(c *forwarder.Config) { c.Private = []forwarder.PrivateZone{{Zone: "example.org."}} }

// TestVerdicts asks one query of a settled pool of three, all 10 ms away, after what went before.
func TestVerdicts(t *testing.T) {
	type query struct {
		name  string
		steps []step
	}
	ok := func(i int) step { return step{i, outcome.OK, 10 * ms} }
	says := func(i int, k outcome.Kind) step { return step{i, k, 10 * ms} }
	one := func(name string, steps ...step) query { return query{name, steps} }
	for title, tc := range map[string]struct {
		before []query
		last   query
		want   string // verdict, upstream, kind
		change []func(*forwarder.Config)
	}{
		"answered":                     {nil, one(name, ok(1)), "same 1 ok", nil},
		"truncated":                    {nil, one(name, says(1, outcome.Truncated)), "same 1 truncated", nil},
		"no attempt":                   {nil, one(name), "hopeless -1 unknown", nil},
		"refused":                      {nil, one(name, says(1, outcome.Refused)), "retried 1 refused", nil},
		"SERVFAIL":                     {nil, one(name, says(1, outcome.ServFail)), "retried 1 servfail", nil},
		"malformed":                    {nil, one(name, says(1, outcome.Malformed)), "retried 1 malformed", nil},
		"of another question":          {nil, one(name, says(1, outcome.Mismatched)), "retried 1 mismatched", nil},
		"no descriptors":               {nil, one(name, says(1, outcome.Local)), "hopeless -1 local", nil},
		"cancelled":                    {nil, one(name, says(1, outcome.Cancelled)), "cancelled 1 cancelled", nil},
		"refused, then answered":       {nil, one(name, says(1, outcome.Refused), ok(0)), "same 0 ok", nil},
		"port closed, then answered":   {nil, one(name, step{1, outcome.ConnRefused, ms}, ok(0)), "same 0 ok", nil},
		"silent, then answered":        {nil, one(name, step{1, outcome.Timeout, readTimeout}, ok(0)), "hedged 1 timeout", nil},
		"all silent":                   {nil, one(name, step{1, outcome.Timeout, readTimeout}, step{0, outcome.Timeout, readTimeout}, step{2, outcome.Timeout, readTimeout}), "hopeless 2 timeout", nil},
		"two of three silent":          {nil, one(name, step{1, outcome.Timeout, readTimeout}, step{0, outcome.Timeout, readTimeout}), "retried 0 timeout", nil},
		"late":                         {nil, one(name, step{1, outcome.OK, 100 * ms}), "hedged 1 ok", nil},
		"late, no budget":              {nil, one(name, step{1, outcome.OK, 100 * ms}), "same 1 ok", []func(*forwarder.Config){noBudget}},
		"very late, no budget":         {nil, one(name, step{1, outcome.OK, 300 * ms}), "hedged 1 ok", []func(*forwarder.Config){noBudget}},
		"the second late":              {nil, one(name, says(1, outcome.Refused), step{0, outcome.OK, 100 * ms}), "hedged 0 ok", nil},
		"denied":                       {nil, one(name, says(1, outcome.NXDomain)), "verified 1 nxdomain", nil},
		"denied by NODATA":             {nil, one(name, says(1, outcome.NoData)), "verified 1 nodata", nil},
		"denied, and trusted":          {nil, one(name, says(1, outcome.NXDomain)), "same 1 nxdomain", []func(*forwarder.Config){trust}},
		"denied late":                  {nil, one(name, step{1, outcome.NXDomain, 300 * ms}), "hedged 1 nxdomain", nil},
		"not the first in order":       {nil, one(name, ok(1)), "other_upstream 1 ok", []func(*forwarder.Config){keepFirst}},
		"the first in order":           {nil, one(name, ok(0)), "same 0 ok", []func(*forwarder.Config){keepFirst}},
		"answered before by another":   {[]query{one(name, ok(0))}, one(name, says(1, outcome.NXDomain)), "disputed 1 nxdomain", nil},
		"answered before by itself":    {[]query{one(name, ok(1))}, one(name, says(1, outcome.NXDomain)), "verified 1 nxdomain", nil},
		"contradicted, trusted":        {[]query{one(name, ok(0))}, one(name, says(1, outcome.NXDomain)), "same 1 nxdomain", []func(*forwarder.Config){trust}},
		"wrong in the zone":            {[]query{one(other, says(1, outcome.NXDomain)), one(other, ok(0))}, one(name, says(1, outcome.NXDomain)), "disputed 1 nxdomain", nil},
		"others wrong in the zone":     {[]query{one(other, says(1, outcome.NXDomain)), one(other, ok(0))}, one(name, ok(0)), "same 0 ok", nil},
		"answered by a wrong one":      {[]query{one(other, says(1, outcome.NXDomain)), one(other, ok(0))}, one(name, ok(1)), "other_upstream 1 ok", nil},
		"answered by one not heard":    {[]query{one(other, says(1, outcome.NXDomain)), one(other, ok(0))}, one(name, ok(2)), "same 2 ok", nil},
		"refuses the zone":             {[]query{one(other, says(1, outcome.Refused)), one(other, ok(0))}, one(name, ok(1)), "other_upstream 1 ok", nil},
		"all fail it":                  {[]query{one(name, says(0, outcome.ServFail)), one(name, says(2, outcome.ServFail))}, one(name, says(1, outcome.ServFail)), "hopeless 1 servfail", nil},
		"all but one fail it":          {[]query{one(name, says(0, outcome.ServFail))}, one(name, says(1, outcome.ServFail)), "retried 1 servfail", nil},
		"others fail another name":     {[]query{one(other, says(0, outcome.ServFail)), one(other, says(2, outcome.ServFail))}, one(name, says(1, outcome.ServFail)), "retried 1 servfail", nil},
		"private, asked of a stranger": {nil, one("www.corp.example.", ok(1)), "other_upstream 1 ok", []func(*forwarder.Config){private}},
		"private, denied by it":        {nil, one("www.corp.example.", says(1, outcome.NXDomain)), "disputed 1 nxdomain", []func(*forwarder.Config){private}},
		"private, refused by it":       {nil, one("www.corp.example.", says(1, outcome.Refused)), "retried 1 refused", []func(*forwarder.Config){private}},
		"private, nobody to ask":       {nil, one(name, ok(1)), "not_forwarded 1 ok", []func(*forwarder.Config){secret}},
	} {
		t.Run(title, func(t *testing.T) {
			bubble(t, 3, func(t *testing.T, r *rig) {
				for _, q := range tc.before {
					r.ask(q.name, "", q.steps...)
					pause(time.Second)
				}
				f := r.ask(tc.last.name, "", tc.last.steps...)
				if got := fmt.Sprint(f.Verdict, " ", f.By, " ", f.Kind); got != tc.want {
					t.Errorf("%s, want %s", got, tc.want)
				}
			}, tc.change...)
		})
	}
}

// TestVerdictsAlone is about a pool of one: there is nobody else to ask.
func TestVerdictsAlone(t *testing.T) {
	for title, tc := range map[string]struct {
		step step
		want Verdict
	}{
		"answered": {step{0, outcome.OK, 10 * ms}, Same},
		"denied":   {step{0, outcome.NXDomain, 10 * ms}, Same},
		"refused":  {step{0, outcome.Refused, 10 * ms}, Hopeless},
		"silent":   {step{0, outcome.Timeout, readTimeout}, Hopeless},
		"late":     {step{0, outcome.OK, time.Second}, Hedged}, // it would have been asked again from another port
	} {
		t.Run(title, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, r *rig) {
				if f := r.ask(name, "", tc.step); f.Verdict != tc.want || f.By != 0 {
					t.Errorf("%v of %d, want %v", f.Verdict, f.By, tc.want)
				}
			})
		})
	}
}

// TestWhoIsBetter is about failures and denials while others are not fit either.
func TestWhoIsBetter(t *testing.T) {
	eject := func(r *rig, i int) {
		for n := range 5 {
			r.ask(fmt.Sprintf("n%d.example.com.", n), "", step{i, outcome.ConnRefused, ms})
		}
		if got := r.state(i); got != "ejected" {
			t.Fatalf("upstream %d is %s", i, got)
		}
	}
	for title, tc := range map[string]struct {
		ejected []int
		last    step
		want    Verdict
	}{
		"failed, both others out":  {[]int{0, 2}, step{1, outcome.Refused, 10 * ms}, Hopeless},
		"failed, one out":          {[]int{0}, step{1, outcome.Refused, 10 * ms}, Retried},
		"denied, both others out":  {[]int{0, 2}, step{1, outcome.NXDomain, 10 * ms}, Same},
		"denied, one out":          {[]int{0}, step{1, outcome.NXDomain, 10 * ms}, Verified},
		"answered by one that is":  {[]int{1}, step{1, outcome.OK, 10 * ms}, OtherUpstream},
		"answered, all out":        {[]int{0, 1, 2}, step{1, outcome.OK, 10 * ms}, Same},
		"silent, and both are out": {[]int{0, 2}, step{1, outcome.Timeout, readTimeout}, Hopeless},
	} {
		t.Run(title, func(t *testing.T) {
			bubble(t, 3, func(t *testing.T, r *rig) {
				for _, i := range tc.ejected {
					eject(r, i)
				}
				if f := r.ask(name, "", tc.last); f.Verdict != tc.want {
					t.Errorf("%v, want %v", f.Verdict, tc.want)
				}
			})
		})
	}
}

// TestWrongElsewhere is about a denial in a new zone, by one that has been wrong in others.
func TestWrongElsewhere(t *testing.T) {
	bubble(t, 3, func(t *testing.T, r *rig) {
		for _, zone := range []string{"example.com.", "example.org.", "example.net."} {
			r.ask("www."+zone, "", step{1, outcome.NXDomain, 10 * ms})
			r.ask("www."+zone, "", step{0, outcome.OK, 10 * ms})
		}
		for by, want := range []Verdict{Verified, Disputed, Verified} {
			if f := r.ask(fmt.Sprintf("n%d.new.example.", by), "", step{by, outcome.NXDomain, 10 * ms}); f.Verdict != want {
				t.Errorf("denied by %d: %v, want %v", by, f.Verdict, want)
			}
		}
	})
}

// TestOtherType: that a name has been answered says nothing of its other types.
func TestOtherType(t *testing.T) {
	bubble(t, 3, func(t *testing.T, r *rig) {
		r.ask(name, "", step{1, outcome.NXDomain, 10 * ms})
		r.ask(name, "", step{0, outcome.OK, 10 * ms})
		if f := r.askType(name, dns.TypeAAAA, "", step{2, outcome.NoData, 10 * ms}); f.Verdict != Verified {
			t.Errorf("NODATA: %v", f.Verdict)
		}
		if f := r.askType(name, dns.TypeAAAA, "", step{2, outcome.NXDomain, 10 * ms}); f.Verdict != Disputed {
			t.Errorf("NXDOMAIN: %v", f.Verdict)
		}
	})
}

// TestGone is about clients that do not wait.
func TestGone(t *testing.T) {
	bubble(t, 2, func(t *testing.T, r *rig) {
		q := r.model.Begin(time.Now(), Question{Name: name, Type: dns.TypeA})
		if f := q.End(true); f.Verdict != Cancelled || f.By != -1 {
			t.Errorf("before an attempt: %v", f)
		}
		q = r.model.Begin(time.Now(), Question{Name: name, Type: dns.TypeA})
		q.Sent(time.Now(), 1, false)
		q.Ended(time.Now(), exchange.Reply{Kind: outcome.FromError(context.Canceled)})
		if f := q.End(true); f.Verdict != Cancelled || f.By != 1 {
			t.Errorf("after one: %v", f)
		}
		pause(time.Minute)
		if got := r.state(1); got != "healthy" {
			t.Errorf("the upstream is %s, for what is not its fault", got)
		}
	})
}

// TestHedgeBudget: more late replies than a guard would have sent hedges for, but none later by 220 ms.
func TestHedgeBudget(t *testing.T) {
	bubble(t, 2, func(t *testing.T, r *rig) {
		hedged := 0
		for i := range 1000 {
			after := 10 * ms
			if i%2 == 0 {
				after = 120 * ms
			}
			if r.ask(fmt.Sprintf("n%d.example.org.", i), "", step{0, outcome.OK, after}).Verdict == Hedged {
				hedged++
			}
		}
		if hedged == 0 || hedged > 100+1000/20 {
			t.Errorf("%d hedged, want those saved up and one in twenty", hedged)
		}
	})
}

// TestVerdictNames: each is a label, and there is one for each.
func TestVerdictNames(t *testing.T) {
	seen := make(map[string]bool)
	for v := range Verdicts {
		if s := v.String(); s == "" || s == "invalid" || seen[s] {
			t.Errorf("verdict %d is called %q", v, s)
		}
		seen[v.String()] = true
	}
	if got := Verdicts.String(); got != "invalid" {
		t.Errorf("no verdict is called %q", got)
	}
}
