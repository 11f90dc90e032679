package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/test/fakedns"
)

// Faults that last for seconds are tested side by side: many servers, each
// with upstreams of its own, under one load.

// subject is a server under test, what it is asked, and what came of that.
type subject struct {
	addr      string // address and port
	questions []question
	answers   []answer
}

// crowd asks all subjects at once, each at the rate, and does things at their
// times meanwhile. All must have the same number of questions.
func (h *host) crowd(rate int, subjects []*subject, things map[time.Duration]func()) {
	h.t.Helper()
	n := len(subjects)
	var servers []string
	questions := make([]question, n*len(subjects[0].questions))
	for i, s := range subjects {
		servers = append(servers, s.addr)
		for j, q := range s.questions {
			questions[j*n+i] = q
		}
	}
	l := h.loaders(servers, 4, n*rate, questions)
	for at, f := range things {
		defer time.AfterFunc(at, f).Stop()
	}
	answers := l.run()
	for i, s := range subjects {
		s.answers = make([]answer, len(s.questions))
		for j := range s.answers {
			s.answers[j] = answers[j*n+i]
		}
	}
}

// window returns the figures of what was asked in a time.
func (s *subject) window(from, to time.Duration) figures {
	var questions []question
	var answers []answer
	for i, a := range s.answers {
		if a.at >= from && a.at < to {
			questions, answers = append(questions, s.questions[i]), append(answers, a)
		}
	}
	return measure(questions, answers)
}

// all returns the figures of all that was asked.
func (s *subject) all() figures { return measure(s.questions, s.answers) }

// known are n questions for different names that fake servers know, in the
// zones and of the types in turn.
func known(n int, zones string, types ...uint16) []question {
	out := make([]question, n)
	list := strings.Fields(zones)
	for i := range out {
		q := question{name: fmt.Sprintf("n%d.%s.", i, list[i%len(list)]), qtype: types[i%len(types)]}
		q.addr = fakedns.A("", q.name)
		if q.qtype == dns.TypeAAAA {
			q.addr = fakedns.AAAA("", q.name)
		}
		out[i] = q
	}
	return out
}

// fake is a server that goes wrong on purpose, at an address of a host.
type fake struct {
	*fakedns.Server
	addr netip.Addr
}

// fake puts a server with faults (in the language of fakedns) at an address,
// which becomes one of the host's. The times of the faults count from begin.
func (h *host) fake(addr string, faults ...string) *fake {
	h.t.Helper()
	s, err := fakedns.ParseServer("rtt 6ms jitter 1ms")
	if err != nil {
		h.t.Fatal(err)
	}
	var list []fakedns.Fault
	for _, line := range faults {
		f, err := fakedns.ParseFault(line)
		if err != nil {
			h.t.Fatal(err)
		}
		list = append(list, f)
	}
	s.Set(list...)
	s.Name = addr
	f := &fake{Server: s, addr: netip.MustParseAddr(addr)}
	if f.addr != h.addr {
		h.lab.ip("-n", h.ns, "addr", "add", addr+"/32", "dev", "eth0")
	}
	var l *fakedns.Listener
	if err := h.do(func() (err error) {
		l, err = fakedns.Listen(addr+":53", s)
		return err
	}); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { l.Close() })
	return f
}

// to names the server as metrics do.
func (f *fake) to() string { return f.addr.String() + ":53" }

// received counts the queries, probes apart, in a time since begin.
func (f *fake) received(from, to time.Duration) int {
	n := 0
	for _, r := range f.Log() {
		if r.At >= from && r.At < to && !r.Probe() {
			n++
		}
	}
	return n
}

// begin starts the schedules of faults.
func begin(fakes []*fake) {
	now := time.Now()
	for _, f := range fakes {
		f.Start(now)
		f.Reset()
	}
}

// addresses lists the fakes' addresses for a Corefile, or for a set of nft.
func addresses(fakes []*fake, between string) string {
	var list []string
	for _, f := range fakes {
		list = append(list, f.addr.String())
	}
	return strings.Join(slices.Clip(list), between)
}

// servers writes the fakes' addresses into a file like resolv.conf, and
// returns its path.
func (h *host) servers(fakes []*fake) string {
	h.t.Helper()
	path := filepath.Join(h.tempDir(), "resolv.conf")
	text := "nameserver " + addresses(fakes, "\nnameserver ") + "\n"
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// block is a server block without a cache, on a port of its own.
func block(port int, to, options string) string {
	return fmt.Sprintf(".:%d {\n errors\n prometheus :9153\n %s . %s {\n  %s\n }\n}\n", port, directive(), to, options)
}

// readyBlock answers the question that tells that the server serves.
const readyBlock = ready + ":53 {\n template IN TXT . {\n  answer \"{{ .Name }} 0 IN TXT ready\"\n }\n}\n"
