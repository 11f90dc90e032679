package exchange

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/test/fakedns"
	"github.com/dnsguard/dnsguard/test/hostile"
	"github.com/dnsguard/dnsguard/test/tape"
)

// started is an exchange, and what is known of its end.
type started struct {
	q         *Query
	question  hostile.Question
	sink      countSink
	handle    Handle
	cancelled bool // in time
}

// countSink takes any number of replies, to count them.
type countSink struct{ replies chan Reply }

func (s countSink) Done(r Reply) { s.replies <- r }

// FuzzExchange: whatever a server does to datagrams and connections, each
// exchange ends once, with a reply to its question or without one; an exchange
// that was cancelled in time never does; and when all is closed nothing is left.
func FuzzExchange(f *testing.F) {
	for _, client := range []string{"", "\x03\x01", "\x00\x02\x00\x00\x00\x04\x05\x01", "\x01\x00\x01\x08\x00\x00\x00\x00\x05\x06", "\x00\x00\x00\x00\x00\x00\x01\x01\x01"} {
		for _, server := range hostile.Scripts() {
			f.Add([]byte(client), []byte(server))
		}
	}
	f.Fuzz(func(t *testing.T, client, server []byte) {
		synctest.Test(t, func(t *testing.T) {
			addr := netip.MustParseAddrPort("192.0.2.53:53")
			network, peer := fakedns.NewNet(), hostile.New(server)
			network.AddPeer(addr, peer)
			cfg, ev := testConfig("dns", addr)
			cfg.Dial = network.Dial
			x := tape.New(client)
			cfg.MaxIdle, cfg.MaxAge = x.Pick(3), time.Duration(x.Pick(2))*time.Minute
			e := mustNew(t, cfg)
			all := exchanges(x, e)
			synctest.Wait()
			e.Close()
			synctest.Wait()
			for _, s := range all {
				s.check(t, peer)
			}
			if open := network.Open(); len(open) > 0 {
				t.Errorf("left open: %v", open)
			}
			for p := range ProtoCount {
				if n := ev.sockets[p].Load(); n != 0 {
					t.Errorf("%d sockets of %s are counted as open", n, p)
				}
			}
			peer.Wait()
		})
	})
}

// exchanges starts exchanges, and cancels some, as the tape says.
func exchanges(x *tape.Tape, e Exchanger) []*started {
	names := []string{"www.example.org", "nx.example.org", `x\.y.org`, "."}
	var all []*started
	for range 24 {
		how := x.Byte()
		switch {
		case how&7 < 5: // mostly
			q := query(names[how>>3&3])
			s := &started{q: q, question: questionOf(q), sink: countSink{make(chan Reply, 10)}}
			s.handle = e.Start(q, Options{TCP: how&1 != 0, Fresh: how&32 != 0, NoEDNS: how&64 != 0, NoRedial: how&128 != 0}, s.sink)
			all = append(all, s)
		case how&7 == 5:
			time.Sleep(x.Wait())
		case len(all) > 0:
			s := all[int(how>>3)%len(all)]
			s.cancelled = s.handle.Cancel() || s.cancelled
		}
		if x.Done() {
			break
		}
	}
	return all
}

func questionOf(q *Query) hostile.Question {
	m := new(dns.Msg)
	if err := m.Unpack(q.Wire); err != nil {
		panic(err)
	}
	return hostile.QuestionOf(m.Question[0])
}

func (s *started) check(t *testing.T, peer *hostile.Peer) {
	t.Helper()
	n := len(s.sink.replies)
	if s.cancelled != (n == 0) || n > 1 {
		t.Fatalf("%d ends, cancelled in time: %t", n, s.cancelled)
	}
	if n == 0 {
		return
	}
	r := <-s.sink.replies
	if r.Kind == outcome.Unknown || r.Kind >= outcome.Count || (r.Msg != nil) != r.Kind.Answered() || (r.Err == nil) != (r.Msg != nil) {
		t.Fatalf("reply %+v", r)
	}
	if r.Msg == nil {
		return
	}
	wire, err := r.Msg.Pack()
	if err != nil {
		t.Fatalf("cannot be packed: %v\n%v", err, r.Msg)
	}
	m, err := hostile.Read(wire)
	if err != nil {
		t.Fatalf("cannot be read: %v\n%v", err, r.Msg)
	}
	for _, said := range peer.Account(s.question).Replies {
		if said.Says(m) {
			return
		}
	}
	t.Errorf("nobody said so:\n%v", r.Msg)
}
