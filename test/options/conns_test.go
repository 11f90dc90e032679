package options

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestExpire counts dials. max_fails 0 spares us the probes.
func TestExpire(t *testing.T) {
	for _, tc := range []struct {
		name     string
		network  string
		options  []string
		kept     time.Duration // idle for so long it is still open
		gone     time.Duration // and now it is closed
		tcpQuery bool
	}{
		{"a UDP socket", "udp", []string{"expire 2s"}, 1900 * ms, 2100 * ms, false},
		{"a connection", "tcp", []string{"expire 2s"}, 1900 * ms, 2100 * ms, true},
		{"longer", "tcp", []string{"expire 1m"}, 59 * time.Second, 61 * time.Second, true},
		{"by default", "tcp", nil, 9900 * ms, 10100 * ms, true},
		{"a UDP socket, none", "udp", []string{"expire 0s"}, 0, 10 * ms, false},
		{"a connection, none", "tcp", []string{"expire 0s"}, 0, 10 * ms, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, server(20*ms))
				l.corefile(directive("10.0.0.1", append(tc.options, "max_fails 0", "hedge off")...))
				const rounds = 3
				for i := range rounds {
					for j := range 2 {
						if r := l.ask(query{name: fmt.Sprintf("%d.%d.example.org.", i, j), tcp: tc.tcpQuery}); !r.right() {
							t.Fatalf("reply %v", r.msg)
						}
						if tc.kept == 0 {
							continue
						}
						time.Sleep(tc.kept)
						if n := l.open(tc.network); n != 1 {
							t.Errorf("idle for %v: %d sockets open, want 1", tc.kept, n)
						}
					}
					time.Sleep(tc.gone - tc.kept)
					if n := l.open(tc.network); n != 0 {
						t.Errorf("idle for %v: %d sockets open, want none", tc.gone, n)
					}
				}
				want := rounds // the second query of each round finds the socket of the first
				if got := l.net.Dialled(tc.network); tc.kept > 0 && got != want || got < want || got > 2*rounds {
					t.Errorf("%d dials, want %d", got, want)
				}
			})
		})
	}
}

// TestExpireOfHTTPS counts the dials of the HTTP client.
func TestExpireOfHTTPS(t *testing.T) {
	for option, want := range map[string]int{"expire 2s": 3, "": 1, "expire 0s": 6} {
		t.Run(option, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t)
				d := newDoH(t, l, true)
				l.corefile(directive("https://127.0.0.1", option, "tls "+d.ca, "max_fails 0", "hedge off"))
				for i := range 6 {
					if r := l.a(fmt.Sprintf("%d.example.org.", i)); !r.right() {
						t.Fatalf("reply %v", r.msg)
					}
					time.Sleep([...]time.Duration{1900 * ms, 2100 * ms}[i%2])
				}
				if got := d.dialled(); got != want {
					t.Errorf("%d dials, want %d", got, want)
				}
			})
		})
	}
}

func TestMaxAge(t *testing.T) {
	for _, tc := range []struct {
		option      string
		least, most int // dials in 20 s of steady use
	}{
		{"", 1, 1},
		{"max_age 0s", 1, 1},
		{"max_age 3s", 6, 7},
		{"max_age 7s", 3, 3},
	} {
		t.Run(tc.option, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, server(20*ms))
				l.corefile(directive("10.0.0.1", tc.option, "expire 2s", "force_tcp", "max_fails 0", "hedge off"))
				l.useSteadily()
				if got := l.net.Dialled("tcp"); got < tc.least || got > tc.most {
					t.Errorf("%d dials in 20 s, want %d to %d", got, tc.least, tc.most)
				}
			})
		})
	}
}

// useSteadily asks twice a second for 20 s.
func (l *lab) useSteadily() {
	l.t.Helper()
	for i := range 40 {
		if r := l.a(fmt.Sprintf("%d.example.org.", i)); !r.right() {
			l.t.Fatalf("reply %v", r.msg)
		}
		time.Sleep(500 * ms)
	}
}

func TestMaxIdleConns(t *testing.T) {
	for _, tc := range []struct {
		option      string
		least, most int
	}{
		{"", 3, 16},
		{"max_idle_conns 0", 3, 16},
		{"max_idle_conns 1", 1, 1},
		{"max_idle_conns 2", 2, 2},
	} {
		t.Run(tc.option, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, server(100*ms))
				l.corefile(directive("10.0.0.1", "force_tcp", "expire 30s", "max_fails 0", "hedge off", tc.option))
				for round := range 2 {
					names := make([]string, 400)
					for i := range names {
						names[i] = fmt.Sprintf("%d.%d.example.org.", i, round)
					}
					for _, r := range l.together(names, query{}) {
						if !r.right() {
							t.Fatalf("reply %v", r.msg)
						}
					}
				}
				if l.net.Dialled("tcp") < 3 {
					t.Fatalf("%d dials: too few to say anything", l.net.Dialled("tcp"))
				}
				time.Sleep(20 * time.Second)
				if got := l.open("tcp"); got < tc.least || got > tc.most {
					t.Errorf("%d idle connections, want %d to %d", got, tc.least, tc.most)
				}
			})
		})
	}
}
