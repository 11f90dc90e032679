package forwarder

import (
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// flights are the questions under way: who asks one of them waits for its
// answer instead of asking the upstreams again.
type flights struct {
	mu     sync.Mutex
	m      map[dnsmsg.Key]*flight
	latest *[slots]*flight // by name and type, whatever else the key says; nil: nobody wants to know
	seed   maphash.Seed
}

// slots are enough to find most of what is under way again.
const slots = 256

// flight is one question under way.
type flight struct {
	key   dnsmsg.Key
	asked atomic.Uint64 // the upstreams that were sent the question
	slot  uint8         // in all.latest

	all       *flights
	followers int           // guarded by all.mu
	done      chan struct{} // made for the first follower
	answer    Answer        // set before done is closed; nobody changes its Msg
}

func (f *flights) init(latest bool) {
	f.m = make(map[dnsmsg.Key]*flight)
	if latest {
		f.latest, f.seed = new([slots]*flight), maphash.MakeSeed()
	}
}

// join returns the flight for key, and whether the caller leads it; and a
// flight that is under way for the same name and type, if that is wanted: a
// resolver that a question has come through asks it with other flags.
func (f *flights) join(key dnsmsg.Key) (fl *flight, leads bool, other *flight) {
	slot := uint8(0)
	if f.latest != nil {
		slot = uint8(maphash.String(f.seed, key.Name))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl = f.m[key]; fl != nil {
		fl.followers++
		if fl.done == nil {
			fl.done = make(chan struct{})
		}
		if f.latest != nil {
			other = fl
		}
		return fl, false, other
	}
	fl = &flight{key: key, all: f, slot: slot}
	f.m[key] = fl
	if f.latest != nil {
		if o := f.latest[slot]; o != nil && o.key.Type == key.Type && o.key.Name == key.Name {
			other = o
		}
		f.latest[slot] = fl
	}
	return fl, true, other
}

// forgetLocked takes a flight out.
func (f *flights) forgetLocked(fl *flight) {
	if f.m[fl.key] == fl {
		delete(f.m, fl.key)
	}
	if f.latest != nil && f.latest[fl.slot] == fl {
		f.latest[fl.slot] = nil
	}
}

// land ends a flight and returns the leader's own answer.
func (f *flights) land(fl *flight, a Answer) Answer {
	f.mu.Lock()
	f.forgetLocked(fl)
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
	fl.all.forgetLocked(fl)
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
