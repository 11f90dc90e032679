package dnsguard

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/coredns/caddy"
)

// family is the guards of one instance of the server. It is kept with the
// instance, so that the next one, at a reload of the Corefile, finds those whose
// places its own guards take.
type family struct {
	names  []string // where in the Corefile they stand
	guards []*Guard

	mu        sync.Mutex
	reloading bool    // another instance is about to take over
	successor *family // of that instance, once it has begun to start
}

// familyKey is where a family is kept.
type familyKey struct{}

// familyOf returns the family of the instance that c sets up.
func familyOf(c *caddy.Controller) *family {
	if f, ok := c.Get(familyKey{}).(*family); ok {
		return f
	}
	f := &family{}
	c.Set(familyKey{}, f)
	c.OnRestart(func() error { f.restarting(true); return nil })
	c.OnRestartFailed(func() error { f.restarting(false); return nil })
	c.OnShutdown(func() error { f.shutdown(); return nil })
	return f
}

// add takes a guard in. place says where in the Corefile it stands: the n-th
// guard of a place takes that of the n-th guard of it in the instance before.
func (f *family) add(place string, g *Guard) {
	n := 0
	for _, name := range f.names {
		if strings.HasPrefix(name, place+"\n") {
			n++
		}
	}
	f.names = append(f.names, fmt.Sprintf("%s\n%d", place, n))
	f.guards = append(f.guards, g)
}

// predecessor returns the guard whose place g takes; nil: none. instances are
// those of the process: the one that is being reloaded has it.
func (f *family) predecessor(g *Guard, instances []*caddy.Instance) *Guard {
	for _, i := range instances {
		i.StorageMu.RLock()
		old, ok := i.Storage[familyKey{}].(*family)
		i.StorageMu.RUnlock()
		if ok && old != f {
			if prev, reloads := old.succeeded(f, g); reloads {
				return prev
			}
		}
	}
	return nil
}

// succeeded returns the guard whose place g, of the family next, takes, and
// whether the instance is being reloaded at all.
func (f *family) succeeded(next *family, g *Guard) (prev *Guard, reloads bool) {
	name := next.names[slices.Index(next.guards, g)]
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.reloading {
		return nil, false
	}
	f.successor = next
	if i := slices.Index(f.names, name); i >= 0 {
		prev = f.guards[i]
	}
	return prev, true
}

// restarting notes that a reload begins, or that it has failed: then the
// guards that were to take over are ended.
func (f *family) restarting(begins bool) {
	f.mu.Lock()
	f.reloading = begins
	failed := f.successor
	f.successor = nil
	f.mu.Unlock()
	if failed != nil {
		failed.each((*Guard).Stop)
	}
}

// shutdown ends the guards with the server. At a reload the old server has
// stopped by then, and what is in flight is waited for. When the process ends
// the server still answers, for as long as the health plugin's lameduck lasts:
// then everything that a query needs must stay.
func (f *family) shutdown() {
	f.mu.Lock()
	reloading := f.reloading
	f.mu.Unlock()
	if reloading {
		f.each((*Guard).Stop)
	} else {
		f.each((*Guard).rest)
	}
}

// each does something with all guards at once.
func (f *family) each(do func(*Guard)) {
	var wg sync.WaitGroup
	for _, g := range f.guards {
		g.env.recoverer.Go(&wg, "stopping", func() { do(g) })
	}
	wg.Wait()
}
