package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// The faults of the matrix begin at faultAt, and count as known at settledAt.
const (
	faultAt   = 2 * time.Second
	settledAt = 3500 * time.Millisecond
	faultsEnd = 8 * time.Second
	faultRate = 40 // lookups per second and row
)

// faultRow is one fault on real sockets: what is wrong with the second of
// three upstreams, or with all of them, and what may come of it.
type faultRow struct {
	name    string
	n       int      // upstreams; 0: 3
	second  string   // what is wrong with the second, for fakedns
	each    string   // with each of them
	rules   []string // of the packet filter before them; $2 is the second's address, $all a set of all, $ten of the last ten
	options string
	zones   string
	types   []uint16
	outcome string  // this must be counted: of the second, or of all with each
	most    float64 // upstream queries per query, once settled; 0: 1.1
	share   float64 // of the queries once settled, that the second may still get; 0: not bounded
	slow    bool    // times are not bounded
	lost    float64 // this share of the queries may fail
}

var faultRows = []faultRow{
	{name: "1 silent", second: "drop", outcome: "timeout", share: 0.05},
	{name: "2 closed port", rules: []string{"ip daddr $2 meta l4proto { tcp, udp } reject"}, outcome: "conn_refused", share: 0.05},
	{name: "2 host unreachable", rules: []string{"ip daddr $2 meta l4proto { tcp, udp } reject with icmp host-unreachable"}, outcome: "unreachable", share: 0.05},
	{name: "2 prohibited", rules: []string{"ip daddr $2 meta l4proto { tcp, udp } reject with icmp admin-prohibited"}, outcome: "unreachable", share: 0.05},
	{name: "2 UDP refused by all", rules: []string{"ip daddr $all udp dport 53 reject"}, outcome: "conn_refused"},
	{name: "2 UDP dropped by all", rules: []string{"ip daddr $all udp dport 53 drop"}},
	{name: "3 REFUSED", second: "refused", outcome: "refused", share: 0.05},
	{name: "3 SERVFAIL", second: "servfail", outcome: "servfail", share: 0.05},
	{name: "3 NOTIMP", second: "notimp", outcome: "notimp", share: 0.05},
	{name: "3 FORMERR", second: "formerr", outcome: "formerr", share: 0.05},
	{name: "4 REFUSED for some zones", second: "zone example.org refused", zones: "example.org example.com", outcome: "refused"},
	{name: "4 NXDOMAIN for some zones", second: "zone example.org nxdomain", zones: "example.org example.com", outcome: "nxdomain"},
	{name: "5 SERVFAIL for some names", second: "names 5% servfail", outcome: "servfail"},
	{name: "7 NXDOMAIN", second: "nxdomain", outcome: "nxdomain", share: 0.05},
	{name: "8 NODATA with SOA", second: "nodata soa .", outcome: "nodata", share: 0.05},
	{name: "10 answers probes only", second: "except probes drop", outcome: "timeout", share: 0.05},
	{name: "11 drops AAAA", second: "qtype AAAA drop", types: []uint16{dns.TypeA, dns.TypeAAAA}, outcome: "timeout"},
	{name: "12 wrong ID", second: "proto udp wrong-id", outcome: "mismatched"},
	{name: "12 wrong question", second: "proto udp wrong-question", outcome: "mismatched"},
	{name: "12 QR 0", second: "proto udp qr0", outcome: "mismatched"},
	{name: "12 wrong source", second: "wrong-source", outcome: "timeout"},
	{name: "12 a good reply later", each: "forge 3 50ms", slow: true, most: 2.5},
	{name: "14 corrupt", second: "corrupt", outcome: "malformed", share: 0.05},
	{name: "14 compression loop", second: "compression-loop", outcome: "malformed", share: 0.05},
	{name: "14 empty", second: "empty", share: 0.05},
	{name: "14 garbage", second: "garbage", share: 0.05},
	{name: "17 TCP closed while idle", each: "tcp-close-idle 150ms", options: "force_tcp"},
	{name: "17 TCP closed mid-query", each: "tcp-close-midquery 5", options: "force_tcp", most: 1.6},
	{name: "18 slow", second: "delay 500ms", options: "policy adaptive", share: 0.05},
	{name: "19 all slow", each: "delay 2s", slow: true, most: 6},
	{name: "20 one loses 30%", rules: []string{"ip daddr $2 numgen random mod 100 < 30 drop"}},
	{name: "20 all lose 10%", rules: []string{"ip daddr $all numgen random mod 100 < 10 drop"}, most: 1.4, slow: true},
	{name: "20 all lose 30%", rules: []string{"ip daddr $all numgen random mod 100 < 30 drop"}, most: 2.5, slow: true, lost: 0.005},
	{name: "21 jitter", second: "jitter 20ms"},
	{name: "22 flaps", second: "every 1500ms for 700ms drop", slow: true, most: 1.3},
	{name: "23 FORMERR on EDNS", each: "no-edns formerr", outcome: "formerr"},
	{name: "23 EDNS dropped before one", rules: []string{"ip daddr $2 udp dport 53 @th,144,16 != 0 drop"}},
	{name: "23 EDNS dropped before all", rules: []string{"ip daddr $all udp dport 53 @th,144,16 != 0 drop"}, most: 1.4},
	{name: "24 BADCOOKIE", each: "badcookie", outcome: "badcookie"},
	{name: "25 duplicates", each: "duplicate 3 50ms"},
	{name: "25 late replies", second: "late 1s", options: "policy adaptive", share: 0.05},
	{name: "31 the only one loses 10%", n: 1, rules: []string{"ip daddr $2 numgen random mod 100 < 10 drop"}, most: 1.4, slow: true, lost: 0.005},
	{name: "32 fifty, ten dead", n: 50, rules: []string{"ip daddr $ten drop"}, most: 1.5},
}

