package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

const (
	followEnd  = 15 * time.Second
	followRate = 30 // lookups per second and node
	follow5s   = 5 * time.Second
)

// followRow is a list of upstreams, or a Corefile, that changes under load.
type followRow struct {
	name    string
	to      string // in the Corefile; $file is a file, $fakes the upstreams
	options string
	n       int                                  // upstreams
	faults  map[int][]string                     // what is wrong with them
	first   string                               // the file at the start; $1, $2, ... are the upstreams; "-": there is none
	things  map[time.Duration]func(f *following) // what is done when
	failing time.Duration                        // up to this time all lookups fail, and then for 5 s some
	check   func(f *following)
}

// following is a row at work.
type following struct {
	*followRow
	t        *testing.T
	verdict  *verdict
	node     *host
	file     string
	fakes    []*fake
	names    *nameServer
	corefile string
	server   *server
	subject  *subject
}

func (f *following) fill(text string) string {
	for i, u := range f.fakes {
		text = strings.ReplaceAll(text, fmt.Sprintf("$%d", i+1), u.addr.String())
	}
	return strings.NewReplacer("$file", f.file, "$fakes", addresses(f.fakes, " "), "$names", f.names.addr.String()).Replace(text)
}

// write changes the file in place; rename replaces it.
func write(text string) func(f *following) {
	return func(f *following) { f.write(f.file, f.fill(text)) }
}

func rename(text string) func(f *following) {
	return func(f *following) {
		f.write(f.file+".new", f.fill(text))
		if err := os.Rename(f.file+".new", f.file); err != nil {
			f.t.Error(err)
		}
	}
}

func remove(f *following) {
	if err := os.Remove(f.file); err != nil {
		f.t.Error(err)
	}
}

func (f *following) write(path, text string) {
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		f.t.Error(err)
	}
}

// point gives the host name other addresses.
func point(list string) func(f *following) {
	return func(f *following) { f.names.point(f.name, f.fill(list)) }
}

// reload has CoreDNS load a changed Corefile.
func reload(from, to string) func(f *following) {
	return func(f *following) {
		f.write(f.server.corefile, strings.Replace(f.corefile, from, to, 1))
		if err := syscall.Kill(f.server.pid(), syscall.SIGUSR1); err != nil {
			f.t.Error(err)
		}
	}
}

// quiet holds that upstream i got no more queries after a time.
func (f *following) quiet(i int, after time.Duration) {
	if n := f.fakes[i-1].received(after, time.Hour); n > 0 {
		f.verdict.errorf("%s: %d queries to upstream %d, later than %v", f.name, n, i, after)
	}
}

// busy holds that upstream i got queries in a time.
func (f *following) busy(i int, from, to time.Duration) {
	if f.fakes[i-1].received(from, to) == 0 {
		f.verdict.errorf("%s: no query to upstream %d from %v to %v", f.name, i, from, to)
	}
}

const servers123 = "nameserver $1\nnameserver $2\nnameserver $3\n"

