// Package loopguard recognises queries that come round: that this server, or
// another replica with the same configuration, has forwarded before.
//
// Two marks do it. A stamp (stamp.go) is an EDNS option on a forwarded query,
// which says through which groups it has passed. A token (token.go) is the name
// that a probe asks for; whoever of the group receives it answers, and so shows
// that the way out leads back. Where stamps are dropped on the way, tokens are
// not. What follows from the marks is decided in watch.go: a stamp alone costs
// its own query, and a token that comes back takes an upstream out.
//
// Marks hold nothing of the cluster but keyed digests. The key guards against a
// nuisance, not a secret: a forged stamp spoils the query that carries it, a
// forged answer to a token needs the token.
//
// A Key and what is made of it never change; a Watch may be used concurrently.
//
// RFC 6891, section 9 (option codes for local use).
package loopguard

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/dchest/siphash"
)

// Key is what marks are made with.
type Key struct{ a, b uint64 }

// NewKey returns the key of a secret, of any length.
func NewKey(secret []byte) Key {
	sum := sha256.Sum256(append([]byte("dnsguard loop key 1\n"), secret...))
	return Key{binary.BigEndian.Uint64(sum[:]), binary.BigEndian.Uint64(sum[8:])}
}

// Group stands for the replicas that have the same way to their upstreams.
type Group uint32

// Group returns the group of a configuration, given as text.
func (k Key) Group(text string) Group {
	return Group(k.mac(domainGroup, []byte(text)))
}

// What a MAC is for: one made for one purpose is no use for another.
const (
	domainGroup = iota + 1
	domainStamp
	domainToken
	domainAnswer
)

// mac returns a MAC of text for a purpose (SipHash-2-4).
func (k Key) mac(domain uint64, text []byte) uint64 {
	return siphash.Hash(k.a^domain, k.b, text)
}
