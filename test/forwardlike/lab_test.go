package forwardlike

import (
	"crypto/tls"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	clog "github.com/coredns/coredns/plugin/pkg/log"
	"github.com/miekg/dns"

	_ "github.com/coredns/coredns/plugin/bind" // what the Corefiles use
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/file"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/rewrite"
	_ "github.com/coredns/coredns/plugin/whoami"

	_ "github.com/dnsguard/dnsguard"
	"github.com/dnsguard/dnsguard/test/fakedns"
)

// host is where upstreams are. Clients' sockets are elsewhere, so that a port which is closed is not taken by one.
const host = "127.0.77.1"

// plugins are the two that every case is run with.
var plugins = []string{"forward", "dnsguard"}

// register gives dnsguard its place among CoreDNS's directives, and keeps the servers quiet.
var register = sync.OnceFunc(func() {
	dnsserver.Directives = slices.Insert(slices.Clone(dnsserver.Directives), slices.Index(dnsserver.Directives, "forward"), "dnsguard")
	dnsserver.Quiet, caddy.Quiet = true, true
	clog.Discard()
})

// verdict is what comes of a case, in words: the same for both plugins, or
// what differs on purpose, and the row of docs/forward-behaviour.md that says why.
type verdict struct{ forward, dnsguard string }

func same(words string) verdict { return verdict{words, words} }

// scene is one run of a case.
type scene struct {
	t      *testing.T
	plugin string
	up     []*fakedns.Server // whose data differ: View is the number of the address
	addr   []string          // of those, and of others
	client []listeners       // of the servers
	missed string            // what did not come
}

// listeners are the addresses that a server has.
type listeners struct{ udp, tcp string }

// TestMain has many cases run at once, whatever the number of processors: mostly they wait.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// tries is how often a case is run before it has failed: time is real here, and a
// busy machine may let 200 ms of it go by.
const tries = 3

// play runs a case with both plugins, at the same time as others.
func play(t *testing.T, want verdict, run func(s *scene) string) {
	t.Helper()
	t.Parallel()
	register()
	for _, plugin := range plugins {
		t.Run(plugin, func(t *testing.T) {
			t.Parallel()
			words := want.forward
			if plugin == "dnsguard" {
				words = want.dnsguard
			}
			for try := 1; ; try++ {
				s := &scene{t: t, plugin: plugin}
				got := run(s)
				if s.missed != "" {
					got = "no " + s.missed
				}
				if got == words {
					return
				}
				if try == tries {
					t.Errorf("\ngot  %s\nwant %s", got, words)
					return
				}
				t.Logf("try %d: got %s, want %s", try, got, words)
			}
		})
	}
}

// upstream starts a server that knows all names, by UDP and TCP, but for its faults.
func (s *scene) upstream(faults ...string) *fakedns.Server {
	return s.listen(fakedns.Listen, &fakedns.Server{Zones: []string{"."}}, faults...)
}

func (s *scene) listen(listen func(string, *fakedns.Server) (*fakedns.Listener, error), up *fakedns.Server, faults ...string) *fakedns.Server {
	s.t.Helper()
	up.View = strconv.Itoa(len(s.addr))
	up.Name = up.View
	s.fail(up, faults...)
	l, err := listen(host+":0", up)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { l.Close() })
	s.up = append(s.up, up)
	s.addr = append(s.addr, l.Addr().String())
	return up
}

// fail replaces the faults of an upstream.
func (s *scene) fail(up *fakedns.Server, faults ...string) {
	s.t.Helper()
	list := make([]fakedns.Fault, len(faults))
	for i, text := range faults {
		var err error
		if list[i], err = fakedns.ParseFault(text); err != nil {
			s.t.Fatal(err)
		}
	}
	up.Set(list...)
}

// handle starts a server that does what the function says, by UDP and TCP, and returns its address.
func (s *scene) handle(handler dns.HandlerFunc) string {
	s.t.Helper()
	for range 20 { // until the port that TCP got is free for UDP too
		tcp, err := net.Listen("tcp", host+":0")
		if err != nil {
			s.t.Fatal(err)
		}
		udp, err := net.ListenPacket("udp", tcp.Addr().String())
		if err != nil {
			tcp.Close()
			continue
		}
		for _, server := range []*dns.Server{{Listener: tcp, Handler: handler}, {PacketConn: udp, Handler: handler}} {
			started := make(chan struct{})
			server.NotifyStartedFunc = func() { close(started) }
			go func() { _ = server.ActivateAndServe() }()
			<-started
			s.t.Cleanup(func() { _ = server.Shutdown() })
		}
		s.addr = append(s.addr, tcp.Addr().String())
		return tcp.Addr().String()
	}
	s.t.Fatal("no port that is free for UDP and TCP")
	return ""
}

// closed returns an address where nobody listens.
func (s *scene) closed() string {
	l, err := net.Listen("tcp", host+":0")
	if err != nil {
		s.t.Fatal(err)
	}
	defer l.Close()
	s.addr = append(s.addr, l.Addr().String())
	return l.Addr().String()
}

