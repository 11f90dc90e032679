package scenario

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/test/fakedns"
)

// Scenario is a file, read.
type Scenario struct {
	// File is its name, for errors.
	File string
	// Comment says what is shown.
	Comment string
	// Seed changes all draws: those of servers, of clients and of the plugin.
	Seed uint64

	corefile  string
	upstreams []upstream
	host      []fakedns.Fault
	steps     []step
	files     []section         // all other sections
	changes   []change          // of any of them, later
	replicas  int               // of the directive; 0: one
	places    []place           // where an address is another server than elsewhere
	tiers     map[string]string // Corefiles of others that servers relay to, by their names
}

// step is one line of the script.
type step struct {
	where string // file:line
	text  string
	at    time.Duration // when; -1: at once
	do    *work         // nil: nothing but to wait or to look
	from  time.Duration // the window of the expectations
	to    time.Duration // 0: none, the results of the last work count
	want  []clause
}

// work is what clients do in one step.
type work struct {
	rate   float64       // queries a second; 0: count at once
	count  int           // of a query or a herd
	span   time.Duration // of a load
	names  int           // different names of a load
	zones  []string
	name   string // of a query or a herd
	types  []uint16
	absent float64 // share of the names of a load that do not exist

	together float64 // share of the queries of a load that are asked for all types at once
	pods     int     // how many ask each

	client
}

// The sections that are no files.
const (
	corefileSection = "Corefile"
	hostsSection    = "hosts"
)

// Parse reads a scenario.
func Parse(file, text string) (*Scenario, error) {
	s := &Scenario{File: file, tiers: make(map[string]string)}
	var sections []section
	s.Comment, sections = archive(text)
	var errs []error
	for _, sec := range sections {
		var err error
		if tier, ok := strings.CutPrefix(sec.name, corefileSection+" "); ok {
			s.tiers[tier] = sec.text
			continue
		}
		switch sec.name {
		case corefileSection:
			s.corefile = sec.text
		case "upstreams":
			err = sec.lines(file, s.parseUpstream)
		case "script":
			n := sec.line - 1
			for line := range strings.Lines(sec.text) {
				n++
				line, _, _ = strings.Cut(line, "#")
				if line = strings.TrimSpace(line); line == "" {
					continue
				}
				where := fmt.Sprintf("%s:%d", file, n)
				st, e := parseStep(line)
				if e != nil {
					errs = append(errs, fmt.Errorf("%s: %w", where, e))
					continue
				}
				st.where, st.text = where, line
				s.steps = append(s.steps, st)
			}
		default:
			var c change
			if c, err = parseChange(sec); err == nil && c.at == 0 && c.name != hostsSection {
				s.files = append(s.files, sec)
			} else if err == nil {
				s.changes = append(s.changes, c)
			}
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	if s.corefile == "" || len(s.upstreams) == 0 || len(s.steps) == 0 {
		errs = append(errs, fmt.Errorf("%s: needs the sections Corefile, upstreams and script", file))
	}
	for _, st := range s.steps {
		if st.do != nil && st.do.asks != "" && s.tiers[st.do.asks] == "" {
			errs = append(errs, fmt.Errorf("%s: asks %s: there is no such Corefile", st.where, st.do.asks))
		}
	}
	return s, errors.Join(errs...)
}

// relative reports whether a bound speaks of health, so that a healthy run is needed.
func (s *Scenario) relative() bool {
	for _, st := range s.steps {
		for _, c := range st.want {
			if c.bound.healthy != 0 {
				return true
			}
		}
	}
	return false
}

// parseStep reads
//
//	[at T] [during T..T] [query ... | herd ... | load ...] [expect CLAUSE, ...]
func parseStep(line string) (step, error) {
	st := step{at: -1}
	action, wants, expects := strings.Cut(" "+line, " expect ")
	words := &words{list: strings.Fields(action)}
	var err error
	if words.take("at") {
		if st.at, err = words.duration(); err != nil {
			return st, fmt.Errorf("at: %w", err)
		}
	}
	if words.take("during") {
		from, to, ok := strings.Cut(words.next(), "..")
		var errFrom, errTo error
		st.from, errFrom = time.ParseDuration(from)
		st.to, errTo = time.ParseDuration(to)
		if !ok || errFrom != nil || errTo != nil || st.to <= st.from {
			return st, errors.New("during needs a window, as in 2s..20s")
		}
	}
	if !words.done() {
		if st.do, err = parseWork(words); err != nil {
			return st, err
		}
	}
	if expects {
		st.want, err = parseClauses(wants)
	} else if st.do == nil && st.at < 0 {
		err = fmt.Errorf("%q: must be at, during, query, herd, load or expect", line)
	}
	return st, err
}

func parseWork(words *words) (*work, error) {
	w := &work{count: 1, pods: 1, client: client{size: 1232}}
	verb := words.next()
	var err error
	switch verb {
	case "herd":
		if w.count, err = words.number(); err != nil {
			return nil, fmt.Errorf("herd: %w", err)
		}
		fallthrough
	case "query":
		w.name = dns.Fqdn(words.next())
		w.types, err = parseTypes(words.next())
	case "load":
		rate, ok := strings.CutSuffix(words.next(), "/s")
		if w.rate, err = strconv.ParseFloat(rate, 64); err != nil || !ok || w.rate <= 0 {
			return nil, errors.New("load needs a rate, as in 300/s")
		}
		if !words.take("for") {
			return nil, errors.New("load needs a length, as in for 20s")
		}
		w.span, err = words.duration()
		w.names, w.zones, w.types = 1000, []string{"example.com."}, []uint16{dns.TypeA}
	default:
		return nil, fmt.Errorf("unknown word %q: must be query, herd or load", verb)
	}
	for err == nil && !words.done() {
		err = w.option(words)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", verb, err)
	}
	return w, nil
}

// option reads one option of a query, a herd or a load.
func (w *work) option(words *words) (err error) {
	switch word := words.next(); word {
	case "names":
		w.names, err = words.number()
	case "zone":
		w.zones = nil
		for z := range strings.SplitSeq(words.next(), ",") {
			w.zones = append(w.zones, dns.Fqdn(z))
		}
	case "zones":
		n, e := words.number()
		w.zones = nil
		for i := range n {
			w.zones = append(w.zones, fmt.Sprintf("d%d.com.", i))
		}
		err = e
	case "types":
		w.types, err = parseTypes(words.next())
	case "absent":
		w.absent, err = fakedns.ParseShare(words.next())
	case "together":
		w.together, err = fakedns.ParseShare(words.next())
	case "pods":
		w.pods, err = words.number()
	default:
		err = w.client.option(word, words)
	}
	return err
}

func parseTypes(list string) (types []uint16, err error) {
	for t := range strings.SplitSeq(list, ",") {
		code, ok := dns.StringToType[strings.ToUpper(t)]
		if !ok {
			return nil, fmt.Errorf("unknown type %q", t)
		}
		types = append(types, code)
	}
	return types, nil
}
