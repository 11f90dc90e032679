package dnsguard

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/coredns/coredns/plugin/pkg/transport"

	"github.com/miekg/dns"
)

// maxTo is how many TO arguments there may be, as in forward.
const maxTo = 15

// modes are the values of Config.Mode. Never written to.
var modes = []string{ModeGuard, ModeObserve}

// policies are the values of Config.Policy. Never written to.
var policies = []string{PolicyAdaptive, PolicyRandom, PolicyRoundRobin, PolicySequential}

// setDefaults completes what was left open.
func (c *Config) setDefaults() {
	if !c.ExpireSet {
		c.Expire = 10 * time.Second
	}
	c.ReadTimeout = cmp.Or(c.ReadTimeout, 2*time.Second)
	c.Timeout = cmp.Or(c.Timeout, max(4500*time.Millisecond, min(c.ReadTimeout, spanTimeout.max)))
	if !c.MaxFailsSet {
		c.MaxFails = 2
	}
	c.HealthInterval = cmp.Or(c.HealthInterval, 500*time.Millisecond)
	c.HealthDomain = cmp.Or(c.HealthDomain, ".")
	c.DoHMethod = cmp.Or(c.DoHMethod, http.MethodPost)
	if c.TLS == nil {
		c.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	c.TLS.ServerName = cmp.Or(c.TLS.ServerName, c.TLSServerName)
	c.Policy = cmp.Or(c.Policy, PolicyAdaptive)
	c.Mode = cmp.Or(c.Mode, ModeGuard)
	if !c.MaxConcurrentSet && c.Mode == ModeGuard {
		c.MaxConcurrent = 16384
	}
	if !c.HedgeSet {
		c.Hedge = 0.05
	}
	c.setEjectDefaults()
	c.setLoopDefaults()
}

func (c *Config) setEjectDefaults() {
	const failures, base, longest = 5, time.Second, 30 * time.Second
	e := &c.Eject
	if c.MaxFailsSet {
		e.Off = e.Off || c.MaxFails == 0
		e.Failures = cmp.Or(e.Failures, max(failures, int(min(c.MaxFails, uint32(spanFailures.max)))))
	}
	e.Failures = cmp.Or(e.Failures, failures)
	e.Share = cmp.Or(e.Share, 0.5)
	if e.Base == 0 && e.Max > 0 {
		e.Base = min(base, e.Max)
	}
	e.Base = cmp.Or(e.Base, base)
	e.Max = cmp.Or(e.Max, max(longest, e.Base))
}

// Validate returns the first mistake in a complete Config, or nil: each value
// on its own, and then what does not go together.
func (c *Config) Validate() error {
	return cmp.Or(
		c.validateTo(),
		c.validateTimes(),
		c.validateNumbers(),
		c.validateChoices(),
		c.Eject.validate(),
		c.validateServerNames(),
		c.validatePrivateZones(),
		c.Explain.validate(),
		c.validateLoop(),
	)
}

func (c *Config) validateTo() error {
	switch {
	case c.From == "":
		return errors.New("found no FROM")
	case len(c.To) == 0:
		return errors.New("found no TO")
	case len(c.To) > maxTo:
		return tooManyTo(len(c.To))
	}
	for _, to := range c.To {
		if _, ok := defaultPorts[to.Transport]; !ok {
			return fmt.Errorf("TO %q: transport must be dns, tls, https or quic", to.Text)
		}
		kinds := 0
		for _, is := range []bool{to.Addr.IsValid(), to.Host != "", to.File != ""} {
			if is {
				kinds++
			}
		}
		if kinds != 1 {
			return fmt.Errorf("TO %q: must be an IP address, a file or a host name", to.Text)
		}
	}
	return nil
}

func tooManyTo(n int) error { return fmt.Errorf("found %d TO: must be at most %d", n, maxTo) }

func (c *Config) validateTimes() error {
	for _, v := range []struct {
		option string
		value  time.Duration
		in     span[time.Duration]
	}{
		{"expire", c.Expire, spanNotNegative},
		{"max_age", c.MaxAge, spanNotNegative},
		{"read_timeout", c.ReadTimeout, spanPositive},
		{"timeout", c.Timeout, spanTimeout},
		{"health_check", c.HealthInterval, spanNotNegative},
	} {
		if !v.in.holds(v.value) {
			return fmt.Errorf("%s %w", v.option, badValue(v.value.String(), v.in.want))
		}
	}
	if c.MaxAge > 0 && c.MaxAge < c.Expire {
		return fmt.Errorf("max_age %q: must not be less than expire (%s)", c.MaxAge, c.Expire)
	}
	return nil
}

func (c *Config) validateNumbers() error {
	switch {
	case !spanCount.holds(c.MaxIdleConns):
		return fmt.Errorf("max_idle_conns \"%d\": must be %s", c.MaxIdleConns, spanCount.want)
	case !spanCount.holds(c.MaxConcurrent):
		return fmt.Errorf("max_concurrent \"%d\": must be %s", c.MaxConcurrent, spanCount.want)
	case !spanHedge.holds(c.Hedge):
		return fmt.Errorf("hedge \"%v\": must be %s", c.Hedge, spanHedge.want)
	}
	return nil
}

func (c *Config) validateChoices() error {
	switch {
	case !slices.Contains(modes, c.Mode):
		return fmt.Errorf("mode %w", badValue(c.Mode, orList(modes)))
	case !slices.Contains(policies, c.Policy):
		return fmt.Errorf("policy %w", badValue(c.Policy, orList(policies)))
	case c.DoHMethod != http.MethodGet && c.DoHMethod != http.MethodPost:
		return fmt.Errorf("doh_method %w", badValue(c.DoHMethod, "GET or POST"))
	case slices.Contains(c.Failover, dns.RcodeSuccess):
		return fmt.Errorf("failover %w", badValue("NOERROR", "a response code other than NOERROR"))
	case c.TLS == nil:
		return errors.New("tls: found no configuration")
	case c.EDNSAll && len(c.EDNSOptions) > 0:
		return errors.New("edns_options all: cannot be given together with codes")
	case slices.Contains(c.EDNSOptions, 0):
		return errors.New(`edns_options "0": must be a code from 1 to 65535`)
	}
	return nil
}

func (e *EjectConfig) validate() error {
	switch {
	case !spanFailures.holds(e.Failures):
		return fmt.Errorf("eject failures \"%d\": must be %s", e.Failures, spanFailures.want)
	case !spanEjectShare.holds(e.Share):
		return fmt.Errorf("eject share \"%v\": must be %s", e.Share, spanEjectShare.want)
	case !spanEjectBase.holds(e.Base):
		return fmt.Errorf("eject base %q: must be %s", e.Base, spanEjectBase.want)
	case !spanEjectMax.holds(e.Max):
		return fmt.Errorf("eject max %q: must be %s", e.Max, spanEjectMax.want)
	case e.Max < e.Base:
		return fmt.Errorf("eject %w", e.maxBelowBase())
	}
	return nil
}

func (e *EjectConfig) maxBelowBase() error {
	return fmt.Errorf("max %q: must not be less than base (%s)", e.Max, e.Base)
}

func (c *Config) validateServerNames() error {
	for _, to := range c.To {
		switch {
		case to.ServerName == "":
		case to.Transport == transport.DNS:
			return fmt.Errorf("TO %q: a server name goes with tls, https and quic only", to.Text)
		case c.TLSServerName != "":
			return fmt.Errorf("tls_servername %q: cannot be given together with the server name %q of TO %q", c.TLSServerName, to.ServerName, to.Text)
		}
	}
	return nil
}

func (c *Config) validatePrivateZones() error {
	known, all := c.toAddrs()
	zones := make(map[string]bool)
	for _, z := range c.PrivateZones {
		if zones[z.Zone] {
			return fmt.Errorf("private_zones %q: given twice", z.Zone)
		}
		zones[z.Zone] = true
		for _, ip := range z.At {
			if all && !slices.Contains(known, ip) {
				return fmt.Errorf("private_zones %q: at %q: must be the address of a TO: %s", z.Zone, ip, joinAddrs(known))
			}
		}
	}
	return nil
}

func (e *ExplainConfig) validate() error {
	if e.Off && len(e.To) > 0 {
		return errors.New("explain off: cannot be given together with networks")
	}
	for _, p := range e.To {
		if !validNetwork(p) {
			return fmt.Errorf("explain to %w", badValue(p.String(), wantNetwork))
		}
	}
	return nil
}

// toAddrs returns the addresses among To, and whether every To is one.
func (c *Config) toAddrs() (known []netip.Addr, all bool) {
	for _, to := range c.To {
		if to.Addr.IsValid() && !slices.Contains(known, to.Addr.Addr()) {
			known = append(known, to.Addr.Addr())
		}
	}
	return known, !slices.ContainsFunc(c.To, func(to To) bool { return !to.Addr.IsValid() })
}

func joinAddrs(addrs []netip.Addr) string {
	texts := make([]string, len(addrs))
	for i, a := range addrs {
		texts[i] = a.String()
	}
	return strings.Join(texts, ", ")
}
