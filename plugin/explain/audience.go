package explain

import (
	"net/netip"
	"sync"
	"time"
)

// ownFor is how long the addresses of this host are taken for granted: the
// most often that they are looked up.
const ownFor = time.Second

// Audience is who is told: this host, and some networks.
type Audience struct {
	networks []netip.Prefix
	lookUp   func() ([]netip.Addr, error)

	mu       sync.Mutex
	own      map[netip.Addr]bool // never changed, only replaced; nil: not looked up yet
	lookedUp time.Time
}

// NewAudience returns an audience of the networks, and of the host whose
// addresses ownAddrs returns; its loopback need not be among them.
func NewAudience(networks []netip.Prefix, ownAddrs func() ([]netip.Addr, error)) *Audience {
	return &Audience{networks: networks, lookUp: ownAddrs}
}

// Has reports whether a client is to be told.
func (a *Audience) Has(now time.Time, client netip.Addr) bool {
	client = client.Unmap().WithZone("")
	if client.IsLoopback() {
		return true
	}
	for _, p := range a.networks {
		if p.Contains(client) {
			return true
		}
	}
	a.refresh(now)
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.own[client]
}

// refresh looks the addresses of this host up where that is due. Others go on
// with the old ones meanwhile; so does everybody after a failure.
func (a *Audience) refresh(now time.Time) {
	a.mu.Lock()
	due := a.own == nil || now.Sub(a.lookedUp) >= ownFor
	if due {
		a.lookedUp = now
	}
	a.mu.Unlock()
	if !due {
		return
	}
	addrs, err := a.lookUp()
	own := make(map[netip.Addr]bool, len(addrs))
	for _, ip := range addrs {
		// fe80::1 may be this host's on one link and somebody else's on another.
		if ip = ip.Unmap().WithZone(""); !(ip.Is6() && ip.IsLinkLocalUnicast()) {
			own[ip] = true
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil || a.own == nil {
		a.own = own
	}
}
