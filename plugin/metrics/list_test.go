package metrics

import (
	"fmt"
	"testing"
)

func TestSource(t *testing.T) {
	m, reg := newMetrics()
	s := m.Source("/etc/resolv.conf")
	for r := ListChanged; r < listResults; r++ { // there before the first
		wants(t, reg, fmt.Sprintf(`coredns_dnsguard_list_reloads_total{result="%s",source="/etc/resolv.conf"} 0`, r))
	}
	failing := func(want int) {
		t.Helper()
		wants(t, reg, fmt.Sprintf(`coredns_dnsguard_list_failing{source="/etc/resolv.conf"} %d`, want))
	}
	failing(0)
	for r := ListMissing; r < listResults; r++ {
		for range r {
			s.Listed(r)
		}
		failing(1)
		wants(t, reg, fmt.Sprintf(`coredns_dnsguard_list_reloads_total{result="%s",source="/etc/resolv.conf"} %d`, r, r))
		s.Listed([]ListResult{ListUnchanged, ListChanged}[r%2])
		failing(0)
	}
	wants(t, reg, `coredns_dnsguard_list_reloads_total{result="changed",source="/etc/resolv.conf"} 2`)
	lacks(t, reg, `result="unchanged"`)
}

// TestSourceGoes holds that the series of a source go with the last of those who watch it.
func TestSourceGoes(t *testing.T) {
	m, reg := newMetrics()
	first, second, other := m.Source("dns.example"), m.Source("dns.example"), m.Source("other.example")
	first.Listed(ListLookup)
	second.Listed(ListLookup)
	other.Listed(ListChanged)
	first.Close()
	first.Close()
	wants(t, reg, `coredns_dnsguard_list_reloads_total{result="lookup",source="dns.example"} 2`)
	second.Close()
	lacks(t, reg, "dns.example")
	second.Listed(ListLookup)
	lacks(t, reg, "dns.example")
	wants(t, reg, `coredns_dnsguard_list_reloads_total{result="changed",source="other.example"} 1`)
	m.Source("dns.example").Listed(ListEmpty)
	wants(t, reg, `
		coredns_dnsguard_list_reloads_total{result="lookup",source="dns.example"} 0
		coredns_dnsguard_list_reloads_total{result="empty",source="dns.example"} 1
	`)
}

// TestSourceName holds that a file may have any name.
func TestSourceName(t *testing.T) {
	m, reg := newMetrics()
	m.Source("/etc/\xff\"\n.conf").Listed(ListMissing)
	wants(t, reg, `coredns_dnsguard_list_failing{source="/etc/`+"\uFFFD"+`\"\n.conf"} 1`)
}