// Each fault on real sockets, before a server block of its own, a third of
// them at the same time.
func TestFaults(t *testing.T) {
	requires(t)
	requiresDirective(t, directive())
	most := (len(faultRows) + 2) / 3
	for rows := range slices.Chunk(faultRows, most) {
		rows := append([]faultRow{{name: "healthy"}}, rows...)
		t.Run("from "+rows[1].name, func(t *testing.T) { judged(t, func(v *verdict) { v.faults(t, rows) }) })
	}
}

// faults runs some rows, the first of which is healthy.
func (v *verdict) faults(t *testing.T, rows []faultRow) {
	t.Helper()
	l := newLab(t)
	far, client, node := l.host("far", "10.20.0.1"), l.host("client", clientAddr), l.host("node", nodeAddr)
	far.sysctl("net/ipv4/icmp_ratelimit", "0") // else the rows would take ICMP errors from one another
	var all []*fake
	var rules []string
	pools, subjects := make([][]*fake, len(rows)), make([]*subject, len(rows))
	corefile := readyBlock
	for i, row := range rows {
		n := row.n
		if n == 0 {
			n = 3
		}
		for k := range n {
			pools[i] = append(pools[i], far.fake(fmt.Sprintf("10.20.%d.%d", i+1, k+1), row.faults(k)...))
		}
		all = append(all, pools[i]...)
		rules = append(rules, row.filters(pools[i])...)
		to := addresses(pools[i], " ")
		if n > 15 { // more than a Corefile takes
			to = node.servers(pools[i])
		}
		options := row.options
		if !strings.Contains(options, "policy") { // the nearest alone would get all queries, whatever is wrong with the second
			options = "policy random\n  " + options
		}
		corefile += block(5400+i, to, options)
		subjects[i] = &subject{addr: node.addrPort(5400 + i), questions: row.questions()}
	}
	direct := far.fake("10.20.255.1")
	control := &subject{addr: direct.to(), questions: known(len(subjects[0].questions), "control.test", dns.TypeA)}
	s := node.coredns(corefile)
	begin(append(all, direct))
	client.crowd(faultRate, append(subjects, control), map[time.Duration]func(){
		faultAt: func() { far.filter("input", rules...) },
	})
	c := control.all()
	healthy := subjects[0].all()
	v.control(c)
	t.Logf("asked directly: %d wrong of %d, p50 %v, p99 %v, max %v", c.wrong, c.total, c.p50, c.p99, c.max)
	for i, row := range rows {
		row.judge(t, v, s, pools[i], subjects[i], max(c.max, healthy.max), max(c.p99, healthy.p99))
	}
	s.alive()
	s.kill()
}

