package dnsguard

import (
	"testing"

	"github.com/coredns/coredns/plugin/cache"
	"github.com/coredns/coredns/plugin/dnstap"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/recovery"
)

// TestTapsFrom holds which dnstap plugins are found, and what they want.
func TestTapsFrom(t *testing.T) {
	last := &dnstap.Dnstap{Next: cache.New(), ExtraFormat: "x"}
	first := &dnstap.Dnstap{Next: last, IncludeRawMessage: true}
	taps := tapsFrom(first, nil)
	defer taps.close()
	if len(taps.to) != 2 || taps.to[0] != first || taps.to[1] != last || !taps.raw || !taps.extra {
		t.Errorf("%+v", taps)
	}
	alone := tapsFrom(&dnstap.Dnstap{}, nil)
	defer alone.close()
	if len(alone.to) != 1 || alone.raw || alone.extra {
		t.Errorf("%+v", alone)
	}
	if none := tapsFrom(cache.New(), nil); none != nil {
		t.Errorf("%+v", none)
	}
	if none := tapsFrom(nil, nil); none != nil {
		t.Errorf("%+v", none)
	}
}

// TestTapsNeverBlock holds that whoever tells of late replies, a reader that
// other replies wait for, goes on while a dnstap plugin does not, and at the end.
func TestTapsNeverBlock(t *testing.T) {
	taps := tapsFrom(&dnstap.Dnstap{}, nil)
	stalled, goOn := make(chan struct{}), make(chan struct{})
	taps.late <- func() { close(stalled); <-goOn }
	<-stalled
	for range 2 * maxLate {
		(&tapped{taps: taps}).Late(nil, exchange.Reply{})
	}
	if n := len(taps.late); n != maxLate {
		t.Errorf("%d wait, want %d", n, maxLate)
	}
	close(goOn)
	taps.close()
	taps.close()
	if n := len(taps.late); n != 0 {
		t.Errorf("%d were not told", n)
	}
	(&tapped{taps: taps}).Late(nil, exchange.Reply{})
}

// TestTapsRecover holds that a message which makes dnstap panic is lost, and no other.
func TestTapsRecover(t *testing.T) {
	panics, told := 0, false
	taps := tapsFrom(&dnstap.Dnstap{}, recovery.New(func(string, any, []byte) {}, func() { panics++ }))
	taps.late <- func() { panic("dnstap") }
	taps.late <- func() { told = true }
	taps.close()
	if panics != 1 || !told {
		t.Errorf("%d panics, the next one told: %t", panics, told)
	}
}
