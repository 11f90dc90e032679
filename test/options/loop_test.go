package options

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dnsguard/dnsguard/plugin/loopguard"
	"github.com/dnsguard/dnsguard/test/fakedns"
)

// seen is what a server was sent that is about loops.
func seen(s *fakedns.Server) (probes []fakedns.Record, stamps int) {
	for _, r := range s.Log() {
		if r.LoopProbe() {
			probes = append(probes, r)
		}
		for _, o := range r.Options {
			if o == loopguard.OptionCode {
				stamps++
			}
		}
	}
	return probes, stamps
}

// TestLoop holds what an upstream that is not public is sent, with each form of the option.
func TestLoop(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("0123456789abcdef"), 0o600); err != nil {
		t.Fatal(err)
	}
	for option, want := range map[string]struct {
		probes, names int // in ten minutes: at the start, and then one in 45 to 60 s
		suffix        string
	}{
		"loop off":                               {0, 0, ""},
		"loop on":                                {12, 2, "loop.dnsguard."},
		"loop interval 10s":                      {62, 2, "loop.dnsguard."},
		"loop suffix probe.corp.test":            {12, 1, ".probe.corp.test."},
		"loop suffix a b c\nloop interval 1m":    {12, 3, "."},
		"loop key " + key + " suffix x.y.z.test": {12, 1, ".x.y.z.test."},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, server(ms))
			l.corefile(directive("10.0.0.1", option))
			for range 10 {
				l.a("www.example.org.")
				time.Sleep(time.Minute)
			}
			probes, stamps := seen(l.up[0])
			if n := len(probes); n < want.probes*want.names || n > want.probes*want.names*3/2 || (stamps > 0) != (want.probes > 0) {
				t.Errorf("%q: %d probes, %d stamps", option, n, stamps)
			}
			names := make(map[string]bool)
			for _, p := range probes {
				if name := p.Question.Name; names[name] || !strings.Contains(name, want.suffix) {
					t.Errorf("%q: %s", option, name)
				}
				names[p.Question.Name] = true
			}
		})
	}
}
