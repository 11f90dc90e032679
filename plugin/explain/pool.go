package explain

import (
	"strconv"
	"strings"
	"time"

	"github.com/dnsguard/dnsguard/plugin/upstream"
)

// Pool tells what is known of each upstream, in their order. Where there is
// none, empty says why.
func (d Directive) Pool(now time.Time, upstreams []upstream.Snapshot, empty string) []Text {
	if len(upstreams) == 0 {
		t := d.begin()
		t.add("why", empty)
		return []Text{t}
	}
	all := 0
	for i := range upstreams {
		all += upstreams[i].Recent
	}
	texts := make([]Text, len(upstreams))
	for i := range upstreams {
		texts[i] = d.upstream(now, &upstreams[i], all)
	}
	return texts
}

// upstream tells what is known of one, which had its share of all recent attempts.
func (d Directive) upstream(now time.Time, u *upstream.Snapshot, all int) Text {
	t := d.begin()
	t.add("to", u.To)
	t.add("transport", u.Transport)
	t.add("state", u.State)
	t.add("reason", u.Reason)
	t.add("since", instant(u.Since))
	t.add("for", span(now.Sub(u.Since)))
	t.add("until", instant(u.Until))
	if u.LastReply.IsZero() {
		t.add("last_reply", "never")
	} else {
		t.add("last_reply", span(now.Sub(u.LastReply))+" ago")
	}
	t.add("srtt", trip(u.SRTT))
	t.add("expected", trip(u.Expected))
	t.add("late_after", trip(u.LateAfter))
	t.add("loss", percent(u.Loss))
	if all > 0 {
		t.add("share", percent(float64(u.Recent)/float64(all)))
	}
	t.add("attempts_1m", strconv.Itoa(u.Recent))
	t.add("outstanding", strconv.Itoa(u.Outstanding))
	if u.Ejections > 0 {
		t.add("ejections", strconv.Itoa(u.Ejections))
	}
	t.add("without", without(u))
	return t
}

// without lists what is left out for now.
func without(u *upstream.Snapshot) string {
	var ways []string
	for _, w := range []struct {
		name string
		left bool
	}{{"edns", u.NoEDNS}, {"udp", u.NoUDP}, {"tcp", u.NoTCP}} {
		if w.left {
			ways = append(ways, w.name)
		}
	}
	return strings.Join(ways, ",")
}
