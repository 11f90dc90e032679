package e2e

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"testing"
)

// exits are run once, after all tests.
var exits []func()

func atExit(f func()) { exits = append(exits, f) }

func TestMain(m *testing.M) {
	if enabled() {
		sweep()
		raisePriority()
		flag.Parse()
		parallel := "10" // tests that wait most of the time
		if loopsTable() != "" {
			parallel = "15"
		}
		_ = flag.Set("test.parallel", parallel)
	}
	code := m.Run()
	for _, f := range exits {
		f()
	}
	if s := summary.String(); s != "" {
		fmt.Print("\nAll runs:\n", s)
	}
	if err := loopFigures.write(loopsTable()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// raisePriority puts this process and its children before whatever else the
// machine is doing: they need little, but in time.
func raisePriority() {
	const nice = -10
	threads, _ := os.ReadDir("/proc/self/task")
	for _, th := range threads {
		if id, err := strconv.Atoi(th.Name()); err == nil {
			// Without it the tests still run, and notice when they are disturbed.
			_ = syscall.Setpriority(syscall.PRIO_PROCESS, id, nice)
		}
	}
}
