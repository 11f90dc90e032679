package zones

import (
	"fmt"
	"testing"
	"time"
)

// TestExplain holds which zone is named, and when what is known of it is forgotten.
func TestExplain(t *testing.T) {
	in := func(d time.Duration) time.Time { return start.Add(d) }
	disputed := func(t *Table) { t.disputed(start, "www.example.org.", a, setB, 0) }
	for name, tc := range map[string]struct {
		learn func(t *Table)
		at    time.Time
		name  string
		want  Knowledge
	}{
		"nothing":                          {func(*Table) {}, start, "www.example.org.", Knowledge{}},
		"nothing before the first dispute": {func(t *Table) { agree(t, 5, "example.org.", setA|setB) }, start, "www.example.org.", Knowledge{}},
		"the name and its zone": {disputed, in(time.Minute), "www.example.org.", Knowledge{
			View: View{Good: setA, Bad: setB, Name: setA, Known: true}, Zone: "example.org.", Until: in(15 * time.Minute), NameUntil: in(15 * time.Minute),
		}},
		"another name below": {disputed, start, "a.b.example.org.", Knowledge{
			View: View{Good: setA, Bad: setB, Known: true}, Zone: "example.org.", Until: in(15 * time.Minute),
		}},
		"confirmed later": {func(t *Table) { disputed(t); t.Positive(in(time.Minute), "ftp.example.org.", a) }, in(2 * time.Minute), "www.example.org.", Knowledge{
			View: View{Good: setA, Bad: setB, Name: setA, Known: true}, Zone: "example.org.", Until: in(16 * time.Minute), NameUntil: in(15 * time.Minute),
		}},
		"forgotten":      {disputed, in(15 * time.Minute), "www.example.org.", Knowledge{}},
		"another domain": {disputed, start, "www.example.com.", Knowledge{}},
		"a zone of its own": {func(t *Table) { disputed(t); t.disputed(start, "db.corp.example.org.", b, setA, 0) }, start, "web.corp.example.org.", Knowledge{
			View: View{Good: setB, Bad: setA, Known: true}, Zone: "corp.example.org.", Until: in(15 * time.Minute),
		}},
		"weak": {func(t *Table) {
			for i := range 3 {
				t.Failed(in(time.Duration(i)*time.Second), "www.example.org.", b)
			}
		}, in(3 * time.Second), "www.example.org.", Knowledge{
			View: View{Weak: setB, Struck: setB, Known: true}, Zone: "example.org.", Until: in(15 * time.Minute), WeakUntil: in(32 * time.Second),
		}},
	} {
		table := New(3)
		tc.learn(table)
		if got := table.Explain(tc.at, tc.name); got != tc.want {
			t.Errorf("%s:\n%+v, want\n%+v", name, got, tc.want)
		}
	}
}

// TestExplainChangesNothing holds that who is forgotten first, and what is kept, does not depend on what was explained.
func TestExplainChangesNothing(t *testing.T) {
	table := New(2)
	for i := range Zones {
		table.disputed(start, fmt.Sprintf("www.example%d.org.", i), a, setB, 0)
	}
	for range 100 {
		table.Explain(start, "www.example0.org.")
		table.Explain(start.Add(time.Hour), "www.example0.org.")
	}
	if s := table.Stats(); s.Zones != Zones || s.Names != Names {
		t.Errorf("%+v, want all zones and names there, though they have expired", s)
	}
	table.disputed(start, "www.new.example.", a, setB, 0)
	if k := table.Explain(start, "www.example0.org."); k.Zone != "" || k.Name != 0 {
		t.Errorf("%+v, want the oldest forgotten though it was explained last", k)
	}
	table.View(start, "www.example1.org.")
	table.disputed(start, "www.newer.example.", a, setB, 0)
	if k := table.Explain(start, "www.example1.org."); k.Zone == "" || k.Name == 0 {
		t.Errorf("%+v, want what was viewed last kept", k)
	}
}

// BenchmarkView is what a query pays for the zones once there has been a dispute.
func BenchmarkView(b *testing.B) {
	table := New(3)
	table.disputed(start, "www.example.org.", a, setB, 0)
	b.ReportAllocs()
	for b.Loop() {
		table.View(start, "mail.eu.example.org.")
	}
}
