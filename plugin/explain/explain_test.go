package explain

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
)

// long is a name of n octets in the message, of labels as long as they may be.
func long(n int) string {
	var b strings.Builder
	for n--; n > 0; n -= min(n, 64) {
		b.WriteString(strings.Repeat("a", min(n, 64)-1) + ".")
	}
	return b.String()
}

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		qname string
		kind  Kind
		about string
	}{
		{"dnsguard.", Empty, ""},
		{"upstreams.dnsguard.", Pool, ""},
		{"UpStreams.DNSguard.", Pool, ""},
		{"example.org.upstreams.dnsguard.", Name, "example.org."},
		{"WWW.Example.ORG.Upstreams.DNSGuard.", Name, "www.example.org."},
		{"org.upstreams.dnsguard.", Name, "org."},
		{"_dns._udp.x--y.upstreams.dnsguard.", Name, "_dns._udp.x--y."},
		{`\..upstreams.dnsguard.`, Name, "."},
		{`\..org.upstreams.dnsguard.`, Name, `\..org.`}, // a label that is a dot, and no root
		{`a\.b.example.org.upstreams.dnsguard.`, Name, `a\.b.example.org.`},
		{`a\\.upstreams.dnsguard.`, Name, `a\\.`},
		{`\000\255.upstreams.dnsguard.`, Name, `\000\255.`},
		{"upstreams.dnsguard.upstreams.dnsguard.", Name, "upstreams.dnsguard."},
		{long(255-19) + "upstreams.dnsguard.", Name, long(255 - 19)},
		{"zones.dnsguard.", Nothing, ""},
		{"upstream.dnsguard.", Nothing, ""},
		{"xupstreams.dnsguard.", Nothing, ""},
		{`x\.upstreams.dnsguard.`, Nothing, ""}, // one label
		{"example.org.dnsguard.", Nothing, ""},
		{".", Foreign, ""},
		{"org.", Foreign, ""},
		{"version.bind.", Foreign, ""},
		{"notdnsguard.", Foreign, ""},
		{`not\.dnsguard.`, Foreign, ""},
		{"upstreams.dnsguard.example.org.", Foreign, ""},
	} {
		if k, about := Parse(tc.qname); k != tc.kind || about != tc.about {
			t.Errorf("Parse(%q) = %d, %q; want %d, %q", tc.qname, k, about, tc.kind, tc.about)
		}
	}
}

// FuzzParse puts any name that can be in a query before the two labels.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", ".", "\x00", "\x01.\x00", "\x07example\x03ORG\x00", "\x03a.b\x00", "\x02\\\\\x00", "\x01\xff\x00", "\x09upstreams\x08dnsguard\x00",
		"\x3f" + strings.Repeat("A", 63) + "\x3f" + strings.Repeat("\x00", 63) + "\x3f" + strings.Repeat(".", 63) + "\x2b" + strings.Repeat("\\", 43) + "\x00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		if k, about := Parse(string(wire)); k == Name && about == "" { // what cannot come does no harm either
			t.Errorf("Parse(%q): no name", wire)
		}
		name, _, err := dns.UnpackDomainName(wire, 0)
		if err != nil || name == "." {
			return
		}
		qname := name + "UPSTREAMS.dnsguard."
		if k, _ := Parse(name); k != Foreign && !dnsmsg.Within(strings.ToLower(name), Zone) {
			t.Errorf("Parse(%q) = %d, and it is not at or below %s", name, k, Zone)
		}
		k, about := Parse(qname)
		want := strings.ToLower(name)
		if name == root {
			want = "."
		}
		if k != Name || about != want {
			t.Fatalf("Parse(%q) = %d, %q; want %q", qname, k, about, want)
		}
		buf := make([]byte, 512)
		if _, err := dns.PackDomainName(about, buf, 0, nil, false); err != nil {
			t.Errorf("%q is no name: %v", about, err)
		}
		var text Text
		text.add("name", about)
		if len(text) != 1 || len(text[0]) > stringMost {
			t.Errorf("%q", text)
		}
	})
}

func TestAdd(t *testing.T) {
	for _, tc := range []struct {
		value string
		want  Text
	}{
		{"", nil},
		{"x", Text{"key=x"}},
		{"a b=c \"d\"", Text{`key=a b=c "d"`}},
		{strings.Repeat("x", 251), Text{"key=" + strings.Repeat("x", 251)}},
		{strings.Repeat("x", 252), Text{"key=" + strings.Repeat("x", 248) + "..."}},
		{strings.Repeat("ü", 200), Text{"key=" + strings.Repeat("ü", 124) + "..."}},
		{"x" + strings.Repeat("ü", 200), Text{"key=x" + strings.Repeat("ü", 123) + "..."}},
	} {
		var got Text
		got.add("key", tc.value)
		if !slices.Equal(got, tc.want) {
			t.Errorf("%q: %q, want %q", tc.value, got, tc.want)
		}
		for _, s := range got {
			if len(s) > 255 || !utf8.ValidString(s) {
				t.Errorf("%q has %d octets", s, len(s))
			}
		}
	}
}
