package upstream

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// connecting has queries wait for a connection from now on.
func (r *rig) connecting(d time.Duration) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.s.connect = d
}

// TestConnecting holds that a query which waits for a connection is neither
// late nor overdue for as long as connecting may take, and that silence counts after that.
func TestConnecting(t *testing.T) {
	for name, tc := range map[string]struct {
		transport string
		rtt       time.Duration
		connect   time.Duration
		after     time.Duration // of the reply, once connected
		missed    bool
	}{
		"TCP":                      {"dns", 20 * ms, 40 * ms, 20 * ms, false},
		"TCP, far":                 {"dns", 200 * ms, 400 * ms, 200 * ms, false},
		"TLS":                      {"tls", 20 * ms, 60 * ms, 20 * ms, false},
		"HTTPS, far":               {"https", 200 * ms, 600 * ms, 200 * ms, false},
		"QUIC":                     {"quic", 20 * ms, 40 * ms, 20 * ms, false},
		"TLS, near":                {"tls", ms / 10, 15 * ms, ms / 10, false},
		"silent once connected":    {"dns", 20 * ms, 20 * ms, never, true},
		"never connected":          {"dns", 20 * ms, time.Hour, never, true},
		"never connected, by TLS":  {"tls", 20 * ms, time.Hour, never, true},
		"connected much too late":  {"dns", 20 * ms, 400 * ms, 20 * ms, true},
		"the reply much too late":  {"tls", 20 * ms, 20 * ms, 400 * ms, true},
		"open, and much too late":  {"tls", 20 * ms, 0, 400 * ms, true},
		"open, and silent, by TCP": {"dns", 20 * ms, 0, never, true},
	} {
		t.Run(name, func(t *testing.T) {
			change := func(c *Config) { c.Transport, c.TCPOnly = tc.transport, true }
			inBubble(t, change, func(t *testing.T, r *rig) {
				r.ask(50, outcome.OK, tc.rtt)
				usual := r.u.LateAfter()
				r.connecting(tc.connect)
				start := time.Now()
				a := r.start(outcome.OK, tc.after, &Attempt{Options: exchange.Options{TCP: true}}, nil)
				if late := a.LateAt(usual).Sub(start); !tc.missed && late < tc.connect {
					t.Errorf("late after %s, want more than connecting takes, %s", late, tc.connect)
				}
				time.Sleep(tc.connect % time.Hour)
				synctest.Wait()
				if late := a.LateAt(usual).Sub(start); tc.connect == tc.rtt && late != tc.connect+usual {
					t.Errorf("late after %s, want %s after it was sent", late, usual)
				}
				time.Sleep(1500 * ms)
				synctest.Wait()
				if loss := r.u.Snapshot().Loss; (loss > 0.01) != tc.missed {
					t.Errorf("loss %v, want missed: %t", loss, tc.missed)
				}
			})
		})
	}
}

// TestUsual holds that connecting belongs to the usual time of a query that waited for it, and of no other.
func TestUsual(t *testing.T) {
	inBubble(t, func(c *Config) { c.Transport = "tls" }, func(t *testing.T, r *rig) {
		r.ask(50, outcome.OK, 20*ms)
		open := r.start(outcome.OK, 20*ms, new(Attempt), nil)
		r.connecting(30 * ms)
		waits := r.start(outcome.OK, 20*ms, new(Attempt), nil)
		for _, step := range []time.Duration{0, 31 * ms} {
			time.Sleep(step)
			if a, b := open.Usual(), waits.Usual(); step == 0 && a != 20*ms || b != 80*ms {
				t.Errorf("after %s: usual %s and %s, want 20 ms and 80 ms", step, a, b)
			}
			if open.Waiting() || waits.Waiting() != (step == 0) {
				t.Errorf("after %s: waiting %t and %t", step, open.Waiting(), waits.Waiting())
			}
		}
	})
}