var followRows = []followRow{
	{
		name: "30 empty at first", to: "$file", n: 2, first: "# nothing\n", failing: 4 * time.Second,
		things: map[time.Duration]func(*following){4 * time.Second: write("nameserver $1\nnameserver $2\n")},
	},
	{
		name: "30 missing at first", to: "$file", n: 2, first: "-", failing: 4 * time.Second,
		things: map[time.Duration]func(*following){4 * time.Second: rename("nameserver $1\nnameserver $2\n")},
	},
	{
		name: "30 unknown host at first", to: "up.test", options: "resolver $names", n: 1, failing: 2 * time.Second,
		things: map[time.Duration]func(*following){2 * time.Second: point("$1")},
	},
	{
		name: "33 changes", to: "$file", n: 5, first: servers123,
		things: map[time.Duration]func(*following){
			2 * time.Second: write("nameserver $3\nnameserver $4\n"),
			8 * time.Second: rename("nameserver $5\n"),
		},
		check: func(f *following) {
			f.quiet(1, 2*time.Second+follow5s)
			f.busy(4, 2*time.Second+follow5s, 8*time.Second)
			f.quiet(4, 8*time.Second+follow5s)
			f.busy(5, 8*time.Second+follow5s, followEnd)
		},
	},
	{
		name: "33 bad for a moment", to: "$file", n: 4, first: servers123,
		things: map[time.Duration]func(*following){
			2 * time.Second:          write(""),
			5 * time.Second:          write(servers123),
			6 * time.Second:          write("<html>\nnamesrv $4\n"),
			9 * time.Second:          rename(servers123),
			10 * time.Second:         remove,
			13 * time.Second:         write(servers123),
			13500 * time.Millisecond: write("nameserver $1\nnameser"),
			13600 * time.Millisecond: write(servers123),
		},
		check: func(f *following) { f.quiet(4, 0) },
	},
	{
		name: "34 host changes", to: "up.test", options: "resolver $names", n: 3,
		faults: map[int][]string{1: {"from 11s drop"}},
		things: map[time.Duration]func(*following){
			0:                point("$1 $2"),
			2 * time.Second:  point("$2 $3"),
			9 * time.Second:  point(""),
			14 * time.Second: point("$2 $3"),
		},
		check: func(f *following) {
			f.quiet(1, 9*time.Second)
			f.busy(3, 9*time.Second, followEnd)
		},
	},
	{
		name: "39 and 40 reloads", to: "$fakes", options: "max_concurrent 1000", n: 3,
		faults: map[int][]string{1: {"from 1s drop"}, 2: {"nxdomain"}},
		things: map[time.Duration]func(*following){
			5 * time.Second:  reload("1000", "1001"),
			8 * time.Second:  reload("1000", "many"),
			11 * time.Second: reload("1000", "1002"),
		},
		check: reloaded,
	},
}

// reloaded holds that what was learned, and the sockets, have survived.
func reloaded(f *following) {
	for _, at := range []time.Duration{5 * time.Second, 8 * time.Second, 11 * time.Second} {
		if n := f.fakes[0].received(at, at+3*time.Second); n > 12 { // two trials a second, and the attempts of forgotten knowledge would come on top
			f.verdict.softf("%s: %d queries to the silent upstream in the 3 s after %v", f.name, n, at)
		}
	}
	if n := len(f.fakes[2].Stats().Ports); n > 8 {
		f.verdict.errorf("%s: %d ports, so that sockets have not survived", f.name, n)
	}
	if n := len(f.server.log.lines("Reloading complete")); n != 2 {
		f.verdict.errorf("%s: %d reloads done, want 2:\n%s", f.name, n, f.server.log.tail(logTail))
	}
}

// nameServer answers A of host names by what a test says.
type nameServer struct {
	addr  netip.Addr
	hosts atomic.Pointer[map[string]string] // by row
}

func (s *nameServer) point(row, list string) {
	for {
		old := s.hosts.Load()
		hosts := make(map[string]string)
		if old != nil {
			for k, v := range *old {
				hosts[k] = v
			}
		}
		if hosts[row] = list; s.hosts.CompareAndSwap(old, &hosts) {
			return
		}
	}
}

// nameServer starts one for a row at an address of the host.
func (h *host) nameServer(row, addr string) *nameServer {
	h.t.Helper()
	s := &nameServer{addr: netip.MustParseAddr(addr)}
	h.lab.ip("-n", h.ns, "addr", "add", addr+"/32", "dev", "eth0")
	var conn net.PacketConn
	if err := h.do(func() (err error) {
		conn, err = net.ListenPacket("udp4", addr+":53")
		return err
	}); err != nil {
		h.t.Fatal(err)
	}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		list := ""
		if hosts := s.hosts.Load(); hosts != nil {
			list = (*hosts)[row]
		}
		if list == "" {
			m.Rcode = dns.RcodeServerFailure
		}
		for _, a := range strings.Fields(list) {
			if q.Question[0].Qtype == dns.TypeA {
				m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.ParseIP(a)})
			}
		}
		_ = w.WriteMsg(m)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.ActivateAndServe() }()
	h.t.Cleanup(func() { conn.Close(); <-done })
	return s
}

