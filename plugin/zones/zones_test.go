package zones

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Three upstreams, and the sets of one.
const (
	a, b, c = 0, 1, 2

	setA, setB, setC Set = 1, 2, 4
)

var start = time.Unix(1_000_000_000, 0)

// agree has the upstreams of by deny n names of a zone.
func agree(t *Table, n int, zone string, by Set) {
	for i := range n {
		t.Agreed(start, Agreement{Name: fmt.Sprintf("n%d.%s", i, zone), SOA: zone, Absent: by})
	}
}

// doubt is how far an NXDOMAIN of example.org is believed.
func doubt(t *Table, name string, by int) Doubt {
	return t.Denied(start, Denial{Name: name, SOA: "example.org.", By: by})
}

func TestView(t *testing.T) {
	for name, tc := range map[string]struct {
		learn func(t *Table)
		name  string
		want  View
	}{
		"nothing": {func(*Table) {}, "www.example.org.", View{}},
		"nothing before the first dispute": {func(t *Table) {
			t.Positive(start, "www.example.org.", a)
			agree(t, 5, "example.org.", setA|setB|setC)
		}, "www.example.org.", View{}},
		"no losers, no dispute": {func(t *Table) {
			t.disputed(start, "www.example.org.", a, setA, 0)
		}, "www.example.org.", View{}},
		"the disputed name": {func(t *Table) {
			t.disputed(start, "www.example.org.", a, setB, 0)
		}, "www.example.org.", View{Good: setA, Bad: setB, Name: setA, Known: true}},
		"another name of the zone": {func(t *Table) {
			t.disputed(start, "www.example.org.", a, setB, 0)
		}, "ftp.example.org.", View{Good: setA, Bad: setB, Known: true}},
		"the zone itself": {func(t *Table) {
			t.disputed(start, "www.example.org.", a, setB, 0)
		}, "example.org.", View{Good: setA, Bad: setB, Known: true}},
		"a neighbour": {func(t *Table) {
			t.disputed(start, "www.example.org.", a, setB, 0)
		}, "www.example.com.", View{}},
		"a refusal": {func(t *Table) {
			t.disputed(start, "www.example.org.", a, 0, setB)
		}, "www.example.org.", View{Good: setA, Bad: setB, Refuses: setB, Known: true}},
		"one denies, one refuses": {func(t *Table) {
			t.disputed(start, "www.example.org.", c, setA, setB)
		}, "ftp.example.org.", View{Good: setC, Bad: setA | setB, Refuses: setB, Known: true}},
		"a positive answer rehabilitates": {func(t *Table) {
			t.disputed(start, "www.example.org.", a, 0, setB)
			t.Positive(start, "ftp.example.org.", b)
		}, "x.example.org.", View{Good: setA | setB, Known: true}},
		"a positive answer in a new zone": {func(t *Table) {
			t.disputed(start, "www.example.org.", a, setB, 0)
			t.Positive(start, "www.sub.example.com.", b)
		}, "example.com.", View{Good: setB, Known: true}},
		"winning rehabilitates": {func(t *Table) {
			t.disputed(start, "www.example.org.", a, setB, setB)
			t.disputed(start, "ftp.example.org.", b, setC, 0)
		}, "x.example.org.", View{Good: setA | setB, Bad: setC, Known: true}},
		"a sub-zone of its own": {func(t *Table) {
			t.disputed(start, "www.example.org.", a, setB, 0)
			t.disputed(start, "db.corp.example.org.", b, setA, 0)
		}, "web.corp.example.org.", View{Good: setB, Bad: setA, Known: true}},
		"beside a sub-zone": {func(t *Table) {
			t.disputed(start, "www.example.org.", a, setB, 0)
			t.disputed(start, "db.corp.example.org.", b, setA, 0)
		}, "ftp.example.org.", View{Good: setA, Bad: setB, Known: true}},
		"no sub-zone while the loser knows nothing above": {func(t *Table) {
			t.disputed(start, "www.example.org.", a, setB, 0)
			t.disputed(start, "db.corp.example.org.", a, setC, 0)
		}, "ftp.example.org.", View{Good: setA, Bad: setB | setC, Known: true}},
		"split horizon, name of the one": {func(t *Table) {
			t.disputed(start, "www.example.org.", a, setB, 0)
			t.disputed(start, "db.example.org.", b, setA, 0)
		}, "www.example.org.", View{Good: setA | setB, Struck: setA, Name: setA, Known: true}},
		"split horizon, name of the other": {func(t *Table) {
			t.disputed(start, "www.example.org.", a, setB, 0)
			t.disputed(start, "db.example.org.", b, setA, 0)
		}, "db.example.org.", View{Good: setA | setB, Struck: setA, Name: setB, Known: true}},
		"late once": {func(t *Table) { t.Failed(start, "www.example.org.", b) }, "x.example.org.", View{Struck: setB, Known: true}},
		"late, and answers": {func(t *Table) {
			t.Failed(start, "www.example.org.", b)
			t.Positive(start, "x.example.org.", b)
		}, "x.example.org.", View{Good: setB, Known: true}},
		"wrong in one zone": {func(t *Table) {
			t.disputed(start, "www.example.org.", a, setB, 0)
		}, "new.test.", View{}},
		"wrong in two zones": {func(t *Table) {
			t.disputed(start, "www.example.org.", a, setB, 0)
			t.disputed(start, "www.example.com.", a, 0, setB)
		}, "new.test.", View{Poor: setB}},
		"twice wrong in one zone": {func(t *Table) {
			t.disputed(start, "www.example.org.", a, setB, 0)
			t.disputed(start, "ftp.example.org.", a, setB, 0)
		}, "new.test.", View{}},
		"as often right as wrong": {func(t *Table) {
			t.disputed(start, "www.example.org.", a, setB, 0)
			t.disputed(start, "www.example.com.", a, setB, 0)
			t.Positive(start, "www.example.net.", b)
			t.Positive(start, "www.corp.test.", b)
		}, "new.test.", View{}},
	} {
		table := New(3)
		tc.learn(table)
		explained := table.Explain(start, tc.name)
		if got := table.View(start, tc.name); got != tc.want || explained.View != tc.want {
			t.Errorf("%s: %+v, explained as %+v, want %+v", name, got, explained.View, tc.want)
		}
	}
}