// file writes a file, and returns its path. A Corefile cannot have the # that may be in that of T.TempDir.
func (s *scene) file(name, content string) string {
	s.t.Helper()
	dir, err := os.MkdirTemp("", "forwardlike")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// caddys is held while a server starts or stops: Caddy is not made for many at once.
var caddys sync.Mutex

// serve starts CoreDNS with a server for each block. PLUGIN is the plugin's
// name, $0 the address of the first upstream and so on; a line that begins
// with a question mark is for dnsguard alone.
func (s *scene) serve(blocks ...string) {
	s.t.Helper()
	var corefile strings.Builder
	for i, block := range blocks {
		fmt.Fprintf(&corefile, ".:0 {\n    bind 127.0.0.%d\n%s\n}\n", i+1, s.expand(block))
	}
	s.start(corefile.String())
}

// start starts CoreDNS with a Corefile.
func (s *scene) start(corefile string) {
	s.t.Helper()
	caddys.Lock()
	defer caddys.Unlock()
	instance, err := caddy.Start(caddy.CaddyfileInput{Filepath: "Corefile", Contents: []byte(corefile), ServerTypeName: "dns"})
	if err != nil {
		s.t.Fatalf("%v\n%s", err, corefile)
	}
	s.t.Cleanup(func() {
		instance.ShutdownCallbacks()
		caddys.Lock()
		defer caddys.Unlock()
		_ = instance.Stop()
	})
	s.client = make([]listeners, len(instance.Servers()))
	for _, l := range instance.Servers() { // in any order
		at := netip.MustParseAddrPort(l.Addr().String()).Addr().As4()
		s.client[at[3]-1] = listeners{l.LocalAddr().String(), l.Addr().String()}
	}
}

// expand fills in what a Corefile leaves open.
func (s *scene) expand(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		trimmed := strings.TrimLeft(line, " \t")
		only := strings.HasPrefix(trimmed, "?")
		if !only {
			out.WriteString(line)
		} else if s.plugin == "dnsguard" {
			out.WriteString(trimmed[1:])
		}
	}
	text = strings.ReplaceAll(out.String(), "PLUGIN", s.plugin)
	for i, addr := range s.addr {
		text = strings.ReplaceAll(text, "$"+strconv.Itoa(i), addr)
	}
	return text
}

// forwarding starts CoreDNS with one directive for the root and its options.
// On a machine that has much else to do replies are late, and are not to be hedged for that; nor are probes for loops
// to be among the queries that upstreams get.
func (s *scene) forwarding(to string, options ...string) {
	s.t.Helper()
	s.serve("PLUGIN . " + to + " {\n" + strings.Join(options, "\n") + "\n?hedge off\n?loop off\n}")
}

// patience is how long a client waits: forward gives up after 5 s.
const patience = 10 * time.Second

// send asks the server, over UDP or TCP, and returns the reply; nil: there was none.
func (s *scene) send(network string, m *dns.Msg) *dns.Msg { return s.sendTo(0, network, m) }

// sendTo asks one of several servers.
func (s *scene) sendTo(server int, network string, m *dns.Msg) *dns.Msg {
	s.t.Helper()
	at := s.client[server].udp
	if network == "tcp" {
		at = s.client[server].tcp
	}
	c, err := dns.DialTimeout(network, at, patience)
	if err != nil {
		s.t.Logf("%s: %v", m.Question[0].Name, err)
		return nil
	}
	defer c.Close()
	c.UDPSize = dns.DefaultMsgSize
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err = c.Write(pack(m)); err == nil { // as it is, whatever the client would add to it
		var r *dns.Msg
		if r, err = c.ReadMsg(); err == nil && r.Id == m.Id {
			return r
		}
	}
	s.t.Logf("%s: %v", m.Question[0].Name, err)
	return nil
}

// query makes a query for an address.
func query(name string) *dns.Msg { return new(dns.Msg).SetQuestion(name, dns.TypeA) }

// ask asks for an address by UDP, and says what came of it.
func (s *scene) ask(name string) string { return s.describe(s.send("udp", query(name))) }

// describe says what a reply is, in words: NOERROR by 1, that is with the data
// of upstream 1, NXDOMAIN, NOERROR truncated.
func (s *scene) describe(m *dns.Msg) string {
	if m == nil {
		return "no reply"
	}
	words := dns.RcodeToString[m.Rcode]
	if m.Truncated {
		words += " truncated"
	}
	if len(m.Answer) == 0 {
		return words
	}
	for _, up := range s.up {
		if fakedns.Right(up.View, m) {
			return words + " by " + up.View
		}
	}
	return words + " with data"
}

// await waits until the condition holds. It looks often, and gives up late: then this run of the case has failed.
func (s *scene) await(what string, condition func() bool) {
	s.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !condition(); <-tick.C {
		if time.Now().After(end) {
			s.missed = what
			return
		}
	}
}

// port returns the port of an address.
func port(addr string) string { return strconv.Itoa(int(netip.MustParseAddrPort(addr).Port())) }

// certified returns an authority, and how a server speaks TLS that it has
// certified as one.example.
func certified(t *testing.T) (*fakedns.CA, *tls.Config) {
	t.Helper()
	authority, err := fakedns.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	config, err := authority.Config("one.example")
	if err != nil {
		t.Fatal(err)
	}
	return authority, config
}
