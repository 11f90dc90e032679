package forwarder

import (
	"context"
	"sync"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// flights are the questions under way: who asks one of them waits for its
// answer instead of asking the upstreams again.
type flights struct {
	mu sync.Mutex
	m  map[dnsmsg.Key]*flight
}

// flight is one question under way.
type flight struct {
	key dnsmsg.Key

	all       *flights
	followers int           // guarded by all.mu
	done      chan struct{} // made for the first follower
	answer    Answer        // set before done is closed; nobody changes its Msg
}

func (f *flights) init() { f.m = make(map[dnsmsg.Key]*flight) }

// join returns the flight for key, and whether the caller leads it.
func (f *flights) join(key dnsmsg.Key) (fl *flight, leads bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl = f.m[key]; fl != nil {
		fl.followers++
		if fl.done == nil {
			fl.done = make(chan struct{})
		}
		return fl, false
	}
	fl = &flight{key: key, all: f}
	f.m[key] = fl
	return fl, true
}

// land ends a flight and returns the leader's own answer.
func (f *flights) land(fl *flight, a Answer) Answer {
	f.mu.Lock()
	if f.m[fl.key] == fl {
		delete(f.m, fl.key)
	}
	shared := fl.followers > 0
	f.mu.Unlock()
	if !shared {
		return a
	}
	fl.answer = a
	close(fl.done)
	return a.private()
}

// leave ends the flight if nobody waits for it, and reports whether it did so.
func (fl *flight) leave() (alone bool) {
	fl.all.mu.Lock()
	defer fl.all.mu.Unlock()
	if fl.followers > 0 {
		return false
	}
	delete(fl.all.m, fl.key)
	return true
}

// wait waits for the leader's answer.
func (fl *flight) wait(ctx context.Context) Answer {
	select {
	case <-fl.done:
		a := fl.answer.private()
		a.Shared = true
		return a
	case <-ctx.Done():
		return Answer{Kind: outcome.Cancelled, Shared: true}
	}
}

// private returns an answer whose message the caller may change.
func (a Answer) private() Answer {
	if a.Msg != nil {
		a.Msg = a.Msg.Copy()
	}
	return a
}
