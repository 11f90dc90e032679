package upstream

import "github.com/dnsguard/dnsguard/plugin/exchange"

// Sent tells how the query went out; see exchange.Handle. It is not to be
// called before Send has returned.
func (a *Attempt) Sent() (exchange.Sent, bool) {
	a.mu.Lock()
	h := a.handle
	a.mu.Unlock()
	if h == nil { // the Upstream had been closed
		return exchange.Sent{}, false
	}
	return h.Sent()
}

// Proto is what carries the attempt, as far as is known before there is a reply.
func (a *Attempt) Proto() exchange.Proto { return a.proto() }
