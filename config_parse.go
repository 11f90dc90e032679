package dnsguard

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
)

const usage = "usage: dnsguard FROM TO... [{ OPTIONS }]"

// Parse reads all dnsguard stanzas of a server block, in their order, and
// returns them complete and valid. It opens no sockets and looks nothing up;
// of files it reads those of the tls option, and sees whether those among TO
// can be read. The first mistake ends it: the error begins with the file and
// the line, in Caddy's form, and there is no Config then.
func Parse(c *caddy.Controller) ([]Config, error) {
	var (
		configs []Config
		name    string
	)
	for c.Next() {
		if name == "" {
			name = c.Val()
		}
		if c.Val() != name { // something after the closing brace
			return nil, c.SyntaxErr(name)
		}
		s := stanza{root: dnsserver.GetConfig(c).Root, given: make(map[string]int)}
		if err := s.parse(c); err != nil {
			return nil, err
		}
		configs = append(configs, s.Config)
	}
	return configs, nil
}

// stanza is a directive being read.
type stanza struct {
	root string // directory of relative certificate paths

	Config
	given map[string]int // line on which an option was given first
}

func (s *stanza) parse(c *caddy.Controller) error {
	s.at, s.zone = positionOf(c), dnsserver.GetConfig(c).Zone
	if err := s.parseArgs(c.RemainingArgs()); err != nil {
		return s.at.wrap(err)
	}
	if err := s.parseBlock(c); err != nil {
		return err
	}
	s.setDefaults()
	return s.at.wrap(s.Validate())
}

// parseArgs reads FROM and TO.
func (s *stanza) parseArgs(args []string) error {
	switch {
	case len(args) == 0:
		return errors.New("found no FROM; " + usage)
	case len(args) == 1:
		return errors.New("found no TO; " + usage)
	case len(args)-1 > maxTo:
		return tooManyTo(len(args) - 1)
	}
	zones, err := parseZone(args[0])
	if err != nil {
		return fmt.Errorf("FROM %w", err)
	}
	s.From = zones[0]
	if len(zones) > 1 { // as in forward: a stanza has one zone
		log.Warningf("FROM %q expands to %d zones, of which only %q is forwarded; write a stanza for each", args[0], len(zones), s.From)
	}
	for _, arg := range args[1:] {
		to, err := parseTo(arg)
		if err != nil {
			return fmt.Errorf("TO %w", err)
		}
		s.To = append(s.To, to)
	}
	return nil
}

// parseBlock reads the options between the braces, where there are any. It does
// not use Caddy's NextBlock, for which an option may follow another on its line.
func (s *stanza) parseBlock(c *caddy.Controller) error {
	if !c.NextArg() { // the args ended with the line, not with a brace
		return nil
	}
	for c.Next() {
		if c.Val() == "}" {
			return nil
		}
		at, name := positionOf(c), c.Val()
		args, closed := optionArgs(c)
		if err := s.parseOption(name, args, at.line); err != nil {
			return at.wrap(err)
		}
		if closed {
			return nil
		}
	}
	return positionOf(c).wrap(errors.New(`found the end of the file; must be "}"`))
}

// optionArgs reads the rest of an option's line, and reports whether the block
// ended on it.
func optionArgs(c *caddy.Controller) (args []string, closed bool) {
	for c.NextArg() {
		if c.Val() == "}" {
			return args, true
		}
		args = append(args, c.Val())
	}
	return args, false
}

func (s *stanza) parseOption(name string, args []string, line int) error {
	o, ok := options[name]
	if !ok {
		return unknownOption(name)
	}
	if first, twice := s.given[name]; twice && !o.repeats {
		return fmt.Errorf("%s: given twice, first on line %d", name, first)
	}
	if other, ok := s.given[o.excludes]; ok {
		return fmt.Errorf("%s: cannot be given together with %s (line %d)", name, o.excludes, other)
	}
	if !o.takes(len(args)) {
		return fmt.Errorf("%s: found %s; usage: %s", name, counted(len(args)), strings.TrimSpace(name+" "+o.args))
	}
	if err := o.set(s, args); err != nil {
		return fmt.Errorf("%s %w", name, err)
	}
	s.given[name] = line
	return nil
}

func unknownOption(name string) error {
	known := slices.Sorted(maps.Keys(options))
	hint := ""
	if near := nearest(name, known); near != "" {
		hint = fmt.Sprintf(" (did you mean %q?)", near)
	}
	return fmt.Errorf("unknown option %q%s: must be one of %s", name, hint, strings.Join(known, ", "))
}

func counted(args int) string {
	switch args {
	case 0:
		return "no argument"
	case 1:
		return "1 argument"
	default:
		return fmt.Sprintf("%d arguments", args)
	}
}

// parseZone returns the normalised zone, or the reverse zones of a network.
func parseZone(text string) ([]string, error) {
	zones := plugin.Host(text).NormalizeExact()
	if len(zones) == 0 {
		return nil, badValue(text, "a zone, such as . or example.org, or a network in CIDR notation")
	}
	return zones, nil
}

// position is a place in a Corefile.
type position struct {
	file string
	line int
}

func positionOf(c *caddy.Controller) position { return position{c.File(), c.Line()} }

// wrap gives err the form of Caddy's Errf, for a place that is not the current
// one, and keeps the chain. A nil error stays nil, and the zero position adds nothing.
func (p position) wrap(err error) error {
	if err == nil || p == (position{}) {
		return err
	}
	return fmt.Errorf("%s:%d - Error during parsing: %w", p.file, p.line, err)
}
