package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	"github.com/miekg/dns"
)

func TestDirectivesAreCoreDNSsAndOurs(t *testing.T) {
	ours := slices.DeleteFunc(slices.Clone(directives), func(name string) bool { return name == "dnsguard" })
	if !slices.Equal(ours, dnsserver.Directives) {
		t.Errorf("plugin.cfg without dnsguard lists\n%v\nbut CoreDNS %s lists\n%v", ours, coremain.CoreVersion, dnsserver.Directives)
	}
	if len(directives) != len(ours)+1 {
		t.Error("plugin.cfg does not list dnsguard")
	}
}

func TestBuiltinLoad(t *testing.T) {
	t.Chdir(t.TempDir())
	b := &builtin{file: "Corefile"}

	input, err := b.Load("dns")
	if err != nil {
		t.Fatal(err)
	}
	if got := string(input.Body()); got != builtinCorefile || !strings.Contains(got, ".:1053 {") {
		t.Errorf("without a Corefile: %q, want the built-in one on port 1053", got)
	}
	if got := strings.Join(b.hint(), "\n"); !strings.Contains(got, "dig @127.0.0.1 -p 1053 example.org") {
		t.Errorf("hint %q does not name dig's port", got)
	}

	b.port = "5300"
	input, err = b.Load("dns")
	if err != nil {
		t.Fatal(err)
	}
	if got := string(input.Body()); !strings.Contains(got, ".:5300 {") || strings.Contains(got, "1053") {
		t.Errorf("with port 5300: %q", got)
	}

	const own = "example.org {\n    whoami\n}\n"
	if err := os.WriteFile("Corefile", []byte(own), 0o600); err != nil {
		t.Fatal(err)
	}
	input, err = b.Load("dns")
	if err != nil {
		t.Fatal(err)
	}
	if got := string(input.Body()); got != own || input.Path() != "Corefile" {
		t.Errorf("with a Corefile: %q from %q, want that of the Corefile", got, input.Path())
	}
	if got := b.hint(); got != nil {
		t.Errorf("hint %q, want none where there is a Corefile", got)
	}

	b.file = t.TempDir() // cannot be read as a file
	if _, err := b.Load("dns"); err == nil {
		t.Error("no error for a Corefile that cannot be read")
	}
}

func TestCommitOf(t *testing.T) {
	const revision = "0123456789abcdef0123456789abcdef01234567"
	tests := []struct {
		name     string
		settings []debug.BuildSetting
		want     string
	}{
		{"none", nil, "unknown"},
		{"clean", []debug.BuildSetting{{Key: "vcs.revision", Value: revision}, {Key: "vcs.modified", Value: "false"}}, "0123456789ab"},
		{"dirty", []debug.BuildSetting{{Key: "vcs.modified", Value: "true"}, {Key: "vcs.revision", Value: revision}}, "0123456789ab-dirty"},
		{"short", []debug.BuildSetting{{Key: "vcs.revision", Value: "0123"}}, "0123"},
	}
	for _, tt := range tests {
		if got := commitOf(tt.settings); got != tt.want {
			t.Errorf("%s: commitOf = %q, want %q", tt.name, got, tt.want)
		}
	}
}

// The tests below run the binary.

func TestVersionFlag(t *testing.T) {
	out := output(t, "-version")
	want := fmt.Sprintf("dnsguard %s\nCoreDNS-%s\n%s/%s, %s, ", version, coremain.CoreVersion, runtime.GOOS, runtime.GOARCH, runtime.Version())
	commit, ok := strings.CutPrefix(out, want)
	if !ok || strings.TrimSpace(commit) == "" {
		t.Errorf("-version prints %q, want %q and a commit", out, want)
	}
}

func TestPluginsFlag(t *testing.T) {
	out := output(t, "-plugins")
	for _, want := range []string{"\ndnsguard\n", "\nforward\n", "\nkubernetes\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("-plugins prints no %q", want)
		}
	}
	if strings.Contains(out, version) {
		t.Error("-plugins prints a version")
	}
}

func TestUnknownConf(t *testing.T) {
	out, err := exec.Command(binary(t), "-conf", filepath.Join(t.TempDir(), "none")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no such file") {
		t.Errorf("-conf with no such file: %v, %q", err, out)
	}
}

func TestRunsBuiltinWithoutCorefile(t *testing.T) {
	port := freePort(t)
	for _, flagName := range []string{"-dns.port", "-p"} {
		s := start(t, t.TempDir(), "", flagName, port)
		s.waitFor(t, "dig @127.0.0.1 -p "+port+" example.org")
		s.waitFor(t, "dnsguard "+version)
		s.waitFor(t, "CoreDNS-"+coremain.CoreVersion)
		conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", port))
		if err != nil {
			t.Errorf("%s %s: %v\n%s", flagName, port, err, s.out.String())
		} else {
			conn.Close()
		}
		s.stop(t)
	}
}

