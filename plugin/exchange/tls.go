package exchange

import (
	"context"
	"crypto/tls"
	"errors"
	"net"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// dialError is a failed dial whose kind the error alone does not tell.
type dialError struct {
	kind outcome.Kind
	err  error
}

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// dialKind returns what a dial came to.
func dialKind(err error) outcome.Kind {
	if e, ok := errors.AsType[*dialError](err); ok {
		return e.kind
	}
	return outcome.FromError(err)
}

// tlsDialer opens TLS connections to one address, and keeps the sessions.
type tlsDialer struct {
	cfg    *Config
	config *tls.Config
}

func newTLSDialer(cfg *Config, protos ...string) *tlsDialer {
	config := tlsConfig(cfg)
	if len(protos) > 0 {
		config.NextProtos = protos
	}
	return &tlsDialer{cfg: cfg, config: config}
}

// tlsConfig returns a configuration of our own. Where no name is known, the
// certificate has to be good for the address (RFC 7858, section 4.2, RFC 8310).
func tlsConfig(cfg *Config) *tls.Config {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.TLS != nil {
		config = cfg.TLS.Clone()
	}
	if config.ServerName == "" {
		config.ServerName = cfg.Addr.Addr().WithZone("").String()
	}
	if config.ClientSessionCache == nil {
		config.ClientSessionCache = tls.NewLRUClientSessionCache(maxConns)
	}
	return config
}

func (d *tlsDialer) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*d.cfg.ConnectTimeout)
	defer cancel()
	raw, err := dialTCP(d.cfg)(ctx)
	if err != nil {
		return nil, err
	}
	return d.handshake(ctx, raw)
}

// handshake makes a TLS connection of raw, or closes it.
func (d *tlsDialer) handshake(ctx context.Context, raw net.Conn) (conn net.Conn, err error) {
	defer func() {
		if conn == nil { // after a panic too
			raw.Close()
		}
	}()
	client := tls.Client(raw, d.config)
	if err = client.HandshakeContext(ctx); err == nil {
		return client, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	switch kind := outcome.FromError(err); kind {
	case outcome.Timeout, outcome.Cancelled, outcome.Local:
		return nil, &dialError{kind, err}
	}
	return nil, &dialError{outcome.TLS, err}
}
