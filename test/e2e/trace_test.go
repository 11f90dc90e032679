package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openzipkin/zipkin-go/model"

	"github.com/dnsguard/dnsguard/test/observed"
)

// trace returns the spans of the query for a name, when they are there.
func (sc *scene) trace(name string) observed.Trace {
	sc.t.Helper()
	var found observed.Trace
	eventually(sc.t, 10*time.Second, sc.s.process, func() error {
		for _, tr := range sc.spans.Traces() {
			for _, top := range tr.Named("servedns") {
				if top.Tags["coredns.io/name"] == name { // the span that ends last
					found = tr
					return nil
				}
			}
		}
		return errors.New("no trace of " + name)
	})
	return found
}

// attempts returns the spans of the attempts of the query for a name, the
// first first, once it is sure that they are well-formed: each below the
// plugin's own span and within it, and one for each query that arrived.
func (sc *scene) attempts(name string) (own model.SpanModel, all []model.SpanModel) {
	sc.t.Helper()
	tr := sc.trace(name)
	owns := tr.Named(dnsguard)
	if len(owns) != 1 {
		sc.t.Fatalf("%s: spans %+v", name, tr)
	}
	own, all = owns[0], tr.Named("connect")
	const clock = time.Millisecond // spans have microseconds, and two clocks
	end := own.Timestamp.Add(own.Duration + clock)
	var asked []string
	for _, s := range all {
		asked = append(asked, s.Tags["peer.address"])
		to := netip.MustParseAddrPort(s.Tags["peer.address"])
		if s.ParentID == nil || *s.ParentID != own.ID || s.Kind != model.Client || s.RemoteEndpoint == nil ||
			s.RemoteEndpoint.IPv4.String() != to.Addr().String() || s.RemoteEndpoint.Port != to.Port() {
			sc.t.Errorf("%s: an attempt below %v of kind %q to %+v: %+v", name, s.ParentID, s.Kind, s.RemoteEndpoint, s.Tags)
		}
		if s.Timestamp.Before(own.Timestamp.Add(-clock)) || s.Timestamp.Add(s.Duration).After(end) {
			sc.t.Errorf("%s: an attempt from %v for %v, its query from %v for %v", name, s.Timestamp, s.Duration, own.Timestamp, own.Duration)
		}
	}
	var arrived []string
	for _, a := range sc.arrived(name) {
		arrived = append(arrived, a.to)
	}
	slices.Sort(asked)
	if !slices.Equal(asked, arrived) {
		sc.t.Errorf("%s: spans to %v, queries to %v", name, asked, arrived)
	}
	return own, all
}

// tags are the tags of a span that tests look at, in one line.
func tags(s model.SpanModel) string {
	var b strings.Builder
	b.WriteString(s.Tags["peer.address"])
	for _, k := range []string{"cause", "protocol", "outcome", "rcode", "abandoned"} {
		if v, ok := s.Tags[dnsguard+"/"+k]; ok {
			fmt.Fprintf(&b, " %s=%s", k, v)
		}
	}
	if v, ok := s.Tags["error"]; ok {
		b.WriteString(" error=" + v)
	}
	return b.String()
}

// The trace plugin shows a span for each attempt.
func TestTrace(t *testing.T) {
	sc := setScene(t)
	sc.heard()
	for _, c := range []struct {
		network, domain string
		until           string   // what the log says of the query that is looked at
		want            []string // attempts
		own             string   // tags of the plugin's span
	}{
		{"udp", plainDomain, "upstream=" + nearAddr + " attempts=1", []string{
			nearAddr + " cause=first protocol=udp outcome=ok rcode=NOERROR",
		}, "upstream=" + nearAddr + " outcome=ok attempts=1 hedged=false steered=false coalesced=false"},
		{"tcp", plainDomain, "upstream=" + nearAddr + " attempts=1", []string{
			nearAddr + " cause=first protocol=tcp outcome=ok rcode=NOERROR",
		}, "upstream=" + nearAddr + " attempts=1"},
		{"udp", "refused.", "upstream=" + farAddr + " attempts=2 hedged=false", []string{
			nearAddr + " cause=first protocol=udp outcome=refused rcode=REFUSED error=true",
			farAddr + " cause=retry protocol=udp outcome=ok rcode=NOERROR",
		}, "upstream=" + farAddr + " attempts=2"},
		{"udp", "slow.", "upstream=" + farAddr + " hedged=true", []string{
			nearAddr + " cause=first protocol=udp abandoned=true",
			farAddr + " cause=hedge protocol=udp outcome=ok rcode=NOERROR",
		}, "hedged=true"},
		{"tcp", "silent.", "upstream=" + farAddr + " hedged=true", []string{
			nearAddr + " cause=first protocol=tcp abandoned=true",
			farAddr + " cause=hedge protocol=tcp outcome=ok rcode=NOERROR",
		}, "hedged=true"},
		{"udp", "gone.", "upstream=" + nearAddr + " attempts=2 outcome=nxdomain", []string{
			nearAddr + " cause=first protocol=udp outcome=nxdomain rcode=NXDOMAIN",
			farAddr + " cause=verify protocol=udp outcome=nxdomain rcode=NXDOMAIN",
		}, "outcome=nxdomain attempts=2"},
	} {
		t.Run(c.domain+" "+c.network, func(t *testing.T) {
			name := sc.until(c.network, c.domain, c.until)
			own, all := sc.attempts(name)
			var got []string
			for _, s := range all {
				got = append(got, tags(s))
			}
			if !covers(got, c.want) {
				t.Errorf("%s\ngot  %q\nwant %q", name, got, c.want)
			}
			for word := range strings.FieldsSeq(c.own) {
				if k, v, _ := strings.Cut(word, "="); own.Tags[dnsguard+"/"+k] != v {
					t.Errorf("%s: own tags %v, want %s", name, own.Tags, c.own)
				}
			}
		})
	}

	sc.allDead()
	name := "www.z." + plainDomain
	sc.lookup("udp", name)
	own, all := sc.attempts(name)
	if own.Tags["error"] != "true" || own.Tags[dnsguard+"/outcome"] != "timeout" || own.Tags[dnsguard+"/upstream"] != "" || len(all) < 2 {
		t.Errorf("all dead: %v, %d attempts", own.Tags, len(all))
	}
	for _, s := range all {
		if s.Tags[dnsguard+"/abandoned"] != "true" || s.Tags["error"] != "" {
			t.Errorf("all dead: %v", s.Tags)
		}
	}
	sc.s.alive()
}
