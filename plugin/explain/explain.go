// Package explain puts into words what is known of upstreams, and what would
// be done with a query, for people with dig and for programs: the names to ask
// for (below), the texts of the answer (pool.go, name.go) and who is told
// (audience.go).
//
// A text is a list of strings KEY=VALUE, one character-string of a TXT record
// each (RFC 6763, section 6.3): there is nothing to quote, and values may hold
// spaces. A key is left out where there is nothing to say.
//
// Functions are pure, and may be called concurrently; so may the methods of an
// Audience.
package explain

import (
	"strconv"
	"strings"
	"time"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
)

// The names that are answered.
const (
	Zone = "dnsguard."           // what is answered is at or below it
	pool = "upstreams.dnsguard." // the upstreams; names below: what would be done with a query for them
	root = `\..`                 // a label that is one dot, below pool: it stands for the root, which has no label
)

// Kind is what a name asks for.
type Kind uint8

// The kinds.
const (
	Foreign Kind = iota // not at or below Zone
	Nothing             // there is no such name
	Empty               // the name exists, and has no data
	Pool                // the upstreams
	Name                // what would be done with a query for a name
)

// Parse tells what a name, fully qualified and in any case, asks for; and for
// the kind Name the name that it is about, in lower case.
func Parse(qname string) (k Kind, about string) {
	qname = strings.ToLower(qname)
	above, ok := below(qname, Zone)
	switch {
	case !ok:
		return Foreign, ""
	case above == "":
		return Empty, ""
	}
	above, ok = below(qname, pool)
	switch {
	case !ok:
		return Nothing, ""
	case above == "":
		return Pool, ""
	case above == root:
		return Name, "."
	}
	return Name, above
}

// below cuts zone off the end of a name that is at or below it.
func below(name, zone string) (above string, ok bool) {
	if !dnsmsg.Within(name, zone) {
		return "", false
	}
	return name[:len(name)-len(zone)], true
}

// Directive is a dnsguard directive, as its texts name it.
type Directive struct {
	// Number is its place among those of the server block, from 1; 0: it is the only one.
	Number int
	// From is its zone.
	From string
	// Mode is its mode, where that is not to forward as is told; else "".
	Mode string
}

// Text is what one record says.
type Text []string

// stringMost is how long a character-string may be (RFC 1035, section 3.3).
const stringMost = 255

// begin returns a text with what all texts of the directive begin with.
func (d Directive) begin() Text {
	var t Text
	if d.Number > 0 {
		t.add("directive", strconv.Itoa(d.Number))
	}
	t.add("from", d.From)
	t.add("mode", d.Mode)
	return t
}

// add adds a value that is not empty. One that is too long is cut.
func (t *Text) add(key, value string) {
	if value == "" {
		return
	}
	s := key + "=" + value
	if len(s) > stringMost {
		const cut = "..."
		s = strings.ToValidUTF8(s[:stringMost-len(cut)], "") + cut
	}
	*t = append(*t, s)
}

// instant is for people and programs, the zero time for neither.
func instant(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// span is a time that has passed, as fine as it matters.
func span(d time.Duration) string {
	if d >= 10*time.Second {
		return d.Round(time.Second).String()
	}
	return max(d, 0).Round(time.Millisecond).String()
}

// trip is a time that a query takes; 0 says nothing.
func trip(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.Round(10 * time.Microsecond).String()
}

func percent(share float64) string { return strconv.FormatFloat(100*share, 'f', 1, 64) + "%" }
