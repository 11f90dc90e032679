package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// hop is what the replicas' resolv.conf names, and which leads back to them.
type hop struct {
	name string
	addr string // in resolv.conf
	// start starts it on a node, forwarding to an address. None: resolv.conf
	// itself leads back, without a hop.
	start    func(n *host, to string) []*process
	programs []string
	// drops is set where it does not pass an unknown EDNS option on.
	drops bool
	// storms is set where it passes on whatever comes round.
	storms bool
	// validates is set where it takes none but signed answers, so that it has none from our public server.
	validates bool
	// hostNetwork is set where it is reached from its node alone.
	hostNetwork bool
}

var hops = []*hop{
	{name: "NodeLocalDNS (cache, force_tcp)", addr: nodeLocal, start: nodeCache("force_tcp", "loop")},
	{name: "CoreDNS (cache, UDP)", addr: nodeLocal, start: nodeCache("", ""), storms: true},
	{name: "dnsmasq", addr: nodeLocal, start: dnsmasqHop(nodeLocal), programs: []string{"dnsmasq"}},
	{name: "unbound", addr: nodeLocal, start: unboundHop("iterator"), programs: []string{"unbound"}, drops: true},
	{name: "unbound, validating", addr: nodeLocal, start: unboundHop("validator iterator"), programs: []string{"unbound"}, drops: true, validates: true},
	{name: "BIND, forward only", addr: nodeLocal, start: namedHop("no"), programs: []string{"named"}, drops: true},
	{name: "BIND, forward only, validating", addr: nodeLocal, start: namedHop("auto"), programs: []string{"named"}, drops: true, validates: true},
	{name: "knot-resolver", addr: nodeLocal, start: kresdHop, programs: []string{"kresd"}, drops: true},
	{name: "dnsdist", addr: nodeLocal, start: dnsdistHop, programs: []string{"dnsdist"}, storms: true},
	{name: "smartdns", addr: nodeLocal, start: smartdnsHop, programs: []string{"smartdns"}, drops: true},
	{name: "systemd-resolved, 127.0.0.53", addr: "127.0.0.53", start: resolvedHop, programs: []string{resolvedProgram}, drops: true, hostNetwork: true},
	{name: "systemd-resolved, 127.0.0.54", addr: "127.0.0.54", start: resolvedHop, programs: []string{resolvedProgram}, hostNetwork: true},
	{name: "itself (127.0.0.53 in a pod)", addr: "127.0.0.53", storms: true},
	{name: "itself (the Service's address)", addr: dnsService, storms: true},
	{name: "CoreDNS (cache, UDP), then dnsmasq", addr: nodeLocal, start: twoHops, programs: []string{"dnsmasq"}},
}

// rootKey is the trust anchor of the root.
const rootKey = ". DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D"

// hopOf is a real server with its configuration, that listens at an address
// of the node. %TO% is where it forwards to, %DIR% its directory.
func hopOf(addr, file, config string, argv ...string) func(n *host, to string) []*process {
	return func(n *host, to string) []*process {
		n.t.Helper()
		dir := n.tempDir()
		fill := strings.NewReplacer("%DIR%", dir, "%TO%", to)
		if err := os.WriteFile(filepath.Join(dir, file), []byte(fill.Replace(config)), 0o644); err != nil {
			n.t.Fatal(err)
		}
		var args []string
		for _, a := range argv {
			args = append(args, fill.Replace(a))
		}
		p := n.start(filepath.Base(args[0])+" on "+n.addr.String(), args...)
		n.listening(addr, p)
		return []*process{p}
	}
}

// nodeCache is CoreDNS with the Corefile of NodeLocalDNS's node-cache, which
// is CoreDNS itself with a few of its plugins.
func nodeCache(options, loop string) func(n *host, to string) []*process {
	return func(n *host, to string) []*process {
		n.t.Helper()
		return hopOf(nodeLocal, "Corefile", nodeCacheCorefile(options, loop), coreDNS(n.t), "-conf", "%DIR%/Corefile")(n, to)
	}
}

func nodeCacheCorefile(options, loop string) string {
	var b strings.Builder
	for _, zone := range []string{"cluster.local", "in-addr.arpa", "ip6.arpa", "."} {
		size := "cache 30"
		if zone == "cluster.local" {
			size = "cache {\n        success 9984 30\n        denial 9984 5\n    }"
		}
		fmt.Fprintf(&b, "%s:53 {\n    errors\n    %s\n    reload\n    %s\n    bind %s\n    forward . %%TO%% {\n        %s\n    }\n    prometheus :9253\n}\n", zone, size, loop, nodeLocal, options)
	}
	return b.String()
}

