package e2e

import (
	"fmt"
	"testing"
	"time"
)

// certificateRow is two upstreams, of which the first has a certificate that
// must not be accepted. All rows are asked at the same time.
type certificateRow struct {
	scheme, bad string // bad: "expired", "wrong name", or "" for none
	first       string // the first upstream's address
}

// One upstream has a certificate that must not be accepted: the other one
// answers, from the first query on. With the bad one alone nothing does.
func TestBadCertificate(t *testing.T) {
	requires(t, "dig")
	requiresDirective(t, directive())
	const port, alone, perSecond = 5400, 5500, 40
	judged(t, func(v *verdict) {
		r := transportLab(t)
		good, expired, wrong := r.lab.host("good", "10.9.0.1"), r.lab.host("expired", "10.9.0.2"), r.lab.host("wrong", "10.9.0.3")
		ca := newAuthority(good)
		good.encrypted(ca.issue("good", tlsName, time.Now().Add(time.Hour)))
		expired.encrypted(ca.issue("expired", tlsName, time.Now().Add(-time.Hour)))
		wrong.encrypted(ca.issue("wrong", "other.e2e.test", time.Now().Add(time.Hour)))
		options := "tls " + ca.file() + "\n tls_servername " + tlsName
		var rows []certificateRow
		var subjects []*subject
		corefile := readyBlock
		for _, scheme := range []string{"tls", "https", "quic"} {
			rows = append(rows, certificateRow{scheme, "", good.addr.String()},
				certificateRow{scheme, "expired", expired.addr.String()}, certificateRow{scheme, "wrong name", wrong.addr.String()})
		}
		for i, row := range rows {
			corefile += block(port+i, row.scheme+"://"+row.first+" "+row.scheme+"://"+good.addr.String(), options)
			subjects = append(subjects, &subject{addr: r.node.addrPort(port + i), questions: transportQuestions(5 * perSecond)})
			if row.bad != "" {
				corefile += block(alone+i, row.scheme+"://"+row.first, options)
			}
		}
		s := r.node.coredns(corefile)
		r.client.crowd(perSecond, subjects, nil)
		for i, row := range rows {
			v.certificate(t, s, row, subjects[i], subjects[i-i%3]) // the first of three has no bad one
			if row.bad == "" {
				continue
			}
			a := r.client.dig(nodeAddr, "-p", fmt.Sprint(alone+i), "www."+transportZone, "A")
			if a.status != "SERVFAIL" || a.took > allDeadMax {
				v.errorf("%s, %s alone: %s in %v, want SERVFAIL in 2.5 s", row.scheme, row.bad, a.status, a.took)
			}
		}
		s.alive()
		s.kill()
	})
}

// certificate holds a row to the bounds.
func (v *verdict) certificate(t *testing.T, s *server, row certificateRow, sub, healthy *subject) {
	t.Helper()
	f, base := sub.all(), healthy.all()
	f.scenario, f.server = t.Name()+" "+row.scheme+" "+row.bad, directive()
	summary.add(f)
	v.right(row.scheme+" "+row.bad, f)
	if row.bad == "" {
		v.control(f)
		return
	}
	port := map[string]string{"tls": "853", "https": "443", "quic": "853"}[row.scheme]
	proto := map[string]string{"tls": "tcp-tls", "https": "https", "quic": "quic"}[row.scheme]
	to, by := `to="`+row.first+":"+port+`"`, `proto="`+proto+`"`
	tls := s.metric("coredns_dnsguard_attempts_total", to, by, `outcome="tls"`)
	all := s.metric("coredns_dnsguard_attempts_total", to, by)
	t.Logf("%s, %s: %d wrong of %d, p50 %v, max %v (healthy: %v, %v); %v of %v attempts with the bad one came to tls",
		row.scheme, row.bad, f.wrong, f.total, f.p50, f.max, base.p50, base.max, tls, all)
	if tls == 0 || tls != all {
		v.errorf("%s, %s: %v of %v attempts came to tls, want all", row.scheme, row.bad, tls, all)
	}
	if s.metric("coredns_dnsguard_upstream_state", to, `state="ejected"`) == 0 {
		v.errorf("%s, %s: the bad one is not ejected", row.scheme, row.bad)
	}
	settled, usual := sub.window(time.Second, time.Minute), healthy.window(time.Second, time.Minute)
	if limit := settlingMax + base.max; f.max > limit {
		v.softf("%s, %s: a lookup took %v, at most %v", row.scheme, row.bad, f.max, limit)
	}
	if limit := max(p99Crowd, p99Times*usual.p99); settled.p99 > limit {
		v.softf("%s, %s: p99 %v once settled, at most %v", row.scheme, row.bad, settled.p99, limit)
	}
}
