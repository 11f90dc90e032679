package options

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dnsguard/dnsguard"
	"github.com/dnsguard/dnsguard/test/fakedns"
)

// TestTo is about the forms of TO: which upstreams it stands for, and that those are asked.
func TestTo(t *testing.T) {
	file := write(t, "resolv.conf", []byte("# by hand\nsearch example.org\nnameserver 10.0.0.1\nnameserver fd00::1\nnameserver 10.0.0.3\noptions ndots:5\n"))
	hosts := map[string][]netip.Addr{"one.example": {netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}}
	for _, tc := range []struct {
		to   string
		want []string
	}{
		{"10.0.0.1", []string{"10.0.0.1:53"}},
		{"10.0.0.1:5353", []string{"10.0.0.1:5353"}},
		{"dns://10.0.0.1", []string{"10.0.0.1:53"}},
		{"dns://10.0.0.1:5353", []string{"10.0.0.1:5353"}},
		{"fd00::1 [fd00::1]:5353 dns://[fd00::2]", []string{"[fd00::1]:53", "[fd00::1]:5353", "[fd00::2]:53"}},
		{file, []string{"10.0.0.1:53", "[fd00::1]:53", "10.0.0.3:53"}},
		{"dns://" + file, []string{"10.0.0.1:53", "[fd00::1]:53", "10.0.0.3:53"}},
		{"10.0.0.3 " + file + " 10.0.0.2", []string{"10.0.0.3:53", "10.0.0.1:53", "[fd00::1]:53", "10.0.0.2:53"}},
		{"one.example", []string{"10.0.0.1:53", "[fd00::1]:53"}},
		{"one.example:5353", []string{"10.0.0.1:5353", "[fd00::1]:5353"}},
		{"dns://one.example", []string{"10.0.0.1:53", "[fd00::1]:53"}},
	} {
		t.Run(tc.to, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t)
				for _, addr := range tc.want {
					l.add(addr, server(10*ms))
				}
				g, err := l.buildWith(directive(tc.to, "policy round_robin"), dnsguard.Env{
					Lookup: func(_ context.Context, host string) ([]netip.Addr, time.Duration, error) {
						if addrs := hosts[host]; addrs != nil {
							return addrs, time.Minute, nil
						}
						return nil, 0, errors.New("unknown host " + host)
					},
				})
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, s := range g.Snapshot() {
					got = append(got, s.To)
				}
				if !slices.Equal(got, tc.want) {
					t.Errorf("upstreams %v, want %v", got, tc.want)
				}
				l.settle()
				for i := range tc.want {
					if r := l.a(fmt.Sprintf("%d.example.org.", i)); !r.right() {
						t.Errorf("%s", r.rcode())
					}
				}
				for _, s := range l.up {
					if asked(s) == 0 {
						t.Errorf("%s was not asked", s.Name)
					}
				}
			})
		})
	}
}

// TestResolver is about a host name among TO, asked of resolvers on real sockets.
func TestResolver(t *testing.T) {
	const host = "upstream.example."
	a, aaaa := netip.AddrPortFrom(fakedns.A("", host), 53).String(), netip.AddrPortFrom(fakedns.AAAA("", host), 53).String()
	knows, elsewhere, denies := listen(t, "127.0.0.1:0", server(0)), listen(t, "127.0.0.1:0", &fakedns.Server{Zones: []string{"."}, View: "elsewhere"}), listen(t, "127.0.0.1:0", &fakedns.Server{})
	refuses := listen(t, "127.0.0.1:0", server(0, "refused"))
	for _, tc := range []struct {
		name      string
		resolvers []*fakedns.Listener
		want      []string
	}{
		{"one", []*fakedns.Listener{knows}, []string{a, aaaa}},
		{"another", []*fakedns.Listener{elsewhere}, []string{
			netip.AddrPortFrom(fakedns.A("elsewhere", host), 53).String(), netip.AddrPortFrom(fakedns.AAAA("elsewhere", host), 53).String(),
		}},
		{"the first counts", []*fakedns.Listener{knows, elsewhere}, []string{a, aaaa}},
		{"then the next", []*fakedns.Listener{refuses, denies, knows}, []string{a, aaaa}},
		{"none knows", []*fakedns.Listener{refuses, denies}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLab(t)
			option := "resolver"
			for _, r := range tc.resolvers {
				option += " " + r.Addr().String()
			}
			l.add(a, server(0))
			g, err := l.build(directive("upstream.example", option, "max_fails 0"))
			if err != nil {
				t.Fatal(err)
			}
			if r := l.a("www.example.org."); tc.want == nil && r.rcode() != "SERVFAIL" {
				t.Error(r.rcode())
			}
			var got []string
			for _, s := range g.Snapshot() {
				got = append(got, s.To)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("upstreams %v, want %v", got, tc.want)
			}
			if len(tc.want) > 0 && tc.want[0] == a {
				if r := l.a("www.example.org."); !r.right() {
					t.Errorf("%s", r.rcode())
				}
			}
		})
	}
}

// listen serves on a real socket.
func listen(t *testing.T, addr string, s *fakedns.Server) *fakedns.Listener {
	t.Helper()
	l, err := fakedns.Listen(addr, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}
