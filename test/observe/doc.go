// Package observe holds mode observe to its promise: its tests put stock
// forward and dnsguard in that mode before servers with the same faults, ask both
// the same, and compare what clients get, what is returned to the server, and
// every query that the upstreams see.
//
// All of it is on real sockets, since CoreDNS's proxies open their own.
package observe
