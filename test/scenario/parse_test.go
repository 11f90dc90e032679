package scenario

import (
	"strings"
	"testing"
	"time"
)

const sound = `What is shown.

-- Corefile --
dnsguard . 10.0.0.1
-- upstreams --
10.0.0.1-2,tls://10.0.0.9 rtt 6ms # comment
* from 1s drop
-- resolv.conf --
nameserver 10.0.0.1
-- resolv.conf@5s rename --
nameserver 10.0.0.2
-- script --
at 1s load 10/s for 1s zone a,b names 5 types A,AAAA absent 10% size 512 expect right, p99 <= 2 healthy + 5ms
during 1s..2s expect share of 10.0.0.1 zone a >= 10%, state of 10.0.0.1 = healthy|suspect
herd 5 x.example A tcp
`

func TestParse(t *testing.T) {
	s, err := Parse("x.txtar", sound)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.upstreams) != 3 || !s.upstreams[2].tls || len(s.upstreams[1].faults) != 1 || len(s.steps) != 3 || len(s.files) != 1 || len(s.changes) != 1 {
		t.Errorf("%+v", s)
	}
	if c := s.changes[0]; c.name != "resolv.conf" || c.at != 5*time.Second || c.how != "rename" {
		t.Errorf("%+v", c)
	}
	load := s.steps[0]
	if !s.relative() || load.do.rate != 10 || load.do.client.size != 512 || len(load.do.zones) != 2 || load.want[0].bound.number != 1 {
		t.Errorf("%+v", load)
	}
	if b := load.want[1].bound; b.healthy != 2 || b.number != 0.005 {
		t.Errorf("bound: %+v", b)
	}
	share := s.steps[1].want[0]
	if share.of != "10.0.0.1" || share.zone != "a." || share.op != ">=" || share.bound.number != 0.1 {
		t.Errorf("%+v", share)
	}
	if s.steps[2].do.count != 5 || !s.steps[2].do.tcp {
		t.Errorf("%+v", s.steps[2].do)
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ old, new, want string }{
		{"-- script --", "-- scripts --", "x.txtar: needs"},
		{"10.0.0.1-2,", "10.0.0.x,", "x.txtar:6: upstream"},
		{"* from 1s drop", "* from 1s fall", "x.txtar:7:"},
		{"* from 1s drop", "* from 1s eperm", "x.txtar:7:"},
		{"* from 1s drop", "host from 1s drop", "x.txtar:7:"},
		{"conf@5s rename", "conf@soon", "must be NAME@TIME"},
		{"conf@5s rename", "conf@5s move", "rename, remove or nothing"},
		{"* from 1s drop", "seen by x 10.0.0.1 as 10.0.0.2", "x.txtar:7: seen"},
		{"* from 1s drop", "seen by x 10.0.0.1 is x", "x.txtar:7:"},
		{"resolv.conf@5s rename", "Corefile@5s rename", "the number of a replica"},
		{"resolv.conf@5s rename", "Corefile@5s 1 newer", "the number of a replica"},
		{"at 1s", "at noon", "x.txtar:13: at"},
		{"load 10/s", "load 10", "x.txtar:13: load"},
		{"names 5", "names five", "x.txtar:13: load"},
		{"during 1s..2s", "during 2s..1s", "x.txtar:14: during"},
		{"expect share", "expect luck", "x.txtar:14:"},
		{"state of 10.0.0.1 = ", "state of 10.0.0.1 >= ", "x.txtar:14:"},
		{">= 10%", ">= ten", "x.txtar:14:"},
		{"herd 5", "flock 5", "x.txtar:15: unknown word"},
		{"x.example A tcp", "x.example A by-tcp", "x.txtar:15: herd"},
		{"x.example A tcp", "x.example A asks nobody", "x.txtar:15: asks nobody: there is no such Corefile"},
		{"x.example A tcp", "x.example A resend 0s", "x.txtar:15: herd"},
		{"x.example A tcp", "x.example XYZ", "x.txtar:15: herd"},
	} {
		_, err := Parse("x.txtar", strings.Replace(sound, c.old, c.new, 1))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v; want %q", c.new, err, c.want)
		}
	}
}

func TestHolds(t *testing.T) {
	for text, want := range map[string]bool{
		"p99 <= 2 healthy": true, "p99 <= healthy": false, "p99 <= healthy + 6ms": true, "p99 >= 2 healthy": true,
		"p99 = 12ms": true, "p99 = 13ms": false, "p99 <= 5ms + healthy": false,
	} {
		c, err := parseClause(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.holds(0.012, 0.006); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}
