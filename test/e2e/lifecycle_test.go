package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// lifecycleLab is report 1b's pool: one server that denies public names
// beside a good one, so that what was learned counts.
func lifecycleLab(t *testing.T, scenario string) (*report, []zone) {
	t.Helper()
	requires(t, "unbound", "dnsmasq")
	requiresDirective(t, directive())
	zones := public()
	l := newLab(t)
	r := l.report(scenario, mix(6000, publicQuestions(zones)...),
		l.upstream("internal", "172.16.0.50", dnsmasq(private())),
		l.upstream("public", "114.114.114.114", unbound("static", zones...)),
	)
	r.resolvConf(r.upstreams)
	return r, zones
}

// during runs the load, and does the things at their times meanwhile.
func (r *report) during(s *server, rate int, questions []question, things map[time.Duration]func()) figures {
	r.lab.t.Helper()
	var timers []*time.Timer
	for at, f := range things {
		timers = append(timers, time.AfterFunc(at, f))
	}
	defer func() {
		for _, tm := range timers {
			tm.Stop()
		}
	}()
	f := r.ask(rate, questions)
	f.scenario, f.server = r.scenario, directive()
	summary.add(f)
	r.lab.t.Logf("%d wrong of %d, p50 %v, p99 %v, max %v %s", f.wrong, f.total, f.p50, f.p99, f.max, f.why())
	return f
}

// SIGTERM under load: the lameduck time loses no query, the process ends
// with status 0, and another one takes over at the same address.
func TestTerminateUnderLoad(t *testing.T) {
	judged(t, func(v *verdict) {
		r, zones := lifecycleLab(t, "SIGTERM")
		s := r.node.coredns(fmt.Sprintf(reportCorefile, directive()))
		var asked atomic.Int64
		v.right("in the lameduck time", r.during(s, 400, r.questions[:2000], map[time.Duration]func(){
			time.Second: func() { asked.Store(time.Now().UnixNano()); _ = syscall.Kill(s.pid(), syscall.SIGTERM) },
		}))
		if err := s.exits(15 * time.Second); err != nil {
			v.errorf("it ended with: %v", err)
		}
		t.Logf("it ended %v after SIGTERM", time.Since(time.Unix(0, asked.Load())).Round(time.Millisecond))
		if bad := s.log.lines("panic"); len(bad) > 0 {
			v.errorf("it panicked:\n%s", s.log.tail(logTail))
		}
		s = r.node.coredns(fmt.Sprintf(reportCorefile, directive()))
		v.right("after the restart", r.during(s, 400, mix(400, publicQuestions(zones[:20])...), nil))
		s.alive()
	})
}

// Corefile reloads under load lose no query, and a Corefile that is wrong
// leaves the server as it is.
func TestReloadUnderLoad(t *testing.T) {
	judged(t, func(v *verdict) {
		r, _ := lifecycleLab(t, "reload")
		// A reload would wait for the lameduck time.
		corefile := strings.NewReplacer("        lameduck 5s\n", "", "    reload\n", "").Replace(fmt.Sprintf(reportCorefile, directive()))
		s := r.node.coredns(corefile)
		write := func(text string) {
			if err := os.WriteFile(s.corefile, []byte(text), 0o644); err != nil {
				t.Error(err)
			}
			_ = syscall.Kill(s.pid(), syscall.SIGUSR1)
		}
		v.right("over three reloads", r.during(s, rate, r.questions, map[time.Duration]func(){
			1500 * time.Millisecond: func() { write(corefile + "# second\n") },
			3000 * time.Millisecond: func() { write(strings.ReplaceAll(corefile, "max_concurrent 1000", "max_concurrent none")) },
			4500 * time.Millisecond: func() { write(strings.ReplaceAll(corefile, "cache 30", "cache 20")) },
			6000 * time.Millisecond: func() { write(corefile) },
		}))
		if n := len(s.log.lines("Reloading complete")); n != 3 {
			v.errorf("%d reloads done, want 3:\n%s", n, s.log.tail(logTail))
		}
		s.alive()
	})
}

// Faults come and go: descriptors and goroutines are as before afterwards.
func TestFaultsLeaveNothingBehind(t *testing.T) {
	judged(t, func(v *verdict) {
		r, zones := lifecycleLab(t, "leaks")
		l, questions := r.lab, publicQuestions(zones)
		r.upstreams = append(r.upstreams, l.upstream("public2", "223.5.5.5", unbound("static", zones...)))
		r.resolvConf(r.upstreams)
		s := r.node.coredns(plain(directive(), "/etc/resolv.conf", "expire 1s"))
		next := func(n int) []question {
			q := questions[:n]
			questions = questions[n:]
			return q
		}
		r.during(s, 400, next(400), nil)
		fds, goroutines := s.descriptors(), s.goroutines()
		const everything = "meta l4proto { tcp, udp } th dport 53 drop"
		for _, fault := range []string{
			"udp dport 53 drop",
			everything,
			"udp dport 53 reject",
			"udp dport 53 numgen random mod 100 < 30 drop",
		} {
			for _, u := range r.upstreams {
				u.filter("input", "iif eth0 "+fault)
			}
			if f := r.during(s, 400, next(400), nil); f.wrong > 0 && fault != everything {
				v.softf("during %q: %d of %d wrong: %s", fault, f.wrong, f.total, f.why())
			}
			t.Logf("during %q: %d descriptors, %d goroutines (before: %d, %d)", fault, s.descriptors(), s.goroutines(), fds, goroutines)
			for _, u := range r.upstreams {
				u.filter("input")
			}
			r.recovers(s, zones[1].records[1].name)
		}
		f := r.during(s, 400, next(1200), nil)
		if f.wrong > 0 {
			v.errorf("%d of %d wrong after the faults: %s", f.wrong, f.total, f.why())
		}
		eventually(t, 30*time.Second, s.process, func() error {
			if n, m := s.descriptors(), s.goroutines(); n > fds+8 || m > goroutines+8 {
				return fmt.Errorf("%d descriptors and %d goroutines, before the faults %d and %d", n, m, fds, goroutines)
			}
			return nil
		})
		s.alive()
		s.kill()
	})
}

// recovers waits until the server answers again, as it must within 5 s.
func (r *report) recovers(s *server, name string) {
	r.lab.t.Helper()
	eventually(r.lab.t, 5*time.Second, s.process, func() error {
		m, err := r.client.ask(r.node.addrPort(53), name, dns.TypeA)
		if err == nil && len(m.Answer) == 0 {
			err = errors.New(dns.RcodeToString[m.Rcode])
		}
		return err
	})
}
