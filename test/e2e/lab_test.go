package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	netnsDir = "/run/netns"
	etcNetns = "/etc/netns"
	// nsPrefix begins the name of every namespace; the id of the process that made it follows.
	nsPrefix = "dge2e"
)

var labs atomic.Int64

// lab is a switch with hosts on it, all in namespaces of their own, gone
// when the test ends.
type lab struct {
	t     testing.TB
	name  string // begins the names of its namespaces
	sw    string // the switch's namespace
	ports int
	// subject is the CoreDNS started last, whose log a failed test shows.
	subject *process
}

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{t: t, name: fmt.Sprintf("%s-%d-%d", nsPrefix, os.Getpid(), labs.Add(1))}
	l.sw = l.namespace("switch")
	l.ip("-n", l.sw, "link", "add", "br0", "type", "bridge")
	l.ip("-n", l.sw, "link", "set", "br0", "up")
	return l
}

// namespace makes one with its loopback up, and sees to its removal.
func (l *lab) namespace(host string) string {
	l.t.Helper()
	ns := l.name + "-" + host
	l.t.Cleanup(func() { removeNamespace(ns) })
	l.ip("netns", "add", ns)
	l.ip("-n", ns, "link", "set", "lo", "up")
	return ns
}

func (l *lab) ip(args ...string) {
	l.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		l.t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func removeNamespace(ns string) {
	// Errors do not matter: the namespace may never have come to be.
	_ = exec.Command("ip", "netns", "del", ns).Run()
	_ = os.RemoveAll(filepath.Join(etcNetns, ns))
	_ = os.Remove(etcNetns) // only when it is empty
}

// sweep removes the namespaces of earlier runs that were killed.
func sweep() {
	for _, dir := range []string{netnsDir, etcNetns} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			rest, ours := strings.CutPrefix(e.Name(), nsPrefix+"-")
			id, _, _ := strings.Cut(rest, "-")
			pid, err := strconv.Atoi(id)
			if !ours || err != nil || !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
				continue
			}
			removeNamespace(e.Name())
		}
	}
}

// host is a namespace with one address on the lab's switch. Everything else
// is on its link, so that hosts of different networks reach one another.
type host struct {
	lab  *lab
	t    testing.TB
	ns   string
	addr netip.Addr
}

func (l *lab) host(name, addr string) *host {
	l.t.Helper()
	h := &host{lab: l, t: l.t, ns: l.namespace(name), addr: netip.MustParseAddr(addr)}
	l.ports++
	port := fmt.Sprintf("port%d", l.ports)
	l.ip("-n", l.sw, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", h.ns)
	l.ip("-n", l.sw, "link", "set", port, "master", "br0", "up")
	l.ip("-n", h.ns, "addr", "add", addr+"/32", "dev", "eth0")
	l.ip("-n", h.ns, "link", "set", "eth0", "up")
	l.ip("-n", h.ns, "route", "add", "default", "dev", "eth0", "src", addr)
	return h
}

// command is a command that will run inside the namespace, under the
// process id that it is started with ("ip netns exec" replaces itself).
func (h *host) command(argv ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", h.ns}, argv...)...)
}

// run runs a command inside the namespace, and returns what it printed.
func (h *host) run(argv ...string) string {
	h.t.Helper()
	cmd := h.command(argv...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		h.t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// sysctl sets a parameter of the namespace's network.
func (h *host) sysctl(name, value string) {
	h.t.Helper()
	h.run("sh", "-c", `echo "$2" > "/proc/sys/$1"`, "sh", name, value)
}

// resolvConf makes /etc/resolv.conf of the processes that are started in the
// namespace afterwards, or changes, in place, the one that they have.
func (h *host) resolvConf(servers ...string) {
	h.t.Helper()
	var b strings.Builder
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	dir := filepath.Join(etcNetns, h.ns)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "resolv.conf"), []byte(b.String()), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

// do calls f on a thread that is inside the namespace. Sockets that f makes,
// without starting goroutines, belong to the namespace for good.
func (h *host) do(f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	there, err := os.Open(filepath.Join(netnsDir, h.ns))
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter %s: %w", h.ns, err)
	}
	ferr := f()
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
		return errors.Join(ferr, err) // still locked: the thread ends with its goroutine
	}
	runtime.UnlockOSThread()
	return ferr
}

// dial connects from inside the namespace to an address, never to a name.
func (h *host) dial(network, addr string) (net.Conn, error) {
	var c net.Conn
	err := h.do(func() (err error) {
		c, err = net.Dial(network, addr)
		return err
	})
	return c, err
}

// addrPort is the address with the port, as in "10.0.0.1:53".
func (h *host) addrPort(port int) string {
	return netip.AddrPortFrom(h.addr, uint16(port)).String()
}
