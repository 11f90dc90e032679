package fakedns

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"
)

// CA signs the certificates of servers.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Certificates hold for all time that tests live in: a synctest bubble
// begins on 1 January 2000.
var (
	notBefore = time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC)
	notAfter  = time.Date(2190, 1, 1, 0, 0, 0, 0, time.UTC)
	expiredAt = time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)
)

// NewCA makes a certificate authority.
func NewCA() (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("fakedns: key of the CA: %w", err)
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "fakedns CA"},
		NotBefore: notBefore, NotAfter: notAfter, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("fakedns: certificate of the CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("fakedns: certificate of the CA: %w", err)
	}
	return &CA{cert: cert, key: key}, nil
}

// Pool returns the pool that a client trusts.
func (c *CA) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(c.cert)
	return p
}

// PEM returns the CA's certificate for a file.
func (c *CA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})
}

// Config is what a server of one's own needs to speak TLS under the names and addresses.
func (c *CA) Config(names ...string) (*tls.Config, error) {
	cert, err := c.issue(names, notAfter)
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{*cert}}, nil
}

// issue makes a certificate for the names and addresses.
func (c *CA) issue(names []string, until time.Time) (*tls.Certificate, error) {
	t := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: names[0]},
		NotBefore: notBefore, NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, c.cert, &c.key.PublicKey, c.key)
	if err != nil {
		return nil, fmt.Errorf("fakedns: certificate of %v: %w", names, err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: c.key}, nil
}

// tlsConfig serves the certificate that the faults of the moment ask for.
func (s *Server) tlsConfig() *tls.Config {
	return &tls.Config{
		SessionTicketsDisabled: true,
		NextProtos:             []string{"dot"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			names, until := s.CertNames, notAfter
			if len(names) == 0 {
				names = []string{"10.0.0.1", "dns.example"}
			}
			if s.on(TLSWrongName) {
				names = []string{"wrong.invalid"}
			}
			if s.on(TLSExpired) {
				until = expiredAt
			}
			return s.Key.issue(names, until)
		},
	}
}
