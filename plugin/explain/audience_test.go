package explain

import (
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"
)

func addrs(texts ...string) []netip.Addr {
	all := make([]netip.Addr, len(texts))
	for i, text := range texts {
		all[i] = netip.MustParseAddr(text)
	}
	return all
}

func TestAudience(t *testing.T) {
	a := NewAudience([]netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("2001:db8::/32")}, func() ([]netip.Addr, error) {
		return addrs("192.0.2.1", "::ffff:192.0.2.2", "2001:db9::1", "fe80::1", "169.254.20.10"), nil
	})
	for client, want := range map[string]bool{
		"127.0.0.1": true, "127.9.9.9": true, "::1": true, "::ffff:127.0.0.1": true,
		"192.0.2.1": true, "192.0.2.2": true, "::ffff:192.0.2.1": true, "2001:db9::1": true, "2001:db9::1%eth0": true, "169.254.20.10": true,
		"10.1.2.3": true, "::ffff:10.1.2.3": true, "2001:db8:1::1": true,
		"192.0.2.3": false, "10.2.0.1": false, "2001:db9::2": false, "0.0.0.0": false, "::": false,
		"fe80::1": false, "fe80::1%eth1": false, // on another link it is another's
	} {
		if got := a.Has(now, netip.MustParseAddr(client)); got != want {
			t.Errorf("%s: %t, want %t", client, got, want)
		}
	}
	if a.Has(now, netip.Addr{}) {
		t.Error("no address at all is told")
	}
}

// TestAudienceLookups holds that changes are seen within a second, and how often is looked.
func TestAudienceLookups(t *testing.T) {
	own, looked := addrs("192.0.2.1"), 0
	var fails error
	a := NewAudience(nil, func() ([]netip.Addr, error) { looked++; return own, fails })
	first, second := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	at := now
	for range 1000 {
		a.Has(at, first)
		a.Has(at, second)
		a.Has(at, netip.MustParseAddr("127.0.0.1"))
	}
	if looked != 1 {
		t.Errorf("looked up %d times at once", looked)
	}
	own = addrs("192.0.2.2")
	if at = at.Add(999 * time.Millisecond); !a.Has(at, first) || a.Has(at, second) {
		t.Error("changed before the second was over")
	}
	if at = at.Add(time.Millisecond); a.Has(at, first) || !a.Has(at, second) || looked != 2 {
		t.Errorf("not changed after a second, looked up %d times", looked)
	}
	own, fails = nil, errors.New("no descriptors")
	for range 1000 {
		at = at.Add(10 * time.Millisecond)
		if !a.Has(at, second) {
			t.Fatal("forgotten because of a failure")
		}
	}
	if looked != 12 {
		t.Errorf("looked up %d times in 11 s", looked)
	}
}

// TestAudienceNeverLookedUp holds that failures from the start on are no reason to look at each query.
func TestAudienceNeverLookedUp(t *testing.T) {
	looked := 0
	a := NewAudience(nil, func() ([]netip.Addr, error) { looked++; return nil, errors.New("no descriptors") })
	for range 100 {
		if a.Has(now, netip.MustParseAddr("192.0.2.1")) || !a.Has(now, netip.MustParseAddr("::1")) {
			t.Fatal("want the loopback alone")
		}
	}
	if looked != 1 {
		t.Errorf("looked up %d times", looked)
	}
}

func TestAudienceConcurrent(t *testing.T) {
	a := NewAudience(nil, func() ([]netip.Addr, error) { return addrs("192.0.2.1"), nil })
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 500 {
				if !a.Has(now.Add(time.Duration(i*j)*10*time.Millisecond), netip.MustParseAddr("192.0.2.1")) {
					t.Error("not told")
				}
			}
		})
	}
	wg.Wait()
}
