package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/test/fakedns"
	"github.com/dnsguard/dnsguard/test/observed"
)

// A scene is a node with everything on that looks at queries, and two
// upstreams, asked in their order: near, which fails for the names below some
// top-level domains, and far, which knows all.
type scene struct {
	*report
	t         *testing.T
	s         *server
	near, far *fakedns.Server
	at        map[string]*fakedns.Server // by host:port
	zones     int                        // that have been asked for
	spans     *observed.Spans
	full      *observed.Taps // over a Unix socket, with octets and extra
	brief     *observed.Taps // by TCP, without
}

const (
	nearAddr, farAddr = "10.9.0.1:53", "10.9.0.2:53"
	plainDomain       = "plain."
)

// The faults of both, and of near.
var bothFaults = []string{
	"zone crowd delay 150ms",
	"zone gone nxdomain soa gone",
}

var nearFaults = []string{
	"zone refused refused",
	"zone slow delay 500ms",
	"zone silent drop",
	"zone cut proto udp truncated",
}

// setScene starts it all.
func setScene(t *testing.T) *scene {
	t.Helper()
	requires(t)
	if directive() != dnsguard {
		t.Skipf("it is about %s", dnsguard)
	}
	requiresDirective(t, dnsguard)
	l := newLab(t)
	sc := &scene{report: l.report(t.Name(), nil), t: t, at: make(map[string]*fakedns.Server)}
	sc.near = sc.serve("near", nearAddr, 5*time.Millisecond, append(nearFaults, bothFaults...)...)
	sc.far = sc.serve("far", farAddr, 15*time.Millisecond, bothFaults...)

	listen := func(network, addr string) net.Listener {
		var in net.Listener
		if err := sc.node.do(func() (err error) { in, err = net.Listen(network, addr); return err }); err != nil {
			t.Fatal(err)
		}
		return in
	}
	socket := filepath.Join(sc.node.tempDir(), "tap.sock")
	sc.spans = observed.ListenSpans(listen("tcp", "127.0.0.1:9411"))
	sc.full = observed.ListenTaps(listen("unix", socket))
	sc.brief = observed.ListenTaps(listen("tcp", "127.0.0.1:6000"))
	t.Cleanup(func() {
		for _, c := range []interface {
			Close()
			Errors() []error
		}{sc.spans, sc.full, sc.brief} {
			c.Close()
			for _, err := range c.Errors() {
				t.Error(err)
			}
		}
	})
	sc.s = sc.node.coredns(fmt.Sprintf(`
%s:53 {
    template IN TXT . {
        answer "{{ .Name }} 0 IN TXT ready"
    }
}
.:53 {
    metadata
    debug
    trace zipkin 127.0.0.1:9411 {
        zipkin_max_batch_interval 50ms
    }
    ready
    errors
    log . "query={name} by={proto} upstream={/dnsguard/upstream} forward={/forward/upstream} outcome={/dnsguard/outcome} attempts={/dnsguard/attempts} hedged={/dnsguard/hedged} steered={/dnsguard/steered} coalesced={/dnsguard/coalesced}"
    dnstap unix://%s full {
        identity the-node
        extra "{/dnsguard/upstream} {/dnsguard/cause} {/dnsguard/outcome} {name} {/trace/traceid}"
    }
    dnstap tcp://127.0.0.1:6000
    dnsguard . %s %s {
        policy sequential
    }
}
`, ready, socket, nearAddr, farAddr))
	return sc
}

// serve starts a fake server on a host of its own.
func (sc *scene) serve(name, addr string, rtt time.Duration, faults ...string) *fakedns.Server {
	sc.t.Helper()
	s := &fakedns.Server{Zones: []string{"."}, RTT: rtt}
	var list []fakedns.Fault
	for _, line := range faults {
		f, err := fakedns.ParseFault(line)
		if err != nil {
			sc.t.Fatal(err)
		}
		list = append(list, f)
	}
	s.Set(list...)
	h := sc.lab.host(name, netip.MustParseAddrPort(addr).Addr().String())
	if err := h.do(func() error {
		l, err := fakedns.Listen(addr, s)
		if err == nil {
			sc.t.Cleanup(func() { l.Close() })
		}
		return err
	}); err != nil {
		sc.t.Fatal(err)
	}
	sc.at[addr] = s
	return s
}

