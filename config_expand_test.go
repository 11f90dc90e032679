package dnsguard

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

var errFile, errHost = errors.New("file error"), errors.New("host error")

func fakeFile(path string) ([]string, error) {
	switch path {
	case "resolv.conf":
		return []string{"192.0.2.1", "fe80::1%eth0", "dns.example", "2001:db8::1", "192.0.2.1"}, nil
	case "junk.conf":
		return []string{"dns.example", ""}, nil
	case "empty.conf":
		return nil, nil
	}
	return nil, errFile
}

func fakeLookup(_ context.Context, host string) ([]netip.Addr, error) {
	switch host {
	case "host.example":
		return ips("192.0.2.2", "::ffff:192.0.2.1"), nil
	case "none.example":
		return nil, nil
	}
	return nil, errHost
}

func toFile(name string) To { return To{Text: name, Transport: "dns", File: name} }

func toHost(transport, name string, port uint16, server string) To {
	return To{Text: transport + "://" + name, Transport: transport, Host: name, Port: port, ServerName: server}
}

func toAddr(transport, text, server string) To {
	return To{Text: text, Transport: transport, Addr: netip.MustParseAddrPort(text), ServerName: server}
}

func TestExpandTo(t *testing.T) {
	for _, tc := range []struct {
		name string
		to   []To
		want []string // address, transport, server name, source
	}{
		{"address", []To{toAddr("dns", "192.0.2.9:5353", "")}, []string{"192.0.2.9:5353 dns  192.0.2.9:5353"}},
		{"file", []To{toFile("resolv.conf")}, []string{
			"192.0.2.1:53 dns  resolv.conf", "[fe80::1%eth0]:53 dns  resolv.conf", "[2001:db8::1]:53 dns  resolv.conf",
		}},
		{"host", []To{toHost("tls", "host.example", 853, "A.example")}, []string{
			"192.0.2.2:853 tls A.example tls://host.example", "192.0.2.1:853 tls A.example tls://host.example",
		}},
		{"order and the first of equals", []To{
			toHost("dns", "host.example", 53, ""), toAddr("dns", "192.0.2.3:53", ""), toFile("resolv.conf"), toAddr("dns", "192.0.2.2:53", ""),
		}, []string{
			"192.0.2.2:53 dns  dns://host.example", "192.0.2.1:53 dns  dns://host.example", "192.0.2.3:53 dns  192.0.2.3:53",
			"[fe80::1%eth0]:53 dns  resolv.conf", "[2001:db8::1]:53 dns  resolv.conf",
		}},
		{"other transport, port, zone or server name is another upstream", []To{
			toAddr("tls", "192.0.2.1:853", ""), toAddr("quic", "192.0.2.1:853", ""), toAddr("quic", "192.0.2.1:853", "a.example"),
			toAddr("quic", "192.0.2.1:853", "A.Example"), toAddr("tls", "192.0.2.1:854", ""), toAddr("tls", "192.0.2.1:853", ""),
			toAddr("dns", "[fe80::1%eth0]:53", ""), toAddr("dns", "[fe80::1%eth1]:53", ""),
		}, []string{
			"192.0.2.1:853 tls  192.0.2.1:853", "192.0.2.1:853 quic  192.0.2.1:853", "192.0.2.1:853 quic a.example 192.0.2.1:853",
			"192.0.2.1:854 tls  192.0.2.1:854", "[fe80::1%eth0]:53 dns  [fe80::1%eth0]:53", "[fe80::1%eth1]:53 dns  [fe80::1%eth1]:53",
		}},
		{"empty file beside an address", []To{toFile("empty.conf"), toAddr("dns", "192.0.2.1:53", "")}, []string{"192.0.2.1:53 dns  192.0.2.1:53"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			endpoints, err := expandTo(t.Context(), tc.to, fakeFile, fakeLookup)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range endpoints {
				got = append(got, strings.Join([]string{e.Addr.String(), e.Transport, e.ServerName, e.Source}, " "))
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got  %q\nwant %q", got, tc.want)
			}
		})
	}
}

func TestExpandToErrors(t *testing.T) {
	for _, tc := range []struct {
		name string
		to   []To
		want string
		is   error
	}{
		{
			"nothing usable",
			[]To{toFile("empty.conf"), toHost("dns", "none.example", 53, ""), toFile("junk.conf")},
			"no upstream: file empty.conf lists no usable nameserver, host none.example has no address, file junk.conf lists no usable nameserver", nil,
		},
		{"unreadable file", []To{toAddr("dns", "192.0.2.1:53", ""), toFile("missing.conf")}, "upstreams in file missing.conf: file error", errFile},
		{"host error", []To{toHost("tls", "bad.example", 853, "")}, "addresses of upstream tls://bad.example: host error", errHost},
	} {
		t.Run(tc.name, func(t *testing.T) {
			endpoints, err := expandTo(t.Context(), tc.to, fakeFile, fakeLookup)
			if endpoints != nil || err == nil || err.Error() != tc.want || (tc.is != nil && !errors.Is(err, tc.is)) {
				t.Errorf("got  %v, %v\nwant %s", endpoints, err, tc.want)
			}
		})
	}
}

