// Command bench measures what a forwarded query costs with dnsguard, beside
// stock forward and beside whoami, which answers by itself; and what clients
// see of both while upstreams misbehave.
//
// The servers run one at a time, pinned to one CPU, each measurement by a
// process of its own, so that CPU time and memory are attributable. One busy
// thread on another CPU is both the load and the upstreams of the cost part;
// the fault part has slow upstreams of its own. All traffic is on loopback,
// and nothing needs root. See README.md.
//
// Linux only: it reads /proc, and sends and receives in batches by recvmmsg(2)
// and sendmmsg(2).
package main
