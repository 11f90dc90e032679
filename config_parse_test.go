package dnsguard

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin/test"

	"github.com/miekg/dns"
)

// parseText parses the text of a server block's stanzas.
func parseText(text string) ([]Config, error) {
	return Parse(caddy.NewTestController("dns", text))
}

// mustParse parses one stanza.
func mustParse(t testing.TB, text string) Config {
	t.Helper()
	configs, err := parseText(text)
	if err != nil {
		t.Fatalf("Parse(%q): %v", text, err)
	}
	if len(configs) != 1 {
		t.Fatalf("Parse(%q) = %d configurations, want 1", text, len(configs))
	}
	return configs[0]
}

// block is a stanza with the given options, the first of them on line 2.
func block(options ...string) string {
	return "dnsguard . 192.0.2.1 192.0.2.2 {\n" + strings.Join(options, "\n") + "\n}\n"
}

func ips(texts ...string) []netip.Addr {
	addrs := make([]netip.Addr, len(texts))
	for i, text := range texts {
		addrs[i] = netip.MustParseAddr(text)
	}
	return addrs
}

func networks(texts ...string) []netip.Prefix {
	all := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		all[i] = netip.MustParsePrefix(text)
	}
	return all
}

// TestParseOptions holds that each option changes its own fields, and no others.
func TestParseOptions(t *testing.T) {
	for _, tc := range []struct {
		options string // lines, separated by semicolons
		change  func(c *Config)
	}{
		{"", func(*Config) {}},
		{"except example.org", func(c *Config) { c.Except = []string{"example.org."} }},
		{"except Example.org a.; except 10.1.0.0/15", func(c *Config) {
			c.Except = []string{"example.org.", "a.", "0.10.in-addr.arpa.", "1.10.in-addr.arpa."}
		}},
		{"max_fails 3", func(c *Config) { c.MaxFails, c.MaxFailsSet = 3, true }},
		{"max_fails 8", func(c *Config) { c.MaxFails, c.MaxFailsSet, c.Eject.Failures = 8, true, 8 }},
		{"max_fails 4294967295", func(c *Config) { c.MaxFails, c.MaxFailsSet, c.Eject.Failures = 4294967295, true, 1000 }},
		{"max_fails 0", func(c *Config) { c.MaxFails, c.MaxFailsSet, c.Eject.Off = 0, true, true }},
		{"max_connect_attempts 0", func(c *Config) { c.MaxConnectAttemptsSet = true }},
		{"max_connect_attempts 5", func(c *Config) { c.MaxConnectAttempts, c.MaxConnectAttemptsSet = 5, true }},
		{"health_check 0.25s", func(c *Config) { c.HealthInterval = 250 * time.Millisecond }},
		{"health_check 0s", func(*Config) {}},
		{"health_check 1s no_rec", func(c *Config) { c.HealthInterval, c.HealthNoRec = time.Second, true }},
		{"health_check 1s domain Example.org no_rec", func(c *Config) {
			c.HealthInterval, c.HealthNoRec, c.HealthDomain = time.Second, true, "example.org."
		}},
		{"health_check 1s no_rec domain example.org.", func(c *Config) {
			c.HealthInterval, c.HealthNoRec, c.HealthDomain = time.Second, true, "example.org."
		}},
		{"health_check 1s domain .", func(c *Config) { c.HealthInterval = time.Second }},
		{"force_tcp", func(c *Config) { c.ForceTCP = true }},
		{"prefer_udp", func(c *Config) { c.PreferUDP = true }},
		{"force_tcp;prefer_udp", func(c *Config) { c.ForceTCP, c.PreferUDP = true, true }},
		{"tls", func(*Config) {}},
		{"tls_servername dns.example", func(c *Config) { c.TLSServerName = "dns.example" }},
		{"tls_servername 2001:db8::1", func(c *Config) { c.TLSServerName = "2001:db8::1" }},
		{"expire 3s", func(c *Config) { c.Expire, c.ExpireSet = 3*time.Second, true }},
		{"expire 0s", func(c *Config) { c.Expire, c.ExpireSet = 0, true }},
		{"max_age 1m", func(c *Config) { c.MaxAge = time.Minute }},
		{"max_age 0s", func(*Config) {}},
		{"max_age 10s", func(c *Config) { c.MaxAge = 10 * time.Second }},
		{"max_age 4s; expire 4s", func(c *Config) { c.MaxAge, c.Expire, c.ExpireSet = 4*time.Second, 4*time.Second, true }},
		{"max_idle_conns 7", func(c *Config) { c.MaxIdleConns = 7 }},
		{"max_idle_conns 0", func(*Config) {}},
		{"read_timeout 500ms", func(c *Config) { c.ReadTimeout = 500 * time.Millisecond }},
		{"read_timeout 8s", func(c *Config) { c.ReadTimeout, c.Timeout = 8*time.Second, 8*time.Second }},
		{"read_timeout 2m", func(c *Config) { c.ReadTimeout, c.Timeout = 2*time.Minute, time.Minute }},
		{"read_timeout 8s; timeout 3s", func(c *Config) { c.ReadTimeout, c.Timeout = 8*time.Second, 3*time.Second }},
		{"doh_method GET", func(c *Config) { c.DoHMethod = "GET" }},
		{"doh_method POST", func(*Config) {}},
		{"policy adaptive", func(*Config) {}},
		{"policy random", func(c *Config) { c.Policy = PolicyRandom }},
		{"policy round_robin", func(c *Config) { c.Policy = PolicyRoundRobin }},
		{"policy sequential", func(c *Config) { c.Policy = PolicySequential }},
		{"max_concurrent 1000", func(c *Config) { c.MaxConcurrent, c.MaxConcurrentSet = 1000, true }},
		{"max_concurrent 0", func(c *Config) { c.MaxConcurrent, c.MaxConcurrentSet = 0, true }},
		{"next NXDOMAIN", func(c *Config) { c.Next = []int{dns.RcodeNameError} }},
		{"next noerror notimpl;next Refused", func(c *Config) {
			c.Next = []int{dns.RcodeSuccess, dns.RcodeNotImplemented, dns.RcodeRefused}
		}},
		{"next_on_nodata", func(c *Config) { c.NextOnNodata = true }},
		{"failfast_all_unhealthy_upstreams", func(c *Config) { c.FailfastAllUnhealthy = true }},
		{"failover ServFail;failover REFUSED NXDOMAIN", func(c *Config) {
			c.Failover = []int{dns.RcodeServerFailure, dns.RcodeRefused, dns.RcodeNameError}
		}},
		{"resolver 192.0.2.53 192.0.2.54:5353 2001:db8::53 [2001:db8::54]:5353", func(c *Config) {
			c.Resolvers = []netip.AddrPort{
				netip.MustParseAddrPort("192.0.2.53:53"), netip.MustParseAddrPort("192.0.2.54:5353"),
				netip.MustParseAddrPort("[2001:db8::53]:53"), netip.MustParseAddrPort("[2001:db8::54]:5353"),
			}
		}},
		{"source_address 192.0.2.9", func(c *Config) { c.SourceAddress = netip.MustParseAddr("192.0.2.9") }},
		{"source_address ::ffff:192.0.2.9", func(c *Config) { c.SourceAddress = netip.MustParseAddr("192.0.2.9") }},
		{"source_address 2001:0db8:0000::9", func(c *Config) { c.SourceAddress = netip.MustParseAddr("2001:db8::9") }},

		{"mode guard", func(*Config) {}},
		{"mode observe", func(c *Config) { c.Mode, c.MaxConcurrent = ModeObserve, 0 }},
		{"mode observe; max_concurrent 5", func(c *Config) { c.Mode, c.MaxConcurrent, c.MaxConcurrentSet = ModeObserve, 5, true }},
		{"timeout 100ms", func(c *Config) { c.Timeout = 100 * time.Millisecond }},
		{"timeout 60s", func(c *Config) { c.Timeout = time.Minute }},
		{"hedge off", func(c *Config) { c.Hedge, c.HedgeSet = 0, true }},
		{"hedge 0", func(c *Config) { c.Hedge, c.HedgeSet = 0, true }},
		{"hedge 5%", func(c *Config) { c.Hedge, c.HedgeSet = 0.05, true }},
		{"hedge 0.05", func(c *Config) { c.Hedge, c.HedgeSet = 0.05, true }},
		{"hedge 1", func(c *Config) { c.Hedge, c.HedgeSet = 1, true }},
		{"hedge 100%", func(c *Config) { c.Hedge, c.HedgeSet = 1, true }},
		{"nxdomain verify", func(*Config) {}},
		{"nxdomain trust", func(c *Config) { c.NXDomainTrust = true }},
		{"eject off", func(c *Config) { c.Eject.Off = true }},
		{"eject failures 3", func(c *Config) { c.Eject.Failures = 3 }},
		{"eject share 20%", func(c *Config) { c.Eject.Share = 0.2 }},
		{"eject base 1m", func(c *Config) { c.Eject.Base, c.Eject.Max = time.Minute, time.Minute }},
		{"eject max 500ms", func(c *Config) { c.Eject.Base, c.Eject.Max = 500*time.Millisecond, 500*time.Millisecond }},
		{"eject max 1h share 1 base 10ms failures 1000", func(c *Config) {
			c.Eject = EjectConfig{Failures: 1000, Share: 1, Base: 10 * time.Millisecond, Max: time.Hour}
		}},
		{"private_zones Corp.example", func(c *Config) { c.PrivateZones = []PrivateZone{{Zone: "corp.example."}} }},
		{"private_zones a b. at 192.0.2.2;private_zones 10.0.0.0/15 at.", func(c *Config) {
			c.PrivateZones = []PrivateZone{
				{Zone: "a.", At: ips("192.0.2.2")},
				{Zone: "b.", At: ips("192.0.2.2")},
				{Zone: "0.10.in-addr.arpa."},
				{Zone: "1.10.in-addr.arpa."},
				{Zone: "at."},
			}
		}},
		{"private_zones a at 192.0.2.2 192.0.2.1", func(c *Config) {
			c.PrivateZones = []PrivateZone{{Zone: "a.", At: ips("192.0.2.2", "192.0.2.1")}}
		}},
		{"edns_options all", func(c *Config) { c.EDNSAll = true }},
		{"edns_options ECS nsid 10 cookie 65535", func(c *Config) { c.EDNSOptions = []uint16{8, 3, 10, 65535} }},
		{"explain off", func(c *Config) { c.Explain.Off = true }},
		{"loop on", func(*Config) {}},
		{"loop off", func(c *Config) { c.Loop.Off = true }},
		{"loop group site-1", func(c *Config) { c.Loop.Group = "site-1" }},
		{"loop interval 30s", func(c *Config) { c.Loop.Interval = 30 * time.Second }},
		{"loop suffix Probe.Example.org a interval 1h", func(c *Config) {
			c.Loop.Interval, c.Loop.Suffixes = time.Hour, []string{"probe.example.org.", "a."}
		}},
		{"explain to 10.0.0.0/8 192.0.2.7 2001:db8::/32 ::1 ::ffff:192.0.2.8 0.0.0.0/0", func(c *Config) {
			c.Explain.To = networks("10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32", "::1/128", "192.0.2.8/32", "0.0.0.0/0")
		}},
	} {
		t.Run(tc.options, func(t *testing.T) {
			want := mustParse(t, block())
			tc.change(&want)
			got := mustParse(t, block(strings.Split(tc.options, ";")...))
			got.TLS, want.TLS = nil, nil // see TestParseTLS
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

// TestParseOptionErrors holds the whole text of each error. The option is on
// line 2, unless it says otherwise.
func TestParseOptionErrors(t *testing.T) {
	for _, tc := range []struct{ options, want string }{
		{"except", `except: found no argument; usage: except ZONE...`},
		{"except example..org", `except "example..org": must be a zone, such as . or example.org, or a network in CIDR notation`},
		{"max_fails", `max_fails: found no argument; usage: max_fails INTEGER`},
		{"max_fails 1 2", `max_fails: found 2 arguments; usage: max_fails INTEGER`},
		{"max_fails -1", `max_fails "-1": must be a whole number from 0 to 4294967295`},
		{"max_fails 4294967296", `max_fails "4294967296": must be a whole number from 0 to 4294967295`},
		{"max_connect_attempts", `max_connect_attempts: found no argument; usage: max_connect_attempts INTEGER`},
		{"max_connect_attempts many", `max_connect_attempts "many": must be a whole number from 0 to 4294967295`},
		{"health_check", `health_check: found no argument; usage: health_check DURATION [no_rec] [domain FQDN]`},
		{"health_check no_rec", `health_check "no_rec": must be a duration of 0 or more, such as 10s`},
		{"health_check -1s", `health_check "-1s": must be a duration of 0 or more, such as 10s`},
		{"health_check 1s rec", `health_check "rec": must be no_rec or domain FQDN`},
		{"health_check 1s domain", `health_check domain: found no argument; usage: domain FQDN`},
		{"health_check 1s domain example..org", `health_check domain "example..org": must be a domain name`},
		{"health_check 1s no_rec domain a no_rec", `health_check: found 5 arguments; usage: health_check DURATION [no_rec] [domain FQDN]`},
		{"force_tcp yes", `force_tcp: found 1 argument; usage: force_tcp`},
		{"prefer_udp yes", `prefer_udp: found 1 argument; usage: prefer_udp`},
		{"tls a b c d", `tls: found 4 arguments; usage: tls [CERT KEY] [CA]`},
		{"tls_servername", `tls_servername: found no argument; usage: tls_servername NAME`},
		{"tls_servername a/b", `tls_servername "a/b": must be the host name or the IP address of a certificate`},
		{"expire", `expire: found no argument; usage: expire DURATION`},
		{"expire 5", `expire "5": must be a duration of 0 or more, such as 10s`},
		{"expire -5s", `expire "-5s": must be a duration of 0 or more, such as 10s`},
		{"expire 5s max_fails 3", `expire: found 3 arguments; usage: expire DURATION`},
		{"max_age", `max_age: found no argument; usage: max_age DURATION`},
		{"max_age old", `max_age "old": must be a duration of 0 or more, such as 10s`},
		{"max_age -1s", `max_age "-1s": must be a duration of 0 or more, such as 10s`},
		{"max_idle_conns", `max_idle_conns: found no argument; usage: max_idle_conns INTEGER`},
		{"max_idle_conns few", `max_idle_conns "few": must be a whole number of 0 or more`},
		{"max_idle_conns -1", `max_idle_conns "-1": must be a whole number of 0 or more`},
		{"read_timeout", `read_timeout: found no argument; usage: read_timeout DURATION`},
		{"read_timeout 0s", `read_timeout "0s": must be a duration of more than 0, such as 2s`},
		{"read_timeout -2s", `read_timeout "-2s": must be a duration of more than 0, such as 2s`},
		{"read_timeout soon", `read_timeout "soon": must be a duration of more than 0, such as 2s`},
		{"doh_method", `doh_method: found no argument; usage: doh_method GET|POST`},
		{"doh_method PUT", `doh_method "PUT": must be GET or POST`},
		{"doh_method get", `doh_method "get": must be GET or POST`},
		{"mode", `mode: found no argument; usage: mode guard|observe`},
		{"mode Observe", `mode "Observe": must be guard or observe`},
		{"mode guard observe", `mode: found 2 arguments; usage: mode guard|observe`},
		{"policy", `policy: found no argument; usage: policy adaptive|random|round_robin|sequential`},
		{"policy fastest", `policy "fastest": must be adaptive, random, round_robin or sequential`},
		{"policy random sequential", `policy: found 2 arguments; usage: policy adaptive|random|round_robin|sequential`},
		{"max_concurrent", `max_concurrent: found no argument; usage: max_concurrent INTEGER`},
		{"max_concurrent many", `max_concurrent "many": must be a whole number of 0 or more`},
		{"max_concurrent -4", `max_concurrent "-4": must be a whole number of 0 or more`},
		{"next", `next: found no argument; usage: next RCODE...`},
		{"next NXDOMAIN NODATA", `next "NODATA": must be a response code, such as NXDOMAIN, SERVFAIL or REFUSED`},
		{"next_on_nodata true", `next_on_nodata: found 1 argument; usage: next_on_nodata`},
		{"failfast_all_unhealthy_upstreams false", `failfast_all_unhealthy_upstreams: found 1 argument; usage: failfast_all_unhealthy_upstreams`},
		{"failover", `failover: found no argument; usage: failover RCODE...`},
		{"failover SERVFAIL NoError", `failover "NoError": must be a response code other than NOERROR`},
		{"failover TIMEOUT", `failover "TIMEOUT": must be a response code, such as NXDOMAIN, SERVFAIL or REFUSED`},
		{"resolver", `resolver: found no argument; usage: resolver IP[:PORT]...`},
		{"resolver 192.0.2.1 dns.example", `resolver "dns.example": must be IP or IP:PORT`},
		{"resolver 192.0.2.1:0", `resolver "192.0.2.1:0": must be IP or IP:PORT`},
		{"source_address", `source_address: found no argument; usage: source_address IP`},
		{"source_address eth0", `source_address "eth0": must be an IP address without a port`},
		{"source_address 192.0.2.1:53", `source_address "192.0.2.1:53": must be an IP address without a port`},

		{"timeout", `timeout: found no argument; usage: timeout DURATION`},
		{"timeout 99ms", `timeout "99ms": must be a duration from 100ms to 60s`},
		{"timeout 61s", `timeout "61s": must be a duration from 100ms to 60s`},
		{"timeout 0s", `timeout "0s": must be a duration from 100ms to 60s`},
		{"timeout never", `timeout "never": must be a duration from 100ms to 60s`},
		{"hedge", `hedge: found no argument; usage: hedge off|SHARE|PERCENT%`},
		{"hedge x", `hedge "x": must be a share between 0 and 1, a percentage, or off`},
		{"hedge 5", `hedge "5": must be a share between 0 and 1, a percentage, or off`},
		{"hedge 101%", `hedge "101%": must be a share between 0 and 1, a percentage, or off`},
		{"hedge -1%", `hedge "-1%": must be a share between 0 and 1, a percentage, or off`},
		{"hedge NaN", `hedge "NaN": must be a share between 0 and 1, a percentage, or off`},
		{"hedge %", `hedge "%": must be a share between 0 and 1, a percentage, or off`},
		{"hedge off 5%", `hedge: found 2 arguments; usage: hedge off|SHARE|PERCENT%`},
		{"nxdomain", `nxdomain: found no argument; usage: nxdomain verify|trust`},
		{"nxdomain check", `nxdomain "check": must be verify or trust`},
		{"eject", `eject: found no argument; usage: eject off | eject [failures N] [share SHARE|PERCENT%] [base DURATION] [max DURATION]`},
		{"eject off failures 3", `eject off: found 2 arguments; usage: eject off`},
		{"eject on", `eject "on": must be off, or failures N, share SHARE, base DURATION, max DURATION`},
		{"eject failures 3 off", `eject "off": must be off, or failures N, share SHARE, base DURATION, max DURATION`},
		{"eject failures", `eject failures: found no argument`},
		{"eject failures 3 failures 4", `eject failures: given twice`},
		{"eject failures 0", `eject failures "0": must be a whole number from 1 to 1000`},
		{"eject failures 1001", `eject failures "1001": must be a whole number from 1 to 1000`},
		{"eject share 0", `eject share "0": must be a share of more than 0 up to 1, or a percentage`},
		{"eject share 2", `eject share "2": must be a share of more than 0 up to 1, or a percentage`},
		{"eject base 9ms", `eject base "9ms": must be a duration from 10ms to 10m`},
		{"eject base 11m", `eject base "11m": must be a duration from 10ms to 10m`},
		{"eject max 0s", `eject max "0s": must be a duration from base to 1h`},
		{"eject max 61m", `eject max "61m": must be a duration from base to 1h`},
		{"eject max 1s base 2s", `eject max "1s": must not be less than base (2s)`},
		{"private_zones", `private_zones: found no argument; usage: private_zones ZONE... [at IP...]`},
		{"private_zones a..b", `private_zones "a..b": must be a zone, such as . or example.org, or a network in CIDR notation`},
		{"private_zones at 192.0.2.1", `private_zones at: found no ZONE before it; usage: private_zones ZONE... [at IP...]`},
		{"private_zones a at", `private_zones at: found no argument; usage: private_zones ZONE... [at IP...]`},
		{"private_zones a at dns.example", `private_zones at "dns.example": must be an IP address without a port`},
		{"private_zones a A.", `private_zones "A.": given twice`},
		{"edns_options", `edns_options: found no argument; usage: edns_options all|CODE...`},
		{"edns_options all 8", `edns_options all: cannot be given together with codes`},
		{"edns_options 0", `edns_options "0": must be all, a code from 1 to 65535, or one of chain, client-tag, cookie, dau, dhu, ecs, ede, expire, key-tag, llq, n3u, nsid, padding, report-channel, server-tag, tcp-keepalive, update-lease, zoneversion`},
		{"edns_options 65536", `edns_options "65536": must be all, a code from 1 to 65535, or one of chain, client-tag, cookie, dau, dhu, ecs, ede, expire, key-tag, llq, n3u, nsid, padding, report-channel, server-tag, tcp-keepalive, update-lease, zoneversion`},
		{"explain", `explain: found no argument; usage: explain off | explain to NETWORK...`},
		{"explain on", `explain "on": must be off, or to NETWORK...`},
		{"explain 10.0.0.0/8", `explain "10.0.0.0/8": must be off, or to NETWORK...`},
		{"explain off to 10.0.0.0/8", `explain off: found 2 arguments; usage: explain off`},
		{"explain to", `explain to: found no argument; usage: explain to NETWORK...`},
		{"explain to 10.1.0.0/8", `explain to "10.1.0.0/8": must be ` + wantNetwork},
		{"explain to 10.0.0.0/33", `explain to "10.0.0.0/33": must be ` + wantNetwork},
		{"explain to 10.0.0.0/8 example.org", `explain to "example.org": must be ` + wantNetwork},
		{"explain to fe80::1%eth0", `explain to "fe80::1%eth0": must be ` + wantNetwork},
		{"explain to ::ffff:10.0.0.0/104", `explain to "::ffff:10.0.0.0/104": must be ` + wantNetwork},
		{"loop", `loop: found no argument; usage: loop ` + loopArgs},
		{"loop yes", `loop "yes": must be on, off, or key FILE, group NAME, interval DURATION, suffix NAME...`},
		{"loop off 1m", `loop off: found 1 argument; usage: loop off`},
		{"loop on interval 1m", `loop on: found 2 arguments; usage: loop on`},
		{"loop interval", `loop interval: found no argument`},
		{"loop interval suffix a", `loop interval: found no argument`},
		{"loop interval 999ms", `loop interval "999ms": must be a duration from 1s to 1h`},
		{"loop interval 61m", `loop interval "61m": must be a duration from 1s to 1h`},
		{"loop interval 1m 2m", `loop interval: found 2 arguments; usage: loop [key FILE] [group NAME] [interval DURATION] [suffix NAME...]`},
		{"loop interval 1m interval 2m", `loop interval: given twice`},
		{"loop key /does/not/exist", `loop key "/does/not/exist": open /does/not/exist: no such file or directory`},
		{"loop key /dev/null", `loop key "/dev/null": must be a file with 16 octets or more`},
		{"loop suffix a..b", `loop suffix "a..b": must be a domain name`},
		{"explain to 10.0.0.1:53", `explain to "10.0.0.1:53": must be ` + wantNetwork},
	} {
		t.Run(tc.options, func(t *testing.T) {
			wantError(t, block(tc.options), "Testfile:2 - Error during parsing: "+tc.want)
		})
	}
}

// wantError holds the text of the error, and that there is no Config beside it.
func wantError(t *testing.T, text, want string) {
	t.Helper()
	configs, err := parseText(text)
	if err == nil {
		t.Fatalf("no error for\n%s\nwant %s", text, want)
	}
	if err.Error() != want {
		t.Errorf("error for\n%s\ngot  %s\nwant %s", text, err, want)
	}
	if configs != nil {
		t.Errorf("a configuration beside the error: %+v", configs)
	}
}

// TestParseTwice gives every option twice.
func TestParseTwice(t *testing.T) {
	values := map[string]string{
		"except": "a", "max_fails": "3", "max_connect_attempts": "3", "health_check": "1s", "force_tcp": "", "prefer_udp": "",
		"tls": "", "tls_servername": "a", "expire": "1s", "max_age": "1m", "max_idle_conns": "1", "read_timeout": "1s",
		"doh_method": "GET", "policy": "random", "max_concurrent": "1", "next": "NXDOMAIN", "next_on_nodata": "",
		"failfast_all_unhealthy_upstreams": "", "failover": "NXDOMAIN", "resolver": "192.0.2.1", "source_address": "192.0.2.1",
		"mode": "observe", "timeout": "1s", "hedge": "off", "nxdomain": "trust", "eject": "off", "private_zones": "a", "edns_options": "all",
		"explain": "off", "loop": "on",
	}
	for name, o := range options {
		value, ok := values[name]
		if !ok {
			t.Errorf("option %s is not tried", name)
		}
		second := value
		if name == "private_zones" {
			second = "b"
		}
		text := block("", name+" "+value, name+" "+second)
		if o.repeats {
			mustParse(t, text)
			continue
		}
		wantError(t, text, fmt.Sprintf("Testfile:4 - Error during parsing: %s: given twice, first on line 3", name))
	}
}

func TestParseConflicts(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{
			"max_fails, then eject", block("max_fails 3", "eject off"),
			`Testfile:3 - Error during parsing: eject: cannot be given together with max_fails (line 2)`,
		}, {
			"eject, then max_fails", block("eject off", "", "max_fails 3"),
			`Testfile:4 - Error during parsing: max_fails: cannot be given together with eject (line 2)`,
		}, {
			"policy twice", block("policy random", "policy random"),
			`Testfile:3 - Error during parsing: policy: given twice, first on line 2`,
		}, {
			"private zone on two lines", block("private_zones a", "private_zones a at 192.0.2.1"),
			`Testfile:3 - Error during parsing: private_zones "a": given twice`,
		}, {
			"max_age below expire", "\n" + block("expire 30s", "max_age 10s"),
			`Testfile:2 - Error during parsing: max_age "10s": must not be less than expire (30s)`,
		}, {
			"max_age below the default of expire", block("max_age 5s"),
			`Testfile:1 - Error during parsing: max_age "5s": must not be less than expire (10s)`,
		}, {
			"two server names", "\n\ndnsguard . 192.0.2.1 tls://192.0.2.2%dns.example:854 {\ntls_servername foo\n}",
			`Testfile:3 - Error during parsing: tls_servername "foo": cannot be given together with the server name "dns.example" of TO "tls://192.0.2.2%dns.example:854"`,
		}, {
			"two server names, quic", "dnsguard . quic://192.0.2.2%dns.example {\ntls_servername foo\n}",
			`Testfile:1 - Error during parsing: tls_servername "foo": cannot be given together with the server name "dns.example" of TO "quic://192.0.2.2%dns.example"`,
		}, {
			"private zone at no upstream", block("private_zones corp at 192.0.2.2 192.0.2.3"),
			`Testfile:1 - Error during parsing: private_zones "corp.": at "192.0.2.3": must be the address of a TO: 192.0.2.1, 192.0.2.2`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) { wantError(t, tc.text, tc.want) })
	}
	t.Run("private zone at what a host name may stand for", func(t *testing.T) {
		mustParse(t, "dnsguard . 192.0.2.1 dns.example {\nprivate_zones corp at 192.0.2.3\n}")
	})
}

func TestParseUnknownOption(t *testing.T) {
	const known = "doh_method, edns_options, eject, except, expire, explain, failfast_all_unhealthy_upstreams, failover, force_tcp, " +
		"health_check, hedge, loop, max_age, max_concurrent, max_connect_attempts, max_fails, max_idle_conns, mode, next, " +
		"next_on_nodata, nxdomain, policy, prefer_udp, private_zones, read_timeout, resolver, source_address, timeout, tls, tls_servername"
	for option, hint := range map[string]string{
		"polcy random":         ` (did you mean "policy"?)`,
		"max_concurent 5":      ` (did you mean "max_concurrent"?)`,
		"healthcheck 5s":       ` (did you mean "health_check"?)`,
		"force-tcp":            ` (did you mean "force_tcp"?)`,
		"FORCE_TCP":            "",
		"prefetch_all_of_them": "",
	} {
		name, _, _ := strings.Cut(option, " ")
		wantError(t, block("except a", option),
			fmt.Sprintf("Testfile:3 - Error during parsing: unknown option %q%s: must be one of %s", name, hint, known))
	}
}

var errStanza = errors.New("later")

func TestParseStanza(t *testing.T) {
	for _, tc := range []struct{ name, text, from string }{
		{"root", "dnsguard . 192.0.2.1", "."},
		{"space and newline", "dnsguard  .  192.0.2.1 \n\n", "."},
		{"upper case, no dot", "dnsguard Example.ORG 192.0.2.1", "example.org."},
		{"transport and port", "dnsguard dns://example.org:53 192.0.2.1", "example.org."},
		{"network", "dnsguard 10.0.0.0/8 192.0.2.1", "10.in-addr.arpa."},
		{"network between octets: the first zone", "dnsguard 10.9.3.0/18 192.0.2.1", "0.9.10.in-addr.arpa."},
		{"empty block", "dnsguard . 192.0.2.1 {\n}", "."},
		{"empty block on the line", "dnsguard . 192.0.2.1 { }", "."},
		{"option on the line", "dnsguard . 192.0.2.1 { policy random }", "."},
		{"options on lines, the brace behind", "dnsguard . 192.0.2.1 { policy random\nforce_tcp }", "."},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := mustParse(t, tc.text).From; got != tc.from {
				t.Errorf("From = %q, want %q", got, tc.from)
			}
		})
	}

	long := strings.Repeat("x", 64)
	for _, tc := range []struct{ name, text, want string }{
		{"nothing", "\ndnsguard", `Testfile:2 - Error during parsing: found no FROM; usage: dnsguard FROM TO... [{ OPTIONS }]`},
		{"only a block", "dnsguard {\n}", `Testfile:1 - Error during parsing: found no FROM; usage: dnsguard FROM TO... [{ OPTIONS }]`},
		{"no TO", "dnsguard .", `Testfile:1 - Error during parsing: found no TO; usage: dnsguard FROM TO... [{ OPTIONS }]`},
		{"no TO, but a block", "dnsguard . {\n}", `Testfile:1 - Error during parsing: found no TO; usage: dnsguard FROM TO... [{ OPTIONS }]`},
		{"label too long", "dnsguard " + long + " 192.0.2.1", `Testfile:1 - Error during parsing: FROM "` + long + `": must be a zone, such as . or example.org, or a network in CIDR notation`},
		{"16 TO", "dnsguard ." + strings.Repeat(" 192.0.2.1", 16), `Testfile:1 - Error during parsing: found 16 TO: must be at most 15`},
		{"block not closed", "dnsguard . 192.0.2.1 {\npolicy random", `Testfile:2 - Error during parsing: found the end of the file; must be "}"`},
		{"brace on the next line", "dnsguard . 192.0.2.1\n{\n}", `Testfile:2 - Syntax error: Unexpected token '{', expecting 'dnsguard'`},
		{"something behind the block", "dnsguard . 192.0.2.1 {\n} policy", `Testfile:2 - Syntax error: Unexpected token 'policy', expecting 'dnsguard'`},
		{"block in a block", "dnsguard . 192.0.2.1 {\neject {\n}\n}", `Testfile:2 - Error during parsing: eject "{": must be off, or failures N, share SHARE, base DURATION, max DURATION`},
		{"second stanza", "dnsguard a 192.0.2.1\ndnsguard b", `Testfile:2 - Error during parsing: found no TO; usage: dnsguard FROM TO... [{ OPTIONS }]`},
	} {
		t.Run(tc.name, func(t *testing.T) { wantError(t, tc.text, tc.want) })
	}

	t.Run("place of the stanza", func(t *testing.T) {
		at := mustParse(t, "\n\ndnsguard . 192.0.2.1 {\n}").at
		if got, want := at.wrap(errStanza).Error(), "Testfile:3 - Error during parsing: later"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if err := at.wrap(nil); err != nil {
			t.Errorf("no error became %v", err)
		}
		if err := (position{}).wrap(errStanza); err.Error() != errStanza.Error() {
			t.Errorf("without a place: %v", err)
		}
	})
	t.Run("15 TO", func(t *testing.T) {
		if got := len(mustParse(t, "dnsguard ."+strings.Repeat(" 192.0.2.1", 15)).To); got != 15 {
			t.Errorf("%d TO, want 15", got)
		}
	})
	t.Run("stanzas keep their order and nothing of each other", func(t *testing.T) {
		configs, err := parseText("dnsguard b ::1 {\nforce_tcp\n}\ndnsguard a ::2\ndnsguard . ::3 {\nexpire 1s\n}")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range configs {
			got = append(got, fmt.Sprintln(c.From, c.To[0].Text, c.ForceTCP, c.Expire))
		}
		want := []string{"b. ::1 true 10s\n", "a. ::2 false 10s\n", ". ::3 false 1s\n"}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestParseTLS(t *testing.T) {
	dir, err := test.WritePEMFiles(t)
	if err != nil {
		t.Fatal(err)
	}
	junk := filepath.Join(dir, "junk.pem")
	if err := os.WriteFile(junk, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	parseIn := func(root, option string) ([]Config, error) {
		c := caddy.NewTestController("dns", block(option))
		dnsserver.GetConfig(c).Root = root
		return Parse(c)
	}
	for _, tc := range []struct {
		root, option string
		certs        int
		roots        bool
	}{
		{"", "tls", 0, false},
		{dir, "tls ca.pem", 0, true},
		{dir, "tls cert.pem key.pem", 1, false},
		{dir, "tls cert.pem key.pem ca.pem", 1, true},
		{"/nowhere", "tls " + filepath.Join(dir, "ca.pem"), 0, true},
	} {
		configs, err := parseIn(tc.root, tc.option)
		if err != nil {
			t.Errorf("%s: %v", tc.option, err)
			continue
		}
		if got := configs[0].TLS; len(got.Certificates) != tc.certs || (got.RootCAs != nil) != tc.roots {
			t.Errorf("%s: %d certificates, roots %t", tc.option, len(got.Certificates), got.RootCAs != nil)
		}
	}

	_, err = parseIn(dir, "tls missing.pem")
	want := fmt.Sprintf("Testfile:2 - Error during parsing: tls [%[1]q]: error reading %[1]s: open %[1]s: no such file or directory", filepath.Join(dir, "missing.pem"))
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	for _, option := range []string{"tls junk.pem", "tls junk.pem key.pem", "tls cert.pem missing.pem", "tls cert.pem key.pem junk.pem"} {
		if _, err := parseIn(dir, option); err == nil || !strings.HasPrefix(err.Error(), `Testfile:2 - Error during parsing: tls [`) {
			t.Errorf("%s: got %v", option, err)
		}
	}

	if got := mustParse(t, block("tls", "tls_servername dns.example")).TLS.ServerName; got != "dns.example" {
		t.Errorf("ServerName = %q", got)
	}
}

// registerAgain makes the plugin a directive of CoreDNS, whose own list does
// not have it, by another name than that of the binary.
var registerAgain = sync.OnceFunc(func() {
	dnsserver.Directives = append(dnsserver.Directives, "dnsguard_again")
	caddy.RegisterPlugin("dnsguard_again", caddy.Plugin{ServerType: "dns", Action: setup})
})

// TestStartErrors holds what an operator reads when CoreDNS does not start.
func TestStartErrors(t *testing.T) {
	registerAgain()
	caddy.Quiet = true
	dir := t.TempDir()
	snippet := filepath.Join(dir, "snippet")
	if err := os.WriteFile(snippet, []byte("\nexpire 1s\nhedge 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, text, want string }{
		{
			"option", ".:0 {\n  dnsguard_again . 192.0.2.1 {\n    hedge x\n  }\n}\n",
			`plugin/dnsguard: Corefile:3 - Error during parsing: hedge "x": must be a share between 0 and 1, a percentage, or off`,
		}, {
			"stanza", ".:0 {\n  dnsguard_again . 192.0.2.1 {\n    max_age 1s\n  }\n}\n",
			`plugin/dnsguard: Corefile:2 - Error during parsing: max_age "1s": must not be less than expire (10s)`,
		}, {
			"option in a file that is imported", ".:0 {\n  dnsguard_again . 192.0.2.1 {\n    import " + snippet + "\n  }\n}\n",
			`plugin/dnsguard: ` + snippet + `:3 - Error during parsing: hedge "7": must be a share between 0 and 1, a percentage, or off`,
		}, {
			"second stanza", ".:0 {\n  dnsguard_again a 192.0.2.1\n  dnsguard_again b grpc://192.0.2.1\n}\n",
			`plugin/dnsguard: Corefile:3 - Error during parsing: TO "grpc://192.0.2.1": transport must be dns, tls, https or quic`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			instance, err := caddy.Start(caddy.CaddyfileInput{Filepath: "Corefile", Contents: []byte(tc.text), ServerTypeName: "dns"})
			if err == nil {
				instance.Stop()
				t.Fatal("started")
			}
			if err.Error() != tc.want {
				t.Errorf("got  %s\nwant %s", err, tc.want)
			}
		})
	}
}
