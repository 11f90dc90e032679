//go:build linux

package main

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// corefile says what goes into a Corefile.
type corefile struct {
	listen    netip.AddrPort
	directive string // whoami, or a plugin that forwards
	upstreams []netip.AddrPort
	pprof     netip.AddrPort // of the pprof plugin; invalid: without
}

// String returns the Corefile. There is nothing in it but what is measured:
// no log, no errors, no cache.
func (c corefile) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, ".:%d {\n\tbind %s\n", c.listen.Port(), c.listen.Addr())
	if c.pprof.IsValid() {
		fmt.Fprintf(&b, "\tpprof %s\n", c.pprof)
	}
	if c.directive == string(whoami) {
		b.WriteString("\twhoami\n}\n")
		return b.String()
	}
	fmt.Fprintf(&b, "\t%s .", c.directive)
	for _, u := range c.upstreams {
		fmt.Fprintf(&b, " %s", u)
	}
	b.WriteString("\n}\n")
	return b.String()
}

var taken []netip.AddrPort

// freePort returns an address on loopback that nothing listens at, by UDP or
// TCP, and that no earlier call has returned.
func freePort() (netip.AddrPort, error) {
	for range 100 {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return netip.AddrPort{}, err
		}
		addr := l.Addr().(*net.TCPAddr).AddrPort()
		u, err := net.ListenPacket("udp4", addr.String())
		l.Close()
		if err != nil {
			continue
		}
		u.Close()
		if !slices.Contains(taken, addr) {
			taken = append(taken, addr)
			return addr, nil
		}
	}
	return netip.AddrPort{}, fmt.Errorf("no free port on loopback")
}
