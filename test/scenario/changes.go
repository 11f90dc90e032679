package scenario

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// change is a section NAME@TIME [HOW]: a file, the Corefile or the addresses of
// host names, as they are from then on.
type change struct {
	name string
	at   time.Duration // 0: from the start
	how  string        // "", "rename" or "remove"
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
	case len(fields) == 2 && (fields[1] == "rename" || fields[1] == "remove"):
		c.how = fields[1]
	case len(fields) > 1:
		return c, fmt.Errorf("section %q: after the time must come rename, remove or nothing", sec.name)
	}
	return c, nil
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
		return w.reload(strings.ReplaceAll(c.text, "$DIR", w.dir))
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
// wrong, the old one stays.
func (w *world) reload(corefile string) error {
	next, err := newGuard(corefile, w.env)
	if err != nil {
		return err
	}
	old := w.guard()
	if err := next.Inherit(old); err != nil {
		return err
	}
	next.Start()
	w.guards.Store(&next)
	old.Stop()
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
