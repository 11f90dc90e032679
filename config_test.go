package dnsguard

import (
	"crypto/tls"
	"math"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestDefaults holds every field of the shortest stanza.
func TestDefaults(t *testing.T) {
	got := mustParse(t, "dnsguard . 192.0.2.1")
	want := Config{
		at:             position{"Testfile", 1},
		From:           ".",
		To:             []To{{Text: "192.0.2.1", Transport: "dns", Addr: netip.MustParseAddrPort("192.0.2.1:53")}},
		Expire:         10 * time.Second,
		ReadTimeout:    2 * time.Second,
		Mode:           "guard",
		Timeout:        4500 * time.Millisecond,
		MaxFails:       2,
		HealthInterval: 500 * time.Millisecond,
		HealthDomain:   ".",
		DoHMethod:      "POST",
		TLS:            &tls.Config{MinVersion: tls.VersionTLS12},
		Policy:         "adaptive",
		MaxConcurrent:  16384,
		Hedge:          0.05,
		Eject:          EjectConfig{Failures: 5, Share: 0.5, Base: time.Second, Max: 30 * time.Second},
		Loop:           LoopConfig{Interval: time.Minute, Suffixes: []string{"loop.dnsguard.empty.as112.arpa.", "loop.dnsguard.internal."}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	again := got
	again.setDefaults()
	if !reflect.DeepEqual(again, got) {
		t.Errorf("defaults of a complete Config: got %+v, want %+v", again, got)
	}
}

// TestValidate changes a valid Config that did not come from a Corefile.
func TestValidate(t *testing.T) {
	valid := func() Config {
		c := Config{From: ".", To: []To{{Text: "192.0.2.1", Transport: "dns", Addr: netip.MustParseAddrPort("192.0.2.1:53")}}}
		c.setDefaults()
		return c
	}
	c := valid()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		change func(c *Config)
		want   string
	}{
		{func(c *Config) { c.From = "" }, "found no FROM"},
		{func(c *Config) { c.To = nil }, "found no TO"},
		{func(c *Config) { c.To = make([]To, 16) }, "found 16 TO: must be at most 15"},
		{func(c *Config) { c.To[0].Transport = "" }, `TO "192.0.2.1": transport must be dns, tls, https or quic`},
		{func(c *Config) { c.To[0].Host = "a" }, `TO "192.0.2.1": must be an IP address, a file or a host name`},
		{func(c *Config) { c.To[0].Addr = netip.AddrPort{} }, `TO "192.0.2.1": must be an IP address, a file or a host name`},
		{func(c *Config) { c.To[0].ServerName = "a" }, `TO "192.0.2.1": a server name goes with tls, https and quic only`},
		{func(c *Config) { c.Expire = -1 }, `expire "-1ns": must be a duration of 0 or more, such as 10s`},
		{func(c *Config) { c.MaxAge = -1 }, `max_age "-1ns": must be a duration of 0 or more, such as 10s`},
		{func(c *Config) { c.MaxAge = time.Second }, `max_age "1s": must not be less than expire (10s)`},
		{func(c *Config) { c.ReadTimeout = 0 }, `read_timeout "0s": must be a duration of more than 0, such as 2s`},
		{func(c *Config) { c.Timeout = 0 }, `timeout "0s": must be a duration from 100ms to 60s`},
		{func(c *Config) { c.HealthInterval = -1 }, `health_check "-1ns": must be a duration of 0 or more, such as 10s`},
		{func(c *Config) { c.MaxIdleConns = -1 }, `max_idle_conns "-1": must be a whole number of 0 or more`},
		{func(c *Config) { c.MaxConcurrent = -1 }, `max_concurrent "-1": must be a whole number of 0 or more`},
		{func(c *Config) { c.Hedge = 1.5 }, `hedge "1.5": must be a share between 0 and 1, a percentage, or off`},
		{func(c *Config) { c.Hedge = math.NaN() }, `hedge "NaN": must be a share between 0 and 1, a percentage, or off`},
		{func(c *Config) { c.Mode = "" }, `mode "": must be guard or observe`},
		{func(c *Config) { c.Policy = "" }, `policy "": must be adaptive, random, round_robin or sequential`},
		{func(c *Config) { c.DoHMethod = "" }, `doh_method "": must be GET or POST`},
		{func(c *Config) { c.Failover = []int{2, 0} }, `failover "NOERROR": must be a response code other than NOERROR`},
		{func(c *Config) { c.TLS = nil }, `tls: found no configuration`},
		{func(c *Config) { c.EDNSAll, c.EDNSOptions = true, []uint16{8} }, `edns_options all: cannot be given together with codes`},
		{func(c *Config) { c.EDNSOptions = []uint16{0} }, `edns_options "0": must be a code from 1 to 65535`},
		{func(c *Config) { c.Eject.Failures = 0 }, `eject failures "0": must be a whole number from 1 to 1000`},
		{func(c *Config) { c.Eject.Share = 0 }, `eject share "0": must be a share of more than 0 up to 1, or a percentage`},
		{func(c *Config) { c.Eject.Base = 1 }, `eject base "1ns": must be a duration from 10ms to 10m`},
		{func(c *Config) { c.Eject.Max = 2 * time.Hour }, `eject max "2h0m0s": must be a duration from base to 1h`},
		{func(c *Config) { c.Eject.Base = time.Minute }, `eject max "30s": must not be less than base (1m0s)`},
		{func(c *Config) { c.PrivateZones = []PrivateZone{{Zone: "a."}, {Zone: "a."}} }, `private_zones "a.": given twice`},
		{
			func(c *Config) { c.PrivateZones = []PrivateZone{{Zone: "a.", At: ips("192.0.2.2")}} },
			`private_zones "a.": at "192.0.2.2": must be the address of a TO: 192.0.2.1`,
		},
		{func(c *Config) { c.Explain = ExplainConfig{Off: true, To: networks("10.0.0.0/8")} }, `explain off: cannot be given together with networks`},
		{func(c *Config) { c.Explain.To = make([]netip.Prefix, 1) }, `explain to "invalid Prefix": must be ` + wantNetwork},
		{func(c *Config) { c.Loop.Interval = 0 }, `loop interval "0s": must be a duration from 1s to 1h`},
		{func(c *Config) { c.From = "org." }, `loop suffix "loop.dnsguard.empty.as112.arpa.": must be a name in org.`},
		{func(c *Config) { c.Loop.Suffixes = []string{"."} }, `loop suffix ".": must be a name of at most 190 octets, and not the root`},
		{func(c *Config) { c.Except, c.Loop.Suffixes = []string{"corp."}, []string{"a.corp."} }, `loop suffix "a.corp.": must be a name in no zone of except`},
		{func(c *Config) { c.Explain.To = networks("10.0.0.1/8") }, `explain to "10.0.0.1/8": must be ` + wantNetwork},
	} {
		c := valid()
		tc.change(&c)
		if err := c.Validate(); err == nil || err.Error() != tc.want {
			t.Errorf("got  %v\nwant %s", err, tc.want)
		}
	}
}

func TestIsHost(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, name := range []string{"a", "a.", "A-1.example", "_dns.example", "1.2.3.a4", "4.3.2.1.in-addr.arpa.", long, long + "." + long} {
		if !isHost(name) {
			t.Errorf("isHost(%q) = false", name)
		}
	}
	for _, name := range []string{"", ".", "..", "a..b", ".a", "a b", "a/b", "a:b", "a%b", `a\.b`, "1", "1.2.3.4", "a.1", "a.1.", "é", long + "a", strings.Repeat(long+".", 5)} {
		if isHost(name) {
			t.Errorf("isHost(%q) = true", name)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0}, {"abc", "abd", 1}, {"abc", "ac", 1}, {"ac", "abc", 1}, {"kitten", "sitting", 3},
	} {
		if got := distance(tc.a, tc.b); got != tc.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tc.a, tc.b, got, tc.want)
		}
	}
}
