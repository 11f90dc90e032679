package options

import (
	"testing"

	"github.com/dnsguard/dnsguard/test/fakedns"
)

// TestMode is about who decides what the client gets of an upstream that
// refuses, first in order, beside one that answers. What mode observe does is shown in test/observe.
func TestMode(t *testing.T) {
	for option, want := range map[string]string{"": "NOERROR", "mode guard": "NOERROR", "mode observe": "REFUSED"} {
		bad, good := &fakedns.Server{Zones: []string{"."}}, &fakedns.Server{Zones: []string{"."}}
		fail(bad, "refused")
		to := listen(t, "127.0.0.1:0", bad).Addr().String() + " " + listen(t, "127.0.0.1:0", good).Addr().String()
		g := onSockets(t, directive(to, option, "policy sequential"))
		l := &lab{t: t}
		if got := l.askOf(g, query{name: "www.example.org."}).rcode(); got != want {
			t.Errorf("%q: the client gets %s, want %s", option, got, want)
		}
	}
}
