//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// describe writes what a reader has to know of a run to compare it with another.
func (b *bench) describe(ctx context.Context, w io.Writer) {
	version, _ := exec.CommandContext(ctx, b.binary, "-version").Output()
	fmt.Fprintf(w, "%s\n", bytes.ReplaceAll(bytes.TrimSpace(version), []byte("\n"), []byte(", ")))
	var uts unix.Utsname
	unix.Uname(&uts)
	fmt.Fprintf(w, "%s, %d CPUs, Linux %s, %s\n", cpuModel(), runtime.NumCPU(), unix.ByteSliceToString(uts.Release[:]),
		time.Now().UTC().Format(time.DateOnly))
	fmt.Fprintf(w, "%d rounds of %v; server on CPU %d, load on CPU %d", b.rounds, b.duration, b.cpus.server, b.cpus.load)
	if !b.cpus.pinned {
		fmt.Fprint(w, " (not pinned)")
	}
	if b.plugin != string(guard) {
		fmt.Fprintf(w, "; %s in the place of dnsguard", b.plugin)
	}
	fmt.Fprint(w, "\n\n")
}

// cpuModel returns the first model name of /proc/cpuinfo.
func cpuModel() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range bytes.Lines(info) {
		if key, value, ok := bytes.Cut(line, []byte(":")); ok && string(bytes.TrimSpace(key)) == "model name" {
			return string(bytes.TrimSpace(value))
		}
	}
	return runtime.GOARCH
}
