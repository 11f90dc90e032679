package scenario

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/test/fakedns"
)

// quantity is something that can be expected: a number or a word.
type quantity struct {
	number    func(v view, c *clause) float64
	text      func(v view, c *clause) string
	word      bool
	argument  bool
	perServer bool
	unit      unit
}

type unit int

const (
	plain unit = iota
	share
	span
)

func (q quantity) format(x float64) string {
	switch q.unit {
	case share:
		return fmt.Sprintf("%.4g%%", 100*x)
	case span:
		if math.IsInf(x, 0) {
			return "never"
		}
		return time.Duration(x * float64(time.Second)).Round(time.Microsecond).String()
	}
	return fmt.Sprintf("%.4g", x)
}

// quantities are all there are. README.md describes them. Never written to.
var quantities = map[string]quantity{
	"right":   {unit: share, number: fraction(func(r result) bool { return r.right })},
	"within":  {unit: share, argument: true, number: within},
	"p50":     {unit: span, number: quantile(0.50)},
	"p90":     {unit: span, number: quantile(0.90)},
	"p99":     {unit: span, number: quantile(0.99)},
	"slowest": {unit: span, number: quantile(1)},
	"wrong":   {number: count(func(r result) bool { return !r.right && r.answers > 0 })},
	"silent":  {number: count(func(r result) bool { return r.replies == 0 })},
	"vague":   {number: count(func(r result) bool { return r.rcode == dns.RcodeServerFailure && len(r.ede) == 0 })},
	"queries": {number: count(func(result) bool { return true })},
	"tc":      {unit: share, number: fraction(func(r result) bool { return r.tc })},
	"answers": {number: func(v view, c *clause) float64 { return float64(v.first(c).answers) }},
	"size":    {number: func(v view, c *clause) float64 { return float64(v.first(c).size) }},
	"replies": {number: func(v view, c *clause) float64 { return float64(v.first(c).replies) }},

	"rcode": {word: true, text: func(v view, c *clause) string { return v.each(c, rcodeText) }},
	"ede":   {word: true, text: func(v view, c *clause) string { return v.each(c, edeText) }},

	"sends":       {perServer: true, number: sends},
	"share":       {perServer: true, unit: share, number: sends},
	"sent":        {perServer: true, number: sent},
	"probes":      {perServer: true, number: probes},
	"ports":       {perServer: true, number: func(v view, c *clause) float64 { return float64(len(v.server(c).Stats().Ports)) }},
	"loops":       {perServer: true, number: counted(func(r *fakedns.Record) bool { return r.LoopProbe() })},
	"options":     {perServer: true, number: counted(func(r *fakedns.Record) bool { return len(r.Options) > 0 })},
	"tcp":         {perServer: true, number: overTCP},
	"connections": {perServer: true, number: func(v view, c *clause) float64 { return float64(v.server(c).Stats().Conns) }},

	"state":      {perServer: true, word: true, text: state},
	"metric":     {argument: true, number: metric},
	"log":        {argument: true, number: logged},
	"goroutines": {number: func(view, *clause) float64 { return float64(len(goroutines())) }},
	"sockets":    {number: func(v view, _ *clause) float64 { return float64(len(v.world.net.Open())) }},
}

// selected returns the results that the clause is about.
func (v view) selected(c *clause) []result {
	if c.zone == "" {
		return v.results
	}
	var out []result
	for _, r := range v.results {
		if dns.IsSubDomain(c.zone, r.name) {
			out = append(out, r)
		}
	}
	return out
}

func (v view) first(c *clause) result {
	if rs := v.selected(c); len(rs) > 0 {
		return rs[0]
	}
	return result{}
}