func TestDenied(t *testing.T) {
	all := setA | setB | setC
	dispute := func(t *Table) { t.disputed(start, "www.example.org.", a, setB, 0) }
	split := func(t *Table) {
		dispute(t)
		t.disputed(start, "db.example.org.", b, setA, 0)
	}
	// Upstreams b and c are poor; a has been right everywhere.
	authority := func(t *Table) {
		for _, zone := range []string{"example.org.", "example.com.", "example.net."} {
			t.disputed(start, "www."+zone, a, setB|setC, 0)
		}
		t.Agreed(start, Agreement{Name: "typo.example.org.", SOA: "example.org.", Absent: all})
	}
	for name, tc := range map[string]struct {
		learn func(t *Table)
		d     Denial
		want  Doubt
	}{
		"nothing known":        {func(*Table) {}, Denial{Name: "x.example.org.", By: a}, Doubt{Verify: setB | setC, Credible: true}},
		"nothing known, other": {func(*Table) {}, Denial{Name: "x.example.org.", By: b}, Doubt{Verify: setA | setC, Credible: true}},
		"poor, new zone": {func(t *Table) {
			dispute(t)
			t.disputed(start, "www.example.com.", a, setB, 0)
		}, Denial{Name: "x.example.net.", By: b}, Doubt{Verify: setA | setC}},
		"the one that is right":           {dispute, Denial{Name: "x.example.org.", By: a}, Doubt{Verify: setB | setC, Credible: true}},
		"the one that is wrong":           {dispute, Denial{Name: "x.example.org.", By: b}, Doubt{Verify: setA | setC}},
		"one not heard, another is right": {dispute, Denial{Name: "x.example.org.", By: c}, Doubt{Verify: setA | setB}},
		"the disputed name": {func(t *Table) {
			dispute(t)
			agree(t, 4, "example.org.", all)
		}, Denial{Name: "www.example.org.", By: b}, Doubt{Verify: setA | setC}},
		"who refuses is not asked": {func(t *Table) {
			t.disputed(start, "www.example.org.", a, 0, setB)
		}, Denial{Name: "x.example.org.", By: a}, Doubt{Verify: setC, Credible: true}},
		"agreed three times": {func(t *Table) { agree(t, 3, "example.org.", all) }, Denial{Name: "x.example.org.", SOA: "example.org.", By: a}, Doubt{Verify: setB | setC, Credible: true}},
		"agreed four times":  {func(t *Table) { agree(t, 4, "example.org.", all) }, Denial{Name: "x.example.org.", SOA: "example.org.", By: a}, Doubt{Credible: true}},
		"agreed four times on one name": {func(t *Table) {
			for range 4 {
				agree(t, 1, "example.org.", all)
			}
		}, Denial{Name: "x.example.org.", SOA: "example.org.", By: a}, Doubt{Verify: setB | setC, Credible: true}},
		"agreed four times on this name": {func(t *Table) {
			for range 4 {
				agree(t, 1, "example.org.", all)
			}
		}, Denial{Name: "n0.example.org.", SOA: "example.org.", By: a}, Doubt{Credible: true}},
		"agreed three times on this name": {func(t *Table) {
			for range 3 {
				agree(t, 1, "example.org.", all)
			}
		}, Denial{Name: "n0.example.org.", SOA: "example.org.", By: a}, Doubt{Verify: setB | setC, Credible: true}},
		"agreed four times on two names": {func(t *Table) {
			for range 2 {
				agree(t, 2, "example.org.", all)
			}
		}, Denial{Name: "n0.example.org.", SOA: "example.org.", By: a}, Doubt{Verify: setB | setC, Credible: true}},
		"agreed without one":     {func(t *Table) { agree(t, 4, "example.org.", setA|setB) }, Denial{Name: "x.example.org.", SOA: "example.org.", By: a}, Doubt{Verify: setC, Credible: true}},
		"agreed on another zone": {func(t *Table) { agree(t, 4, "example.org.", all) }, Denial{Name: "x.example.com.", By: a}, Doubt{Verify: setB | setC, Credible: true}},
		"agreed without an SOA":  {func(t *Table) { agree(t, 15, "example.org.", all); agree(t, 1, "example.com.", all) }, Denial{Name: "x.example.org.", By: a}, Doubt{Credible: true}},
		"agreed 15 times without an SOA, in a pool that differs": {func(t *Table) {
			t.disputed(start, "www.test.", a, setB, 0)
			agree(t, 15, "example.org.", all)
		}, Denial{Name: "x.example.org.", By: a}, Doubt{Verify: setB | setC, Credible: true}},
		"agreed 16 times without an SOA, in a pool that differs": {func(t *Table) {
			t.disputed(start, "www.test.", a, setB, 0)
			agree(t, 16, "example.org.", all)
		}, Denial{Name: "x.example.org.", By: a}, Doubt{Credible: true}},
		"agreed, then one that knew nothing denies what another answers": {func(t *Table) {
			agree(t, 4, "example.org.", all)
			dispute(t)
		}, Denial{Name: "x.example.org.", By: b}, Doubt{Verify: setA | setC}},
		"agreed, then split": {func(t *Table) {
			agree(t, 4, "example.org.", all)
			split(t)
		}, Denial{Name: "x.example.org.", SOA: "example.org.", By: a}, Doubt{Verify: setB | setC, Credible: true}},
		"agreed below the SOA": {func(t *Table) { agree(t, 4, "corp.example.org.", all) }, Denial{Name: "x.example.org.", SOA: "example.org.", By: a}, Doubt{Verify: setB | setC, Credible: true}},
		"SOA above the registrable domain is no key": {func(t *Table) {
			for i := range 4 {
				t.Agreed(start, Agreement{Name: fmt.Sprintf("n%d.test%d.org.", i, i), SOA: "org.", Absent: all})
			}
		}, Denial{Name: "x.example.org.", By: a}, Doubt{Verify: setB | setC, Credible: true}},
		"SOA elsewhere is no key": {func(t *Table) {
			for i := range 4 {
				t.Agreed(start, Agreement{Name: fmt.Sprintf("n%d.example.org.", i), SOA: "example.com.", Absent: all})
			}
		}, Denial{Name: "x.example.com.", By: a}, Doubt{Verify: setB | setC, Credible: true}},
		"split horizon is never agreed on": {func(t *Table) {
			split(t)
			agree(t, 9, "example.org.", all)
		}, Denial{Name: "x.example.org.", SOA: "example.org.", By: a}, Doubt{Verify: setB | setC, Credible: true}},
		"authority: beside a name agreed on":              {authority, Denial{Name: "typo2.example.org.", By: a}, Doubt{Credible: true}},
		"authority: elsewhere in the zone":                {authority, Denial{Name: "x.sub.example.org.", By: a}, Doubt{Verify: setB | setC, Credible: true}},
		"authority: where nothing was agreed":             {authority, Denial{Name: "typo.example.com.", By: a}, Doubt{Verify: setB | setC, Credible: true}},
		"authority: the type":                             {authority, Denial{Name: "x.sub.example.org.", By: a, NoData: true}, Doubt{Credible: true, Exists: true}},
		"no authority: one of those in error":             {authority, Denial{Name: "typo2.example.org.", By: b}, Doubt{Verify: setA | setC}},
		"uniform: the type, in a new zone":                {func(t *Table) { agree(t, 16, "example.com.", all) }, Denial{Name: "x.example.org.", SOA: "example.org.", By: a, NoData: true}, Doubt{Credible: true, Exists: true}},
		"uniform: the type, SOA of a suffix":              {func(t *Table) { agree(t, 16, "example.com.", all) }, Denial{Name: "x.example.org.", SOA: "org.", By: a, NoData: true}, Doubt{Verify: setB | setC, Credible: true, Exists: true}},
		"uniform: the type, SOA elsewhere":                {func(t *Table) { agree(t, 16, "example.com.", all) }, Denial{Name: "x.example.org.", SOA: "example.net.", By: a, NoData: true}, Doubt{Verify: setB | setC, Credible: true, Exists: true}},
		"uniform: the type, in a zone where one was late": {func(t *Table) { agree(t, 16, "example.com.", all); t.Failed(start, "www.example.org.", b) }, Denial{Name: "x.example.org.", SOA: "example.org.", By: a, NoData: true}, Doubt{Credible: true, Exists: true}},
		"uniform: the name, in a new zone":                {func(t *Table) { agree(t, 16, "example.com.", all) }, Denial{Name: "x.example.org.", SOA: "example.org.", By: a}, Doubt{Verify: setB | setC, Credible: true}},
		"uniform: the name, agreed on once":               {func(t *Table) { agree(t, 15, "example.com.", all); agree(t, 1, "example.org.", all) }, Denial{Name: "x.example.org.", SOA: "example.org.", By: a}, Doubt{Credible: true}},
		"not uniform yet":                                 {func(t *Table) { agree(t, 14, "example.com.", all); agree(t, 1, "example.org.", all) }, Denial{Name: "x.example.org.", SOA: "example.org.", By: a}, Doubt{Verify: setB | setC, Credible: true}},
		"not uniform any more after a dispute": {func(t *Table) {
			agree(t, 16, "example.com.", all)
			agree(t, 1, "example.org.", all)
			t.disputed(start, "www.test.", a, setB, 0)
		}, Denial{Name: "x.example.org.", SOA: "example.org.", By: a}, Doubt{Verify: setB | setC, Credible: true}},
		"the type, by one that has said so idly": {func(t *Table) { t.hollowed(start, setA) }, Denial{Name: "x.example.org.", By: a, NoData: true}, Doubt{Verify: setB | setC, Credible: true}},
		"the type, long after":                   {func(t *Table) { t.hollowed(start.Add(-expires), setA) }, Denial{Name: "x.example.org.", By: a, NoData: true}, Doubt{Verify: setB | setC, Credible: true, Exists: true}},
		"the type, by one that is wrong with names": {func(t *Table) {
			t.disputed(start, "www.example.com.", a, setB, 0)
			t.disputed(start, "www.example.net.", a, setB, 0)
		}, Denial{Name: "x.example.org.", By: b, NoData: true}, Doubt{Verify: setA | setC, Exists: true}},
		"one says that the names exist": {func(t *Table) {
			t.disputed(start, "www.example.com.", a, setB, 0)
			t.disputed(start, "www.example.net.", a, setB, 0)
			for i := range 20 {
				t.Agreed(start, Agreement{Name: fmt.Sprintf("n%d.example.org.", i), Absent: setA, NoData: setB})
			}
		}, Denial{Name: "x.example.org.", By: a}, Doubt{Verify: setB | setC, Credible: true}},
		"one says that all names exist": {func(t *Table) {
			t.hollowed(start, setB)
			for i := range 20 {
				t.Agreed(start, Agreement{Name: fmt.Sprintf("n%d.example.org.", i), Absent: setA | setC, NoData: setB})
			}
		}, Denial{Name: "x.example.org.", By: a}, Doubt{Credible: true}},
		"a refusal elsewhere leaves agreement": {func(t *Table) { agree(t, 4, "example.org.", all); t.disputed(start, "www.test.", a, 0, setB) }, Denial{Name: "x.example.org.", SOA: "example.org.", By: a}, Doubt{Credible: true}},
	} {
		table := New(3)
		tc.learn(table)
		if got := table.Denied(start, tc.d); got != tc.want {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
	}
}

func TestDeniedBySize(t *testing.T) {
	if got := doubt(New(1), "x.example.org.", 0); got != (Doubt{Credible: true}) {
		t.Errorf("alone: %+v", got)
	}
	if got := doubt(New(64), "x.example.org.", 63); got.Verify != ^Set(0)>>1 {
		t.Errorf("of 64: %x", got.Verify)
	}
}

// TestSampling holds that one denial in SampleEvery is verified although the pool agrees.
func TestSampling(t *testing.T) {
	table := New(3)
	agree(table, 4, "example.org.", setA|setB|setC)
	verified := 0
	for i := range 10 * SampleEvery {
		if doubt(table, fmt.Sprintf("x%d.example.org.", i), a).Verify != 0 {
			verified++
		}
	}
	if verified != 10 {
		t.Errorf("%d of %d verified, want 10", verified, 10*SampleEvery)
	}
}

func TestExpiry(t *testing.T) {
	before, after := start.Add(15*time.Minute-time.Second), start.Add(15*time.Minute)
	for name, tc := range map[string]struct {
		confirm func(t *Table)
		at      time.Time
		want    View
	}{
		"fresh":    {nil, before, View{Good: setA, Bad: setB, Name: setA, Known: true}},
		"stale":    {nil, after, View{}},
		"answered": {func(t *Table) { t.Positive(before, "ftp.example.org.", a) }, after, View{Good: setA, Bad: setB, Known: true}},
		"disputed": {func(t *Table) { t.disputed(before, "ftp.example.org.", a, setC, 0) }, after, View{Good: setA, Bad: setB | setC, Known: true}},
		"agreed on": {func(t *Table) {
			t.Agreed(before, Agreement{Name: "typo.example.org.", SOA: "", Absent: setA | setB | setC})
		}, after, View{Good: setA, Bad: setB, Known: true}},
		"only read":  {func(t *Table) { t.View(before, "www.example.org.") }, after, View{}},
		"same again": {func(t *Table) { t.disputed(before, "www.example.org.", c, setA, 0) }, after, View{Good: setA | setC, Bad: setB, Struck: setA, Name: setC, Known: true}},
	} {
		table := New(3)
		table.disputed(start, "www.example.org.", a, setB, 0)
		if tc.confirm != nil {
			tc.confirm(table)
		}
		explained := table.Explain(tc.at, "www.example.org.")
		if got := table.View(tc.at, "www.example.org."); got != tc.want || explained.View != tc.want {
			t.Errorf("%s: %+v, explained as %+v, want %+v", name, got, explained.View, tc.want)
		}
	}
}

// TestFailed holds that three failures in a row make an upstream weak in a zone, for 30 seconds.
func TestFailed(t *testing.T) {
	fail := func(n int, after time.Duration) func(t *Table) {
		return func(t *Table) {
			for i := range n {
				t.Failed(start.Add(time.Duration(i)*after), fmt.Sprintf("n%d.example.org.", i), b)
			}
		}
	}
	contradict := func(n int) func(t *Table) { // who was right denies what another answers
		return func(t *Table) {
			t.Failed(start, "x.example.org.", c)
			t.Positive(start, "x.example.org.", b)
			for i := range n {
				t.disputed(start, fmt.Sprintf("n%d.example.org.", i), a, setB, 0)
			}
		}
	}
	later := start.Add(30 * time.Second)
	for name, tc := range map[string]struct {
		learn func(t *Table)
		at    time.Time
		name  string
		want  Set
	}{
		"twice":                             {fail(2, 0), start, "x.example.org.", 0},
		"three times":                       {fail(3, 0), start, "x.example.org.", setB},
		"many times":                        {fail(1000, 0), start, "x.example.org.", setB},
		"in another zone":                   {fail(3, 0), start, "x.example.com.", 0},
		"with long pauses":                  {fail(3, 30*time.Second), start.Add(time.Minute), "x.example.org.", 0},
		"forgotten in time":                 {fail(3, 0), later, "x.example.org.", 0},
		"not before":                        {fail(3, 0), later.Add(-time.Millisecond), "x.example.org.", setB},
		"answered after all":                {func(t *Table) { fail(3, 0)(t); t.Positive(start, "www.example.org.", b) }, start, "x.example.org.", 0},
		"answered in between":               {func(t *Table) { fail(2, 0)(t); t.Positive(start, "www.example.org.", b); fail(2, 0)(t) }, start, "x.example.org.", 0},
		"another answers":                   {func(t *Table) { fail(3, 0)(t); t.Positive(start, "www.example.org.", a) }, start, "x.example.org.", setB},
		"right before, contradicted twice":  {contradict(2), start, "x.example.org.", 0},
		"right before, contradicted thrice": {contradict(3), start, "x.example.org.", setB},
		"and right again":                   {func(t *Table) { contradict(3)(t); t.disputed(start, "mine.example.org.", b, setA, 0) }, start, "x.example.org.", 0},
		"right before, another is wrong": {func(t *Table) {
			t.Failed(start, "x.example.org.", c)
			t.Positive(start, "x.example.org.", b)
			t.disputed(start, "y.example.org.", a, setC, 0)
			t.disputed(start, "y.example.org.", a, setC, 0)
		}, start, "x.example.org.", 0},
		"three different ones": {func(t *Table) {
			t.Failed(start, "x.example.org.", a)
			t.Failed(start, "x.example.org.", b)
			t.Failed(start, "x.example.org.", c)
		}, start, "x.example.org.", 0},
	} {
		table := New(3)
		tc.learn(table)
		if got := table.View(tc.at, tc.name); got.Weak != tc.want || got.Bad&^setC != 0 || got.Poor != 0 {
			t.Errorf("%s: %+v, want weak: %b", name, got, tc.want)
		}
	}
}

// TestExpiryOfPoor holds that zones which are forgotten no longer tell against an upstream.
func TestExpiryOfPoor(t *testing.T) {
	table := New(2)
	for _, zone := range []string{"example.org.", "example.com."} {
		table.disputed(start, "www."+zone, a, setB, 0)
	}
	if s := table.Stats(); s != (Stats{Zones: 2, Names: 2, Disputes: 2, Poor: setB}) {
		t.Fatalf("%+v", s)
	}
	later := start.Add(time.Hour)
	for _, zone := range []string{"example.org.", "example.com."} {
		table.View(later, "www."+zone)
	}
	if s := table.Stats(); s.Zones != 0 || s.Poor != 0 {
		t.Errorf("%+v, want no zones, nobody poor", s)
	}
}

func TestBounded(t *testing.T) {
	table := New(3)
	const n = 20_000
	for i := range n {
		table.disputed(start, fmt.Sprintf("www.example%d.org.", i), a, setB, 0)
		table.Agreed(start, Agreement{Name: fmt.Sprintf("typo.test%d.org.", i), SOA: "", Absent: setA | setB | setC})
	}
	if s := table.Stats(); s.Zones != Zones || s.Names != Names || s.Disputes != n {
		t.Errorf("%+v, want %d zones, %d names", s, Zones, Names)
	}
	if table.View(start, "www.example0.org.").Known || !table.View(start, fmt.Sprintf("www.example%d.org.", n-1)).Known {
		t.Error("want the oldest zones forgotten, and the newest known")
	}
	// What is evicted is taken out of the count of who is wrong where.
	for i := range n {
		table.Agreed(start, Agreement{Name: fmt.Sprintf("typo.other%d.org.", i), SOA: "", Absent: setA | setB | setC})
	}
	if s := table.Stats(); s.Poor != 0 || s.Zones != Zones {
		t.Errorf("%+v, want nobody poor", s)
	}
}

func TestConcurrent(t *testing.T) {
	table := New(3)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 2000 {
				name := fmt.Sprintf("n%d.z%d.org.", i%7, (i+w)%50)
				now := start.Add(time.Duration(i) * time.Second) // entries expire on the way
				switch (i + w) % 6 {
				case 4:
					table.Failed(now, name, i%3)
				case 0:
					table.disputed(now, name, w%3, setA|setB, setC)
				case 1:
					table.Agreed(now, Agreement{Name: name, SOA: "", Absent: setA | setB | setC})
				case 2:
					table.Positive(now, name, i%3)
				case 3:
					table.Denied(now, Denial{Name: name, By: i % 3})
				default:
					table.View(now, name)
				}
			}
		})
	}
	wg.Wait()
	if s := table.Stats(); s.Zones > 50 || s.Names > 350 || s.Disputes == 0 {
		t.Errorf("%+v", s)
	}
}

