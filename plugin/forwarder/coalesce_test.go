package forwarder

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// TestCoalesce holds that equal questions cost one upstream query, and that each client may change its reply.
func TestCoalesce(t *testing.T) {
	for _, does := range []behaviour{good, nx, says(outcome.ServFail, 10*ms)} {
		inBubble(t, nil, func(t *testing.T, r *rig) {
			const n = 500
			var answers []<-chan Answer
			for range n {
				answers = append(answers, r.later(t.Context(), request("www.example.org.")))
			}
			seen := make(map[*dns.Msg]bool)
			shared := 0
			for i, c := range answers {
				a := <-c
				if a.Msg == nil || seen[a.Msg] || a.Msg.Question[0].Name != "www.example.org." {
					t.Fatalf("%+v, want a reply of its own", a)
				}
				seen[a.Msg] = true
				if a.Shared {
					shared++
				}
				a.Msg.Question[0].Name = fmt.Sprint(i) // as Finish does, and worse
				a.Msg.Id = uint16(i)
				for _, rr := range append(a.Msg.Answer, a.Msg.Ns...) {
					rr.Header().Ttl = uint32(i)
				}
			}
			if got := r.counts()[0]; got != 1 || shared != n-1 || r.coalesced != n-1 {
				t.Errorf("%d upstream queries, %d shared, %d counted; want 1, %d", got, shared, r.coalesced, n-1)
			}
		}, does)
	}
}

// TestNotCoalesced holds that questions which may have different answers are asked each.
func TestNotCoalesced(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		changes := []func(q *Request){
			func(*Request) {},
			func(q *Request) { q.Key.Type = dns.TypeAAAA },
			func(q *Request) { q.Key.CD = true },
			func(q *Request) { q.Key.DO = true },
			func(q *Request) { q.Key.RD = false },
			func(q *Request) { q.Key.Options = "\x00\x03\x00\x00" },
		}
		var answers []<-chan Answer
		for _, change := range changes {
			q := request("www.example.org.")
			change(q)
			answers = append(answers, r.later(t.Context(), q))
		}
		for _, c := range answers {
			<-c
		}
		r.ask(request("www.example.org.")) // and one afterwards: nothing is cached here
		if got := r.counts()[0]; got != len(changes)+1 || r.coalesced != 0 {
			t.Errorf("%d upstream queries, want %d", got, len(changes)+1)
		}
	}, good)
}

// TestLeaderGone holds what followers get when the client that asked first has gone.
func TestLeaderGone(t *testing.T) {
	slow := says(outcome.OK, 100*ms)
	for name, tc := range map[string]struct {
		leave func(ctx context.Context) (context.Context, context.CancelFunc)
		does  behaviour
		want  outcome.Kind
	}{
		"cancelled": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(30*ms, cancel)
			return ctx, cancel
		}, slow, outcome.OK},
		"cancelled, no answer": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(30*ms, cancel)
			return ctx, cancel
		}, silent, outcome.Timeout},
		"out of its own time": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 30*ms)
		}, slow, outcome.OK},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, r *rig) {
				ctx, cancel := tc.leave(t.Context())
				defer cancel()
				leader := r.later(ctx, request("www.example.org."))
				time.Sleep(10 * ms)
				follower := r.later(t.Context(), request("www.example.org."))
				if a := <-follower; a.Kind != tc.want {
					t.Errorf("the follower got %+v, want %s", a, tc.want)
				}
				<-leader
			}, tc.does)
		})
	}
	// With nobody else waiting the query ends at once.
	inBubble(t, nil, func(t *testing.T, r *rig) {
		ctx, cancel := context.WithCancel(t.Context())
		leader := r.later(ctx, request("www.example.org."))
		time.Sleep(10 * ms)
		begin := time.Now()
		cancel()
		if a := <-leader; a.Kind != outcome.Cancelled || time.Since(begin) != 0 {
			t.Errorf("%+v %s after", a, time.Since(begin))
		}
	}, silent)
	// A follower that goes does not wait for the leader.
	inBubble(t, nil, func(t *testing.T, r *rig) {
		leader := r.later(t.Context(), request("www.example.org."))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 10*ms)
		defer cancel()
		if a := <-r.later(ctx, request("www.example.org.")); a.Kind != outcome.Cancelled || a.Msg != nil {
			t.Errorf("%+v", a)
		}
		if a := <-leader; a.Kind != outcome.OK {
			t.Errorf("the leader got %+v", a)
		}
	}, slow)
}

// TestJoinAtTheEnd holds that who joins in the moment in which the leader is cancelled is not told that it was cancelled itself.
func TestJoinAtTheEnd(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		for i := range 6000 {
			q := request(fmt.Sprintf("n%d.example.org.", i))
			ctx, cancel := context.WithCancel(t.Context())
			leader := r.later(ctx, q)
			synctest.Wait()
			go cancel()
			if a := <-r.later(t.Context(), q); a.Kind == outcome.Cancelled {
				t.Fatalf("round %d: %+v", i, a)
			}
			<-leader
		}
	}, says(outcome.OK, ms))
}

// TestFailuresRemembered holds that a failure of all is not asked for again within a second (RFC 9520, section 3.2).
func TestFailuresRemembered(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		fails := func(q *Request) Answer {
			a, _ := r.ask(q)
			if a.Msg == nil || a.Msg.Rcode != dns.RcodeServerFailure || a.EDE.Text == "" {
				t.Fatalf("%+v", a)
			}
			return a
		}
		first := fails(request("www.example.org."))
		first.Msg.Question = nil // the caller's to change
		if got := r.counts(); got[0] != 1 || got[1] != 1 {
			t.Fatalf("asked %v", got)
		}
		for range 9 {
			time.Sleep(100 * ms)
			a := fails(request("www.example.org."))
			if !a.Shared || a.Attempts != 0 {
				t.Errorf("%+v", a)
			}
			a.Msg.Question = nil
		}
		if got := r.counts(); got[0]+got[1] != 0 {
			t.Errorf("asked %v within a second", got)
		}
		fails(request("ftp.example.org."))
		other := request("www.example.org.")
		other.Key.CD = true
		fails(other)
		if got := r.counts(); got[0]+got[1] != 4 {
			t.Errorf("asked %v for other questions", got)
		}
		time.Sleep(200 * ms)
		for _, s := range r.servers {
			s.set(good)
		}
		if a, _ := r.ask(request("www.example.org.")); a.Kind != outcome.OK {
			t.Errorf("%+v after more than a second", a)
		}
	}, says(outcome.ServFail, ms), says(outcome.ServFail, ms))

	// What is no reply of theirs is not remembered: it may be over at once.
	inBubble(t, func(c *Config) { c.Timeout = 200 * ms }, func(t *testing.T, r *rig) {
		r.ask(request("www.example.org."))
		r.servers[0].set(good)
		if a, _ := r.ask(request("www.example.org.")); a.Kind != outcome.OK {
			t.Errorf("%+v", a)
		}
	}, silent)
}
