package forwardlike

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"
)

// TestPolicy is about who is asked of three upstreams that all answer.
func TestPolicy(t *testing.T) {
	const queries = 60
	for _, tc := range []struct {
		option   string
		want     verdict
		adaptive bool
	}{
		{"policy sequential", same("the first answers"), false},
		{"policy round_robin", same("all in turn"), false},
		{"policy random", same("all share"), false},
		{"policy sequential\nmax_fails 0", same("the first answers"), false},
		{"policy round_robin\nmax_fails 0", same("all in turn"), false},
		{"policy random\nmax_fails 0", same("all share"), false},
		{"", verdict{"all share", "some answer"}, true},
	} {
		t.Run(tc.option, func(t *testing.T) {
			play(t, tc.want, func(s *scene) string {
				for range 3 {
					s.upstream()
				}
				s.forwarding("$0 $1 $2", tc.option)
				var order []int
				counts := [3]int{}
				for i := range queries {
					words := s.ask(fmt.Sprintf("n%d.example.org.", i))
					var by int
					if _, err := fmt.Sscanf(words, "NOERROR by %d", &by); err != nil {
						return words
					}
					order = append(order, by)
					counts[by]++
				}
				turns := 0
				for i := range order[1:] {
					if order[i+1] == (order[i]+1)%3 {
						turns++
					}
				}
				switch least := min(counts[0], counts[1], counts[2]); {
				case tc.adaptive && s.plugin == "dnsguard":
					return "some answer"
				case counts[0] == queries:
					return "the first answers"
				case turns >= queries*9/10:
					return "all in turn"
				case least >= queries/10:
					return "all share"
				}
				return fmt.Sprint(counts)
			})
		})
	}
}

// TestNextInTurn is about who is asked after the first, where all refuse and
// policy round_robin says who is first.
func TestNextInTurn(t *testing.T) {
	play(t, same("0 1 2, 1 0 2, 2 0 1"), func(s *scene) string {
		var (
			mu    sync.Mutex
			order = make(map[string][]string)
		)
		for i := range 3 {
			s.handle(func(w dns.ResponseWriter, q *dns.Msg) {
				mu.Lock()
				name := q.Question[0].Name
				order[name] = append(order[name], strconv.Itoa(i))
				mu.Unlock()
				_ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeRefused))
			})
		}
		s.forwarding("$0 $1 $2", "policy round_robin", "failover REFUSED", "max_fails 0")
		var all []string
		for i := range 3 {
			name := fmt.Sprintf("n%d.example%d.org.", i, i)
			s.ask(name)
			mu.Lock()
			all = append(all, strings.Join(order[name], " "))
			mu.Unlock()
		}
		slices.Sort(all)
		return strings.Join(all, ", ")
	})
}

// TestMaxConcurrent is about queries over the bound.
func TestMaxConcurrent(t *testing.T) {
	for _, tc := range []struct {
		name    string
		options []string
		want    verdict
	}{
		{"as many as allowed", []string{"max_concurrent 5"}, same("5 answered, 0 REFUSED")},
		{"more", []string{"max_concurrent 3"}, same("3 answered, 2 REFUSED")},
		{"no bound", []string{"max_concurrent 0"}, same("5 answered, 0 REFUSED")},
		{"not given", nil, same("5 answered, 0 REFUSED")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			play(t, tc.want, func(s *scene) string {
				release := make(chan struct{})
				var waiting, refused, answered atomic.Int64
				s.handle(func(w dns.ResponseWriter, q *dns.Msg) {
					m := new(dns.Msg).SetReply(q)
					if q.Question[0].Qtype == dns.TypeA {
						waiting.Add(1)
						<-release
						m.Answer = records(q.Question[0].Name + " 60 IN A 192.0.2.1")
					}
					_ = w.WriteMsg(m)
				})
				s.forwarding("$0", append(tc.options, "max_connect_attempts 1", "read_timeout 4s")...)
				var wg sync.WaitGroup
				for i := range 5 {
					wg.Go(func() {
						switch s.ask(fmt.Sprintf("n%d.example.org.", i)) {
						case "REFUSED":
							refused.Add(1)
						case "NOERROR with data":
							answered.Add(1)
						}
					})
				}
				s.await("decision", func() bool { return waiting.Load()+refused.Load() == 5 })
				close(release)
				wg.Wait()
				if got := s.ask("later.example.org."); got != "NOERROR with data" {
					return "afterwards " + got
				}
				return fmt.Sprintf("%d answered, %d REFUSED", answered.Load(), refused.Load())
			})
		})
	}
}

// TestSourceAddress is about where upstreams see queries come from.
func TestSourceAddress(t *testing.T) {
	for _, options := range [][]string{{"source_address 127.0.0.2"}, {"source_address 127.0.0.2", "force_tcp"}} {
		t.Run(strings.Join(options, " "), func(t *testing.T) {
			play(t, same("NOERROR by 0 from 127.0.0.2"), func(s *scene) string {
				up := s.upstream()
				s.forwarding("$0", options...)
				words := s.ask("www.example.org.")
				for _, q := range up.Log() {
					if !q.Probe() {
						return words + " from " + q.From.Addr().String()
					}
				}
				return words
			})
		})
	}
}

// TestHosts is about upstreams that are given by name, and in files.
func TestHosts(t *testing.T) {
	addresses := func(t *testing.T) dns.HandlerFunc {
		return func(w dns.ResponseWriter, q *dns.Msg) {
			m := new(dns.Msg).SetReply(q)
			if q.Question[0].Name == "up.example." && q.Question[0].Qtype == dns.TypeA {
				m.Answer = records("up.example. 60 IN A " + host)
			}
			_ = w.WriteMsg(m)
		}
	}
	for _, tc := range []struct {
		name     string
		to       string
		resolver string
	}{
		{"a host", "up.example:PORT", "$1"},
		{"dns://", "dns://up.example:PORT", "$1"},
		{"the second resolver knows", "up.example:PORT", "$2 $1"},
		{"a host and its address", "up.example:PORT HOST:PORT", "$1"},
		{"dns:// and an address", "dns://HOST:PORT", "$1"},
		{"a file without servers beside it", "FILE HOST:PORT", "$1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			play(t, same("NOERROR by 0"), func(s *scene) string {
				s.upstream()
				s.handle(addresses(s.t))
				s.handle(func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(new(dns.Msg).SetReply(q)) })
				to := strings.NewReplacer("HOST", host, "PORT", port(s.addr[0]), "FILE", s.file("resolv.conf", "# nameserver 192.0.2.1\n")).Replace(tc.to)
				s.forwarding(to, "resolver "+tc.resolver)
				return s.ask("www.example.org.")
			})
		})
	}
}
