// Package e2e runs the built CoreDNS binary against real DNS servers, in
// network namespaces of its own, and holds it to what users met in the field.
//
// Nothing runs unless DNSGUARD_E2E=1 is set, the user is root, and the
// programs that a test names are installed (ip, nft, tc, dig, unbound, dnsmasq,
// named, kresd, dnsdist, smartdns, prometheus, etcd); each test says what is missing
// and skips:
//
//	DNSGUARD_E2E=1 go test ./test/e2e/... -count=1 -v
//
// A lab is a switch (a bridge in a namespace) with hosts (namespaces) on it,
// each with the address that the real one has. A relay in front of each real
// DNS server adds a fixed round trip and counts the queries. The relay and
// the load are goroutines of the test process on sockets made inside the
// namespaces; CoreDNS and the DNS servers are processes, ended by their id.
// No packet leaves the machine. Tests do not run in parallel, but those of
// loops, which wait most of the time: they measure time, and share two cores.
// They raise their own priority, and watch by a thin load past the server under
// test whether the machine keeps up; a run that was disturbed is repeated, but
// wrong answers count all the same, unless the machine stalled so long that the
// thin load lost answers too.
//
// Environment:
//
//	DNSGUARD_BINARY          a binary to test; otherwise ./cmd/coredns is built
//	DNSGUARD_E2E_BUILDFLAGS  flags for that build, e.g. -race
//	DNSGUARD_E2E_DIRECTIVE   the directive under test; default dnsguard
//	DNSGUARD_E2E_RESOLVED    a directory with Debian's package systemd-resolved
//	                         unpacked in it (dpkg -x)
//	DNSGUARD_E2E_KUBE        a directory that test/kube/build has filled: the
//	                         programs of Kubernetes
//	DNSGUARD_LOOPS_TABLE     a file whose tables of loops are written anew, as
//	                         docs/loops.md; these tests take longer then
//
// Field reports are run with stock forward too, which must fail them: a test
// that forward passes shows nothing.
package e2e
