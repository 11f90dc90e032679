package dnsguard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/recovery"
)

// errNoAddress is the end of a lookup that was answered, with no address.
var errNoAddress = errors.New("no address")

// errPanic is the end of a lookup that a panic ended.
var errPanic = errors.New("internal error")

// lookupTimeout is how long one resolver has for one question.
const lookupTimeout = 2 * time.Second

// newLookup returns the lookup of host names among TO: by the resolvers, one
// after the other until one has an address, or by the system's where there are
// none. Names are absolute; search lists do not apply. The function may be
// called concurrently, obeys its context, and returns at least one address or
// an error.
func newLookup(resolvers []netip.AddrPort, r *recovery.Recoverer) func(ctx context.Context, host string) ([]netip.Addr, error) {
	if len(resolvers) == 0 {
		return func(ctx context.Context, host string) ([]netip.Addr, error) {
			return lookupSystem(ctx, net.DefaultResolver, host)
		}
	}
	return func(ctx context.Context, host string) ([]netip.Addr, error) {
		var errs []error
		for _, resolver := range resolvers {
			addrs, err := lookupAt(ctx, r, resolver, host)
			if len(addrs) > 0 { // what the other type came to does not matter
				return addrs, nil
			}
			errs = append(errs, fmt.Errorf("resolver %s: %w", resolver, err))
			if ctx.Err() != nil {
				break
			}
		}
		return nil, errors.Join(errs...)
	}
}

func lookupSystem(ctx context.Context, system *net.Resolver, host string) ([]netip.Addr, error) {
	addrs, err := system.LookupNetIP(ctx, "ip", dns.Fqdn(host))
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, err
}

// lookupAt asks one resolver for A and AAAA at once. It returns the addresses
// of both, A first, and what went wrong; never neither.
func lookupAt(ctx context.Context, r *recovery.Recoverer, resolver netip.AddrPort, host string) ([]netip.Addr, error) {
	types := [2]uint16{dns.TypeA, dns.TypeAAAA}
	var (
		wg      sync.WaitGroup
		replies [len(types)]*dns.Msg
		errs    [len(types)]error
		addrs   []netip.Addr
	)
	for i, qtype := range types {
		r.Go(&wg, "looking a host name up", func() { replies[i], errs[i] = ask(ctx, resolver, host, qtype) },
			func() { errs[i] = errPanic })
	}
	wg.Wait()
	for i, m := range replies {
		if errs[i] == nil {
			addrs = append(addrs, addrsOf(m)...)
		}
	}
	err := errors.Join(errs[:]...)
	if len(addrs) == 0 && err == nil {
		err = errNoAddress
	}
	return addrs, err
}

// ask sends one question by UDP, and by TCP where the reply is truncated.
func ask(ctx context.Context, resolver netip.AddrPort, host string, qtype uint16) (*dns.Msg, error) {
	q := new(dns.Msg).SetQuestion(dns.Fqdn(host), qtype)
	m, err := exchangeOnce(ctx, "udp", resolver, q)
	if err == nil && m.Truncated {
		m, err = exchangeOnce(ctx, "tcp", resolver, q)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", dns.TypeToString[qtype], err)
	case m.Rcode != dns.RcodeSuccess:
		return nil, fmt.Errorf("%s: %s", dns.TypeToString[qtype], dns.RcodeToString[m.Rcode])
	}
	return m, nil
}

// exchangeOnce ends when ctx does, or after lookupTimeout.
func exchangeOnce(ctx context.Context, network string, resolver netip.AddrPort, q *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	client := &dns.Client{Net: network}
	conn, err := client.DialContext(ctx, resolver.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	// The client obeys the deadline of a context, not its cancellation.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	m, _, err := client.ExchangeWithConnContext(ctx, q, conn)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return m, err
}

func addrsOf(m *dns.Msg) []netip.Addr {
	var addrs []netip.Addr
	for _, rr := range m.Answer {
		var ip net.IP
		switch rr := rr.(type) {
		case *dns.A:
			ip = rr.A
		case *dns.AAAA:
			ip = rr.AAAA
		}
		if addr, ok := netip.AddrFromSlice(ip); ok {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs
}
