package scenario

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// change is a section NAME@TIME [HOW]: a file, the Corefile or the addresses of
// host names, as they are from then on.
type change struct {
	name string
	at   time.Duration // 0: from the start
	how  string        // "", "rename" or "remove"; of the Corefile "" or "new"
	of   int           // the replica whose Corefile it is, from 1; 0: all
	text string
}

func parseChange(sec section) (change, error) {
	name, rest, _ := strings.Cut(sec.name, "@")
	c := change{name: strings.TrimSpace(name), text: sec.text}
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return c, nil
	}
	var err error
	c.at, err = time.ParseDuration(fields[0])
	switch {
	case err != nil || c.at <= 0:
		return c, fmt.Errorf("section %q: must be NAME@TIME", sec.name)
	case len(fields) > 1 && c.name == corefileSection:
		return c, c.parseReplica(sec.name, fields[1:])
	case len(fields) == 2 && (fields[1] == "rename" || fields[1] == "remove"):
		c.how = fields[1]
	case len(fields) > 1:
		return c, fmt.Errorf("section %q: after the time must come rename, remove or nothing", sec.name)
	}
	return c, nil
}

// parseReplica reads "2 [new]": which replica has the Corefile, and whether that is a new process.
func (c *change) parseReplica(section string, fields []string) (err error) {
	if c.of, err = strconv.Atoi(fields[0]); err == nil && len(fields) > 1 {
		c.how = fields[1]
	}
	if err != nil || c.of < 1 || len(fields) > 2 || c.how != "" && c.how != "new" {
		return fmt.Errorf("section %q: after the time must come the number of a replica, and new or nothing", section)
	}
	return nil
}

// schedule makes the changes at their times; in a healthy world only those
// that are there from the start.
func (w *world) schedule(changes []change, healthy bool) error {
	for _, c := range changes {
		switch {
		case c.at == 0:
			if err := w.change(c); err != nil {
				return err
			}
		case !healthy:
			time.AfterFunc(time.Until(w.start.Add(c.at)), func() {
				if err := w.change(c); err != nil {
					w.logf("%s at %v: %v", c.name, c.at, err)
				}
			})
		}
	}
	return nil
}

// change makes one.
func (w *world) change(c change) error {
	path := filepath.Join(w.dir, filepath.Base(c.name))
	switch {
	case c.name == corefileSection:
		return w.reload(c)
	case c.name == hostsSection:
		w.hosts.Store(&c.text)
		return nil
	case c.how == "remove":
		return os.Remove(path)
	case c.how == "rename":
		if err := os.WriteFile(path+".new", []byte(c.text), 0o600); err != nil {
			return err
		}
		return os.Rename(path+".new", path)
	}
	return os.WriteFile(path, []byte(c.text), 0o600)
}

// reload is a reload of the Corefile, as Caddy does it: where the new one is
// wrong, the old one stays. A new process knows nothing of the old one.
func (w *world) reload(c change) error {
	old := *w.guards.Load()
	next := slices.Clone(old)
	for i := range old {
		if c.of > 0 && c.of != i+1 {
			continue
		}
		var err error
		if next[i], err = w.newGuard(c.text, strconv.Itoa(i+1)); err != nil {
			return err
		}
		if c.how != "new" {
			if err = next[i].Inherit(old[i]); err != nil {
				return err
			}
		}
		next[i].Start()
	}
	w.guards.Store(&next)
	for i, g := range old {
		if g != next[i] {
			g.Stop()
		}
	}
	return nil
}

var errNoHost = errors.New("no such host")

// lookup finds a host name among the lines "NAME TTL ADDRESS...".
func (w *world) lookup(_ context.Context, host string) ([]netip.Addr, time.Duration, error) {
	text := w.hosts.Load()
	if text == nil {
		return nil, 0, errNoHost
	}
	for line := range strings.Lines(*text) {
		fields := strings.Fields(line)
		if len(fields) < 3 || strings.TrimSuffix(fields[0], ".") != strings.TrimSuffix(host, ".") {
			continue
		}
		ttl, err := time.ParseDuration(fields[1])
		if err != nil {
			return nil, 0, err
		}
		var addrs []netip.Addr
		for _, f := range fields[2:] {
			addr, err := netip.ParseAddr(f)
			if err != nil {
				return nil, 0, err
			}
			addrs = append(addrs, addr)
		}
		return addrs, ttl, nil
	}
	return nil, 0, errNoHost
}