// second is the second upstream, or the only one.
func second(pool []*fake) *fake { return pool[min(1, len(pool)-1)] }

// faults are those of the k-th upstream, from faultAt on.
func (row *faultRow) faults(k int) (lines []string) {
	for _, f := range []string{row.each, row.second} {
		if f != "" && (f == row.each || k == 1) {
			lines = append(lines, fmt.Sprintf("from %v %s", faultAt, f))
		}
	}
	return lines
}

func (row *faultRow) filters(pool []*fake) (rules []string) {
	set := func(of []*fake) string { return "{ " + addresses(of, ", ") + " }" }
	fill := strings.NewReplacer("$2", second(pool).addr.String(), "$all", set(pool), "$ten", set(pool[max(0, len(pool)-10):]))
	for _, r := range row.rules {
		rules = append(rules, fill.Replace(r))
	}
	return rules
}

func (row *faultRow) questions() []question {
	zones, types := row.zones, row.types
	if zones == "" {
		zones = "example.com"
	}
	if types == nil {
		types = []uint16{dns.TypeA}
	}
	return known(int(faultsEnd/time.Second)*faultRate, zones, types...)
}

// judge holds a row to its bounds. slowest and p99 are what lookups take here
// where nothing is wrong.
func (row *faultRow) judge(t *testing.T, v *verdict, s *server, pool []*fake, sub *subject, slowest, p99 time.Duration) {
	t.Helper()
	f, settled := sub.all(), sub.window(settledAt, faultsEnd)
	sent, toSecond := 0, second(pool).received(settledAt, faultsEnd)
	for _, p := range pool {
		sent += p.received(settledAt, faultsEnd)
	}
	per, share := float64(sent)/float64(settled.total), float64(toSecond)/float64(settled.total)
	t.Logf("%-28s %d wrong of %d, max %v; settled: p50 %v, p99 %v, %.2f upstream queries per query, %.3f to the second; %s",
		row.name, f.wrong, f.total, f.max.Round(time.Millisecond/10), settled.p50.Round(time.Millisecond/10), settled.p99.Round(time.Millisecond/10), per, share, f.why())
	if float64(f.wrong) > row.lost*float64(f.total) {
		v.errorf("%s: %d of %d wrong: %s", row.name, f.wrong, f.total, f.why())
	}
	most := row.most
	if most == 0 {
		most = perQueryBound
	}
	if per > most {
		v.softf("%s: %.2f upstream queries per query once settled, at most %v", row.name, per, most)
	}
	if row.share > 0 && share > row.share {
		v.softf("%s: the second upstream still gets %.3f of the queries, at most %v", row.name, share, row.share)
	}
	if limit := settlingMax + slowest; f.max > limit && !row.slow {
		v.softf("%s: one lookup took %v, at most %v", row.name, f.max, limit)
	}
	if limit := max(p99Crowd, p99Times*p99); settled.p99 > limit && !row.slow {
		v.softf("%s: p99 %v once settled, at most %v", row.name, settled.p99, limit)
	}
	if row.outcome != "" && s.metric("coredns_dnsguard_attempts_total", `outcome="`+row.outcome+`"`, `to="`+second(pool).to()+`"`) == 0 {
		v.errorf("%s: no attempt with the second upstream came to %s, so that this row shows nothing", row.name, row.outcome)
	}
}
