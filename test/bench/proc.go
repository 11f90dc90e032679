//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	startTimeout = 20 * time.Second
	stopTimeout  = 5 * time.Second
)

// cpus are the CPUs that this run uses.
type cpus struct {
	server, load int
	pinned       bool
}

// chooseCPUs takes the first two CPUs that we may run on, and moves all our
// threads to the second. With one CPU nothing is pinned.
func chooseCPUs() (cpus, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return cpus{}, fmt.Errorf("affinity: %w", err)
	}
	var found []int
	for i := 0; len(found) < 2 && i < 8*len(set)*8; i++ {
		if set.IsSet(i) {
			found = append(found, i)
		}
	}
	if len(found) < 2 {
		return cpus{}, nil
	}
	c := cpus{server: found[0], load: found[1], pinned: true}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return cpus{}, fmt.Errorf("affinity: %w", err)
	}
	set.Zero()
	set.Set(c.load)
	for _, task := range tasks {
		if tid, err := strconv.Atoi(task.Name()); err == nil {
			unix.SchedSetaffinity(tid, &set)
		}
	}
	return c, nil
}

// pinThread pins the calling thread; -1 leaves it alone.
func pinThread(cpu int) {
	if cpu < 0 {
		return
	}
	var set unix.CPUSet
	set.Set(cpu)
	unix.SchedSetaffinity(0, &set)
}

// server is a CoreDNS process that is measured.
type server struct {
	name   string
	addr   netip.AddrPort
	cmd    *exec.Cmd
	log    string
	exited chan struct{} // closed when the process has ended
}

// startServer starts binary with cf, pinned, with env beside our environment,
// and returns when it listens. Its files go to dir.
func startServer(ctx context.Context, binary, dir, name string, cf corefile, cpu cpus, env ...string) (*server, error) {
	path := filepath.Join(dir, name+".Corefile")
	if err := os.WriteFile(path, []byte(cf.String()), 0o600); err != nil {
		return nil, err
	}
	s := &server{name: name, addr: cf.listen, log: filepath.Join(dir, name+".log"), exited: make(chan struct{})}
	log, err := os.Create(s.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s.cmd = exec.Command(binary, "-conf", path)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.Dir, s.cmd.Env = dir, append(os.Environ(), env...)
	// Whatever becomes of us, nothing of ours goes on running.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := startPinned(s.cmd, cpu); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() {
		s.cmd.Wait()
		close(s.exited)
	}()
	if err := s.ready(ctx); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// startPinned starts cmd from a thread that is on the server's CPU, which the
// process inherits; its GOMAXPROCS follows.
func startPinned(cmd *exec.Cmd, cpu cpus) error {
	if !cpu.pinned {
		return cmd.Start()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pinThread(cpu.server)
	defer pinThread(cpu.load)
	return cmd.Start()
}

// ready waits until the server accepts a connection: by then it has bound UDP too.
func (s *server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.addr.String())
		if err == nil {
			return conn.Close()
		}
		select {
		case <-s.exited:
			return s.dead()
		case <-ctx.Done():
			return fmt.Errorf("%s: not ready: %w", s.name, context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// dead returns the error that says why the process has ended.
func (s *server) dead() error {
	out, _ := os.ReadFile(s.log)
	return fmt.Errorf("%s: %v: %s", s.name, s.cmd.ProcessState, bytes.TrimSpace(out[max(len(out)-2000, 0):]))
}

// check returns an error if the process has ended.
func (s *server) check() error {
	select {
	case <-s.exited:
		return s.dead()
	default:
		return nil
	}
}

// stop ends the process, and waits until it has ended.
func (s *server) stop() {
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
	case <-time.After(stopTimeout):
		s.cmd.Process.Kill()
		<-s.exited
	}
}

// cpuReading is the CPU time that a process has used.
type cpuReading time.Duration

func (r cpuReading) since(before cpuReading) time.Duration { return time.Duration(r - before) }

// cpuTime reads the CPU-time clock of the process, in all its threads, in user
// and kernel mode, to the nanosecond (clock_getcpuclockid(3)).
func (s *server) cpuTime() cpuReading {
	const schedClock = 2
	return readClock(int32(^s.cmd.Process.Pid)<<3 | schedClock)
}

// threadCPU reads the CPU time of the calling thread.
func threadCPU() cpuReading { return readClock(unix.CLOCK_THREAD_CPUTIME_ID) }

func readClock(clock int32) cpuReading {
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0
	}
	return cpuReading(ts.Nano())
}

// resetPeak makes peak begin anew at what is resident now (proc(5), clear_refs).
func (s *server) resetPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", s.cmd.Process.Pid), []byte("5"), 0)
}

// memory returns the resident memory, and its peak, in bytes.
func (s *server) memory() (now, peak int64, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, 0, err
	}
	now, peak = statusKB(status, "VmRSS:"), statusKB(status, "VmHWM:")
	if now == 0 || peak == 0 {
		return 0, 0, errors.New("no VmRSS or VmHWM in /proc/PID/status")
	}
	return now, peak, nil
}

// statusKB returns the value of a line such as "VmRSS:  1234 kB", in bytes.
func statusKB(status []byte, key string) int64 {
	for line := range bytes.Lines(status) {
		if f := bytes.Fields(line); len(f) == 3 && string(f[0]) == key {
			n, _ := strconv.ParseInt(string(f[1]), 10, 64)
			return n << 10
		}
	}
	return 0
}
