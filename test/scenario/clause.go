package scenario

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/test/fakedns"
)

// clause is one expectation: QUANTITY [ARGUMENT] [of ADDR] [zone Z] OP BOUND.
type clause struct {
	text     string
	quantity string
	argument string // of state, metric and log
	of       string // an upstream
	zone     string
	op       string // <=, >= or =
	bound    bound
}

// bound is what a quantity is held against: a word, or
// number + healthy x the same quantity of the healthy run.
type bound struct {
	word    string
	number  float64 // durations in seconds, shares from 0 to 1
	healthy float64
}

func parseClauses(text string) (out []clause, err error) {
	for part := range strings.SplitSeq(text, ", ") {
		c, err := parseClause(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

func parseClause(text string) (clause, error) {
	c := clause{text: text}
	if text == "right" {
		c.quantity, c.op, c.bound.number = "right", "=", 1
		return c, nil
	}
	fields := strings.Fields(text)
	i := slices.IndexFunc(fields, func(w string) bool { return w == "<=" || w == ">=" || w == "=" })
	if i < 1 || i == len(fields)-1 {
		return c, fmt.Errorf("expect %q: must be QUANTITY <=, >= or = BOUND", text)
	}
	c.op = fields[i]
	w := &words{list: fields[:i]}
	c.quantity = w.next()
	kind, ok := quantities[c.quantity]
	if !ok {
		return c, fmt.Errorf("expect %q: unknown quantity %q", text, c.quantity)
	}
	for !w.done() {
		switch word := w.next(); {
		case word == "of" && kind.perServer:
			c.of = w.next()
		case word == "zone":
			c.zone = dns.Fqdn(w.next())
		case kind.argument && c.argument == "":
			c.argument = word
		default:
			return c, fmt.Errorf("expect %q: unexpected %q", text, word)
		}
	}
	if kind.argument && c.argument == "" {
		return c, fmt.Errorf("expect %q: %s needs an argument", text, c.quantity)
	}
	var err error
	c.bound, err = parseBound(fields[i+1:], kind.word)
	if err != nil {
		return c, fmt.Errorf("expect %q: %w", text, err)
	}
	if kind.word != (c.bound.word != "") || kind.word && c.op != "=" {
		return c, fmt.Errorf("expect %q: %s cannot be compared so", text, c.quantity)
	}
	return c, nil
}

// parseBound reads a word, or a sum of VALUE, [FACTOR] healthy.
func parseBound(fields []string, word bool) (b bound, err error) {
	if word {
		return bound{word: strings.Join(fields, " ")}, nil
	}
	for i := 0; i < len(fields); i++ {
		if fields[i] == "+" {
			continue
		}
		if fields[i] == "healthy" {
			b.healthy++
			continue
		}
		x, err := parseValue(fields[i])
		if err != nil {
			return b, err
		}
		if i+1 < len(fields) && fields[i+1] == "healthy" {
			b.healthy += x
			i++
			continue
		}
		b.number += x
	}
	return b, nil
}

// parseValue reads a duration (in seconds then), a percentage or a number.
func parseValue(text string) (float64, error) {
	if d, err := time.ParseDuration(text); err == nil {
		return d.Seconds(), nil
	}
	if strings.HasSuffix(text, "%") {
		return fakedns.ParseShare(text)
	}
	x, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, fmt.Errorf("%q: must be a number, a share or a duration", text)
	}
	return x, nil
}

// holds reports whether the value keeps the bound; base is the healthy value.
// A millionth is forgiven, for floating point's sake.
func (c *clause) holds(value, base float64) bool {
	limit := c.bound.number + c.bound.healthy*base
	slack := 1e-6*limit + 1e-12
	switch c.op {
	case "<=":
		return value <= limit+slack
	case ">=":
		return value >= limit-slack
	default:
		return value >= limit-slack && value <= limit+slack
	}
}