func TestReadResolvConf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	text := "# nameserver 192.0.2.9\n;nameserver 192.0.2.9\nsearch nameserver\noptions ndots:5\n" +
		"  nameserver\t192.0.2.1  # ours\nnameserver\nnameserver fe80::1%eth0\nnameserver dns.example"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := readResolvConf(path)
	if want := []string{"192.0.2.1", "fe80::1%eth0", "dns.example"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if got, err := readResolvConf(os.DevNull); err != nil || len(got) > 0 {
		t.Errorf("empty file: got %q, %v", got, err)
	}
	_, err = expandTo(t.Context(), []To{{Transport: "dns", File: path + ".old"}}, readResolvConf, nil)
	if want := "upstreams in file " + path + ".old: no such file or directory"; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// resolver starts a name server on a port of its own, by UDP and TCP.
func resolver(t *testing.T, answer func(w dns.ResponseWriter, q dns.Question) *dns.Msg) netip.AddrPort {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	socket, err := net.ListenPacket("udp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		if m := answer(w, q.Question[0]); m != nil {
			rcode, truncated := m.Rcode, m.Truncated
			m.SetReply(q)
			m.Rcode, m.Truncated = rcode, truncated
			w.WriteMsg(m)
		}
	})
	for _, s := range []*dns.Server{{Listener: listener, Handler: handler}, {PacketConn: socket, Handler: handler}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go s.ActivateAndServe()
		<-started
		t.Cleanup(func() { s.Shutdown() })
	}
	return netip.MustParseAddrPort(listener.Addr().String())
}

// records answers with the records of the type that was asked for.
func records(t *testing.T, texts ...string) func(dns.ResponseWriter, dns.Question) *dns.Msg {
	var rrs []dns.RR
	for _, text := range texts {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		rrs = append(rrs, rr)
	}
	return func(_ dns.ResponseWriter, q dns.Question) *dns.Msg {
		m := new(dns.Msg)
		for _, rr := range rrs {
			if rr.Header().Rrtype == q.Qtype && rr.Header().Name == q.Name {
				m.Answer = append(m.Answer, rr)
			}
		}
		return m
	}
}

func TestLookup(t *testing.T) {
	rcode := func(rcode int) func(dns.ResponseWriter, dns.Question) *dns.Msg {
		return func(dns.ResponseWriter, dns.Question) *dns.Msg { return &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: rcode}} }
	}
	good := resolver(t, records(t, "h.example. A 192.0.2.1", "h.example. A 192.0.2.2", "h.example. AAAA 2001:db8::1", "h6.example. AAAA ::ffff:192.0.2.6"))
	other := resolver(t, records(t, "h.example. A 192.0.2.9"))
	refusing, empty := resolver(t, rcode(dns.RcodeRefused)), resolver(t, rcode(dns.RcodeSuccess))
	onlyA := resolver(t, func(w dns.ResponseWriter, q dns.Question) *dns.Msg {
		if q.Qtype == dns.TypeAAAA {
			return rcode(dns.RcodeServerFailure)(w, q)
		}
		return records(t, "h.example. A 192.0.2.3")(w, q)
	})
	truncating := resolver(t, func(w dns.ResponseWriter, q dns.Question) *dns.Msg {
		if w.LocalAddr().Network() == "udp" {
			return &dns.Msg{MsgHdr: dns.MsgHdr{Truncated: true}}
		}
		return records(t, "h.example. A 192.0.2.4")(w, q)
	})

	for _, tc := range []struct {
		name      string
		resolvers []netip.AddrPort
		host      string
		want      []string
	}{
		{"both families, A first", []netip.AddrPort{good, other}, "h.example", []string{"192.0.2.1", "192.0.2.2", "2001:db8::1"}},
		{"AAAA alone", []netip.AddrPort{good}, "h6.example.", []string{"192.0.2.6"}},
		{"A alone, AAAA failed", []netip.AddrPort{onlyA}, "h.example", []string{"192.0.2.3"}},
		{"by TCP where truncated", []netip.AddrPort{truncating}, "h.example", []string{"192.0.2.4"}},
		{"next one after a refusal", []netip.AddrPort{refusing, other, good}, "h.example", []string{"192.0.2.9"}},
		{"next one after no address", []netip.AddrPort{empty, other}, "h.example", []string{"192.0.2.9"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := newLookup(tc.resolvers, nil)(t.Context(), tc.host)
			if want := ips(tc.want...); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("got %v, %v, want %v", got, err, want)
			}
		})
	}

	t.Run("errors name each resolver", func(t *testing.T) {
		got, err := newLookup([]netip.AddrPort{refusing, empty}, nil)(t.Context(), "h.example")
		want := "resolver " + refusing.String() + ": A: REFUSED\nAAAA: REFUSED\nresolver " + empty.String() + ": no address"
		if got != nil || err == nil || err.Error() != want || !errors.Is(err, errNoAddress) {
			t.Errorf("got  %v, %v\nwant %s", got, err, want)
		}
	})
}

// TestLookupCancelled asks resolvers that never answer.
func TestLookupCancelled(t *testing.T) {
	errStop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	asked := make(chan struct{}, 4)
	silent := resolver(t, func(dns.ResponseWriter, dns.Question) *dns.Msg { asked <- struct{}{}; return nil })
	go func() {
		<-asked
		cancel(errStop)
	}()
	start := time.Now()
	got, err := newLookup([]netip.AddrPort{silent, silent}, nil)(ctx, "h.example")
	if got != nil || !errors.Is(err, errStop) {
		t.Errorf("got %v, %v, want the cause of the cancellation", got, err)
	}
	if d := time.Since(start); d >= lookupTimeout {
		t.Errorf("took %v after the cancellation", d)
	}
}

// TestLookupSystem leads the system's lookup to a server of ours, which knows
// the absolute name alone.
func TestLookupSystem(t *testing.T) {
	server := resolver(t, records(t, "h. A 192.0.2.1", "h. AAAA 2001:db8::1", "h.example. A 192.0.2.9"))
	system := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, server.String())
	}}
	got, err := lookupSystem(t.Context(), system, "h")
	slices.SortFunc(got, netip.Addr.Compare)
	if want := ips("192.0.2.1", "2001:db8::1"); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := newLookup(nil, nil)(ctx, "dns.invalid"); err == nil {
		t.Errorf("dns.invalid = %v", got)
	}
}
