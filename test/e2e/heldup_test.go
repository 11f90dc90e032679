package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"
)

// The server is held up under load, as by a limit of CPU time: for what it
// finds when it runs again no upstream is to blame, and no query is sent again.
func TestHeldUp(t *testing.T) {
	requires(t, "unbound", "dnsmasq")
	requiresDirective(t, directive())
	judged(t, func(v *verdict) {
		zones, office := public(), private()
		l := newLab(t)
		questions := append(publicQuestions(zones), missing(append(zones, office), 500)...)
		r := l.report("held up", mix(8000, questions...),
			l.upstream("internal", "172.16.0.50", dnsmasq(office)),
			l.upstream("public", "114.114.114.114", unbound("static", zones...)),
		)
		r.resolvConf(r.upstreams)
		s := r.node.coredns(fmt.Sprintf(reportCorefile, directive()))
		v.right("while settling", r.load(s, directive()+", settling", r.questions[:2000]))
		var slowest time.Duration
		for k, d := range []time.Duration{20, 50, 100, 300, 50, 100} {
			d *= time.Millisecond
			slowest = max(slowest, d)
			at := time.Duration(1+k) * time.Second
			stop := time.AfterFunc(at, func() { _ = syscall.Kill(s.pid(), syscall.SIGSTOP) })
			defer stop.Stop()
			cont := time.AfterFunc(at+d, func() { _ = syscall.Kill(s.pid(), syscall.SIGCONT) })
			defer cont.Stop()
		}
		f := r.load(s, directive()+", held up", r.questions[2000:])
		v.right("held up", f)
		t.Logf("%d wrong of %d, p50 %v, p99 %v, max %v, %.3f upstream queries per query %v; %d logged", f.wrong, f.total, f.p50, f.p99, f.max, f.perQuery(), f.each, len(s.log.lines("plugin/dnsguard")))
		v.control(figures{max: f.controlMax, p99: f.controlP99, wrong: f.controlWrong})
		if limit := slowest + settlingMax/2; f.max > limit {
			v.softf("one lookup took %v, at most %v", f.max, limit)
		}
		if per := f.perQuery(); per > perQueryBound {
			v.softf("%.3f upstream queries per query, at most %v", per, perQueryBound)
		}
		if lines := s.log.lines("plugin/dnsguard: upstream"); len(lines) > 0 {
			v.softf("the upstreams are blamed:\n%s", s.log.tail(logTail))
		}
		s.alive()
	})
}
