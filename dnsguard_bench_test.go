package dnsguard

import (
	"net"
	"strconv"
	"testing"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/test"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/metrics"
)

// silentWriter takes replies and does nothing with them.
type silentWriter struct{ test.ResponseWriter }

func (*silentWriter) WriteMsg(*dns.Msg) error { return nil }

// echo answers queries on the loopback with an A record, without allocating.
func echo(b *testing.B) string {
	b.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 4096)
		for {
			_, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			end := 12
			for buf[end] != 0 {
				end += 1 + int(buf[end])
			}
			buf[2], buf[3], buf[7], buf[11] = buf[2]|0x80, 0x80, 1, 0
			reply := append(buf[:end+5], 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1)
			_, _ = c.WriteToUDPAddrPort(reply, from)
		}
	}()
	return c.LocalAddr().String()
}

// BenchmarkServeDNS is the way of a query through the plugin, with the metrics
// that it has in the server, to an upstream on the loopback and back.
func BenchmarkServeDNS(b *testing.B) {
	env := Env{Metrics: metrics.New(prometheus.NewRegistry(), metrics.Options{
		Namespace: plugin.Namespace, Buckets: plugin.TimeBuckets, NativeFactor: plugin.NativeHistogramBucketFactor,
	})}
	g := guard(b, env, ".", echo(b))
	var questions [1000]*dns.Msg
	for i := range questions {
		questions[i] = query("n" + strconv.Itoa(i) + ".example.org.")
	}
	w := &silentWriter{}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := g.ServeDNS(b.Context(), w, questions[i%len(questions)]); err != nil {
			b.Fatal(err)
		}
	}
}
