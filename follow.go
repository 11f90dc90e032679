package dnsguard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dnsguard/dnsguard/plugin/forwarder"
	"github.com/dnsguard/dnsguard/plugin/metrics"
	"github.com/dnsguard/dnsguard/plugin/resolvconf"
)

// follower keeps the list of a directive's upstreams: the files among TO are
// watched, the host names are looked up again when their time to live is over.
// What cannot be read or looked up leaves the list as it was.
type follower struct {
	g *Guard

	watchers []*resolvconf.Watcher

	mu      sync.Mutex
	sources []source // by TO
}

// Endpoint is one upstream server that a TO argument stands for.
type Endpoint struct {
	Addr       netip.AddrPort
	Transport  string // dns, tls, https or quic
	ServerName string // TLS server name of this endpoint alone, or ""
	Source     string // the TO argument it came from, as written
}

// same reports whether both are the same server, reached in the same way.
func (e Endpoint) same(o Endpoint) bool {
	return e.Addr == o.Addr && e.Transport == o.Transport && strings.EqualFold(e.ServerName, o.ServerName)
}

// source is what one TO stands for.
type source struct {
	to    To
	addrs []netip.AddrPort // the last good ones
	err   error            // why there are none, or not the newest; nil: all is well
	count *metrics.Source  // of reloads; nil for an address, and before changes are followed
}

// newFollower returns a follower that has read the files, and looked nothing up.
func newFollower(g *Guard) *follower {
	f := &follower{g: g}
	for _, to := range g.cfg.To {
		s := source{to: to}
		switch {
		case to.Addr.IsValid():
			s.addrs = []netip.AddrPort{to.Addr}
		case to.Host != "":
			s.err = errNotYet
		}
		f.sources = append(f.sources, s)
	}
	for i, to := range g.cfg.To {
		if to.File == "" {
			continue
		}
		f.watchers = append(f.watchers, resolvconf.NewWatcher(resolvconf.Config{
			Path: to.File, Read: g.env.ReadFile,
			Good: func(servers []netip.Addr) { f.good(i, withPort(servers, defaultPorts[to.Transport])) },
			Bad:  func(err error) { f.bad(i, err) }, Recoverer: g.env.recoverer,
		}))
	}
	return f
}

var errNotYet = errors.New("has not been looked up yet")

func withPort(ips []netip.Addr, port uint16) []netip.AddrPort {
	addrs := make([]netip.AddrPort, len(ips))
	for i, ip := range ips {
		addrs[i] = netip.AddrPortFrom(ip.Unmap(), port)
	}
	return addrs
}

// inherit takes over the addresses of host names that prev has looked up.
func (f *follower) inherit(prev *follower) {
	prev.mu.Lock()
	defer prev.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.sources {
		s := &f.sources[i]
		for _, old := range prev.sources {
			if len(s.addrs) == 0 && s.to.Host+s.to.File == old.to.Host+old.to.File && s.to.Port == old.to.Port && len(old.addrs) > 0 {
				s.addrs = old.addrs
			}
		}
	}
}

// firstWait is how long the start waits for addresses of host names.
const firstWait = 3 * time.Second

