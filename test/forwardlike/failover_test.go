package forwardlike

import "testing"

// TestFailover is about upstreams that fail, in a fixed order.
func TestFailover(t *testing.T) {
	const name = "www.example.org."
	for _, tc := range []struct {
		name    string
		up      []string // the fault of each upstream
		options []string
		want    verdict
	}{
		{"failover, the third answers", []string{"servfail", "refused", ""}, []string{"failover ServFail Refused"}, same("NOERROR by 2")},
		{"without failover", []string{"servfail", "refused", ""}, nil, verdict{"SERVFAIL", "NOERROR by 2"}},
		{"without failover, the first answers", []string{"", "servfail", "refused"}, nil, same("NOERROR by 0")},
		{"failover, all fail", []string{"servfail", "servfail"}, []string{"failover SERVFAIL"}, same("SERVFAIL")},
		{"failover, another code", []string{"yxdomain", ""}, []string{"failover REFUSED"}, same("YXDOMAIN")},
		{"failover, all fail otherwise", []string{"servfail", "refused"}, []string{"failover SERVFAIL REFUSED"}, verdict{"REFUSED", "SERVFAIL"}},
		{"failover of a denial", []string{"nxdomain", ""}, []string{"failover NXDOMAIN"}, same("NOERROR by 1")},
		{"a denial", []string{"nxdomain", ""}, nil, verdict{"NXDOMAIN", "NOERROR by 1"}},
		{"a denial, trusted", []string{"nxdomain", ""}, []string{"?nxdomain trust"}, same("NXDOMAIN")},
		{"NODATA", []string{"nodata", ""}, nil, verdict{"NOERROR", "NOERROR by 1"}},
		{"NODATA, trusted", []string{"nodata", ""}, []string{"?nxdomain trust"}, same("NOERROR")},
		{"a code that all have", []string{"refused", "refused"}, nil, same("REFUSED")},
		{"not implemented", []string{"notimp"}, nil, same("NOTIMP")},
		{"format error", []string{"formerr"}, nil, same("FORMERR")},
		{"silent", []string{"drop", ""}, []string{"read_timeout 200ms"}, same("NOERROR by 1")},
		{"all silent", []string{"drop", "drop"}, []string{"read_timeout 200ms", "?timeout 1s"}, same("SERVFAIL")},
		{"port closed", []string{"closed", ""}, nil, same("NOERROR by 1")},
		{"all ports closed", []string{"closed", "closed"}, nil, same("SERVFAIL")},
		{"port closed, by TCP", []string{"closed", ""}, []string{"force_tcp"}, same("NOERROR by 1")},
		{"reset, by TCP", []string{"tcp-reset", ""}, []string{"force_tcp"}, same("NOERROR by 1")},
		{"one attempt, silent", []string{"drop", ""}, []string{"read_timeout 200ms", "max_connect_attempts 1", "?timeout 1s"}, same("SERVFAIL")},
		{"two attempts, silent", []string{"drop", ""}, []string{"read_timeout 200ms", "max_connect_attempts 2"}, same("NOERROR by 1")},
		{"two attempts of three, silent", []string{"drop", "drop", ""}, []string{"read_timeout 200ms", "max_connect_attempts 2", "?timeout 1s"}, same("SERVFAIL")},
		{"unbounded attempts, silent", []string{"drop", ""}, []string{"read_timeout 200ms", "max_connect_attempts 0"}, same("NOERROR by 1")},
		{"corrupt", []string{"corrupt", ""}, nil, verdict{"NOERROR truncated", "NOERROR by 1"}},
		{"corrupt, alone", []string{"proto udp corrupt"}, nil, verdict{"NOERROR truncated", "NOERROR by 0"}},
		{"garbage", []string{"garbage", ""}, []string{"read_timeout 200ms"}, same("NOERROR by 1")},
		{"wrong question", []string{"wrong-question", ""}, nil, verdict{"FORMERR", "NOERROR by 1"}},
		{"wrong question, alone", []string{"proto udp wrong-question"}, nil, verdict{"FORMERR", "NOERROR by 0"}},
		{"wrong ID first", []string{"forge 3 5ms"}, nil, same("NOERROR by 0")},
		{"no EDNS", []string{"no-edns formerr"}, nil, same("NOERROR by 0")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			play(t, tc.want, func(s *scene) string {
				for _, fault := range tc.up {
					switch fault {
					case "":
						s.upstream()
					case "closed":
						s.closed()
					default:
						s.upstream("except probes " + fault)
					}
				}
				s.forwarding([]string{"$0", "$0 $1", "$0 $1 $2"}[len(tc.up)-1], append(tc.options, "policy sequential")...)
				return s.ask(name)
			})
		})
	}
}
