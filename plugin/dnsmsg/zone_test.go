package dnsmsg

import "testing"

func TestRegistrable(t *testing.T) {
	for _, tc := range []struct{ name, want string }{
		{".", "."},
		{"", "."},
		{"com.", "com."},
		{"localhost.", "localhost."},
		{"co.uk.", "co.uk."},
		{"example.org.", "example.org."},
		{"a.b.example.org.", "example.org."},
		{"www.example.co.uk.", "example.co.uk."},
		{"a.example.city.kawasaki.jp.", "city.kawasaki.jp."}, // an exception to a wildcard
		{"a.b.kawasaki.jp.", "a.b.kawasaki.jp."},
		{"d111.cloudfront.net.", "cloudfront.net."}, // private suffixes are one authority's
		{"cloudfront.net.", "cloudfront.net."},
		{"x.y.github.io.", "github.io."},
		{"kubernetes.default.svc.cluster.local.", "cluster.local."}, // not in the list at all
		{"db.corp.", "db.corp."},
		{"1.2.0.192.in-addr.arpa.", "192.in-addr.arpa."},
		{"in-addr.arpa.", "in-addr.arpa."},
		{`x\.y.com.`, `x\.y.com.`}, // a dot in a label is no boundary
		{`a.x\\.y.co.uk.`, "y.co.uk."},
		{`a.x\.com.`, `a.x\.com.`},
		{`x\.com.`, `x\.com.`},
		{"1.0.8.b.d.0.1.0.0.2.ip6.arpa.", "2.ip6.arpa."},
	} {
		if got := Registrable(tc.name); got != tc.want {
			t.Errorf("Registrable(%q) = %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestParent(t *testing.T) {
	for _, tc := range []struct{ name, want string }{
		{".", "."},
		{"org.", "."},
		{"www.example.org.", "example.org."},
		{`a\.b.example.org.`, "example.org."},
		{`a\\.example.org.`, "example.org."},
	} {
		if got := Parent(tc.name); got != tc.want {
			t.Errorf("Parent(%q) = %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestWithin(t *testing.T) {
	for _, tc := range []struct {
		name, zone string
		want       bool
	}{
		{".", ".", true},
		{"example.org.", ".", true},
		{"example.org.", "example.org.", true},
		{"www.example.org.", "example.org.", true},
		{"a.b.example.org.", "example.org.", true},
		{"badexample.org.", "example.org.", false},
		{"org.", "example.org.", false},
		{".", "org.", false},
		{"example.org.", "example.com.", false},
		{`www\.example.org.`, "example.org.", false}, // one label
		{`www\\.example.org.`, "example.org.", true},
	} {
		if got := Within(tc.name, tc.zone); got != tc.want {
			t.Errorf("Within(%q, %q) = %t, want %t", tc.name, tc.zone, got, tc.want)
		}
	}
}
