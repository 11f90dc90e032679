package exchange

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// defaultConnectTimeout is Config.ConnectTimeout where none is given.
const defaultConnectTimeout = 500 * time.Millisecond

var (
	// errClosed is behind every outcome.Cancelled that Close brings about.
	errClosed = errors.New("exchanger is closed")
	// errPanic is what an exchange, a connection or a dial ends with that a panic ended.
	errPanic = errors.New("internal error")
)

// New returns the exchanger for the address and transport of cfg. It opens
// nothing yet.
func New(cfg Config) (Exchanger, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.ConnectTimeout <= 0 {
		cfg.ConnectTimeout = defaultConnectTimeout
	}
	cfg.Dial = cfg.tellingDial()
	switch cfg.Transport {
	case "dns":
		return &plain{udp: newUDPPool(&cfg), tcp: newStreamPool(&cfg, TCP, dialTCP(&cfg))}, nil
	case "tls":
		return newStreamPool(&cfg, TLS, newTLSDialer(&cfg).dial), nil
	case "https":
		return newDoH(&cfg), nil
	case "quic":
		return newDoQ(&cfg), nil
	}
	return nil, fmt.Errorf("exchange: transport %q: must be dns, tls, https or quic", cfg.Transport)
}

func (c *Config) validate() error {
	switch {
	case !c.Addr.IsValid() || c.Addr.Port() == 0:
		return fmt.Errorf("exchange: address %q: must be an IP address and a port", c.Addr)
	case c.Dial == nil:
		return errors.New("exchange: no dial function")
	case c.Rand64 == nil:
		return errors.New("exchange: no source of randomness")
	case c.Events == nil:
		return errors.New("exchange: no receiver of events")
	case c.Expire <= 0:
		return fmt.Errorf("exchange: expire %v: must be more than 0", c.Expire)
	}
	return nil
}

// tellingDial returns the dial function, which tells of the faults of this host
// as well, also where an exchange can do without the new socket.
func (c *Config) tellingDial() DialFunc {
	dial := c.Dial
	return func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			c.tellFault(err)
		}
		return conn, err
	}
}

// tellFault tells of an error that is a fault of this host. It is not called
// for errors of Dial, which have been told.
func (c *Config) tellFault(err error) {
	if f := outcome.FaultOf(err); f != outcome.NoFault {
		c.Events.Fault(f)
	}
}

// plain is DNS without encryption: UDP, and TCP where it is asked for.
type plain struct {
	udp *udpPool
	tcp *streamPool
}

// Start sends q by the transport that opt names.
func (p *plain) Start(q *Query, opt Options, sink Sink) Handle {
	if opt.TCP {
		return p.tcp.Start(q, opt, sink)
	}
	return p.udp.Start(q, opt, sink)
}

// Close closes both transports.
func (p *plain) Close() {
	p.udp.Close()
	p.tcp.Close()
}

// ended is the handle of an exchange whose sink has been told already.
type ended struct{}

// Cancel is always too late.
func (ended) Cancel() bool { return false }

// Begun has nothing to tell.
func (ended) Begun() time.Time { return time.Time{} }

// Sent has nothing to tell.
func (ended) Sent() (Sent, bool) { return Sent{}, false }

// refuse tells the sink at once that nothing was sent.
func refuse(sink Sink, proto Proto, kind outcome.Kind, err error) Handle {
	sink.Done(Reply{Kind: kind, Proto: proto, Err: err})
	return ended{}
}

// ago is the instant d before now. It is counted from now, so that it is right
// by the wall clock even where that has been set since.
func ago(d time.Duration) time.Time { return time.Now().Add(-d) }

// about wraps err with the transport and the address it is about.
func (c *Config) about(p Proto, err error) error {
	return fmt.Errorf("%s %s: %w", p, c.Addr, err)
}
