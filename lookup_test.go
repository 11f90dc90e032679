package dnsguard

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// resolver starts a name server on a port of its own, by UDP and TCP.
func resolver(t *testing.T, answer func(w dns.ResponseWriter, q dns.Question) *dns.Msg) netip.AddrPort {
	t.Helper()
	var (
		listener net.Listener
		socket   net.PacketConn
	)
	for socket == nil { // the port may be taken for UDP
		var err error
		if listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if socket, err = net.ListenPacket("udp", listener.Addr().String()); err != nil {
			t.Log(err)
			listener.Close()
		}
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
		partly    bool // there is an error too
	}{
		{"both families, A first", []netip.AddrPort{good, other}, "h.example", []string{"192.0.2.1", "192.0.2.2", "2001:db8::1"}, false},
		{"AAAA alone", []netip.AddrPort{good}, "h6.example.", []string{"192.0.2.6"}, false},
		{"A alone, AAAA failed", []netip.AddrPort{onlyA}, "h.example", []string{"192.0.2.3"}, true},
		{"by TCP where truncated", []netip.AddrPort{truncating}, "h.example", []string{"192.0.2.4"}, false},
		{"next one after a refusal", []netip.AddrPort{refusing, other, good}, "h.example", []string{"192.0.2.9"}, false},
		{"next one after no address", []netip.AddrPort{empty, other}, "h.example", []string{"192.0.2.9"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, _, err := newLookup(tc.resolvers, nobody, nil)(t.Context(), tc.host)
			if want := ips(tc.want...); (err != nil) != tc.partly || !reflect.DeepEqual(got, want) {
				t.Errorf("got %v, %v, want %v", got, err, want)
			}
		})
	}

	t.Run("errors name each resolver", func(t *testing.T) {
		self := good
		isSelf := func(addr netip.AddrPort) bool { return addr == self }
		got, _, err := newLookup([]netip.AddrPort{refusing, empty, self}, isSelf, nil)(t.Context(), "h.example")
		want := "resolver " + refusing.String() + ": A: REFUSED\nAAAA: REFUSED\nresolver " + empty.String() + ": no address\nresolver " + self.String() + ": is this very server"
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
	got, _, err := newLookup([]netip.AddrPort{silent, silent}, nobody, nil)(ctx, "h.example")
	if got != nil || !errors.Is(err, errStop) {
		t.Errorf("got %v, %v, want the cause of the cancellation", got, err)
	}
	if d := time.Since(start); d >= lookupTimeout {
		t.Errorf("took %v after the cancellation", d)
	}
}

func nobody(netip.AddrPort) bool { return false }

// TestLookupHosts finds in /etc/hosts what every host has there, and does not ask anybody for what is not.
func TestLookupHosts(t *testing.T) {
	if got := lookupHosts(t.Context(), "localhost"); len(got) == 0 || !got[0].IsLoopback() {
		t.Errorf("localhost: %v", got)
	}
	if got := lookupHosts(t.Context(), "dns.invalid"); got != nil {
		t.Errorf("dns.invalid: %v", got)
	}
}

func TestLookupTTL(t *testing.T) {
	server := resolver(t, records(t, "h.example. 60 A 192.0.2.1", "h.example. 30 AAAA 2001:db8::1"))
	if _, ttl, err := newLookup([]netip.AddrPort{server}, nobody, nil)(t.Context(), "h.example"); err != nil || ttl != 30*time.Second {
		t.Errorf("got %v, %v", ttl, err)
	}
}