// lookup asks for the address of a name as a client of the node.
func (sc *scene) lookup(network, name string) *dns.Msg {
	sc.t.Helper()
	c, err := sc.client.dial(network, sc.node.addrPort(53))
	if err != nil {
		sc.t.Fatal(err)
	}
	defer c.Close()
	client := dns.Client{Net: network, Timeout: 5 * time.Second}
	m, _, err := client.ExchangeWithConn(new(dns.Msg).SetQuestion(name, dns.TypeA), &dns.Conn{Conn: c})
	if err != nil {
		sc.t.Fatalf("%s: %v", name, err)
	}
	return m
}

// arrival is a query as an upstream got it.
type arrival struct {
	fakedns.Record
	to string
}

// arrived returns what the upstreams were asked for a name.
func (sc *scene) arrived(name string) (all []arrival) {
	for _, to := range []string{nearAddr, farAddr} {
		for _, r := range sc.at[to].Log() {
			if r.Question.Name == name {
				all = append(all, arrival{r, to})
			}
		}
	}
	return all
}

// logged is a line of the log plugin: what it says of a query, by the words in
// the format.
type logged map[string]string

// logged returns the n lines about a name, when they are there.
func (sc *scene) logged(name string, n int) []logged {
	sc.t.Helper()
	var lines []string
	eventually(sc.t, 10*time.Second, sc.s.process, func() error {
		if lines = sc.s.log.lines("[INFO] query=" + name + " "); len(lines) != n {
			return fmt.Errorf("%d lines about %s", len(lines), name)
		}
		return nil
	})
	out := make([]logged, len(lines))
	for i, line := range lines {
		out[i] = make(logged)
		for _, word := range strings.Fields(line) {
			if k, v, ok := strings.Cut(word, "="); ok {
				out[i][k] = v
			}
		}
		if f, ok := out[i]["forward"]; ok && f != out[i]["upstream"] { // for formats that were made for it
			sc.t.Errorf("forward/upstream is not dnsguard/upstream: %s", line)
		}
	}
	return out
}

// has reports whether a line says all that is wanted, as "outcome=ok hedged=true".
func (l logged) has(want string) bool {
	return !slices.ContainsFunc(strings.Fields(want), func(word string) bool {
		k, v, _ := strings.Cut(word, "=")
		return l[k] != v
	})
}

// until asks for names below a domain, each in a zone of its own, until the
// log says of one what is wanted, and returns the name. Not each one is like the
// others: on a busy machine replies are late, and now and then a query is shown to
// another upstream as well.
func (sc *scene) until(network, domain, want string) string {
	sc.t.Helper()
	var l logged
	for range 8 {
		name := "www." + sc.zone(domain)
		sc.lookup(network, name)
		l = sc.logged(name, 1)[0]
		if n, err := strconv.Atoi(l["attempts"]); err != nil || n != len(sc.arrived(name)) {
			sc.t.Errorf("attempts=%s of %s, but %d queries arrived", l["attempts"], name, len(sc.arrived(name)))
		}
		if l.has(want) {
			return name
		}
		for range 3 { // an upstream that is wrong in most zones is asked last
			sc.lookup("udp", "www."+sc.zone(plainDomain))
		}
	}
	sc.t.Fatalf("nothing below %s has %s; last %v", domain, want, l)
	return ""
}

// covers reports whether all of want are among got, and whatever else is are
// hedges and trials: on a busy machine more replies are late than a test makes.
func covers(got, want []string) bool {
	got = slices.Clone(got)
	for _, w := range want {
		i := slices.Index(got, w)
		if i < 0 {
			return false
		}
		got = slices.Delete(got, i, i+1)
	}
	return !slices.ContainsFunc(got, func(g string) bool { return !strings.Contains(g, "hedge") && !strings.Contains(g, "trial") })
}

// zone is one that has not been asked for yet.
func (sc *scene) zone(domain string) string {
	sc.zones++
	return fmt.Sprintf("z%d.%s", sc.zones, domain)
}

// heard waits until the upstreams are known: a query to one that is not would
// be hedged early.
func (sc *scene) heard() {
	sc.t.Helper()
	eventually(sc.t, 10*time.Second, sc.s.process, func() error {
		sc.lookup("udp", "www."+sc.zone(plainDomain))
		if sc.near.Stats().Queries < 5 || sc.far.Stats().Queries == 0 {
			return fmt.Errorf("asked %d and %d times", sc.near.Stats().Queries, sc.far.Stats().Queries)
		}
		return nil
	})
}

// allDead has all upstreams drop everything from now on.
func (sc *scene) allDead() {
	for _, s := range sc.at {
		s.Set(fakedns.Fault{Kind: fakedns.Drop})
	}
}