func dnsmasqHop(addr string) func(n *host, to string) []*process {
	return hopOf(addr, "dnsmasq.conf", `listen-address=`+addr+`
bind-interfaces
no-resolv
no-hosts
keep-in-foreground
log-facility=-
user=root
pid-file=
server=%TO%
`, "dnsmasq", "-C", "%DIR%/dnsmasq.conf")
}

func unboundHop(modules string) func(n *host, to string) []*process {
	return hopOf(nodeLocal, "unbound.conf", `server:
  interface: `+nodeLocal+`
  access-control: 0.0.0.0/0 allow
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "%DIR%"
  pidfile: ""
  use-syslog: no
  logfile: ""
  num-threads: 1
  module-config: "`+modules+`"
  trust-anchor: "`+rootKey+`"
forward-zone:
  name: "."
  forward-addr: %TO%
`, "unbound", "-d", "-c", "%DIR%/unbound.conf")
}

func namedHop(validation string) func(n *host, to string) []*process {
	return hopOf(nodeLocal, "named.conf", `options {
  directory "%DIR%";
  listen-on port 53 { `+nodeLocal+`; };
  listen-on-v6 { none; };
  pid-file none;
  session-keyfile none;
  recursion yes;
  allow-query { any; };
  allow-recursion { any; };
  allow-query-cache { any; };
  forward only;
  forwarders { %TO%; };
  dnssec-validation `+validation+`;
};
controls { };
`, "named", "-f", "-n", "1", "-c", "%DIR%/named.conf")
}

func kresdHop(n *host, to string) []*process {
	n.t.Helper()
	return hopOf(nodeLocal, "kresd.conf", `net.listen('`+nodeLocal+`', 53, { kind = 'dns' })
trust_anchors.remove('.')
cache.size = 10 * MB
policy.add(policy.all(policy.FORWARD({'%TO%'})))
`, "kresd", "-n", "-c", "%DIR%/kresd.conf", "%DIR%")(n, to)
}

// dnsdistHop does without health checks, which a loop fails, so that it would end for a while.
func dnsdistHop(n *host, to string) []*process {
	n.t.Helper()
	return hopOf(nodeLocal, "dnsdist.conf", `setLocal('`+nodeLocal+`:53')
setACL({'0.0.0.0/0'})
setSecurityPollSuffix('')
newServer({address='%TO%:53'}):setUp()
`, "dnsdist", "--supervised", "--disable-syslog", "-C", "%DIR%/dnsdist.conf")(n, to)
}

func smartdnsHop(n *host, to string) []*process {
	n.t.Helper()
	return hopOf(nodeLocal, "smartdns.conf", `bind `+nodeLocal+`:53
bind-tcp `+nodeLocal+`:53
server %TO%
speed-check-mode none
cache-persist no
log-level error
log-file %DIR%/smartdns.log
`, "smartdns", "-f", "-c", "%DIR%/smartdns.conf", "-p", "-")(n, to)
}

// resolvedProgram is systemd-resolved below the directory that its package
// was unpacked in. To install it would replace the machine's resolv.conf.
const resolvedProgram = "/lib/systemd/systemd-resolved"

// resolvedDir is that directory.
func resolvedDir() string { return os.Getenv("DNSGUARD_E2E_RESOLVED") }

// resolvedHop runs it with a /run and users of its own. It answers at both addresses.
func resolvedHop(n *host, to string) []*process {
	n.t.Helper()
	return hopOf("127.0.0.54", "run", `set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/resolve /run/systemd/resolved.conf.d
echo root:x:0:0::/:/bin/sh >/run/passwd
echo systemd-resolve:x:0:0::/:/bin/sh >>/run/passwd
mount --bind /run/passwd /etc/passwd
cat >/run/systemd/resolved.conf.d/e2e.conf <<-end
	[Resolve]
	DNS=%TO%
	FallbackDNS=
	Domains=~.
	LLMNR=no
	MulticastDNS=no
end
SYSTEMD_LOG_TARGET=console exec `+resolvedDir()+resolvedProgram+`
`, "sh", "%DIR%/run")(n, to)
}

// twoHops are two in a row.
func twoHops(n *host, to string) []*process {
	n.t.Helper()
	const second = "169.254.20.11"
	_ = n.command("ip", "addr", "add", second+"/32", "dev", "lo").Run() // it is there already the second time
	return append(dnsmasqHop(second)(n, to), nodeCache("", "")(n, second)...)
}

// missing says what there is not of the hop's programs; empty: nothing.
func (p *hop) missing() string {
	for _, program := range p.programs {
		if program == resolvedProgram {
			if _, err := os.Stat(resolvedDir() + resolvedProgram); resolvedDir() == "" || err != nil {
				return "DNSGUARD_E2E_RESOLVED is no directory with the package systemd-resolved unpacked in it"
			}
		} else if _, err := exec.LookPath(program); err != nil {
			return program + " is not installed"
		}
	}
	return ""
}
