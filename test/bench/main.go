//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// bench is one run: what was asked for, and what was measured.
type bench struct {
	only       []string // measurements; empty: all
	rounds     int
	duration   time.Duration // of one measurement
	warm       time.Duration // before it
	settle     time.Duration // of a fault, before it counts as settled
	smoke      bool
	sleep      bool
	plugin     string // the directive in dnsguard's place
	binary     string
	cpuProfile string

	dir     string
	cpus    cpus
	json    io.Writer // may be nil
	samples samples
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	b, jsonPath, err := parseFlags()
	if err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if b.dir, err = os.MkdirTemp("", "dnsguard-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if jsonPath != "" {
		f, err := os.Create(jsonPath)
		if err != nil {
			return err
		}
		defer f.Close()
		b.json = f
	}
	if err := b.build(ctx); err != nil {
		return err
	}
	if b.cpus, err = chooseCPUs(); err != nil {
		return err
	}
	if !b.cpus.pinned {
		fmt.Fprintln(os.Stderr, "bench: one CPU only: nothing is pinned, and the figures mean little")
	}
	if err := b.measure(ctx); err != nil {
		return err
	}
	b.describe(ctx, os.Stdout)
	report(os.Stdout, b.samples)
	return nil
}

func parseFlags() (*bench, string, error) {
	b := new(bench)
	var only, jsonPath string
	flag.StringVar(&only, "only", "", "comma-separated `NAMES` of what to measure: "+strings.Join(names(), ", "))
	flag.IntVar(&b.rounds, "rounds", 3, "interleaved rounds of the cost part; medians are reported")
	flag.DurationVar(&b.duration, "duration", 10*time.Second, "of one measurement")
	flag.DurationVar(&b.settle, "settle", 3*time.Second, "how long a fault has before it counts as settled")
	flag.BoolVar(&b.smoke, "smoke", false, "one round, 2 s a measurement; fails unless every server answers")
	flag.BoolVar(&b.sleep, "sleep", false, "let the load sleep between packets instead of spinning")
	flag.StringVar(&b.plugin, "plugin", string(guard), "the `PLUGIN` to measure beside forward; forward itself shows the noise")
	flag.StringVar(&b.binary, "binary", "", "`PATH` of a CoreDNS binary to measure, instead of building ./cmd/coredns")
	flag.StringVar(&b.cpuProfile, "cpuprofile", "", "save a CPU profile of dnsguard at saturation to this `FILE`")
	flag.StringVar(&jsonPath, "json", "", "write one line of JSON per measurement to this `FILE`")
	flag.Parse()
	if flag.NArg() > 0 {
		return nil, "", fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	if only != "" {
		b.only = strings.Split(only, ",")
	}
	for _, name := range b.only {
		if !slices.Contains(names(), name) {
			return nil, "", fmt.Errorf("only = %q; must be among %s", name, strings.Join(names(), ", "))
		}
	}
	b.warm = 500 * time.Millisecond
	if b.smoke {
		b.rounds, b.duration, b.settle, b.warm = 1, 2*time.Second, 500*time.Millisecond, 200*time.Millisecond
	}
	if b.rounds < 1 || b.duration <= 0 || b.settle <= 0 {
		return nil, "", errors.New("rounds, duration and settle must be more than 0")
	}
	return b, jsonPath, nil
}

// names returns what -only may name.
func names() []string {
	all := []string{"saturation", "rate", "inflight", "allocs", "faults"}
	for _, s := range scenarios {
		all = append(all, s.name)
	}
	return all
}

// selected reports whether name is to be measured.
func (b *bench) selected(name string) bool {
	return len(b.only) == 0 || slices.Contains(b.only, name)
}

// directive returns the plugin that k stands for.
func (b *bench) directive(k kind) string {
	if k == guard {
		return b.plugin
	}
	return string(k)
}

// build builds the binary, unless there is one.
func (b *bench) build(ctx context.Context) (err error) {
	if b.binary != "" {
		b.binary, err = filepath.Abs(b.binary)
		return err
	}
	b.binary = filepath.Join(b.dir, "coredns")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", b.binary, "github.com/dnsguard/dnsguard/cmd/coredns")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build ./cmd/coredns: %w", err)
	}
	return nil
}

// measure makes all measurements.
func (b *bench) measure(ctx context.Context) error {
	loopback := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)
	cpu := -1
	if b.cpus.pinned {
		cpu = b.cpus.load
	}
	e, err := newEngine([]netip.AddrPort{loopback, loopback}, cpu, b.sleep)
	if err != nil {
		return err
	}
	err = (&costs{bench: b, engine: e}).run(ctx)
	e.close() // before the faults, which have upstreams of their own
	if err != nil {
		return err
	}
	return b.faults(ctx)
}

// add keeps a sample, and tells of it.
func (b *bench) add(s sample) error {
	b.samples = append(b.samples, s)
	fmt.Fprintln(os.Stderr, s.line())
	if b.smoke && s.Queries == s.Errors {
		return fmt.Errorf("%s: %s answered none of %d queries", s.Measurement, s.Server, s.Queries)
	}
	if b.json == nil {
		return nil
	}
	return s.writeJSON(b.json)
}
