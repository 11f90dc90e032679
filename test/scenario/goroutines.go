package scenario

import (
	"regexp"
	"runtime"
	"strings"
)

var bubble = regexp.MustCompile(`^goroutine (\d+) .*synctest bubble (\d+)`)

// goroutines returns the stacks of the goroutines in the caller's bubble, by
// their numbers, but for the caller's own. It stops the world: it is for a
// few calls in a scenario.
func goroutines() map[string]string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	stacks := strings.Split(string(buf), "\n\n")
	own := bubble.FindStringSubmatch(stacks[0])
	out := make(map[string]string)
	if own == nil {
		return out
	}
	for _, s := range stacks[1:] {
		if m := bubble.FindStringSubmatch(s); m != nil && m[2] == own[2] {
			out[m[1]] = s
		}
	}
	return out
}
