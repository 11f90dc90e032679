package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	tap "github.com/dnstap/golang-dnstap"
	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/test/fakedns"
	"github.com/dnsguard/dnsguard/test/observed"
)

// about returns the messages with octets about a name: queries and replies of
// the forwarder.
func about(taps *observed.Taps, name string) (queries, replies []*tap.Dnstap) {
	for _, d := range taps.Messages(tap.Message_FORWARDER_QUERY, tap.Message_FORWARDER_RESPONSE) {
		x, m := d.GetMessage(), new(dns.Msg)
		if m.Unpack(slices.Concat(x.GetQueryMessage(), x.GetResponseMessage())) != nil || len(m.Question) != 1 || m.Question[0].Name != name {
			continue
		}
		if x.GetType() == tap.Message_FORWARDER_QUERY {
			queries = append(queries, d)
		} else {
			replies = append(replies, d)
		}
	}
	return queries, replies
}

// ends returns the two ends of the socket that a message is about.
func ends(x *tap.Message) (query, response netip.AddrPort) {
	addr := func(ip []byte, port uint32) netip.AddrPort {
		a, _ := netip.AddrFromSlice(ip)
		return netip.AddrPortFrom(a, uint16(port))
	}
	return addr(x.GetQueryAddress(), x.GetQueryPort()), addr(x.GetResponseAddress(), x.GetResponsePort())
}

func queryTime(x *tap.Message) time.Time {
	return time.Unix(int64(x.GetQueryTimeSec()), int64(x.GetQueryTimeNsec()))
}

func responseTime(x *tap.Message) time.Time {
	return time.Unix(int64(x.GetResponseTimeSec()), int64(x.GetResponseTimeNsec()))
}

// same reports whether two messages are about the same exchange, octets and
// what is added to them apart.
func same(a, b *tap.Message) bool {
	aq, ar := ends(a)
	bq, br := ends(b)
	return a.GetType() == b.GetType() && aq == bq && ar == br && a.GetSocketProtocol() == b.GetSocketProtocol() &&
		queryTime(a).Equal(queryTime(b)) && responseTime(a).Equal(responseTime(b))
}

// tapped returns what the dnstap plugins tell of a query, once as many replies
// have been told of as there should be, and once it is sure that it is true: each
// query that arrived is told of once, with the octets, from where and by what it
// came; each reply belongs to one of them; both plugins say the same.
func (sc *scene) tapped(name string, replies int, begin time.Time) (queries, responses []*tap.Dnstap) {
	t := sc.t
	t.Helper()
	arrived := sc.arrived(name)
	eventually(t, 15*time.Second, sc.s.process, func() error {
		if queries, responses = about(sc.full, name); len(queries) < len(arrived) || len(responses) < replies {
			return fmt.Errorf("%s: %d queries of %d, %d replies of %d", name, len(queries), len(arrived), len(responses), replies)
		}
		return nil
	})
	if len(queries) != len(arrived) || len(responses) != replies {
		t.Errorf("%s: %d queries of %d, %d replies of %d", name, len(queries), len(arrived), len(responses), replies)
	}
	protocols := map[fakedns.Proto]tap.SocketProtocol{fakedns.UDP: tap.SocketProtocol_UDP, fakedns.TCP: tap.SocketProtocol_TCP, fakedns.TLS: tap.SocketProtocol_DOT}
	for _, a := range arrived {
		i := slices.IndexFunc(queries, func(d *tap.Dnstap) bool { return bytes.Equal(d.GetMessage().GetQueryMessage(), a.Wire) })
		if i < 0 {
			t.Errorf("%s: no message has the query to %s as it arrived, %x", name, a.to, a.Wire)
			continue
		}
		x := queries[i].GetMessage()
		from, to := ends(x)
		if from != a.From || to.String() != a.to || x.GetSocketProtocol() != protocols[a.Proto] || x.GetSocketFamily() != tap.SocketFamily_INET {
			t.Errorf("%s: from %s to %s by %s, arrived from %s at %s by %s", name, from, to, x.GetSocketProtocol(), a.From, a.to, a.Proto)
		}
		if at := queryTime(x); at.Before(begin) || at.After(time.Now()) || x.ResponseTimeSec != nil {
			t.Errorf("%s: sent at %v, asked at %v", name, at, begin)
		}
	}
	for _, d := range responses {
		x := d.GetMessage()
		i := slices.IndexFunc(queries, func(q *tap.Dnstap) bool {
			return bytes.Equal(q.GetMessage().GetQueryMessage()[:2], x.GetResponseMessage()[:2]) // the ID
		})
		if i < 0 || !queryTime(x).Equal(queryTime(queries[i].GetMessage())) || responseTime(x).Before(queryTime(x)) || responseTime(x).After(time.Now()) {
			t.Errorf("%s: a reply to no query, from %v to %v", name, queryTime(x), responseTime(x))
		}
	}
	sc.toldTwice(name, slices.Concat(queries, responses))
	return queries, responses
}

