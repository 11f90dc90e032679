//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// idleWait is how long the engine sleeps at most when it has no load to make.
const idleWait = 5 * time.Millisecond

// engine is the one thread that is the load and the upstreams. Between loads
// it sleeps and answers as an upstream; while it makes a load it spins, so that
// neither its own waking up is measured, nor the server charged with waking it.
type engine struct {
	stubs []*stub
	sleep bool // sleep also while making a load

	ep     int
	events [64]unix.EpollEvent
	job    atomic.Pointer[load]
	stop   atomic.Bool
	ended  chan struct{}
}

// newEngine starts a thread with one stub per address in at, and pins it to cpu.
func newEngine(at []netip.AddrPort, cpu int, sleep bool) (*engine, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	e := &engine{ep: ep, sleep: sleep, ended: make(chan struct{})}
	for _, addr := range at {
		s, err := newStub(addr)
		if err == nil {
			err = e.watch(s.fd, len(e.stubs))
			e.stubs = append(e.stubs, s)
		}
		if err != nil {
			e.release()
			return nil, err
		}
	}
	go func() {
		defer close(e.ended)
		// Never unlocked: the thread ends with its affinity.
		runtime.LockOSThread()
		pinThread(cpu)
		for !e.stop.Load() {
			e.turn()
		}
	}()
	return e, nil
}

// close ends the thread, and waits for it.
func (e *engine) close() {
	e.stop.Store(true)
	<-e.ended
	e.release()
}

func (e *engine) release() {
	for _, s := range e.stubs {
		s.close()
	}
	unix.Close(e.ep)
}

// setDelay sets how long the stubs wait before they reply.
func (e *engine) setDelay(d time.Duration) {
	for _, s := range e.stubs {
		s.delay.Store(int64(d))
	}
}

// do makes the load, and returns when it has ended.
func (e *engine) do(ctx context.Context, cfg loadConfig) (*loadResult, error) {
	l, err := newLoad(cfg)
	if err != nil {
		return nil, err
	}
	defer l.close()
	for i := range l.clients {
		if err := e.watch(l.clients[i].fd, len(e.stubs)+i); err != nil {
			return nil, err
		}
	}
	if !e.job.CompareAndSwap(nil, l) {
		return nil, errors.New("the engine makes a load already")
	}
	select {
	case <-l.done:
	case <-ctx.Done():
		l.cancel.Store(true)
		<-l.done
		return nil, ctx.Err()
	}
	return &l.result, nil
}

func (e *engine) watch(fd, index int) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(index)}
	if err := unix.EpollCtl(e.ep, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

// turn is one turn of the loop.
func (e *engine) turn() {
	l := e.job.Load()
	now := nanotime()
	n := e.wait(e.patience(l, now))
	now = nanotime()
	for i := range n {
		if j := int(e.events[i].Fd); j < len(e.stubs) {
			e.stubs[j].readable(now)
		} else if j -= len(e.stubs); l != nil && j < len(l.clients) {
			l.readable(&l.clients[j], now)
		}
	}
	for _, s := range e.stubs {
		if s.next(now+1) <= now {
			s.flush(now)
		}
	}
	if l != nil && !l.turn(now) {
		e.job.Store(nil)
		close(l.done)
	}
}

// patience returns for how long the engine may sleep.
func (e *engine) patience(l *load, now int64) time.Duration {
	if l != nil && !e.sleep {
		return 0
	}
	until := now + int64(idleWait)
	for _, s := range e.stubs {
		until = min(until, s.next(until))
	}
	if l != nil {
		until = min(until, l.next(until))
	}
	return time.Duration(max(until-now, 0))
}

// wait waits for packets, for up to d, and returns for how many sockets there
// are some. Without a wait it does not tell the scheduler of the system call.
func (e *engine) wait(d time.Duration) int {
	ts := unix.NsecToTimespec(int64(d))
	call := syscall.RawSyscall6
	if d > 0 {
		call = syscall.Syscall6
	}
	n, _, errno := call(unix.SYS_EPOLL_PWAIT2, uintptr(e.ep), uintptr(unsafe.Pointer(&e.events[0])),
		uintptr(len(e.events)), uintptr(unsafe.Pointer(&ts)), 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

var epoch = time.Now()

// nanotime is monotonic.
func nanotime() int64 { return int64(time.Since(epoch)) }