// Lists of upstreams and Corefiles that change, each on a node of its own, all
// under one load: what can be answered is.
func TestFollow(t *testing.T) {
	requires(t, "dig")
	requiresDirective(t, directive())
	judged(t, func(v *verdict) {
		l := newLab(t)
		far, client := l.host("far", "10.32.0.1"), l.host("client", clientAddr)
		var all []*fake
		var rows []*following
		var subjects []*subject
		things := make(map[time.Duration][]func())
		for i := range followRows {
			f := &following{followRow: &followRows[i], t: t, verdict: v, node: l.host(fmt.Sprintf("node%d", i), fmt.Sprintf("10.33.0.%d", i+1))}
			f.start(far, i)
			all, rows, subjects = append(all, f.fakes...), append(rows, f), append(subjects, f.subject)
			for at, thing := range f.things {
				things[at] = append(things[at], func() { thing(f) })
			}
		}
		direct := far.fake("10.32.255.1")
		control := &subject{addr: direct.to(), questions: rows[0].subject.questions}
		at := make(map[time.Duration]func())
		for when, list := range things {
			at[when] = func() {
				for _, do := range list {
					do()
				}
			}
		}
		at[time.Second] = func() { rows[0].withoutUpstreams(client) }
		begin(append(all, direct))
		client.crowd(followRate, append(subjects, control), at)
		c := control.all()
		v.control(c)
		t.Logf("asked directly: %d wrong of %d, p50 %v, p99 %v, max %v", c.wrong, c.total, c.p50, c.p99, c.max)
		for _, f := range rows {
			f.judge(c)
			f.server.alive()
			f.server.kill()
		}
	})
}

// start starts upstreams and CoreDNS for the i-th row.
func (f *following) start(far *host, i int) {
	for k := range f.n {
		f.fakes = append(f.fakes, far.fake(fmt.Sprintf("10.32.%d.%d", i+1, k+1), f.faults[k+1]...))
	}
	f.names = far.nameServer(f.name, fmt.Sprintf("10.32.%d.53", i+1))
	if first := f.things[0]; first != nil {
		first(f)
	}
	f.file = filepath.Join(f.node.tempDir(), "resolv.conf")
	if f.first != "-" && f.first != "" {
		f.write(f.file, f.fill(f.first))
	}
	f.corefile = readyBlock + "cluster.local:5400 {\n template IN A . {\n  answer \"{{ .Name }} 5 IN A 10.96.0.1\"\n }\n}\n" + block(5400, f.fill(f.to), f.fill(f.options))
	f.server = f.node.coredns(f.corefile)
	f.subject = &subject{addr: f.node.addrPort(5400), questions: known(int(followEnd/time.Second)*followRate, "example.com", dns.TypeA)}
}

// withoutUpstreams holds what a server says that has none.
func (f *following) withoutUpstreams(client *host) {
	a := client.dig(f.node.addr.String(), "-p", "5400", "kubernetes.default.svc.cluster.local", "A")
	if a.status != "NOERROR" {
		f.verdict.errorf("%s: a name of the cluster: %s", f.name, a.status)
	}
	a = client.dig(f.node.addr.String(), "-p", "5400", "www.example.com", "A")
	if a.status != "SERVFAIL" || !strings.Contains(a.text, "EDE: 14") {
		f.verdict.errorf("%s: %s, want SERVFAIL with EDE 14:\n%s", f.name, a.status, a.text)
	}
}

func (f *following) judge(control figures) {
	well := time.Duration(0)
	if f.failing > 0 {
		well = f.failing + follow5s
		if m := f.subject.window(0, f.failing); m.wrong != m.total || m.reasons["no answer"] > 0 {
			f.verdict.errorf("%s: %d of %d wrong without upstreams: %s", f.name, m.wrong, m.total, m.why())
		}
	}
	all := f.subject.window(well, time.Hour)
	f.t.Logf("%-26s %d wrong of %d since %v, p50 %v, max %v %s", f.name, all.wrong, all.total, well, all.p50.Round(time.Millisecond/10), all.max.Round(time.Millisecond/10), all.why())
	if all.wrong > 0 {
		f.verdict.errorf("%s: %d of %d wrong: %s", f.name, all.wrong, all.total, all.why())
	}
	if limit := settlingMax + control.max; all.max > limit {
		f.verdict.softf("%s: a lookup took %v, at most %v", f.name, all.max, limit)
	}
	if f.check != nil {
		f.check(f)
	}
}
