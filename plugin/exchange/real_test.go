package exchange

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// Tests over real sockets on the loopback.

func udpServer(t testing.TB, handle func(c *net.UDPConn, b []byte, from netip.AddrPort)) netip.AddrPort {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			handle(c, buf[:n], from)
		}
	})
	t.Cleanup(func() {
		c.Close()
		wg.Wait()
	})
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

func TestRealUDP(t *testing.T) {
	noLeak(t)
	addr := udpServer(t, func(c *net.UDPConn, b []byte, from netip.AddrPort) {
		a := answer(b)
		_, _ = c.WriteToUDPAddrPort(nil, from)
		_, _ = c.WriteToUDPAddrPort(a, from)
		_, _ = c.WriteToUDPAddrPort(a, from) // a duplicate
	})
	cfg, ev := testConfig("dns", addr)
	x := mustNew(t, cfg)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			sink := newSink()
			for j := range 1000 {
				h := x.Start(query(fmt.Sprintf("n%d-%d.example.org", i, j)), Options{Fresh: j%100 == 99}, sink)
				if j%10 == 0 && h.Cancel() {
					continue
				}
				if r := sink.wait(t); r.Kind != outcome.OK && r.Kind != outcome.Mismatched {
					t.Errorf("outcome %v (%v)", r.Kind, r.Err)
				}
			}
		})
	}
	wg.Wait()
	x.Close()
	if got := ev.sockets[UDP].Load(); got != 0 {
		t.Errorf("%d sockets after Close", got)
	}
}

// TestRealUDPRefused: ICMP tells of a closed port at once.
func TestRealUDPRefused(t *testing.T) {
	noLeak(t)
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	addr := c.LocalAddr().(*net.UDPAddr).AddrPort()
	c.Close()
	cfg, _ := testConfig("dns", addr)
	x := mustNew(t, cfg)
	defer x.Close()
	for range 50 {
		sink := newSink()
		x.Start(query("www.example.org"), Options{}, sink)
		wantKind(t, sink.wait(t), outcome.ConnRefused)
	}
	sink := newSink()
	x.Start(query("www.example.org"), Options{TCP: true}, sink)
	wantKind(t, sink.wait(t), outcome.ConnRefused)
}

// TestRealUDPSpray: of all IDs sprayed at the port, with the right address and
// question, none is taken.
func TestRealUDPSpray(t *testing.T) {
	for range 20 {
		addr := udpServer(t, func(c *net.UDPConn, b []byte, from netip.AddrPort) {
			own := messageID(b)
			forged := answer(b)
			for id := range 1 << 16 {
				if uint16(id) == own {
					continue // the chance that it is among the first few is not what is tested
				}
				setID(uint16(id))(forged)
				_, _ = c.WriteToUDPAddrPort(forged, from)
			}
		})
		cfg, ev := testConfig("dns", addr)
		x := mustNew(t, cfg)
		sink := newSink()
		x.Start(query("www.example.org"), Options{}, sink)
		wantKind(t, sink.wait(t), outcome.Mismatched)
		x.Close()
		if got := ev.mismatched.Load(); got < maxForged {
			t.Errorf("%d mismatched", got)
		}
	}
}

// TestRealUDPCloseUnderLoad: Close ends everything, whatever is going on.
func TestRealUDPCloseUnderLoad(t *testing.T) {
	noLeak(t)
	addr := udpServer(t, func(c *net.UDPConn, b []byte, from netip.AddrPort) {
		_, _ = c.WriteToUDPAddrPort(answer(b), from)
	})
	for range 20 {
		cfg, _ := testConfig("dns", addr)
		x := mustNew(t, cfg)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				sink := newSink()
				for {
					x.Start(query("www.example.org"), Options{Fresh: true}, sink)
					if sink.wait(t).Kind == outcome.Cancelled {
						return
					}
				}
			})
		}
		sink := newSink()
		x.Start(query("www.example.org"), Options{}, sink)
		sink.wait(t)
		x.Close()
		wg.Wait()
	}
}

func TestRealSourceAddress(t *testing.T) {
	addr := udpServer(t, func(c *net.UDPConn, b []byte, from netip.AddrPort) {
		_, _ = c.WriteToUDPAddrPort(answer(b), from)
	})
	source := netip.MustParseAddr("127.0.0.2")
	cfg, _ := testConfig("dns", addr)
	cfg.Dial = NetDial(source)
	x := mustNew(t, cfg)
	defer x.Close()
	sink := newSink()
	x.Start(query("www.example.org"), Options{}, sink)
	r := sink.wait(t)
	if got := r.Local.(*net.UDPAddr).AddrPort().Addr(); got != source {
		t.Errorf("sent from %v, want %v", got, source)
	}
}

// certs makes a certificate for a name, and the pool that trusts it.
func certs(t testing.TB, name string) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	return server, &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12}
}
