package explain

import (
	"testing"
	"time"

	"github.com/dnsguard/dnsguard/plugin/forwarder"
	"github.com/dnsguard/dnsguard/plugin/selector"
	"github.com/dnsguard/dnsguard/plugin/upstream"
	"github.com/dnsguard/dnsguard/plugin/zones"
)

func TestPassed(t *testing.T) {
	wantTexts(t, []Text{Directive{Number: 1, From: "corp.example."}.Passed("www.example.org.", "not in corp.example.")},
		[]string{"directive=1|from=corp.example.|name=www.example.org.|forwarded=no|why=not in corp.example."})
}

// place is one of an explanation.
func place(i, at int, r selector.Rank, change ...func(u *upstream.Snapshot)) forwarder.Place {
	u := healthy(change...)
	u.To = "192.0.2." + string(rune('1'+i)) + ":53"
	return forwarder.Place{Index: i, At: at, Rank: r, Expected: 7 * time.Millisecond, Upstream: u}
}

func state(s, reason string) func(u *upstream.Snapshot) {
	return func(u *upstream.Snapshot) { u.State, u.Reason = s, reason }
}

func TestName(t *testing.T) {
	until := now.Add(10 * time.Minute)
	for name, tc := range map[string]struct {
		e    forwarder.Explanation
		want []string
	}{
		"nothing known": {
			forwarder.Explanation{Policy: "adaptive", Order: []forwarder.Place{place(0, 1, selector.Fit), place(1, 1, selector.Fit), place(2, 3, selector.Out, state("ejected", "timeout: 5 failures in a row"))}},
			[]string{
				"from=.|name=www.example.org.|forwarded=yes|first=192.0.2.1:53,192.0.2.2:53|policy=adaptive",
				"from=.|order=1|to=192.0.2.1:53|transport=dns|state=healthy|rank=fit|expected=7ms|why=nothing speaks against it",
				"from=.|order=1|to=192.0.2.2:53|transport=dns|state=healthy|rank=fit|expected=7ms|why=nothing speaks against it",
				"from=.|order=3|to=192.0.2.3:53|transport=dns|state=ejected|rank=out|expected=7ms|why=ejected: timeout: 5 failures in a row",
			},
		},
		"the zone is known": {
			forwarder.Explanation{
				Policy: "sequential",
				Known: zones.Knowledge{
					View: zones.View{Good: 1, Bad: 6, Refuses: 4, Weak: 8, Poor: 2, Known: true}, Zone: "example.org.", Until: until, WeakUntil: now.Add(20 * time.Second),
				},
				Order: []forwarder.Place{place(0, 1, selector.Fit), place(1, 2, selector.Unfit), place(2, 3, selector.Unfit), place(3, 4, selector.Unfit)},
			},
			[]string{
				"from=.|name=www.example.org.|forwarded=yes|first=192.0.2.1:53|policy=sequential|zone=example.org.|zone_until=2026-07-01T11:10:00Z",
				"from=.|order=1|to=192.0.2.1:53|transport=dns|state=healthy|rank=fit|expected=7ms|credibility=good|why=has answered in example.org.",
				"from=.|order=2|to=192.0.2.2:53|transport=dns|state=healthy|rank=unfit|expected=7ms|credibility=bad,poor|why=has denied in example.org. what another one answered",
				"from=.|order=3|to=192.0.2.3:53|transport=dns|state=healthy|rank=unfit|expected=7ms|credibility=bad,refuses|why=has refused in example.org. what another one answered",
				"from=.|order=4|to=192.0.2.4:53|transport=dns|state=healthy|rank=unfit|expected=7ms|credibility=weak|weak_until=2026-07-01T11:00:20Z|" +
					"why=has failed in example.org. of late, where another one answered",
			},
		},
		"the name is known": {
			forwarder.Explanation{
				Policy: "random",
				Known:  zones.Knowledge{View: zones.View{Good: 3, Name: 1, Known: true}, Zone: "example.org.", Until: until, NameUntil: until},
				Order:  []forwarder.Place{place(0, 1, selector.Sole, state("suspect", "3 queries in a row without a reply")), place(1, 2, selector.Unfit)},
			},
			[]string{
				"from=.|name=www.example.org.|forwarded=yes|first=192.0.2.1:53|policy=random|zone=example.org.|zone_until=2026-07-01T11:10:00Z|name_until=2026-07-01T11:10:00Z",
				"from=.|order=1|to=192.0.2.1:53|transport=dns|state=suspect|rank=sole|expected=7ms|credibility=name,good|" +
					"why=suspect: 3 queries in a row without a reply, but has answered this name, which another one denied",
				"from=.|order=2|to=192.0.2.2:53|transport=dns|state=healthy|rank=unfit|expected=7ms|credibility=good|why=another one has answered this name, where it was denied",
			},
		},
		"never heard, or poor": {
			forwarder.Explanation{
				Policy: "adaptive", Known: zones.Knowledge{View: zones.View{Poor: 2}},
				Order: []forwarder.Place{
					place(0, 1, selector.Unsure, state("unknown", ""), func(u *upstream.Snapshot) { u.LastReply = time.Time{} }), place(1, 1, selector.Unsure),
					place(2, 3, selector.Failing, func(u *upstream.Snapshot) { u.NoTCP = true }), place(3, 4, selector.Failing, state("half-open", "a probe was answered")),
				},
			},
			[]string{
				"from=.|name=www.example.org.|forwarded=yes|first=192.0.2.1:53,192.0.2.2:53|policy=adaptive",
				"from=.|order=1|to=192.0.2.1:53|transport=dns|state=unknown|rank=unsure|expected=7ms|why=has never replied",
				"from=.|order=1|to=192.0.2.2:53|transport=dns|state=healthy|rank=unsure|expected=7ms|credibility=poor|why=was wrong in more zones than it was right in, and is not known in this one",
				"from=.|order=3|to=192.0.2.3:53|transport=dns|state=healthy|rank=failing|expected=7ms|why=the query would go by TCP, which does not work",
				"from=.|order=4|to=192.0.2.4:53|transport=dns|state=half-open|rank=failing|expected=7ms|why=half-open: a probe was answered",
			},
		},
		"private": {
			forwarder.Explanation{Policy: "adaptive", Private: "org.", Order: []forwarder.Place{place(0, 1, selector.Fit)}, Barred: []forwarder.Place{place(1, 0, 0)}},
			[]string{
				"from=.|name=www.example.org.|forwarded=yes|first=192.0.2.1:53|policy=adaptive|private_zone=org.",
				"from=.|order=1|to=192.0.2.1:53|transport=dns|state=healthy|rank=fit|expected=7ms|why=nothing speaks against it",
				"from=.|order=never|to=192.0.2.2:53|transport=dns|state=healthy|why=names in org. do not go to it",
			},
		},
		"private, nobody": {
			forwarder.Explanation{Prospect: forwarder.NotAllowed, Policy: "adaptive", Private: "org."},
			[]string{"from=.|name=www.example.org.|forwarded=no|answer=REFUSED|why=no upstream may be asked for names in org.|policy=adaptive|private_zone=org."},
		},
		"no upstream": {
			forwarder.Explanation{Prospect: forwarder.NoUpstream, Empty: "no upstream: x.example: no address", Policy: "adaptive"},
			[]string{"from=.|name=www.example.org.|forwarded=no|answer=SERVFAIL|why=no upstream: x.example: no address|policy=adaptive"},
		},
		"all ejected": {
			forwarder.Explanation{Prospect: forwarder.AllEjected, Policy: "adaptive"},
			[]string{"from=.|name=www.example.org.|forwarded=no|answer=SERVFAIL|why=all upstreams are ejected|policy=adaptive"},
		},
		"all dead": {
			forwarder.Explanation{Prospect: forwarder.AllDead, Policy: "adaptive"},
			[]string{"from=.|name=www.example.org.|forwarded=no|answer=SERVFAIL|why=all upstreams are known to be dead; now and then one is shown a query|policy=adaptive"},
		},
	} {
		t.Run(name, func(t *testing.T) { wantTexts(t, Directive{From: "."}.Name("www.example.org.", tc.e), tc.want) })
	}
}
