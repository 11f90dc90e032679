package explain

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dnsguard/dnsguard/plugin/upstream"
)

var now = time.Date(2026, 7, 1, 12, 0, 0, 0, time.FixedZone("", 3600))

// healthy is a snapshot of an upstream with nothing wrong.
func healthy(change ...func(u *upstream.Snapshot)) upstream.Snapshot {
	u := upstream.Snapshot{
		To: "192.0.2.1:53", Transport: "dns", State: "healthy", Since: now.Add(-time.Hour), LastReply: now.Add(-95 * time.Millisecond),
		SRTT: 6912345 * time.Nanosecond, Expected: 7 * time.Millisecond, LateAfter: 11200 * time.Microsecond, Loss: 0.0042,
		Recent: 300, Outstanding: 2,
	}
	for _, c := range change {
		c(&u)
	}
	return u
}

func TestPool(t *testing.T) {
	for name, tc := range map[string]struct {
		d    Directive
		pool []upstream.Snapshot
		want []string
	}{
		"none": {Directive{From: "."}, nil, []string{`from=.|why=no upstream: /etc/resolv.conf: it is empty`}},
		"healthy": {Directive{From: "."}, []upstream.Snapshot{healthy()}, []string{
			"from=.|to=192.0.2.1:53|transport=dns|state=healthy|since=2026-07-01T10:00:00Z|for=1h0m0s|last_reply=95ms ago|" +
				"srtt=6.91ms|expected=7ms|late_after=11.2ms|loss=0.4%|share=100.0%|attempts_1m=300|outstanding=2",
		}},
		"new": {Directive{From: "corp.example."}, []upstream.Snapshot{{
			To: "[2001:db8::1]:853", Transport: "tls", State: "unknown", Since: now.Add(-30 * time.Millisecond), Expected: 100 * time.Millisecond, LateAfter: 100 * time.Millisecond,
		}}, []string{
			"from=corp.example.|to=[2001:db8::1]:853|transport=tls|state=unknown|since=2026-07-01T10:59:59Z|for=30ms|last_reply=never|" +
				"expected=100ms|late_after=100ms|loss=0.0%|attempts_1m=0|outstanding=0",
		}},
		"one of two is out": {Directive{Number: 2, From: "."}, []upstream.Snapshot{
			healthy(),
			healthy(func(u *upstream.Snapshot) {
				u.To, u.State, u.Reason, u.Since = "192.0.2.2:53", "ejected", "conn_refused: 5 failures in a row", now.Add(-12400*time.Millisecond)
				u.Until, u.LastReply, u.Recent, u.Ejections, u.NoEDNS, u.NoUDP, u.NoTCP = now.Add(3*time.Second), now.Add(-time.Minute), 5, 3, true, true, true
			}),
		}, []string{
			"directive=2|from=.|to=192.0.2.1:53|transport=dns|state=healthy|since=2026-07-01T10:00:00Z|for=1h0m0s|last_reply=95ms ago|" +
				"srtt=6.91ms|expected=7ms|late_after=11.2ms|loss=0.4%|share=98.4%|attempts_1m=300|outstanding=2",
			"directive=2|from=.|to=192.0.2.2:53|transport=dns|state=ejected|reason=conn_refused: 5 failures in a row|since=2026-07-01T10:59:47Z|for=12s|" +
				"until=2026-07-01T11:00:03Z|last_reply=1m0s ago|srtt=6.91ms|expected=7ms|late_after=11.2ms|loss=0.4%|share=1.6%|attempts_1m=5|outstanding=2|" +
				"ejections=3|without=edns,udp,tcp",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			wantTexts(t, tc.d.Pool(now, tc.pool, "no upstream: /etc/resolv.conf: it is empty"), tc.want)
		})
	}
}

// wantTexts holds texts, the strings of each joined.
func wantTexts(t *testing.T, texts []Text, want []string) {
	t.Helper()
	var got []string
	for _, x := range texts {
		got = append(got, strings.Join(x, "|"))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
