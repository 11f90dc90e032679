package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func anyWrong(f figures) bool { return f.wrong > 0 }

// Report 1a: two of the three nameservers cannot resolve public names.
func TestReport1aTwoInternalResolvers(t *testing.T) {
	requires(t, "unbound", "named", "dnsmasq")
	zones, office := public(), private()
	for _, c := range []struct {
		name string
		int1 peer
		int2 *peer // nil: everything to it is dropped
	}{
		{name: "nxdomain", int1: dnsmasq(office), int2: new(named(emptyRoot(), office))},
		{name: "refused", int1: named(office), int2: new(unbound("always_refuse", office))},
		{name: "nodata", int1: unbound("always_nodata", office), int2: new(named(starRoot(), office))},
		{name: "silent", int1: unbound("always_deny", office)},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			ups := []upstream{l.upstream("int1", "10.0.0.2", c.int1)}
			if c.int2 != nil {
				ups = append(ups, l.upstream("int2", "10.0.0.3", *c.int2))
			} else {
				ups = append(ups, l.dropped("int2", "10.0.0.3"))
			}
			ups = append(ups, l.upstream("public", "223.5.5.5", unbound("static", zones...)))
			questions := mix(settling+settledLookups, append(publicQuestions(zones), missing(zones, 1000)...)...)
			l.report("1a "+c.name, questions, ups...).compare(t, anyWrong)
		})
	}
}

// Report 1b: an internal and a public nameserver side by side; names of both
// are asked for, and the first lookup of each must be right.
func TestReport1bInternalBesidePublic(t *testing.T) {
	requires(t, "named", "dnsmasq")
	zones, office := public(), private()
	l := newLab(t)
	questions := append(publicQuestions(zones), publicQuestions([]zone{office})...)
	questions = append(questions, missing(append(zones, office), 1000)...)
	l.report("1b", mix(settling+settledLookups, questions...),
		l.upstream("internal", "172.16.0.50", dnsmasq(office)),
		l.upstream("public", "114.114.114.114", named(append(zones, emptyRoot())...)),
	).compare(t, anyWrong)
}

const unreachable = "10.196.17.210"

// Report 1c: one nameserver cannot be reached from this node, because the
// node is in another network than the workers.
func TestReport1cUnreachableFromThisNode(t *testing.T) {
	requires(t, "unbound", "named")
	zones := public()
	questions := mix(settling+settledLookups, append(publicQuestions(zones), missing(zones, 1000)...)...)
	slow := func(f figures) bool { return f.wrong > 0 || f.p99 > time.Second }
	for _, c := range []struct {
		name string
		cut  func(r *report)
		fail func(figures) bool
	}{
		{"dropped", func(r *report) {
			r.upstreams[0].filter("input", "ip saddr "+nodeAddr+" counter name hits drop")
			r.upstreams[0].relay = nil // its filter counts
		}, slow},
		{"no route", func(r *report) {
			r.lab.ip("-n", r.node.ns, "route", "add", "unreachable", unreachable)
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			r := l.report("1c "+c.name, questions,
				l.upstream("far", unreachable, unbound("static", zones...)),
				l.upstream("near1", "10.196.129.2", named(append(zones, emptyRoot())...)),
				l.upstream("near2", "10.196.129.3", unbound("static", zones...)),
			)
			c.cut(r)
			s := r.compare(t, c.fail)
			r.names(s, unreachable)
		})
	}
}

// names asserts that the log names the culprit when its state changes, and
// no oftener.
func (r *report) names(s *server, culprit string) {
	t := r.lab.t
	t.Helper()
	lines := s.log.lines(culprit)
	if len(lines) == 0 || len(lines) > 12 {
		t.Errorf("%d lines in the log name %s; want one per change of its state:\n%s", len(lines), culprit, s.log.tail(20))
		return
	}
	t.Logf("the log on the culprit:\n%s", strings.Join(lines, "\n"))
}

// Report 1c, the other half of its log: "too many open files". The server
// may have few descriptors, and no inotify instance at all.
func TestReport1cTooManyOpenFiles(t *testing.T) {
	requires(t, "unbound", "unshare", "sh")
	zones := public()
	l := newLab(t)
	r := l.report("1c too many open files", mix(3000, publicQuestions(zones)...),
		l.dropped("far", unreachable),
		l.upstream("near", "10.196.129.2", unbound("static", zones...)),
	)
	r.resolvConf(r.upstreams)
	r.node.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start")
	// A user namespace of its own, so that only this process has no inotify.
	limited := []string{
		"unshare", "--user", "--map-root-user", "sh", "-c",
		`echo 0 > /proc/sys/user/max_inotify_instances && ulimit -n 64 && exec "$@"`, "sh",
	}
	for _, d := range []string{forward, directive()} {
		requiresDirective(t, d)
		s := r.node.coredns(fmt.Sprintf(reportCorefile, d), limited...)
		f := r.load(s, d, r.questions)
		if d == directive() && f.wrong > 0 {
			t.Errorf("%d of %d wrong: %s", f.wrong, f.total, f.why())
		}
		if d == directive() && d != forward {
			r.names(s, unreachable)
		}
		t.Logf("%s: %d wrong of %d, %d descriptors, p99 %v, %.3f upstream queries per query", d, f.wrong, f.total, s.descriptors(), f.p99, f.perQuery())
		if d == directive() {
			if a, err := r.client.ask(s.host.addrPort(53), "www."+zones[1].name, dns.TypeA); err != nil || len(a.Answer) == 0 {
				t.Errorf("afterwards: %v %v", a, err)
			}
			s.alive()
		}
		s.kill()
	}
}