// toldTwice holds that the other dnstap plugin tells the same, without octets.
func (sc *scene) toldTwice(name string, all []*tap.Dnstap) {
	sc.t.Helper()
	eventually(sc.t, 5*time.Second, sc.s.process, func() error {
		brief := sc.brief.Messages()
		for _, d := range all {
			i := slices.IndexFunc(brief, func(b *tap.Dnstap) bool { return same(b.GetMessage(), d.GetMessage()) })
			if i < 0 {
				return fmt.Errorf("%s: the second plugin does not tell of a %s", name, d.GetMessage().GetType())
			}
			if b := brief[i]; len(b.GetExtra()) > 0 || b.GetMessage().QueryMessage != nil || b.GetMessage().ResponseMessage != nil {
				sc.t.Errorf("%s: the second plugin tells too much: %v", name, b)
			}
		}
		return nil
	})
}

// extras are what is added to messages, but for what differs each time.
func extras(ds []*tap.Dnstap, name, trace string) (out []string) {
	for _, d := range ds {
		out = append(out, strings.TrimSuffix(string(d.GetExtra()), " "+name+" "+trace)+" "+string(d.GetIdentity()))
	}
	slices.Sort(out)
	return out
}

// The dnstap plugins are told of each query that goes out, and each reply.
func TestDnstap(t *testing.T) {
	sc := setScene(t)
	sc.heard()
	const me = " the-node"
	for _, c := range []struct {
		network, domain, until string
		queries, replies       []string // what is added to them
	}{
		{"udp", plainDomain, "attempts=1", []string{nearAddr + " first -" + me}, []string{nearAddr + " first ok" + me}},
		{"tcp", plainDomain, "attempts=1", []string{nearAddr + " first -" + me}, []string{nearAddr + " first ok" + me}},
		{
			"udp", "refused.", "attempts=2 hedged=false",
			[]string{nearAddr + " first -" + me, farAddr + " retry -" + me},
			[]string{nearAddr + " first refused" + me, farAddr + " retry ok" + me},
		},
		{
			"udp", "slow.", "hedged=true upstream=" + farAddr, // the first reply comes after the answer
			[]string{nearAddr + " first -" + me, farAddr + " hedge -" + me},
			[]string{nearAddr + " first ok" + me, farAddr + " hedge ok" + me},
		},
		{
			"tcp", "slow.", "hedged=true upstream=" + farAddr,
			[]string{nearAddr + " first -" + me, farAddr + " hedge -" + me},
			[]string{nearAddr + " first ok" + me, farAddr + " hedge ok" + me},
		},
		{
			"udp", "silent.", "hedged=true upstream=" + farAddr,
			[]string{nearAddr + " first -" + me, farAddr + " hedge -" + me},
			[]string{farAddr + " hedge ok" + me},
		},
	} {
		t.Run(c.domain+" "+c.network, func(t *testing.T) {
			begin := time.Now()
			name := sc.until(c.network, c.domain, c.until)
			trace := sc.trace(name)[0].TraceID.String()
			answered := 0
			for _, a := range sc.arrived(name) {
				if c.domain != "silent." || a.to == farAddr {
					answered++
				}
			}
			queries, replies := sc.tapped(name, answered, begin)
			if got := extras(queries, name, trace); !covers(got, c.queries) {
				t.Errorf("%s: queries %q, want %q", name, got, c.queries)
			}
			if got := extras(replies, name, trace); !covers(got, c.replies) {
				t.Errorf("%s: replies %q, want %q", name, got, c.replies)
			}
			answers := slices.DeleteFunc(sc.full.Messages(tap.Message_CLIENT_RESPONSE), func(d *tap.Dnstap) bool {
				return !strings.Contains(string(d.GetExtra()), " "+name+" ")
			})
			// The answer's own metadata are those of the answer.
			if l := sc.logged(name, 1)[0]; len(answers) != 1 || !strings.HasPrefix(string(answers[0].GetExtra()), l["upstream"]+" - ok ") {
				t.Errorf("%s: the client's answer is told of by %v", name, answers)
			}
		})
	}

	t.Run("truncated", func(t *testing.T) { // then by TCP
		name, begin := "www.z.cut.", time.Now()
		c, err := sc.client.dial("udp", sc.node.addrPort(53))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		q := new(dns.Msg).SetQuestion(name, dns.TypeA).SetEdns0(4096, false)
		if m, _, err := new(dns.Client).ExchangeWithConn(q, &dns.Conn{Conn: c}); err != nil || len(m.Answer) != 1 {
			t.Fatal(m, err)
		}
		queries, replies := sc.tapped(name, 2, begin)
		if p, q := queries[0].GetMessage().GetSocketProtocol(), queries[1].GetMessage().GetSocketProtocol(); p != tap.SocketProtocol_UDP || q != tap.SocketProtocol_TCP {
			t.Errorf("by %s, then %s", p, q)
		}
		m := new(dns.Msg)
		if err := m.Unpack(replies[0].GetMessage().GetResponseMessage()); err != nil || !m.Truncated {
			t.Errorf("the first reply: %v, %v", m, err)
		}
	})

	t.Run("after a reload", func(t *testing.T) {
		f, err := os.OpenFile(sc.s.corefile, os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteString("# once more\n")
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		_ = syscall.Kill(sc.s.pid(), syscall.SIGUSR1)
		eventually(t, 15*time.Second, sc.s.process, func() error {
			if len(sc.s.log.lines("Reloading complete")) == 0 {
				return errors.New("not reloaded")
			}
			return nil
		})
		begin := time.Now()
		sc.tapped(sc.until("udp", plainDomain, "attempts=1"), 1, begin)
	})
	sc.s.alive()
}

// Over encrypted transports dnstap is told of the messages inside.
func TestDnstapEncrypted(t *testing.T) {
	for scheme, want := range map[string]tap.SocketProtocol{
		"tls": tap.SocketProtocol_DOT, "https": tap.SocketProtocol_DOH, "quic": tap.SocketProtocol_UDP,
	} {
		t.Run(scheme, func(t *testing.T) {
			r := transportLab(t)
			if directive() != dnsguard {
				t.Skipf("it is about %s", dnsguard)
			}
			far := r.lab.host("far", "10.9.0.1")
			ca := newAuthority(far)
			far.encrypted(ca.issue("good", tlsName, time.Now().Add(time.Hour)))
			socket := filepath.Join(r.node.tempDir(), "tap.sock")
			l, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			taps := observed.ListenTaps(l)
			defer taps.Close()
			s := r.node.coredns(strings.Replace(plain(dnsguard, scheme+"://10.9.0.1", "tls "+ca.file()+"\n tls_servername "+tlsName),
				"    errors\n    prometheus", "    dnstap "+socket+" full\n    prometheus", 1))
			name := "www." + transportZone
			if a := r.client.dig(nodeAddr, name, "A"); a.status != "NOERROR" {
				t.Fatal(a.text)
			}
			var queries, replies []*tap.Dnstap
			eventually(t, 10*time.Second, s.process, func() error {
				if queries, replies = about(taps, name); len(queries) != 1 || len(replies) != 1 {
					return fmt.Errorf("%d queries, %d replies", len(queries), len(replies))
				}
				return nil
			})
			x, y := queries[0].GetMessage(), replies[0].GetMessage()
			from, to := ends(x)
			q, m := new(dns.Msg), new(dns.Msg)
			if err := q.Unpack(x.GetQueryMessage()); err != nil {
				t.Fatal(err)
			}
			if err := m.Unpack(y.GetResponseMessage()); err != nil {
				t.Fatal(err)
			}
			if (from.Addr().String() != nodeAddr && scheme != "quic") || // the library's socket has no address of its own
				from.Port() == 0 || to.Addr().String() != "10.9.0.1" || x.GetSocketProtocol() != want || y.GetSocketProtocol() != want {
				t.Errorf("from %s to %s by %s, reply by %s", from, to, x.GetSocketProtocol(), y.GetSocketProtocol())
			}
			if q.IsEdns0() == nil || len(m.Answer) != 1 || (scheme != "tls" && q.Id != 0) || !responseTime(y).After(queryTime(x)) {
				t.Errorf("query\n%v\nreply %v after\n%v", q, responseTime(y).Sub(queryTime(x)), m)
			}
			s.alive()
		})
	}
}
