// Package forwardlike holds that what users of CoreDNS's forward rely on holds
// with dnsguard: each case is a Corefile, upstreams that do something, and
// queries, and it is run with either plugin, in CoreDNS's own server, over
// real sockets of the loopback. What comes of it is put into words, which
// must be the same for both, or say how they differ.
//
// docs/forward-behaviour.md lists all the behaviours with their tests, and a
// test holds that it is complete. What takes time (idle connections, health
// over seconds) is tested under simulated time, in test/options and
// test/scenario.
package forwardlike
