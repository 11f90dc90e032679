// Package fakedns is DNS servers that go wrong on purpose, for tests.
//
// A [Server] is what one upstream knows, how far away it is, and a schedule
// of faults. It decides what becomes of each query; it does not know how the
// query came. Two front ends carry queries to it:
//
//   - [Net], a network in memory, for testing/synctest bubbles: its Dial is an
//     exchange.DialFunc, its connections block on nothing but what the bubble
//     sees, and its delays are timers, so that hours pass in milliseconds;
//   - [Listen] and [ListenTLS], real sockets.
//
// A [Peer] stands in a Net where a Server is not bad enough: it writes its own
// bytes.
//
// What servers truly know is computed from the name, so that a test can tell
// a right answer from a wrong one without asking: see [A], [Exists] and
// [Right]. A Server counts and records all that is sent to it, also what it
// then ignores.
//
// Faults are values ([Fault]), or lines of text ([ParseFault]):
//
//	from 5s to 20s drop
//	from 5s every 8s for 3s zone example.org except probes servfail
//	qtype AAAA p 30% delay 2s
//
// Every draw is a hash of seed, question and how often it was asked before,
// so that a run can be repeated whatever the order of goroutines.
//
// All methods may be called concurrently; a Server's exported fields and the
// exported fields of a Net are set before its first use.
//
// RFC 1035 (messages, truncation), RFC 2308 (denials), RFC 6891 (EDNS), RFC
// 7873 (cookies), RFC 7766 (TCP), RFC 7858 (TLS).
package fakedns