// start follows the lists until ctx ends. It returns when there is an upstream,
// or all host names have been looked up once, or firstWait is over.
func (f *follower) start(ctx context.Context, wg *sync.WaitGroup) {
	r := f.g.env.recoverer
	r.Go(wg, "counting reloads", f.counting(ctx))
	f.g.follow() // what has changed since New
	for _, w := range f.watchers {
		r.Go(wg, "following a file", func() { w.Run(ctx) })
	}
	var first sync.WaitGroup
	for i, s := range f.sources {
		if s.to.Host != "" {
			first.Add(1)
			r.Go(wg, "following a host name", func() { f.lookups(ctx, i, sync.OnceFunc(first.Done)) })
		}
	}
	if len(f.g.pool.Load().members) > 0 {
		return
	}
	done := make(chan struct{})
	r.Go(wg, "waiting for host names", func() { first.Wait(); close(done) })
	timer := time.NewTimer(firstWait)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// good takes the addresses of a source.
func (f *follower) good(i int, addrs []netip.AddrPort) {
	s, same, was := f.set(i, addrs)
	count := s.count
	if count == nil || same && was == nil { // in the first case nothing is followed yet
		return
	}
	if same || errors.Is(was, errNotYet) {
		count.Listed(metrics.ListUnchanged)
	} else {
		count.Listed(metrics.ListChanged)
	}
	if was != nil && !errors.Is(was, errNotYet) {
		f.g.env.Logf(LevelInfo, "%s is well again: %s", s.to.Text, joined(addrs))
	}
	f.g.follow()
}

// set sets the addresses of a source. It returns the source, whether it had the
// same addresses, and what was wrong with it before.
func (f *follower) set(i int, addrs []netip.AddrPort) (s source, same bool, was error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := &f.sources[i]
	was, same = at.err, slices.Equal(at.addrs, addrs)
	at.addrs, at.err = addrs, nil
	return *at, same, was
}

// bad takes notice that a source cannot be read or looked up.
func (f *follower) bad(i int, err error) {
	s, known := f.fault(i, err)
	if s.count != nil {
		s.count.Listed(s.to.failure(err))
	}
	switch {
	case known:
	case len(s.addrs) > 0:
		f.g.env.Logf(LevelWarning, "%s: %v; going on with %s", s.to.Text, err, joined(s.addrs))
	default:
		f.g.env.Logf(LevelWarning, "%s: %v; no upstreams from there until that is mended", s.to.Text, err)
	}
}

// fault notes what is wrong with a source. It returns the source, and whether
// that was known.
func (f *follower) fault(i int, err error) (s source, known bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := &f.sources[i]
	known = at.err != nil && at.err.Error() == err.Error()
	at.err = err
	return *at, known
}

// counting makes reloads count, and returns what ends that with ctx.
func (f *follower) counting(ctx context.Context) (end func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var counts []*metrics.Source
	for i := range f.sources {
		s := &f.sources[i]
		if s.to.Addr.IsValid() {
			continue
		}
		s.count = f.g.env.Metrics.Source(s.to.Text)
		counts = append(counts, s.count)
		if s.err != nil && !errors.Is(s.err, errNotYet) {
			s.count.Listed(s.to.failure(s.err))
		}
	}
	return func() {
		<-ctx.Done()
		for _, c := range counts {
			c.Close()
		}
	}
}

// failure returns what an error of reading a file, or of looking up a host name, counts as.
func (to *To) failure(err error) metrics.ListResult {
	switch {
	case to.Host != "":
		return metrics.ListLookup
	case errors.Is(err, fs.ErrNotExist):
		return metrics.ListMissing
	case errors.Is(err, resolvconf.ErrEmpty):
		return metrics.ListEmpty
	default:
		return metrics.ListUnreadable
	}
}

func joined(addrs []netip.AddrPort) string {
	texts := make([]string, len(addrs))
	for i, a := range addrs {
		texts[i] = a.String()
	}
	return strings.Join(texts, ", ")
}

// endpoints returns the upstreams that TO stands for now, in its order, each
// once, and at most as many as a pool can have.
func (f *follower) endpoints() []Endpoint {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []Endpoint
	for _, s := range f.sources {
		for _, addr := range s.addrs {
			e := Endpoint{Addr: addr, Transport: s.to.Transport, ServerName: s.to.ServerName, Source: s.to.Text}
			if len(out) < forwarder.MaxUpstreams && !slices.ContainsFunc(out, e.same) {
				out = append(out, e)
			}
		}
	}
	return out
}

// empty says why there is no upstream, for people; "" where there are some.
func (f *follower) empty() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var why []string
	for _, s := range f.sources {
		if len(s.addrs) > 0 {
			return ""
		}
		why = append(why, fmt.Sprintf("%s: %v", s.to.Text, s.err))
	}
	return "no upstream: " + strings.Join(why, ", ")
}
