package dnsguard

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dnsguard/dnsguard/plugin/loopguard"
)

// groupOf returns the group, and the key, of a stanza.
func groupOf(t *testing.T, text string) marks {
	t.Helper()
	g, err := New(mustParse(t, text), Env{ReadFile: func(path string) ([]byte, error) {
		return []byte("nameserver 10.0.0." + strings.TrimPrefix(filepath.Base(path), "resolv") + "\n"), nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Stop()
	return *g.pool.Load().loops.marks.Load()
}

// TestLoopGroup holds who is in one group: all who send to the same servers.
func TestLoopGroup(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("nameserver 10.0.0.1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	one, two := file("resolv1"), file("resolv2")
	base := groupOf(t, "dnsguard . 10.0.0.1")
	for text, same := range map[string]bool{
		"dnsguard . 10.0.0.1:53":                             true,
		"dnsguard . dns://10.0.0.1 10.0.0.1":                 true,
		"dnsguard . " + one:                                  true,
		"dnsguard . 10.0.0.1 {\npolicy random\nforce_tcp\n}": true,
		"dnsguard . " + two:                                  false,
		"dnsguard . 10.0.0.1:5353":                           false,
		"dnsguard . tls://10.0.0.1:53":                       false,
		"dnsguard . 10.0.0.1 10.0.0.2":                       false,
		"dnsguard org 10.0.0.1":                              false,
		"dnsguard . 10.0.0.1 {\nloop group site-1\n}":        false,
	} {
		if got := groupOf(t, text) == base; got != same {
			t.Errorf("%s: the same group: %t", text, got)
		}
	}
	if groupOf(t, "dnsguard . 10.0.0.1 10.0.0.2") != groupOf(t, "dnsguard . 10.0.0.2 10.0.0.1") {
		t.Error("the order makes another group")
	}
}

// api is a Kubernetes API that knows one namespace.
func api(t *testing.T, status int, body string) (url, dir string) {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(s.Close)
	dir = t.TempDir()
	for name, text := range map[string][]byte{"token": []byte("secret"), "ca.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s.URL, dir
}

func TestClusterUID(t *testing.T) {
	const list = `{"kind":"NamespaceList","items":[{"metadata":{"name":"kube-system","uid":"1b4e28ba-2fa1-11d2-883f-0016d3cca427"}}]}`
	for _, tc := range []struct {
		status     int
		body, want string
	}{
		{http.StatusOK, list, "1b4e28ba-2fa1-11d2-883f-0016d3cca427"},
		{http.StatusOK, `{"items":[]}`, "no namespace"},
		{http.StatusOK, `{"items":[{"metadata":{"name":"default","uid":"x"}}]}`, "no namespace"},
		{http.StatusOK, `[`, "unexpected EOF"},
		{http.StatusForbidden, "", "may not list namespaces"},
		{http.StatusInternalServerError, "", "500"},
	} {
		url, dir := api(t, tc.status, tc.body)
		uid, err := clusterUID(t.Context(), url, dir)
		if got := uid; err != nil && !strings.Contains(err.Error(), tc.want) || err == nil && got != tc.want {
			t.Errorf("%d %s: %q, %v", tc.status, tc.body, uid, err)
		}
	}
	url, dir := api(t, http.StatusOK, list)
	for token, want := range map[string]error{"other": errToken, "secret\n": nil} {
		if err := os.WriteFile(filepath.Join(dir, "token"), []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := clusterUID(t.Context(), url, dir); !errors.Is(err, want) {
			t.Errorf("the token %q: %v", token, err)
		}
	}
	if _, err := clusterUID(t.Context(), url, t.TempDir()); err == nil {
		t.Error("no error without an account")
	}
	if ownCluster(func(string) string { return "" }) != nil || ownCluster(func(string) string { return "::1" }) == nil {
		t.Error("a cluster is not told by its environment")
	}
}

// TestLoopCluster holds that the start waits for no API, and that the key is another one once it has answered.
func TestLoopCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		env := Env{
			Dial:     func(context.Context, string, netip.AddrPort) (net.Conn, error) { return nil, syscall.ECONNREFUSED },
			OwnAddrs: func() ([]netip.Addr, error) { return nil, nil },
			Cluster: func(context.Context) (string, error) {
				if calls.Add(1) < 4 {
					return "", errors.New("not now")
				}
				return "uid", nil
			},
		}
		g, err := New(mustParse(t, "dnsguard . 10.0.0.1"), env)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		g.Start()
		if time.Since(begin) > 0 {
			t.Error("the start waited")
		}
		before := g.pool.Load().loops.marks.Load()
		time.Sleep(10 * time.Second)
		after := g.pool.Load().loops.marks.Load()
		if calls.Load() != 4 || before.key != loopguard.NewKey(nil) || after.key != loopguard.NewKey([]byte("cluster uid")) {
			t.Errorf("%d calls, %v, then %v", calls.Load(), before, after)
		}
		next, err := New(mustParse(t, "dnsguard . 10.0.0.1"), env)
		if err != nil {
			t.Fatal(err)
		}
		if err := next.Inherit(g); err != nil {
			t.Fatal(err)
		}
		if got := next.pool.Load().loops.marks.Load(); *got != *after {
			t.Errorf("after a reload %v", got)
		}
		g.Stop()
		next.Stop()
	})
}

// TestLoopClusterTold holds how often the API is asked that does not answer, and what is told of it.
func TestLoopClusterTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var told []string
		var asked []time.Duration
		begin := time.Now()
		errs := []error{errors.New("refused"), errToken, errForbidden, errForbidden, errors.New("refused"), nil}
		g, err := New(mustParse(t, "dnsguard . 10.0.0.1"), Env{
			Logf: func(_ Level, format string, args ...any) {
				mu.Lock()
				defer mu.Unlock()
				if what, ok := strings.CutPrefix(fmt.Sprintf(format, args...), "loops: "); ok {
					told = append(told, what)
				}
			},
			Dial:     func(context.Context, string, netip.AddrPort) (net.Conn, error) { return nil, syscall.ECONNREFUSED },
			OwnAddrs: func() ([]netip.Addr, error) { return nil, nil },
			Cluster: func(context.Context) (string, error) {
				asked = append(asked, time.Since(begin))
				return "uid", errs[len(asked)-1]
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		g.Start()
		time.Sleep(10 * time.Minute)
		g.Stop()
		const s = time.Second
		if want := []time.Duration{0, s, 3 * s, 63 * s, 123 * s, 183 * s}; !slices.Equal(asked, want) {
			t.Errorf("asked at %v, want %v", asked, want)
		}
		without := "going on without what tells this cluster from others: "
		if want := []string{without + "refused", without + "may not list namespaces", "what tells this cluster from others is known now"}; !slices.Equal(told, want) {
			t.Errorf("told %q, want %q", told, want)
		}
	})
}

// TestLoopWarnings holds which upstreams are warned of.
func TestLoopWarnings(t *testing.T) {
	env := Env{
		OwnAddrs: func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("10.1.0.7")}, nil },
		Listens:  func(a netip.AddrPort) bool { return a == netip.MustParseAddrPort("10.1.0.8:53") },
		Getenv:   func(name string) string { return map[string]string{"KUBE_DNS_SERVICE_HOST": "10.96.0.10"}[name] },
		ReadFile: func(string) ([]byte, error) {
			return []byte("search x\n\nnameserver 169.254.25.10\nnameserver 10.0.0.2\n"), nil
		},
	}
	for addr, want := range map[string]string{
		"10.0.0.1": "", "192.0.2.1": "", "fe80::1%eth0": "",
		"127.0.0.53": "loopback", "::1": "loopback", "10.1.0.7": "address of this host", "10.1.0.8": "itself listens", "10.96.0.10": "DNS Service",
		"169.254.20.10": "cache on each node", "169.254.25.10": "cache on each node", "169.254.10.10": "cache on each node", "169.254.10.11": "cache on each node",
		"/dev/null": "/dev/null line 3 names 169.254.25.10, the usual address",
	} {
		g, err := New(mustParse(t, "dnsguard . "+addr), env)
		if err != nil {
			t.Fatal(err)
		}
		w := g.Warnings()
		if want == "" && len(w) == 0 || want != "" && len(w) == 1 && w[0].Kind == WarnMay && strings.Contains(w[0].Text, want) {
			g.Stop()
			continue
		}
		t.Errorf("%s: %+v", addr, w)
		g.Stop()
	}
}
