package upstream

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/recovery"
)

// fragile is an Observer that panics at time-outs and at refusals.
type fragile struct{ *rig }

func (f fragile) Attempt(e End) {
	f.rig.Attempt(e)
	if e.Kind == outcome.Timeout || e.Kind == outcome.Refused {
		panic(e.Kind.String())
	}
}

// TestRecover holds that the watch goes on where one attempt makes it panic, that
// who waits for a result gets it all the same, and that no lock is left behind.
func TestRecover(t *testing.T) {
	var count atomic.Int64
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.u.cfg.Recoverer = recovery.New(func(string, any, []byte) {}, func() { count.Add(1) })
		r.u.cfg.Observer = fragile{r}
		r.ask(10, outcome.OK, 10*ms)
		for range 3 {
			r.start(outcome.Unknown, never, new(Attempt), nil)
		}
		time.Sleep(3 * time.Second) // they have timed out
		synctest.Wait()
		if count.Load() != 3 || r.counted(outcome.Timeout) != 3 {
			t.Errorf("%d panics, counted %v, want one for each time-out", count.Load(), r.kinds)
		}
		r.want(Suspect, "silent")
		r.ask(3, outcome.OK, 10*ms)
		r.want(Healthy, "answered again")

		to := make(chan Result, 1)
		a := &Attempt{to: to, Upstream: r.u, SentAt: time.Now()}
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			r.u.watch(a, r.u.since(time.Now()))
			a.Done(exchange.Reply{Kind: outcome.Refused})
		}()
		if got := <-to; got.Reply.Kind != outcome.Refused {
			t.Errorf("%+v", got)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
	})
}
