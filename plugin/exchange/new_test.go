package exchange

import (
	"net/netip"
	"testing"
	"testing/synctest"
)

func TestNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tests := []struct {
			name   string
			change func(*Config)
			ok     bool
		}{
			{"dns", func(*Config) {}, true},
			{"tls", func(c *Config) { c.Transport = "tls" }, true},
			{"https", func(c *Config) { c.Transport = "https" }, true},
			{"quic", func(c *Config) { c.Transport = "quic" }, true},
			{"transport", func(c *Config) { c.Transport = "grpc" }, false},
			{"address", func(c *Config) { c.Addr = netip.AddrPort{} }, false},
			{"port", func(c *Config) { c.Addr = netip.MustParseAddrPort("192.0.2.1:0") }, false},
			{"dial", func(c *Config) { c.Dial = nil }, false},
			{"randomness", func(c *Config) { c.Rand64 = nil }, false},
			{"events", func(c *Config) { c.Events = nil }, false},
			{"expire", func(c *Config) { c.Expire = 0 }, false},
		}
		for _, tt := range tests {
			cfg, _ := testConfig("dns", netip.MustParseAddrPort("192.0.2.53:53"))
			tt.change(&cfg)
			x, err := New(cfg)
			if (err == nil) != tt.ok {
				t.Errorf("%s: error %v", tt.name, err)
			}
			if x != nil {
				x.Close()
				x.Close() // does no harm
			}
		}
	})
}

func TestProtoNames(t *testing.T) {
	for p := range ProtoCount {
		if p.String() == "" {
			t.Errorf("protocol %d has no name", p)
		}
	}
}

// TestFingerprint: case does not matter, all else does.
func TestFingerprint(t *testing.T) {
	a := query("www.Example.org")
	mark := fingerprint(a.Wire[headerLen:a.QuestionEnd])
	for name, same := range map[string]bool{"WWW.example.ORG": true, "www.example.com": false, "www.example.or": false} {
		b := query(name)
		if got := fingerprint(b.Wire[headerLen:b.QuestionEnd]) == mark; got != same {
			t.Errorf("%s: same as www.Example.org: %v", name, got)
		}
	}
}