// each returns the text of all results where they agree, else a summary.
func (v view) each(c *clause, text func(result) string) string {
	counts := make(map[string]int)
	for _, r := range v.selected(c) {
		counts[text(r)]++
	}
	var all []string
	for k, n := range counts {
		if len(counts) == 1 {
			return k
		}
		all = append(all, strconv.Itoa(n)+" x "+k)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func rcodeText(r result) string { return dns.RcodeToString[r.rcode] }

func edeText(r result) string {
	if len(r.ede) == 0 {
		return "none"
	}
	var all []string
	for _, e := range r.ede {
		all = append(all, strconv.Itoa(e))
	}
	return strings.Join(all, "+")
}

func count(is func(result) bool) func(view, *clause) float64 {
	return func(v view, c *clause) float64 {
		n := 0
		for _, r := range v.selected(c) {
			if is(r) {
				n++
			}
		}
		return float64(n)
	}
}

func fraction(is func(result) bool) func(view, *clause) float64 {
	return func(v view, c *clause) float64 { return count(is)(v, c) / float64(len(v.selected(c))) }
}

// within is the share of queries that were answered rightly in that time.
func within(v view, c *clause) float64 {
	limit, err := time.ParseDuration(c.argument)
	if err != nil {
		return math.NaN()
	}
	return fraction(func(r result) bool { return r.right && r.took <= limit })(v, c)
}

// quantile is of the time to a reply; a query without a reply took for ever.
func quantile(p float64) func(view, *clause) float64 {
	return func(v view, c *clause) float64 {
		rs := v.selected(c)
		if len(rs) == 0 {
			return math.NaN()
		}
		took := make([]float64, len(rs))
		for i, r := range rs {
			took[i] = r.took.Seconds()
			if r.replies == 0 {
				took[i] = math.Inf(1)
			}
		}
		slices.Sort(took)
		return took[min(int(math.Ceil(p*float64(len(took))))-1, len(took)-1)]
	}
}

// records calls f for each query that servers received in the window.
func (v view) records(c *clause, f func(r *fakedns.Record)) {
	for addr, s := range v.world.servers {
		if c.of != "" && addr != withPort(c.of) {
			continue
		}
		log := s.Log()
		for i := range log {
			r := &log[i]
			if r.At >= v.from && r.At < v.to && (c.zone == "" || dns.IsSubDomain(c.zone, r.Question.Name)) {
				f(r)
			}
		}
	}
}

// server is the one that the clause names.
func (v view) server(c *clause) *fakedns.Server {
	if s, ok := v.world.servers[withPort(c.of)]; ok {
		return s
	}
	return new(fakedns.Server)
}

func withPort(addr string) string {
	if strings.Contains(addr, ":") {
		return addr
	}
	return addr + ":53"
}

// sent is the number of queries that servers received, but for probes.
func sent(v view, c *clause) float64 {
	n := 0
	v.records(c, func(r *fakedns.Record) {
		if !r.Probe() {
			n++
		}
	})
	return float64(n)
}

// sends is sent for each query of a client.
func sends(v view, c *clause) float64 {
	asks := 0
	for _, r := range v.selected(c) {
		asks += r.asks
	}
	return sent(v, c) / float64(asks)
}

func probes(v view, c *clause) float64 {
	n := 0
	v.records(c, func(r *fakedns.Record) {
		if r.Probe() && !r.LoopProbe() {
			n++
		}
	})
	return float64(n)
}

// counted is the number of queries that servers received and something is true of.
func counted(is func(r *fakedns.Record) bool) func(view, *clause) float64 {
	return func(v view, c *clause) float64 {
		n := 0
		v.records(c, func(r *fakedns.Record) {
			if is(r) {
				n++
			}
		})
		return float64(n)
	}
}

func overTCP(v view, c *clause) float64 {
	n := 0
	v.records(c, func(r *fakedns.Record) {
		if r.Proto != fakedns.UDP {
			n++
		}
	})
	return float64(n)
}

// state is that which all replicas say, or their different ones.
func state(v view, c *clause) string {
	var all []string
	for _, g := range *v.world.guards.Load() {
		if s := g.State(withPort(c.of)); !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return strings.Join(all, " and ")
}

// logged counts the lines that contain the argument; * is all.
func logged(v view, c *clause) float64 {
	v.world.mu.Lock()
	defer v.world.mu.Unlock()
	n := 0
	for _, line := range v.world.log {
		if c.argument == "*" || strings.Contains(line, c.argument) {
			n++
		}
	}
	return float64(n)
}
