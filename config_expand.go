package dnsguard

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/coredns/coredns/plugin/pkg/transport"

	"github.com/miekg/dns"
)

// Endpoint is one upstream server that a TO argument stands for.
type Endpoint struct {
	Addr       netip.AddrPort
	Transport  string // dns, tls, https or quic
	ServerName string // TLS server name of this endpoint alone, or ""
	Source     string // the TO argument it came from, as written
}

// expandTo returns the upstreams that to stands for, in its order, each once:
// two are the same where address, transport and server name are, whatever the
// letter case of that. readFile returns the addresses in a file, without ports;
// those that are none are passed over, as resolvers do. lookup returns the
// addresses of a host name. No upstream at all is an error, and so is what
// readFile or lookup fails at.
func expandTo(ctx context.Context, to []To, readFile func(path string) ([]string, error),
	lookup func(ctx context.Context, host string) ([]netip.Addr, error),
) ([]Endpoint, error) {
	var (
		endpoints []Endpoint
		empty     []string
		seen      = make(map[Endpoint]bool)
	)
	for _, t := range to {
		addrs, err := t.expand(ctx, readFile, lookup)
		if err != nil {
			return nil, err
		}
		if len(addrs) == 0 {
			empty = append(empty, t.nothing())
		}
		for _, addr := range addrs {
			e := Endpoint{Addr: addr, Transport: t.Transport, ServerName: t.ServerName, Source: t.Text}
			key := Endpoint{Addr: addr, Transport: t.Transport, ServerName: strings.ToLower(t.ServerName)}
			if !seen[key] {
				seen[key] = true
				endpoints = append(endpoints, e)
			}
		}
	}
	if len(endpoints) == 0 {
		return nil, fmt.Errorf("no upstream: %s", strings.Join(empty, ", "))
	}
	return endpoints, nil
}

func (t To) expand(ctx context.Context, readFile func(path string) ([]string, error),
	lookup func(ctx context.Context, host string) ([]netip.Addr, error),
) ([]netip.AddrPort, error) {
	switch {
	case t.Addr.IsValid():
		return []netip.AddrPort{t.Addr}, nil
	case t.File != "":
		lines, err := readFile(t.File)
		if err != nil {
			return nil, fmt.Errorf("upstreams in file %s: %w", t.File, err)
		}
		return parseServers(lines), nil
	}
	ips, err := lookup(ctx, t.Host)
	if err != nil {
		return nil, fmt.Errorf("addresses of upstream %s: %w", t.Text, err)
	}
	addrs := make([]netip.AddrPort, len(ips))
	for i, ip := range ips {
		addrs[i] = netip.AddrPortFrom(ip.Unmap(), t.Port)
	}
	return addrs, nil
}

// nothing says that t stands for no upstream.
func (t To) nothing() string {
	if t.File != "" {
		return fmt.Sprintf("file %s lists no usable nameserver", t.File)
	}
	return fmt.Sprintf("host %s has no address", t.Host)
}

// parseServers returns the addresses among lines, with the port of plain DNS.
func parseServers(lines []string) []netip.AddrPort {
	addrs := make([]netip.AddrPort, 0, len(lines))
	for _, line := range lines {
		if ip, err := netip.ParseAddr(line); err == nil {
			addrs = append(addrs, netip.AddrPortFrom(ip.Unmap(), defaultPorts[transport.DNS]))
		}
	}
	return slices.Clip(addrs)
}

// readResolvConf returns what stands behind the word nameserver in a file, line
// by line. An empty file is no error.
func readResolvConf(path string) ([]string, error) {
	conf, err := dns.ClientConfigFromFile(path)
	if err != nil {
		return nil, withoutPath(err)
	}
	return conf.Servers, nil
}
