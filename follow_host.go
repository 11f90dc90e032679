package dnsguard

import (
	"context"
	"net/netip"
	"slices"
	"time"
)

// How often host names are looked up.
const (
	lookupLeast = 5 * time.Second // whatever the time to live
	lookupMost  = time.Hour
	lookupAgain = time.Second // after the first failure, and twice as long after each further one
	lookupRetry = 30 * time.Second
)

// lookups looks a host name up whenever it is time to, until ctx ends. done is
// called after each time.
func (f *follower) lookups(ctx context.Context, i int, done func()) {
	defer done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	again := lookupAgain
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		switch ttl, ok := f.lookup(ctx, i); {
		case ctx.Err() != nil:
			return
		case !ok:
			timer.Reset(again)
			again = min(2*again, lookupRetry)
		default:
			timer.Reset(min(max(ttl, lookupLeast), lookupMost))
			again = lookupAgain
		}
		done()
	}
}

// lookup looks a host name up once, and returns for how long its addresses may
// be used; false: it has none. One that makes it panic has none.
func (f *follower) lookup(ctx context.Context, i int) (ttl time.Duration, ok bool) {
	defer f.g.env.recoverer.Recover("following a host name", func() {
		ok = false
		f.bad(i, errPanic)
	})
	ips, ttl, err := f.g.env.Lookup(ctx, f.sources[i].to.Host)
	switch {
	case ctx.Err() != nil:
		return 0, false
	case len(ips) == 0:
		f.bad(i, err)
		return 0, false
	}
	f.good(i, f.merged(i, ips, err))
	return ttl, true
}

// merged returns the addresses of a host name after a lookup. The order of the
// known ones stays, and where the lookup was not complete, all of them do.
func (f *follower) merged(i int, ips []netip.Addr, err error) []netip.AddrPort {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &f.sources[i]
	fresh := withPort(ips, s.to.Port)
	var addrs []netip.AddrPort
	for _, a := range s.addrs {
		if err != nil || slices.Contains(fresh, a) {
			addrs = append(addrs, a)
		}
	}
	for _, a := range fresh {
		if !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}
