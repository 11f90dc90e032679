package e2e

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// filter replaces the packet filter of the namespace by one chain with the
// given rules, at the given hook (input or output). A rule may count into
// the counter "hits". No rules: no filter.
func (h *host) filter(hook string, rules ...string) {
	h.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %[1]s\ndelete table inet %[1]s\n", "e2e_"+hook)
	if len(rules) > 0 {
		fmt.Fprintf(&b, "table inet e2e_%s {\n counter hits {\n }\n chain c {\n  type filter hook %s priority 0\n", hook, hook)
		for _, r := range rules {
			fmt.Fprintf(&b, "  %s\n", r)
		}
		b.WriteString(" }\n}\n")
	}
	cmd := h.command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(b.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		h.t.Fatalf("nft: %v\n%s\n%s", err, out, b.String())
	}
}

var packets = regexp.MustCompile(`packets (\d+)`)

// hits is the number of packets counted by the filter at the hook.
func (h *host) hits(hook string) int64 {
	h.t.Helper()
	m := packets.FindStringSubmatch(h.run("nft", "list", "counter", "inet", "e2e_"+hook, "hits"))
	if m == nil {
		h.t.Fatal("nft: no counter")
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		h.t.Fatal(err)
	}
	return n
}
