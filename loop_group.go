package dnsguard

import (
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/dnsguard/dnsguard/plugin/loopguard"
)

// marks are what stamps and probes are made with.
type marks struct {
	key    loopguard.Key
	group  loopguard.Group
	shared bool // others do not have the key
}

// marksOf returns the marks of those who have these upstreams. The group are all
// who would send a query to the same servers: where it comes to another one of
// them it will come to the first one again. So it is made of the servers
// themselves, whatever names and files they come from: two tiers with equal
// Corefiles, the first of which forwards to the second, have different ones.
func (l *loops) marksOf(endpoints []Endpoint) *marks {
	var b strings.Builder
	b.WriteString(l.g.cfg.From)
	if name := l.g.cfg.Loop.Group; name != "" {
		b.WriteString("\ngroup " + name)
	}
	texts := make([]string, len(endpoints))
	local := false // an address means another server on each host
	for i, e := range endpoints {
		texts[i] = strings.ToLower(e.Transport + "://" + e.Addr.String() + "%" + e.ServerName)
		ip := e.Addr.Addr().Unmap()
		local = local || ip.IsLoopback() || ip.IsLinkLocalUnicast()
	}
	slices.Sort(texts)
	for _, text := range texts {
		b.WriteByte('\n')
		b.WriteString(text)
	}
	key, shared := l.key()
	if !shared && local {
		if name, err := os.Hostname(); err == nil {
			b.WriteString("\non " + name)
		}
	}
	return &marks{key: key, group: key.Group(b.String()), shared: shared}
}

// inherit takes over what the cluster is known by.
func (l *loops) inherit(prev *loops) {
	if l == nil || prev == nil {
		return
	}
	l.cluster.CompareAndSwap(nil, prev.cluster.Load())
	prev.mu.Lock()
	defer prev.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.Copy(l.warned, prev.warned)
}

// key returns the key, and whether it is one that other clusters do not have:
// that of the Corefile, else what the cluster is known by. Without either all
// have the same: then the group alone tells who is who.
func (l *loops) key() (k loopguard.Key, shared bool) {
	if secret := l.g.cfg.Loop.Key; secret != nil {
		return loopguard.NewKey(append([]byte("key "), secret...)), true
	}
	if cluster := l.cluster.Load(); cluster != nil {
		return loopguard.NewKey([]byte("cluster " + *cluster)), true
	}
	return loopguard.NewKey(nil), false
}
