package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// backendPort is where the real servers listen, on loopback, behind the relay.
const backendPort = 5300

// peer is a real DNS server: its configuration file's contents, and the
// command that runs it in the foreground with that file.
type peer struct {
	program string
	files   map[string]string // name -> contents; %DIR% is the directory
	args    []string          // %DIR% likewise
}

const ready = "ready.e2e.test." // every peer answers TXT of this name

// start starts the server on the host, and returns when it answers.
func (pe peer) start(h *host) *process {
	h.t.Helper()
	dir := h.tempDir()
	fill := strings.NewReplacer("%DIR%", dir, "%PORT%", fmt.Sprint(backendPort))
	for name, content := range pe.files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(fill.Replace(content)), 0o644); err != nil {
			h.t.Fatal(err)
		}
	}
	argv := []string{pe.program}
	for _, a := range pe.args {
		argv = append(argv, fill.Replace(a))
	}
	p := h.start(pe.program+" on "+h.addr.String(), argv...)
	eventually(h.t, 15*time.Second, p, func() error {
		r, err := h.ask(fmt.Sprintf("127.0.0.1:%d", backendPort), ready, dns.TypeTXT)
		if err == nil && len(r.Answer) == 0 {
			err = errors.New("no data yet: " + dns.RcodeToString[r.Rcode])
		}
		return err
	})
	return p
}

// tempDir is a directory that servers may read whoever they run as.
func (h *host) tempDir() string {
	h.t.Helper()
	dir, err := os.MkdirTemp("", nsPrefix+"-")
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		h.t.Fatal(err)
	}
	return dir
}

// ask sends one question from inside the namespace, by UDP.
func (h *host) ask(server, name string, qtype uint16) (*dns.Msg, error) {
	return h.askFor(server, name, qtype, time.Second)
}

// askFor does the same with another time-out.
func (h *host) askFor(server, name string, qtype uint16, timeout time.Duration) (*dns.Msg, error) {
	c, err := h.dial("udp", server)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	m := new(dns.Msg).SetQuestion(name, qtype)
	client := dns.Client{Timeout: timeout}
	r, _, err := client.ExchangeWithConn(m, &dns.Conn{Conn: c})
	return r, err
}

// unbound serves the zones from its own data. The default is what it does
// with every other name: static (NXDOMAIN with the root's SOA),
// always_nodata, always_refuse or always_deny (no reply).
func unbound(other string, zones ...zone) peer {
	var b strings.Builder
	fmt.Fprintf(&b, `server:
  interface: 127.0.0.1
  port: %%PORT%%
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "%%DIR%%"
  pidfile: ""
  use-syslog: no
  logfile: ""
  verbosity: 0
  module-config: "iterator"
  num-threads: 1
  local-zone: "." %s
  local-zone: "ready.e2e.test." static
  local-data: '%s 60 IN TXT "ready"'
`, other, ready)
	if other == "static" {
		fmt.Fprintf(&b, "  local-data: '. 300 IN NS a.root-servers.net.'\n  local-data: '%s'\n", zone{name: "."}.soa())
	}
	for _, z := range zones {
		fmt.Fprintf(&b, "  local-zone: %q static\n  local-data: '%s'\n", z.name, z.soa())
		for _, r := range z.records {
			for _, line := range r.lines() {
				fmt.Fprintf(&b, "  local-data: '%s'\n", line)
			}
		}
		for _, line := range z.extra {
			fmt.Fprintf(&b, "  local-data: '%s'\n", line)
		}
	}
	return peer{
		program: "unbound",
		files:   map[string]string{"unbound.conf": b.String()},
		args:    []string{"-d", "-c", "%DIR%/unbound.conf"},
	}
}

// lines are the records as they stand in zone files.
func (r record) lines() []string {
	var out []string
	for _, a := range []netip.Addr{r.v4, r.v6} {
		if !a.IsValid() {
			continue
		}
		typ := "A"
		if a.Is6() {
			typ = "AAAA"
		}
		out = append(out, fmt.Sprintf("%s 300 IN %s %s", r.name, typ, a))
	}
	return out
}

// named serves the zones with authority and refuses every other name, as it
// does without recursion.
func named(zones ...zone) peer { return namedWith("", zones...) }

// namedWith does so with further options.
func namedWith(options string, zones ...zone) peer {
	files := map[string]string{}
	var conf strings.Builder
	conf.WriteString(`options {
  directory "%DIR%";
  listen-on port %PORT% { 127.0.0.1; };
  listen-on-v6 { none; };
  pid-file none;
  session-keyfile none;
  recursion no;
  allow-query { any; };
  minimal-responses yes;
  dnssec-validation no;
  notify no;
  empty-zones-enable no;
`)
	conf.WriteString(options + "};\ncontrols { };\n")
	zones = append(zones, zone{name: ready})
	for i, z := range zones {
		file := fmt.Sprintf("zone%d", i)
		fmt.Fprintf(&conf, "zone %q { type primary; file %q; };\n", z.name, file)
		var b strings.Builder
		fmt.Fprintf(&b, "%s\n%s 300 IN NS ns1.e2e.test.\n", z.soa(), z.name)
		if z.name == "." { // then the server's name is in the zone, and must exist
			b.WriteString("ns1.e2e.test. 300 IN A 192.0.2.1\n")
		}
		if z.name == ready {
			fmt.Fprintf(&b, "%s 60 IN TXT \"ready\"\n", ready)
		}
		for _, r := range z.records {
			b.WriteString(strings.Join(r.lines(), "\n") + "\n")
		}
		b.WriteString(strings.Join(z.extra, "\n") + "\n")
		files[file] = b.String()
	}
	files["named.conf"] = conf.String()
	return peer{program: "named", files: files, args: []string{"-f", "-n", "1", "-c", "%DIR%/named.conf"}}
}

// emptyRoot is a root zone with nothing in it: every name is denied with
// its SOA, as by an internal server cut off from the Internet.
func emptyRoot() zone { return zone{name: "."} }

// starRoot is a root zone in which every name exists, and has no address:
// every address is denied by NODATA with the root's SOA.
func starRoot() zone { return zone{name: ".", extra: []string{`*. 300 IN TXT "parked"`}} }

// dnsmasq serves the zones from its own data and denies every other name,
// without an SOA.
func dnsmasq(zones ...zone) peer {
	var b strings.Builder
	b.WriteString(`port=%PORT%
listen-address=127.0.0.1
bind-interfaces
no-resolv
no-hosts
keep-in-foreground
log-facility=-
user=root
pid-file=
cache-size=0
local-ttl=300
address=/#/
`)
	fmt.Fprintf(&b, "txt-record=%s,ready\nlocal=/%s/\n", strings.TrimSuffix(ready, "."), strings.TrimSuffix(ready, "."))
	for _, z := range zones {
		fmt.Fprintf(&b, "local=/%s/\n", strings.TrimSuffix(z.name, "."))
		for _, r := range z.records {
			fmt.Fprintf(&b, "host-record=%s,%s\n", strings.TrimSuffix(r.name, "."), r.v4)
		}
	}
	return peer{program: "dnsmasq", files: map[string]string{"dnsmasq.conf": b.String()}, args: []string{"-C", "%DIR%/dnsmasq.conf"}}
}
