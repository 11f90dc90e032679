package scenario

import (
	"errors"
	"fmt"

	"github.com/coredns/caddy"

	"github.com/dnsguard/dnsguard"
)

// directive is one dnsguard directive.
type directive struct{ *dnsguard.Guard }

// State implements guard.
func (d directive) State(to string) string {
	for _, s := range d.Snapshot() {
		if s.To == to {
			return s.State
		}
	}
	return ""
}

// Inherit implements guard.
func (d directive) Inherit(prev guard) error {
	old, ok := prev.(directive)
	if !ok {
		return fmt.Errorf("%T is not a directive", prev)
	}
	return d.Guard.Inherit(old.Guard)
}

// newGuard makes the directive of a Corefile: one, at the moment.
func newGuard(corefile string, env environment) (guard, error) {
	configs, err := dnsguard.Parse(caddy.NewTestController("dns", corefile))
	if err != nil {
		return nil, err
	}
	if len(configs) != 1 {
		return nil, errors.New("the Corefile must have one dnsguard directive")
	}
	g, err := dnsguard.New(configs[0], dnsguard.Env{
		Debug: true,
		Dial:  env.dial, Rand64: env.rand64, Lookup: env.lookup, Metrics: env.metrics,
		ReadFile: env.readFile,
		Logf:     func(_ dnsguard.Level, format string, args ...any) { env.logf(format, args...) },
	})
	if err != nil {
		return nil, fmt.Errorf("new: %w", err)
	}
	return directive{g}, nil
}
