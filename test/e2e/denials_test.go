package e2e

import (
	"fmt"
	"testing"
)

// Search lists make most lookups of a cluster end in a true denial. Once the
// pool is known, one query is enough for each, whether or not a server that
// denies everything is in the pool.
func TestTrueDenialsCostOneQuery(t *testing.T) {
	requires(t, "unbound", "dnsmasq", "named")
	requiresDirective(t, directive())
	zones := public()
	var inZones, search, nodata []question
	for i, q := range missing(zones, 2*baselineLookups) {
		if i%2 == 0 {
			inZones = append(inZones, q)
		} else {
			search = append(search, q)
		}
	}
	for _, q := range publicQuestions(zones) {
		if !q.addr.IsValid() {
			nodata = append(nodata, q)
		}
	}
	// Positive answers first: they show which server knows what.
	loads := []struct {
		name      string
		questions []question
		bounded   bool
	}{
		{"names that exist", mix(baselineLookups, publicQuestions(zones)...), false},
		{"search list, settling", search[:settling], false},
		{"search list, settled", search[settling:], true},
		{"typing errors in 500 zones, settling", inZones[:settling], false},
		{"typing errors in 500 zones, settled", inZones[settling:], true},
		{"no IPv6 address, settled", mix(len(nodata), nodata...), true},
	}
	for _, c := range []struct {
		name  string
		first peer
	}{
		{"beside another good server", named(append(zones, emptyRoot())...)},
		{"beside a server that denies all", dnsmasq(private())},
	} {
		t.Run(c.name, func(t *testing.T) {
			judged(t, func(v *verdict) {
				l := newLab(t)
				r := l.report("denials "+c.name, nil,
					l.upstream("first", "10.0.0.2", c.first),
					l.upstream("good", "10.0.0.4", unbound("static", zones...)),
				)
				r.resolvConf(r.upstreams)
				s := r.node.coredns(fmt.Sprintf(reportCorefile, directive()))
				rows := new(table)
				defer func() { t.Logf("\n%s", rows) }()
				for _, load := range loads {
					f := r.load(s, directive()+", "+load.name, load.questions)
					rows.add(f)
					v.right(load.name, f)
					v.control(figures{max: f.controlMax, p99: f.controlP99, wrong: f.controlWrong})
					if load.bounded && f.perQuery() > perQueryBound {
						v.softf("%s: %.3f upstream queries per query; at most %v", load.name, f.perQuery(), perQueryBound)
					}
				}
				s.alive()
				s.kill()
			})
		})
	}
}
