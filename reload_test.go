package dnsguard

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"

	"github.com/miekg/dns"
)

// TestReload reloads a real server: the new instance begins with what the old
// one knows; one that cannot start leaves the old one whole, and nothing else.
func TestReload(t *testing.T) {
	registerInOrder()
	port, quiet := dnsserver.Port, dnsserver.Quiet
	dnsserver.Port, dnsserver.Quiet, caddy.Quiet = "0", true, true
	t.Cleanup(func() { dnsserver.Port, dnsserver.Quiet = port, quiet })
	up := listen(t, answers)
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("nameserver 127.0.0.97\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	input := func(body string) caddy.Input {
		return caddy.CaddyfileInput{Filepath: "Corefile", Contents: []byte(".:0 {\n bind 127.0.0.1\n" + strings.ReplaceAll(body, "UP", up.addr) + "\n}\n"), ServerTypeName: "dns"}
	}
	guards := func(i *caddy.Instance) []*Guard { return i.Storage[familyKey{}].(*family).guards }

	first, err := caddy.Start(input("dnsguard a. UP\ndnsguard . UP"))
	if err != nil {
		t.Fatal(err)
	}
	old := guards(first)
	if m := serve(t, old[1], query("www.example.org.")); m.Rcode != dns.RcodeSuccess {
		t.Fatal(m)
	}
	known := old[1].Snapshot()[0]

	for name, body := range map[string]string{
		"a bad Corefile":                      "dnsguard . UP {\nhedge x\n}",
		"a bad Corefile behind the directive": "dnsguard . UP\nforward . grpc://x y z {\nbad\n}",
		"an address that is not there":        "dnsguard . UP " + file + "\n}\n.:53053 {\nbind 192.0.2.77\ndnsguard . UP",
	} {
		t.Run(name, func(t *testing.T) {
			same, err := first.Restart(input(body))
			if err == nil || same != first {
				t.Fatalf("%v, restarted", err)
			}
			if m := serve(t, old[1], query("www.example.org.")); m.Rcode != dns.RcodeSuccess {
				t.Error(m)
			}
			if f := first.Storage[familyKey{}].(*family); f.successor != nil || f.reloading {
				t.Errorf("%+v", f)
			}
			if n := old[1].pool.Load().members[0].link.Users(); n != 1 {
				t.Errorf("%d guards share the sockets", n)
			}
		})
	}

	second, err := first.Restart(input("dnsguard b. UP\ndnsguard . UP {\n timeout 2s\n}"))
	if err != nil {
		t.Fatal(err)
	}
	fresh := guards(second)
	if got := fresh[1].Snapshot()[0]; got.SRTT == 0 || got.State != "healthy" || !got.Since.Equal(known.Since) {
		t.Errorf("got %+v, was %+v", got, known)
	}
	if got := fresh[0].Snapshot()[0]; got.SRTT != 0 {
		t.Errorf("another zone: got %+v", got)
	}
	if m := serve(t, fresh[1], query("www.example.org.")); m.Rcode != dns.RcodeSuccess {
		t.Error(m)
	}
	if link := fresh[1].pool.Load().members[0].link; link != old[1].pool.Load().members[0].link || link.Users() != 1 {
		t.Errorf("%d guards share the sockets", link.Users())
	}
	for _, err := range second.ShutdownCallbacks() {
		t.Error(err)
	}
	if err := second.Stop(); err != nil {
		t.Error(err)
	}
}
