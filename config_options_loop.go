package dnsguard

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/coredns/coredns/plugin"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
	"github.com/dnsguard/dnsguard/plugin/loopguard"
)

const loopArgs = "on | loop off | loop [key FILE] [group NAME] [interval DURATION] [suffix NAME...]"

// loopKeyLeast is the fewest octets that a key may have.
const loopKeyLeast = 16

// loopParts are what a line of loop may consist of. Never written to.
var loopParts = []string{"key", "group", "interval", "suffix"}

// setLoop reads one line of the option. Lines add up; each part may be given
// once, and off goes with nothing else.
func setLoop(s *stanza, args []string) error {
	if s.Loop.Off {
		return errors.New("off: cannot be given together with another line of loop")
	}
	if word := args[0]; word == "on" || word == "off" {
		switch {
		case len(args) > 1:
			return fmt.Errorf("%s: found %s; usage: loop %s", word, counted(len(args)-1), word)
		case word == "off" && s.given["loop"] != 0:
			return errors.New("off: cannot be given together with another line of loop")
		}
		s.Loop.Off = word == "off"
		return nil
	}
	for len(args) > 0 {
		end := 1
		for end < len(args) && !slices.Contains(loopParts, args[end]) {
			end++
		}
		if err := s.checkLoopPart(args[0], args[1:end]); err != nil {
			return err
		}
		if err := s.setLoopPart(args[0], args[1:end]); err != nil {
			return fmt.Errorf("%s %w", args[0], err)
		}
		args = args[end:]
	}
	return nil
}

// checkLoopPart sees whether there is such a part, with so many values, and for the first time.
func (s *stanza) checkLoopPart(part string, values []string) error {
	switch {
	case !slices.Contains(loopParts, part):
		return badValue(part, "on, off, or key FILE, group NAME, interval DURATION, suffix NAME...")
	case len(values) == 0:
		return fmt.Errorf("%s: found no argument", part)
	case len(values) > 1 && part != "suffix":
		return fmt.Errorf("%s: found %s; usage: loop %s", part, counted(len(values)), loopArgs[len("on | loop off | loop "):])
	case s.givenLoop(part):
		return fmt.Errorf("%s: given twice", part)
	}
	return nil
}

// givenLoop reports whether a part has been given.
func (s *stanza) givenLoop(part string) bool {
	l := &s.Loop
	return part == "key" && l.Key != nil || part == "group" && l.Group != "" || part == "interval" && l.Interval != 0 || part == "suffix" && l.Suffixes != nil
}

func (s *stanza) setLoopPart(part string, values []string) (err error) {
	l := &s.Loop
	switch part {
	case "key":
		l.Key, err = s.loopKey(values[0])
	case "group":
		if l.Group = values[0]; l.Group == "" {
			return badValue(l.Group, "a name")
		}
	case "interval":
		l.Interval, err = parseDuration(values[0], spanLoopInterval)
	default:
		for _, v := range values {
			if _, ok := dns.IsDomainName(v); !ok {
				return badValue(v, "a domain name")
			}
			l.Suffixes = append(l.Suffixes, plugin.Name(v).Normalize())
		}
	}
	return err
}

// loopKey reads a key. White space around it, such as the end of the last line, is no part of it.
func (s *stanza) loopKey(file string) ([]byte, error) {
	path := file
	if !filepath.IsAbs(path) && s.root != "" {
		path = filepath.Join(s.root, path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", file, err)
	}
	if text = bytes.TrimSpace(text); len(text) < loopKeyLeast {
		return nil, badValue(file, fmt.Sprintf("a file with %d octets or more", loopKeyLeast))
	}
	return text, nil
}

// validateLoop sees whether probes can be made, and take the way of queries.
func (c *Config) validateLoop() error {
	l := &c.Loop
	if !spanLoopInterval.holds(l.Interval) {
		return fmt.Errorf("loop interval %w", badValue(l.Interval.String(), spanLoopInterval.want))
	}
	for _, name := range l.Suffixes {
		switch {
		case !dnsmsg.Within(name, c.From):
			return fmt.Errorf("loop suffix %w", badValue(name, "a name in "+c.From))
		case within(name, c.Except):
			return fmt.Errorf("loop suffix %w", badValue(name, "a name in no zone of except"))
		case !loopguard.Fits(name), !loopguard.Fits(probeSuffix(name)):
			return fmt.Errorf("loop suffix %w", badValue(name, "a name of at most 190 octets, and not the root"))
		}
	}
	return nil
}

// setLoopDefaults completes the option loop. The names are ones that nobody has:
// internal. is for private use, and empty.as112.arpa. is a sink for such queries
// (RFC 7535). Other zones get names of their own, which take their way.
func (c *Config) setLoopDefaults() {
	c.Loop.Interval = cmp.Or(c.Loop.Interval, time.Minute)
	if c.Loop.Suffixes != nil {
		return
	}
	names := []string{loopSink, loopInternal, loopLabels}
	top := c.From // of the names that get here
	if c.zone != "" && dnsmsg.Within(c.zone, top) {
		top = c.zone
	}
	if top != "." {
		names = []string{loopLabels + top}
	}
	for _, name := range names {
		last := name == loopLabels // where there is nothing else
		if loopguard.Fits(name) && !within(name, c.Except) && (!last || c.Loop.Suffixes == nil) {
			c.Loop.Suffixes = append(c.Loop.Suffixes, name)
		}
	}
}

func within(name string, zones []string) bool {
	return slices.ContainsFunc(zones, func(zone string) bool { return dnsmsg.Within(name, zone) })
}

// loopLabels are before each name that probes are below: all names below them are
// for probes, and nobody else has such.
const loopLabels = "loop.dnsguard."

// probeSuffix returns what the names of probes end in, of a name that is given
// for that.
func probeSuffix(name string) string {
	if strings.HasPrefix(name, loopLabels) {
		return name
	}
	return loopLabels + name
}

const loopSink = loopLabels + "empty.as112.arpa."

// loopInternal is a name that may well have a way of its own, unlike most: only
// where the others say nothing does it count.
const loopInternal = loopLabels + "internal."
