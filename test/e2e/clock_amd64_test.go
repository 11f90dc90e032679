package e2e

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A process asks the kernel for the time by way of code that is mapped into
// it, the vDSO. In a process of ours that code can be replaced, and with it
// the clock on the wall that this process sees, and no other.

// jumpClock makes the clock on the wall go ahead of the true one by d, for
// this server alone; the monotonic clock goes on as it is.
func (s *server) jumpClock(d time.Duration) {
	s.t.Helper()
	err := s.setClock(d)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EIO) {
		s.t.Logf("clock of %s: the kernel does not let us: %v", s.name, err)
		return
	}
	if err != nil {
		s.t.Errorf("clock of %s: %v", s.name, err)
		return
	}
	resp, err := s.client.Get("http://" + s.host.addrPort(9153) + "/metrics")
	if err != nil {
		s.t.Error(err)
		return
	}
	resp.Body.Close()
	at, err := http.ParseTime(resp.Header.Get("Date"))
	if ahead := time.Until(at); err != nil || (ahead-d).Abs() > 10*time.Second {
		s.t.Errorf("the clock of %s is %v ahead, want %v (%v)", s.name, ahead, d, err)
	}
}

func (s *server) setClock(d time.Duration) error {
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", s.pid()), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer mem.Close()
	from, to, err := s.vdso()
	if err != nil {
		return err
	}
	image := make([]byte, to-from)
	if _, err := mem.ReadAt(image, int64(from)); err != nil {
		return err
	}
	at, err := symbol(image, "__vdso_clock_gettime")
	if err != nil {
		return err
	}
	// The true time from the kernel, and d added to the seconds of CLOCK_REALTIME.
	code := []byte{
		0xb8, byte(syscall.SYS_CLOCK_GETTIME), 0, 0, 0, // mov eax, SYS_clock_gettime
		0x0f, 0x05, // syscall
		0x85, 0xff, // test edi, edi
		0x75, 0x07, // jne over the next one
		0x48, 0x81, 0x06, 0, 0, 0, 0, // add qword [rsi], seconds
		0xc3, // ret
	}
	binary.LittleEndian.PutUint32(code[14:], uint32(int32(d/time.Second)))
	return s.stopped(func() (bool, error) {
		inside, err := s.inside(from, to)
		if err != nil || inside {
			return false, err
		}
		_, err = mem.WriteAt(code, int64(from+at))
		return true, err
	})
}

// vdso finds where that code is.
func (s *server) vdso() (from, to uint64, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", s.pid()))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(maps)) {
		if strings.Contains(line, "[vdso]") {
			_, err = fmt.Sscanf(line, "%x-%x", &from, &to)
			return from, to, err
		}
	}
	return 0, 0, errors.New("no vDSO")
}

func symbol(image []byte, name string) (uint64, error) {
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return 0, err
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return 0, err
	}
	for _, s := range symbols {
		if s.Name == name {
			return s.Value, nil
		}
	}
	return 0, fmt.Errorf("the vDSO has no %s", name)
}

// stopped calls f while the process is stopped, until it reports that it is done.
func (s *server) stopped(f func() (bool, error)) error {
	for range 100 {
		if err := syscall.Kill(s.pid(), syscall.SIGSTOP); err != nil {
			return err
		}
		done, err := f()
		if err := syscall.Kill(s.pid(), syscall.SIGCONT); err != nil {
			return err
		}
		if done || err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return errors.New("it is always asking for the time")
}

// inside reports whether a thread of the process runs, or was stopped
// within those addresses.
func (s *server) inside(from, to uint64) (bool, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", s.pid()))
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return false, err
		}
		fields := strings.Fields(string(text))
		pc, err := strconv.ParseUint(fields[len(fields)-1], 0, 64)
		if err != nil { // "running": the signal has not reached it yet
			return true, nil
		}
		if pc >= from && pc < to {
			return true, nil
		}
	}
	return false, err
}
