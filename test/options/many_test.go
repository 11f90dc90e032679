//go:build !race

package options

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestMaxConcurrentDefault is about more clients than the race detector can have
// goroutines: 16384 are served by default, and more with max_concurrent 0.
func TestMaxConcurrentDefault(t *testing.T) {
	const more = 100
	for option, want := range map[string]int{"": more, "max_concurrent 0": 0, "max_concurrent 16484": 0} {
		t.Run(fmt.Sprint(option, " ", want), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, server(100*ms))
				l.corefile(directive("10.0.0.1", option, "hedge off"))
				time.Sleep(time.Second)
				refused := 0
				for _, r := range l.together(slices.Repeat([]string{"www.example.org."}, 16384+more), query{}) {
					if r.rcode() == "REFUSED" {
						refused++
					}
				}
				if refused != want {
					t.Errorf("%d refused, want %d", refused, want)
				}
			})
		})
	}
}