// TestContradicted holds whom a dispute tells against.
func TestContradicted(t *testing.T) {
	for name, tc := range map[string]struct {
		d      Dispute
		tells  bool
		bad    Set
		exists bool // NODATA of b still shows that a name exists
	}{
		"the name":                     {Dispute{Type: dns.TypeA, Absent: setB}, true, setB, true},
		"an address":                   {Dispute{Type: dns.TypeAAAA, NoData: setB}, true, setB, false},
		"a newer type":                 {Dispute{Type: dns.TypeHTTPS, NoData: setB}, false, 0, true},
		"the name, and by one, a type": {Dispute{Type: dns.TypeHTTPS, Absent: setC, NoData: setB}, true, setC, true},
		"refused":                      {Dispute{Type: dns.TypeA, Refused: setB}, false, setB, true},
	} {
		table := New(3)
		tc.d.Name, tc.d.Winner = "www.example.org.", a
		tells := table.Contradicted(start, tc.d)
		exists := table.Denied(start, Denial{Name: "x.example.com.", By: b, NoData: true}).Exists
		if bad := table.View(start, "x.example.org.").Bad; tells != tc.tells || bad != tc.bad || exists != tc.exists {
			t.Errorf("%s: tells %t, bad %b, exists %t; want %t, %b, %t", name, tells, bad, exists, tc.tells, tc.bad, tc.exists)
		}
	}
}
