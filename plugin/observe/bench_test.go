package observe

import (
	"fmt"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// BenchmarkQuery is what observing adds to a query that is answered at once.
func BenchmarkQuery(b *testing.B) {
	r := newRig(3)
	defer r.close()
	names := make([]string, 5000)
	for i := range names {
		names[i] = fmt.Sprintf("n%d.example%d.org.", i, i%50)
	}
	reply := exchange.Reply{Kind: outcome.OK, Msg: new(dns.Msg), RTT: time.Millisecond}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		now := time.Now()
		q := r.model.Begin(now, Question{Name: names[i%len(names)], Type: dns.TypeA})
		q.Sent(now, i%3, false)
		q.Ended(now, reply)
		q.End(false)
	}
}
