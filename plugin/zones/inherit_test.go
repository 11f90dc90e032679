package zones

import (
	"testing"
	"time"
)

// TestInherit has upstream 0 leave, 1 and 2 change places, and another come in between.
func TestInherit(t *testing.T) {
	now := time.Now()
	old := New(3)
	old.disputed(now, "www.corp.example.", 2, Of(0)|Of(1), 0) // 2 is right in corp.example
	old.disputed(now, "www.lab.example.", 0, Of(1), Of(2))    // 0, which leaves, in lab.example
	for range strikesOut {
		old.Failed(now, "www.slow.example.", 1)
	}
	for _, name := range []string{"a.corp.example.", "b.corp.example."} {
		old.Agreed(now, Agreement{Name: name, SOA: "corp.example.", Absent: Of(1) | Of(2)})
	}

	fresh := Inherit(old, []int{2, -1, 1})
	v := fresh.View(now, "x.corp.example.")
	if !v.Known || v.Good != Of(0) || v.Bad != Of(2) {
		t.Errorf("corp.example: %+v", v)
	}
	if v := fresh.View(now, "www.corp.example."); v.Name != Of(0) {
		t.Errorf("www.corp.example: %+v", v)
	}
	if v := fresh.View(now, "www.lab.example."); v.Known || v.Name != 0 {
		t.Errorf("lab.example, of which nobody knows anything now: %+v", v)
	}
	if v := fresh.View(now, "www.slow.example."); v.Weak != Of(2) {
		t.Errorf("slow.example: %+v", v)
	}
	if d := fresh.Denied(now, Denial{Name: "c.corp.example.", SOA: "corp.example.", By: 0}); d.Verify&Of(1) == 0 {
		t.Errorf("the newcomer need not be asked: %+v", d)
	}
	if got := old.View(now, "www.lab.example."); got.Good != Of(0) {
		t.Errorf("the old table has changed: %+v", got)
	}
}

// TestInheritAll has nobody come or go: nothing is lost.
func TestInheritAll(t *testing.T) {
	now := time.Now()
	old := New(2)
	old.disputed(now, "www.corp.example.", 1, Of(0), 0)
	old.disputed(now, "www.corp2.example.", 1, Of(0), 0)
	for range confidence {
		old.Agreed(now, Agreement{Name: "a.example.org.", SOA: "example.org.", Absent: Of(0) | Of(1)})
	}
	fresh := Inherit(old, []int{0, 1})
	a, b := old.Stats(), fresh.Stats()
	if a != b {
		t.Errorf("%+v, was %+v", b, a)
	}
	d := Denial{Name: "b.example.org.", SOA: "example.org.", By: 1}
	if got, want := fresh.Denied(now, d), old.Denied(now, d); got != want {
		t.Errorf("%+v, was %+v", got, want)
	}
}
