package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// logTail is how many lines of a process's log a failed test shows.
const logTail = 20

// process is a program in the foreground, in a host's namespace. It is
// killed when the test ends. Where the test failed, it shows its log if it had
// ended before, or is the lab's subject.
type process struct {
	t      testing.TB
	host   *host
	name   string
	cmd    *exec.Cmd
	log    logBuffer
	done   chan struct{} // closed when it has ended
	killed bool          // by the test
	err    error         // how it ended; read after done
}

// start starts a program. It does not wait for it to serve: see eventually.
func (h *host) start(name string, argv ...string) *process {
	t := h.t
	t.Helper()
	p := &process{t: t, host: h, name: name, cmd: h.command(argv...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	// Should the test process be killed, its children go with it.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		byItself := p.ended() && !p.killed
		p.kill()
		if t.Failed() && (byItself || h.lab.subject == p) {
			t.Logf("log of %s (last %d lines):\n%s", name, logTail, p.log.tail(logTail))
		}
	})
	return p
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// kill ends the process at once, and waits for its end.
func (p *process) kill() {
	p.killed = true
	_ = p.cmd.Process.Kill() // it may have ended already
	<-p.done
}

// exits waits for the process to end by itself, and returns how it did.
func (p *process) exits(within time.Duration) error {
	p.t.Helper()
	select {
	case <-p.done:
		return p.err
	case <-time.After(within):
		p.t.Fatalf("%s is still running after %v", p.name, within)
		return nil
	}
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// alive fails the test where the process has ended.
func (p *process) alive() {
	p.t.Helper()
	if p.ended() {
		p.t.Errorf("%s has ended: %v", p.name, p.err)
	}
}

// descriptors is the number of descriptors that the process has open.
func (p *process) descriptors() int {
	p.t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.pid()))
	if err != nil {
		p.t.Fatalf("descriptors of %s: %v", p.name, err)
	}
	return len(entries)
}

// logBuffer keeps everything that a process prints.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// lines returns the lines that contain all of the words.
func (l *logBuffer) lines(words ...string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for line := range strings.Lines(l.b.String()) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			out = append(out, strings.TrimRight(line, "\n"))
		}
	}
	return out
}

func (l *logBuffer) tail(n int) string {
	all := l.lines()
	return strings.Join(all[max(0, len(all)-n):], "\n")
}

// eventually polls until f returns nil, and fails the test when it does not
// in time. A process that ended meanwhile is reported at once.
func eventually(t testing.TB, within time.Duration, p *process, f func() error) {
	t.Helper()
	var ended <-chan struct{}
	name := "the condition"
	if p != nil {
		ended, name = p.done, p.name
	}
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-ended:
			t.Fatalf("%s has ended (%v); last: %v\n%s", name, p.err, err, p.log.tail(logTail))
		case <-deadline.C:
			t.Fatalf("%s: not within %v: %v", name, within, err)
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-tick.C:
		}
	}
}
