package outcome

import (
	"regexp"
	"testing"
)

func TestKindString(t *testing.T) {
	label := regexp.MustCompile(`^[a-z_]+$`)
	seen := make(map[string]Kind)
	for k := range Count {
		name := k.String()
		if !label.MatchString(name) {
			t.Errorf("Kind(%d).String() = %q, not fit for a label", k, name)
		}
		if other, ok := seen[name]; ok {
			t.Errorf("Kind(%d) and Kind(%d) are both %q", other, k, name)
		}
		seen[name] = k
	}
	for _, k := range []Kind{Count, 255} {
		if got := k.String(); got != "invalid" {
			t.Errorf("Kind(%d).String() = %q, want invalid", k, got)
		}
	}
}

// TestKindPredicates holds every kind's place in the three sets.
func TestKindPredicates(t *testing.T) {
	type sets struct{ denied, answered, blameless bool }
	answered, blameless, neither := sets{answered: true}, sets{blameless: true}, sets{}
	want := map[Kind]sets{
		Unknown: blameless,
		OK:      answered, NXDomain: {denied: true, answered: true}, NoData: {denied: true, answered: true},
		ServFail: answered, Refused: answered, NotImp: answered, FormErr: answered, BadVers: answered, BadCookie: answered, Truncated: answered,
		Timeout: neither, ConnRefused: neither, Unreachable: neither, ConnReset: neither, TLS: neither, Malformed: neither, Mismatched: neither,
		Local: blameless, Cancelled: blameless, Loop: neither,
	}
	for k := range Count {
		got := sets{k.Denied(), k.Answered(), k.Blameless()}
		if w, ok := want[k]; !ok || got != w {
			t.Errorf("%s: got %+v, want %+v (%t)", k, got, w, ok)
		}
	}
}
