package fakedns

import (
	"reflect"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestParseFault(t *testing.T) {
	for line, want := range map[string]Fault{
		"drop":                     {Kind: Drop},
		"from 5s to 20s drop":      {Kind: Drop, From: 5 * time.Second, To: 20 * time.Second},
		"every 8s for 3s servfail": {Kind: Rcode, Rcode: dns.RcodeServerFailure, Every: 8 * time.Second, For: 3 * time.Second},
		"badvers":                  {Kind: Rcode, Rcode: dns.RcodeBadVers},
		"qtype AAAA,A p 30% delay 2s": {
			Kind: Delay, D: 2 * time.Second,
			Filter: Filter{Types: []uint16{dns.TypeAAAA, dns.TypeA}, Prob: 0.3},
		},
		"zone example.org,b. except probes nxdomain soa org": {
			Kind: NXDomain, Zone: "org.",
			Filter: Filter{Zones: []string{"example.org.", "b."}, ExceptProbes: true},
		},
		"nodata":              {Kind: NoData},
		"echo-options":        {Kind: Echo},
		"relay x twice":       {Kind: Relay, Via: "x", Twice: true},
		"relay keep":          {Kind: Relay, Keep: true},
		"names 10% refused":   {Kind: Rcode, Rcode: dns.RcodeRefused, Filter: Filter{Names: 0.1}},
		"proto tcp loss 1%":   {Kind: Loss, P: 0.01, Filter: Filter{Streams: true}},
		"forge":               {Kind: Forge, N: 10, D: 50 * time.Millisecond},
		"forge 3 20ms":        {Kind: Forge, N: 3, D: 20 * time.Millisecond},
		"duplicate 1s":        {Kind: Duplicate, D: time.Second},
		"big 4000":            {Kind: Big, N: 4000},
		"no-edns formerr":     {Kind: NoEDNS, Rcode: dns.RcodeFormatError},
		"no-edns badvers":     {Kind: NoEDNS, Rcode: dns.RcodeBadVers},
		"no-edns silent":      {Kind: NoEDNS},
		"tcp-close-idle 1s":   {Kind: TCPCloseIdle, D: time.Second},
		"tcp-close-midquery":  {Kind: TCPCloseMidquery},
		"refuse-port":         {Kind: Refuse},
		"proto udp truncated": {Kind: Truncated, Filter: Filter{Datagrams: true}},
	} {
		got, err := ParseFault(line)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("ParseFault(%q) = %+v, %v; want %+v", line, got, err, want)
		}
	}
}

func TestParseFaultErrors(t *testing.T) {
	for _, line := range []string{
		"", "from", "from 5s", "from five drop", "every 8s drop", "every 8s for 0s drop", "explode", "rcode",
		"drop now", "delay", "loss", "loss 200%", "big", "big x", "forge 0", "no-edns", "no-edns x", "qtype X drop",
		"proto x drop", "except x drop", "nxdomain soa", "jitter",
	} {
		if f, err := ParseFault(line); err == nil {
			t.Errorf("ParseFault(%q) = %+v; want an error", line, f)
		}
	}
}

func TestEveryKindCanBeWritten(t *testing.T) {
	arguments := map[Kind]string{
		Delay: " 1s", Jitter: " 1s", TCPCloseIdle: " 1s", Loss: " 5%", Big: " 900", NoEDNS: " silent",
	}
	for k := NXDomain; k < kinds; k++ {
		f, err := ParseFault(k.String() + arguments[k])
		if err != nil || f.Kind != k {
			t.Errorf("%s: %v, %v", k, f.Kind, err)
		}
	}
}

func TestParseServer(t *testing.T) {
	s, err := ParseServer("rtt 6ms jitter 1ms zone a,b except c.a view inside max-udp 512 else refused")
	if err != nil {
		t.Fatal(err)
	}
	want := &Server{
		RTT: 6 * time.Millisecond, Jitter: time.Millisecond, Zones: []string{"a.", "b."}, Except: []string{"c.a."},
		View: "inside", MaxUDP: 512, Else: Fault{Kind: Rcode, Rcode: dns.RcodeRefused},
	}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("got %+v; want %+v", s, want)
	}
	for _, line := range []string{"rtt", "rtt x", "colour red", "else", "else explode"} {
		if _, err := ParseServer(line); err == nil {
			t.Errorf("ParseServer(%q): want an error", line)
		}
	}
}
