package dnsguard

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/coredns/coredns/plugin/pkg/transport"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/recovery"
	"github.com/dnsguard/dnsguard/plugin/resolvconf"
)

// errNoAddress is the end of a lookup that was answered, with no address.
var errNoAddress = errors.New("no address")

// errPanic is the end of a lookup that a panic ended.
var errPanic = errors.New("internal error")

// lookupTimeout is how long one resolver has for one question.
const lookupTimeout = 2 * time.Second

// systemTTL is how long an address of /etc/hosts may be used.
const systemTTL = 30 * time.Second

// systemConf says which resolvers the system asks.
const systemConf = "/etc/resolv.conf"

// newLookup returns the lookup of host names among TO: by the resolvers, one
// after the other until one has an address; where there are none, in /etc/hosts
// and by the resolvers of the system. Names are absolute; search lists do not
// apply. The server itself, as listens tells, is never asked. The function may
// be called concurrently, obeys its context, and returns at least one address
// or an error.
func newLookup(resolvers []netip.AddrPort, listens func(netip.AddrPort) bool, r *recovery.Recoverer) func(ctx context.Context, host string) ([]netip.Addr, time.Duration, error) {
	return func(ctx context.Context, host string) ([]netip.Addr, time.Duration, error) {
		ask := resolvers
		if len(ask) == 0 {
			if addrs := lookupHosts(ctx, host); len(addrs) > 0 {
				return addrs, systemTTL, nil
			}
			var err error
			if ask, err = systemResolvers(); err != nil {
				return nil, 0, err
			}
		}
		return lookupBy(ctx, r, ask, listens, host)
	}
}

func lookupBy(ctx context.Context, r *recovery.Recoverer, resolvers []netip.AddrPort, listens func(netip.AddrPort) bool, host string) ([]netip.Addr, time.Duration, error) {
	var errs []error
	for _, resolver := range resolvers {
		if listens(resolver) {
			errs = append(errs, fmt.Errorf("resolver %s: is this very server", resolver))
			continue
		}
		addrs, ttl, err := lookupAt(ctx, r, resolver, host)
		if len(addrs) > 0 {
			return addrs, ttl, err
		}
		errs = append(errs, fmt.Errorf("resolver %s: %w", resolver, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, 0, errors.Join(errs...)
}

// lookupHosts returns the addresses of a name in /etc/hosts.
func lookupHosts(ctx context.Context, host string) []netip.Addr {
	files := net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errNoAddress
	}}
	addrs, err := files.LookupNetIP(ctx, "ip", strings.TrimSuffix(host, "."))
	if err != nil {
		return nil
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs
}

func systemResolvers() ([]netip.AddrPort, error) {
	text, err := resolvconf.Read(systemConf)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", systemConf, err)
	}
	ips, err := resolvconf.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", systemConf, err)
	}
	return withPort(ips, defaultPorts[transport.DNS]), nil
}

// lookupAt asks one resolver for A and AAAA at once. It returns the addresses
// of both, A first, how long they may be used, and what went wrong: that a type
// has no address is wrong only where the other has none either.
func lookupAt(ctx context.Context, r *recovery.Recoverer, resolver netip.AddrPort, host string) ([]netip.Addr, time.Duration, error) {
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
	ttl := uint32(math.MaxUint32)
	for i, m := range replies {
		if errs[i] == nil {
			addrs = append(addrs, addrsOf(m, &ttl)...)
		}
	}
	err := errors.Join(errs[:]...)
	if len(addrs) == 0 && err == nil {
		err = errNoAddress
	}
	return addrs, time.Duration(ttl) * time.Second, err
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

// addrsOf returns the addresses in a reply, and lowers ttl to the least of its answers.
func addrsOf(m *dns.Msg, ttl *uint32) []netip.Addr {
	var addrs []netip.Addr
	for _, rr := range m.Answer {
		*ttl = min(*ttl, rr.Header().Ttl)
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