func TestCorefileOfWorkingDirectoryWins(t *testing.T) {
	port := freePort(t)
	s := start(t, corefileDir(t, ". {\n    whoami\n}\n"), "", "-p", port)
	s.waitForAnswer(t, port)
	s.waitFor(t, "dnsguard "+version)
	s.stop(t)
	if strings.Contains(s.out.String(), "dig @") {
		t.Errorf("hint for the built-in Corefile, though there is one:\n%s", s.out.String())
	}
}

func TestConfWins(t *testing.T) {
	port, other := freePort(t), freePort(t)
	conf := filepath.Join(corefileDir(t, ".:"+port+" {\n    whoami\n}\n"), "Corefile")
	pidfile := filepath.Join(t.TempDir(), "pid")

	s := start(t, corefileDir(t, ".:"+other+" {\n    whoami\n}\n"), "", "-conf", conf, "-quiet", "-pidfile", pidfile)
	s.waitForAnswer(t, port)
	s.poll(t, "pidfile", func() bool {
		pid, err := os.ReadFile(pidfile)
		return err == nil && strings.TrimSpace(string(pid)) == strconv.Itoa(s.cmd.Process.Pid)
	})
	s.stop(t)
	if out := s.out.String(); strings.Contains(out, "dnsguard") || strings.Contains(out, "CoreDNS") {
		t.Errorf("-quiet prints %q", out)
	}
}

func TestConfStdinAndJSON(t *testing.T) {
	port := freePort(t)
	s := start(t, t.TempDir(), ".:"+port+" {\n    whoami\n}\n", "-conf", "stdin", "-log-format", "json")
	s.waitForAnswer(t, port)
	s.waitFor(t, `"dnsguard `+version+`"`)
	s.stop(t)
}

// binary returns the path of the binary, which the first caller builds.
func binary(t *testing.T) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var (
	buildDir string // of the binary; removed at the end
	build    = sync.OnceValues(func() (string, error) {
		path := filepath.Join(buildDir, "coredns")
		out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput()
		if err != nil {
			os.Stderr.Write(out)
		}
		return path, err
	})
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "dnsguard-coredns")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		buildDir = dir
		return m.Run()
	}())
}

// output runs the binary to its end in an empty directory.
func output(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(binary(t), args...)
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("coredns %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// server is a running binary.
type server struct {
	cmd  *exec.Cmd
	out  *buffer // stdout and stderr
	done chan struct{}
}

// start runs the binary in dir until the test ends.
func start(t *testing.T, dir, stdin string, args ...string) *server {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := &server{cmd: exec.CommandContext(ctx, binary(t), args...), out: new(buffer), done: make(chan struct{})}
	s.cmd.Dir, s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = dir, strings.NewReader(stdin), s.out, s.out
	if err := s.cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	go func() {
		s.cmd.Wait()
		close(s.done)
	}()
	t.Cleanup(func() {
		cancel()
		<-s.done
	})
	return s
}

// poll calls ok until it says true; it fails the test when the server ends before that, or after 20 s. It skips the test when the server
// ends because a port is taken: those of the built-in Corefile are fixed.
func (s *server) poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-s.done:
			if strings.Contains(s.out.String(), "address already in use") {
				t.Skipf("a port is taken by another process:\n%s", s.out.String())
			}
			t.Fatalf("ended before %s:\n%s", what, s.out.String())
		case <-timeout:
			t.Fatalf("no %s in 20 s:\n%s", what, s.out.String())
		}
	}
}

// waitFor waits until the server has printed text.
func (s *server) waitFor(t *testing.T, text string) {
	t.Helper()
	s.poll(t, "line "+text, func() bool { return strings.Contains(s.out.String(), text) })
}

// waitForAnswer waits until the server answers a query.
func (s *server) waitForAnswer(t *testing.T, port string) {
	t.Helper()
	query := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
	s.poll(t, "answer on port "+port, func() bool {
		reply, err := dns.Exchange(query, net.JoinHostPort("127.0.0.1", port))
		return err == nil && reply.Rcode == dns.RcodeSuccess
	})
}

// stop ends the server as a supervisor would and waits for it.
func (s *server) stop(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-s.done
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d on SIGTERM, want 0:\n%s", code, s.out.String())
	}
}

// buffer is a bytes.Buffer that may be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// corefileDir returns a directory with a Corefile in it.
func corefileDir(t *testing.T, contents string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Corefile"), []byte(contents), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// freePort returns a port that nobody listens on, by TCP at least.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
