//go:build linux

package main

import (
	"math"
	"strings"
	"testing"
)

func TestParseAllocs(t *testing.T) {
	const profile = `heap profile: 3: 48 [130: 2080] @ heap/2
1: 16 [100: 1600] @ 0x1 0x2
#	0x1	github.com/miekg/dns.(*Msg).Unpack+0x1	/x/msg.go:1
#	0x2	github.com/miekg/dns.(*Server).serveDNS+0x1	/x/server.go:1

1: 16 [20: 320] @ 0x3 0x4
#	0x3	github.com/dnsguard/dnsguard/plugin/exchange.(*udp).start+0x1	/x/udp.go:1
#	0x4	github.com/coredns/coredns/core/dnsserver.(*Server).ServeDNS+0x1	/x/server.go:1

1: 16 [10: 160] @ 0x5 0x6
#	0x5	github.com/miekg/dns.(*response).WriteMsg+0x1	/x/server.go:1
#	0x6	github.com/dnsguard/dnsguard.(*Guard).ServeDNS+0x1	/x/dnsguard.go:1

5: 80 [50: 800] @ 0x7 0x8
#	0x7	runtime/pprof.printStackRecord+0x1	/x/pprof.go:1
#	0x8	net/http.(*conn).serve+0x1	/x/server.go:1

# runtime.MemStats
# Mallocs = 12345
`
	got, err := parseAllocs(strings.NewReader(profile))
	if want := (allocCount{all: 130, plugin: 20}); err != nil || got != want {
		t.Errorf("parseAllocs = %+v, %v; want %+v", got, err, want)
	}
}

func TestUnsample(t *testing.T) {
	for _, tt := range []struct{ objects, bytes, rate, want float64 }{
		{0, 0, 512, 0},
		{7, 70, 1, 7},
		{1, 512, 512, 1.582},  // 1 / (1 - 1/e)
		{10, 160, 512, 325.0}, // small objects are rarely seen
		{3, 3 << 20, 512, 3},  // large ones always
	} {
		if got := unsample(tt.objects, tt.bytes, tt.rate); math.Abs(got-tt.want) > 0.001*tt.want {
			t.Errorf("unsample(%v, %v, %v) = %v, want %v", tt.objects, tt.bytes, tt.rate, got, tt.want)
		}
	}
}