// The log plugin writes metadata of each answer.
func TestMetadata(t *testing.T) {
	sc := setScene(t)
	sc.heard()
	for _, c := range []struct{ network, domain, want string }{
		{"udp", plainDomain, "by=udp upstream=" + nearAddr + " outcome=ok attempts=1 hedged=false steered=false coalesced=false"},
		{"tcp", plainDomain, "by=tcp upstream=" + nearAddr + " outcome=ok hedged=false steered=false coalesced=false"},
		{"udp", "refused.", "upstream=" + farAddr + " outcome=ok attempts=2 hedged=false steered=false coalesced=false"},
		{"tcp", "slow.", "upstream=" + farAddr + " outcome=ok hedged=true steered=false coalesced=false"},
		{"udp", "gone.", "upstream=" + nearAddr + " outcome=nxdomain attempts=2 hedged=false"},
	} {
		name := sc.until(c.network, c.domain, c.want)
		if c.domain == "refused." { // it is known by now who refuses there
			sc.lookup("udp", "again."+name)
			if l := sc.logged("again."+name, 1)[0]; !l.has("upstream=" + farAddr + " outcome=ok steered=true") {
				t.Errorf("%v", l)
			}
		}
	}
	const crowd = 10
	name := "www.z.crowd."
	var wg sync.WaitGroup
	for range crowd {
		wg.Go(func() {
			if _, err := sc.client.ask(sc.node.addrPort(53), name, dns.TypeA); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	shared := 0
	for _, l := range sc.logged(name, crowd) {
		if !l.has("outcome=ok") || l["upstream"] == "-" {
			t.Errorf("one of a crowd: %v", l)
		}
		if l.has("coalesced=true") {
			shared++
		}
	}
	if shared != crowd-1 {
		t.Errorf("%d of %d waited for another's answer", shared, crowd)
	}
	sc.s.alive()

	t.Run("without the plugin", func(t *testing.T) {
		sc.s.kill()
		sc.s = sc.node.coredns(fmt.Sprintf("%s:53 {\n template IN TXT . {\n  answer \"{{ .Name }} 0 IN TXT ready\"\n }\n}\n"+
			".:53 {\n log . \"query={name} upstream={/dnsguard/upstream} outcome={/dnsguard/outcome}\"\n dnsguard . %s\n}\n", ready, farAddr))
		sc.lookup("udp", "www.z."+plainDomain)
		if l := sc.logged("www.z."+plainDomain, 1)[0]; !l.has("upstream=- outcome=-") {
			t.Errorf("%v", l)
		}
	})
}

// With all upstreams dead, at the start or later, the server is ready, and a
// failed query has its line by the debug plugin, if that is on.
func TestReadyAndDebugWithDeadUpstreams(t *testing.T) {
	sc := setScene(t)
	isReady := func(when string) {
		t.Helper()
		resp, err := sc.s.client.Get("http://" + sc.node.addrPort(8181) + "/ready")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: /ready is %s", when, resp.Status)
		}
	}
	failed := func(name string) {
		t.Helper()
		if m := sc.lookup("udp", name); m.Rcode != dns.RcodeServerFailure {
			t.Fatalf("%s: %v", name, m)
		}
	}
	isReady("all well")
	sc.lookup("udp", "fine.z."+plainDomain)
	sc.allDead()
	for i := range 5 {
		failed(fmt.Sprintf("n%d.%s", i, "z."+plainDomain))
	}
	isReady("all dead")
	lines := sc.s.log.lines("[DEBUG] plugin/dnsguard: ")
	if len(lines) != 5 || !strings.Contains(lines[0], "n0.z."+plainDomain+" IN A from "+clientAddr+":") || !strings.Contains(lines[0], "outcome timeout") ||
		!strings.Contains(lines[0], nearAddr+": no reply") {
		t.Errorf("%d lines of the debug plugin:\n%s", len(lines), strings.Join(lines, "\n"))
	}
	for i := range 5 { // at once by now, and with no upstream
		if l := sc.logged(fmt.Sprintf("n%d.%s", i, "z."+plainDomain), 1)[0]; !l.has("upstream=-") || l.has("outcome=ok") {
			t.Errorf("%v", l)
		}
	}
	sc.s.kill()
	sc.s = sc.node.coredns(plain(dnsguard, nearAddr+" "+farAddr, "") + ".:5353 {\n ready\n}\n")
	isReady("dead at the start")
	failed("www." + "z." + plainDomain)
	isReady("dead at the start, asked")
	if lines := sc.s.log.lines("[DEBUG]"); len(lines) > 0 {
		t.Errorf("without the debug plugin:\n%s", strings.Join(lines, "\n"))
	}
	sc.s.alive()
}
