//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"
)

const (
	// allocRate is the rate, in queries/s, at which allocations are counted:
	// recording them is slow.
	allocRate = 1000
	// sampling is for the GODEBUG of a server whose allocations are counted:
	// one stack per 512 bytes. Every one of them would be too much for the
	// 5 s in which the pprof plugin has to write a profile.
	sampling = "memprofilerate=512"
	// profileTime is how long a CPU profile lasts, for the same reason.
	profileTime = 4 * time.Second
)

// withPprof starts a server of kind k with the pprof plugin, which costs a query nothing.
func (c *costs) withPprof(ctx context.Context, k kind, env ...string) (*server, netip.AddrPort, error) {
	listen, err := freePort()
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	at, err := freePort()
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	s, err := c.launch(ctx, k, corefile{listen: listen, pprof: at}, env...)
	return s, at, err
}

// allocations counts the heap objects that a query costs, from a profile: all
// of them, and those of the plugin.
func (c *costs) allocations(ctx context.Context, k kind) error {
	if !c.selected("allocs") {
		return nil
	}
	s, at, err := c.withPprof(ctx, k, "GODEBUG="+sampling)
	if err != nil {
		return err
	}
	defer s.stop()
	if _, err := c.idle(ctx, s); err != nil {
		return err
	}
	before, err := countAllocs(ctx, at)
	if err != nil {
		return err
	}
	cfg := c.load(s)
	cfg.rate, cfg.warm = allocRate, 0
	m, err := c.do(ctx, s, "allocs", 1, cfg)
	if err != nil {
		return err
	}
	after, err := countAllocs(ctx, at)
	if err != nil {
		return err
	}
	n := float64(max(m.Queries, 1))
	m.Allocs = (after.all - before.all) / n
	m.PluginAllocs = (after.plugin - before.plugin) / n
	return c.add(m)
}

// profileCode is in the names of the functions that make the profile, which
// allocate much.
const profileCode = "net/http."

// allocCount is a number of heap objects, estimated from samples.
type allocCount struct{ all, plugin float64 }

// countAllocs reads the profile of allocations at addr.
func countAllocs(ctx context.Context, addr netip.AddrPort) (allocCount, error) {
	// What the profile shows is up to two collections old.
	for range 2 {
		body, err := get(ctx, fmt.Sprintf("http://%s/debug/pprof/heap?gc=1", addr))
		if err != nil {
			return allocCount{}, err
		}
		body.Close()
	}
	body, err := get(ctx, fmt.Sprintf("http://%s/debug/pprof/allocs?debug=1", addr))
	if err != nil {
		return allocCount{}, err
	}
	defer body.Close()
	return parseAllocs(body)
}

// pluginCode is in the names of the functions of the plugins that are measured.
var pluginCode = []string{
	"coredns/plugin/whoami.", "coredns/plugin/forward.", "coredns/plugin/pkg/proxy.",
	"dnsguard/dnsguard.", "dnsguard/dnsguard/plugin/",
}

// replyCode is in the names of the functions that write a reply to a client:
// the server's work, though a plugin calls it.
const replyCode = "miekg/dns.(*response)."

// parseAllocs reads a profile in the text form of runtime/pprof: a line
// "in-use: bytes [allocated: bytes] @ ..." for each stack, and its functions
// after it, in lines that begin with "#".
func parseAllocs(r io.Reader) (allocCount, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	var c allocCount
	var inUse, inUseBytes, objects, bytes, rate float64
	if lines.Scan() {
		n, _ := fmt.Sscanf(lines.Text(), "heap profile: %f: %f [%f: %f] @ heap/%f", &inUse, &inUseBytes, &objects, &bytes, &rate)
		if n != 5 {
			return c, fmt.Errorf("no profile of the heap: %q", lines.Text())
		}
		rate /= 2 // it is written so
	}
	var count float64 // of the stack that is being read
	var mine, reply, profiling bool
	end := func() {
		if !profiling {
			c.all += count
		}
		if mine && !reply {
			c.plugin += count
		}
		count, mine, reply, profiling = 0, false, false, false
	}
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "# runtime.MemStats") {
			break
		}
		if strings.HasPrefix(line, "#") {
			for _, code := range pluginCode {
				mine = mine || strings.Contains(line, code)
			}
			reply = reply || strings.Contains(line, replyCode)
			profiling = profiling || strings.Contains(line, profileCode)
			continue
		}
		end()
		if n, _ := fmt.Sscanf(line, "%f: %f [%f: %f] @", &inUse, &inUseBytes, &objects, &bytes); n == 4 {
			count = unsample(objects, bytes, rate)
		}
	}
	end()
	return c, lines.Err()
}

// unsample estimates how many objects there were, of which so many with so
// many bytes were sampled at one per rate bytes, as runtime/pprof does for its
// other formats.
func unsample(objects, bytes, rate float64) float64 {
	if objects == 0 || rate <= 1 {
		return objects
	}
	return objects / (1 - math.Exp(-bytes/objects/rate))
}

// profile saves a CPU profile of a saturated dnsguard. It is a run of its own:
// profiling is not free.
func (c *costs) profile(ctx context.Context) error {
	if c.cpuProfile == "" {
		return nil
	}
	s, at, err := c.withPprof(ctx, guard)
	if err != nil {
		return err
	}
	defer s.stop()
	saved := make(chan error, 1)
	go func() {
		url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", at, max(int(min(c.duration, profileTime).Seconds()), 1))
		saved <- save(ctx, url, c.cpuProfile)
	}()
	cfg := c.load(s)
	cfg.outstanding, cfg.timeout = saturating, time.Second
	cfg.measure += time.Second // the profile's end lies within
	if _, err := c.do(ctx, s, "profile", 1, cfg); err != nil {
		return err
	}
	return <-saved
}

func get(ctx context.Context, url string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	return resp.Body, nil
}

func save(ctx context.Context, url, path string) error {
	body, err := get(ctx, url)
	if err != nil {
		return err
	}
	defer body.Close()
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, body); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
