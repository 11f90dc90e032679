package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	forward  = "forward" // the stock directive, for comparison
	dnsguard = "dnsguard"
)

// directive is the word in the Corefile whose plugin is under test.
func directive() string {
	if d := os.Getenv("DNSGUARD_E2E_DIRECTIVE"); d != "" {
		return d
	}
	return dnsguard
}

func enabled() bool { return os.Getenv("DNSGUARD_E2E") == "1" && os.Geteuid() == 0 }

// requires skips the test unless it may run and has the programs it needs.
func requires(t *testing.T, programs ...string) {
	t.Helper()
	if os.Getenv("DNSGUARD_E2E") != "1" {
		t.Skip("end-to-end tests run with DNSGUARD_E2E=1 only")
	}
	if os.Geteuid() != 0 {
		t.Skip("end-to-end tests need root for network namespaces")
	}
	for _, p := range append([]string{"ip", "nft"}, programs...) {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed", p)
		}
	}
}

// requiresDirective skips the test where the binary has no such plugin.
func requiresDirective(t *testing.T, name string) {
	t.Helper()
	if !pluginList(t)[name] {
		t.Skipf("the binary has no plugin %q", name)
	}
}

var buildBinary = sync.OnceValues(func() (string, error) {
	if b := os.Getenv("DNSGUARD_BINARY"); b != "" {
		return filepath.Abs(b)
	}
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "dnsguard-e2e-")
	if err != nil {
		return "", err
	}
	atExit(func() { os.RemoveAll(dir) })
	out := filepath.Join(dir, "coredns")
	args := append([]string{"build", "-trimpath", "-o", out}, strings.Fields(os.Getenv("DNSGUARD_E2E_BUILDFLAGS"))...)
	// A build may wait for the rest of the machine; the tests may not.
	cmd := exec.Command("nice", append(append([]string{"-n", "10", "go"}, args...), "./cmd/coredns")...)
	cmd.Dir = root
	if b, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build of ./cmd/coredns: %w\n%s", err, b)
	}
	return out, nil
})

// coreDNS is the path of the CoreDNS binary, built at the first call.
func coreDNS(t testing.TB) string {
	t.Helper()
	b, err := buildBinary()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var listPlugins = sync.OnceValues(func() (map[string]bool, error) {
	b, err := buildBinary()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, b, "-plugins").Output()
	if err != nil {
		return nil, fmt.Errorf("%s -plugins: %w", b, err)
	}
	has := make(map[string]bool)
	for line := range strings.Lines(string(out)) {
		has[strings.TrimSpace(line)] = true
	}
	return has, nil
})

func pluginList(t testing.TB) map[string]bool {
	t.Helper()
	has, err := listPlugins()
	if err != nil {
		t.Fatal(err)
	}
	return has
}
