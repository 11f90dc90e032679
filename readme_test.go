package dnsguard

import (
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/prometheus/client_golang/prometheus"

	_ "github.com/coredns/coredns/plugin/bind" // those that Corefiles of the documentation may use
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/loop"
	_ "github.com/coredns/coredns/plugin/metrics"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
	_ "github.com/coredns/coredns/plugin/rewrite"
	_ "github.com/coredns/coredns/plugin/template"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/metrics"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/selector"
	"github.com/dnsguard/dnsguard/plugin/upstream"
)

const (
	readme     = "README.md"
	migration  = "docs/migration.md"
	monitoring = "docs/monitoring.md"
	install    = "docs/install.md"
)

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// fences returns the contents of the fenced blocks with the info string, by the line that they begin on.
func fences(text, info string) map[int]string {
	found := make(map[int]string)
	var (
		end   string
		begin int
		block strings.Builder
	)
	line := 0
	for l := range strings.Lines(text) {
		line++
		l = strings.TrimRight(l, " \n")
		switch {
		case end == "" && (strings.HasPrefix(l, "```") || strings.HasPrefix(l, "~~~")):
			end, begin = l[:3], 0
			if strings.TrimSpace(l[3:]) == info {
				begin = line
			}
			block.Reset()
		case end != "" && l == end:
			if begin > 0 {
				found[begin] = block.String()
			}
			end = ""
		case end != "":
			block.WriteString(l + "\n")
		}
	}
	return found
}

// section returns what stands below a heading, to the next one of its level.
func section(t *testing.T, text, heading string) string {
	t.Helper()
	_, after, ok := strings.Cut(text, "\n"+heading+"\n")
	if !ok {
		t.Fatalf("no section %q", heading)
	}
	level, _, _ := strings.Cut(heading, " ")
	body, _, _ := strings.Cut(after, "\n"+level+" ")
	return body
}

// registerInOrder makes the plugin a directive of CoreDNS, whose own list does
// not have it, in the place that plugin.cfg gives it.
var registerInOrder = sync.OnceFunc(func() {
	dnsserver.Directives = slices.Insert(slices.Clone(dnsserver.Directives), slices.Index(dnsserver.Directives, "forward"), pluginName)
})

var (
	resolvConf = regexp.MustCompile(`/etc/resolv\.conf`)
	lameduck   = regexp.MustCompile(`lameduck \S+`)
	blockKeys  = regexp.MustCompile(`(?m)^\S.*\{$`)
	keyPort    = regexp.MustCompile(`:\d+`)
	listener   = regexp.MustCompile(`(?m)^( +)(health|ready|prometheus)(?: [^\s{]+)?( \{)?$`)
	ipv4       = regexp.MustCompile(`\b\d+\.\d+\.\d+\.\d+(/\d+)?`)
)

// onLoopback returns a Corefile that listens on ports of the loopback which
// the kernel chooses, and whose upstreams are on the loopback too: 10.0.0.53
// becomes 127.0.0.53. file stands for /etc/resolv.conf. Nothing is waited for
// at the end.
func onLoopback(corefile, file string) string {
	corefile = ipv4.ReplaceAllStringFunc(corefile, func(ip string) string {
		if strings.Contains(ip, "/") {
			return ip
		}
		_, rest, _ := strings.Cut(ip, ".")
		return "127." + rest
	})
	corefile = resolvConf.ReplaceAllString(corefile, file)
	corefile = lameduck.ReplaceAllString(corefile, "lameduck 0s")
	corefile = blockKeys.ReplaceAllStringFunc(corefile, func(keys string) string {
		return keyPort.ReplaceAllString(keys, ":0") + "\n    bind 127.0.0.1"
	})
	return listener.ReplaceAllString(corefile, "$1$2 127.0.0.1:0$3")
}

func TestOnLoopback(t *testing.T) {
	const (
		in = ".:1053 a.example:53 {\n    health\n    ready localhost:8181\n    prometheus :9153\n    health {\n        lameduck 5s\n    }\n    dnsguard . /etc/resolv.conf 10.1.2.3 {\n" +
			"        private_zones 10.0.0.0/8 at 10.1.2.3\n    }\n}\n. {\n}\n"
		want = ".:0 a.example:0 {\n    bind 127.0.0.1\n    health 127.0.0.1:0\n    ready 127.0.0.1:0\n    prometheus 127.0.0.1:0\n    health 127.0.0.1:0 {\n        lameduck 0s\n    }\n" +
			"    dnsguard . FILE 127.1.2.3 {\n        private_zones 10.0.0.0/8 at 127.1.2.3\n    }\n}\n. {\n    bind 127.0.0.1\n}\n"
	)
	if got := onLoopback(in, "FILE"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestCorefilesStart starts each Corefile of the documentation.
func TestCorefilesStart(t *testing.T) {
	registerInOrder()
	port, quiet := dnsserver.Port, dnsserver.Quiet
	dnsserver.Port, dnsserver.Quiet, caddy.Quiet = "0", true, true
	t.Cleanup(func() { dnsserver.Port, dnsserver.Quiet = port, quiet })
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("nameserver 127.0.0.97\nnameserver 127.0.0.98\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, doc := range []string{readme, migration} {
		corefiles := fences(readFile(t, doc), "corefile")
		if len(corefiles) == 0 {
			t.Errorf("%s has no Corefile", doc)
		}
		for _, line := range slices.Sorted(maps.Keys(corefiles)) {
			t.Run(fmt.Sprintf("%s:%d", doc, line), func(t *testing.T) {
				corefile := onLoopback(corefiles[line], file)
				instance, err := caddy.Start(caddy.CaddyfileInput{Filepath: "Corefile", Contents: []byte(corefile), ServerTypeName: "dns"})
				if err != nil {
					t.Fatalf("%v\n%s", err, corefile)
				}
				for _, err := range instance.ShutdownCallbacks() {
					t.Error(err)
				}
				if err := instance.Stop(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestReadmeSections holds the form of CoreDNS's plugins.
func TestReadmeSections(t *testing.T) {
	text, at := readFile(t, readme), 0
	for _, heading := range []string{"Name", "Description", "Syntax", "Examples", "Metrics", "Ready", "Bugs", "See Also"} {
		i := strings.Index(text, "\n## "+heading+"\n")
		if i < at {
			t.Errorf("section %q is missing or not in its place", heading)
		}
		at = max(at, i)
	}
}

// TestReadmeOptions holds that the syntax in the README is the parser's: the
// same options with the same arguments, each explained; and that the migration
// guide has all of them.
func TestReadmeOptions(t *testing.T) {
	text := readFile(t, readme)
	syntax := section(t, text, "## Syntax")
	var usage string
	for _, block := range fences(syntax, "") {
		if _, after, ok := strings.Cut(block, "{\n"); ok {
			usage = strings.TrimSuffix(strings.TrimSpace(after), "}")
		}
	}
	shown := make(map[string]string)
	for l := range strings.Lines(usage) {
		if l = strings.TrimSpace(l); l != "" {
			name, args, _ := strings.Cut(l, " ")
			shown[name] = args
		}
	}
	guide := section(t, readFile(t, migration), "## Option by option")
	for name, o := range options {
		if args, ok := shown[name]; !ok || args != o.args {
			t.Errorf("the syntax in %s says %q of %s, the parser %q", readme, args, name, o.args)
		}
		if !regexp.MustCompile("(?m)^\\* .*`" + name + "`").MatchString(syntax) {
			t.Errorf("%s does not explain %s", readme, name)
		}
		if !strings.Contains(guide, "\n| `"+name+"` |") {
			t.Errorf("%s lacks the option %s", migration, name)
		}
	}
	for name := range shown {
		if _, ok := options[name]; !ok {
			t.Errorf("%s has the option %s, the parser does not", readme, name)
		}
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\|").FindAllStringSubmatch(guide, -1) {
		if _, ok := options[row[1]]; !ok {
			t.Errorf("%s has the option %s, the parser does not", migration, row[1])
		}
	}
	for name := range ednsOptionNames {
		if !strings.Contains(syntax, "`"+name+"`") {
			t.Errorf("%s lacks the EDNS option %s", readme, name)
		}
	}
}

// declared is a Prometheus registry that only takes down what is declared.
type declared map[string]string // labels by name

func (d declared) Register(c prometheus.Collector) error {
	ch := make(chan *prometheus.Desc)
	go func() {
		c.Describe(ch)
		close(ch)
	}()
	for desc := range ch {
		m := regexp.MustCompile(`fqName: "([^"]+)".*variableLabels: \{([^}]*)\}`).FindStringSubmatch(desc.String())
		if m == nil {
			return fmt.Errorf("%s has no name", desc)
		}
		d[m[1]] = strings.ReplaceAll(m[2], ",", ", ")
	}
	return nil
}

func (d declared) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		if err := d.Register(c); err != nil {
			panic(err)
		}
	}
}

func (declared) Unregister(prometheus.Collector) bool { return false }

// TestReadmeMetrics holds that the README lists the metrics that there are,
// with their labels, and that nothing else is called one.
func TestReadmeMetrics(t *testing.T) {
	have := make(declared)
	metrics.New(have, metrics.Options{Namespace: "coredns"})
	text := readFile(t, readme)
	listed := make(map[string]string)
	for _, m := range regexp.MustCompile("(?m)^\\* `(coredns_\\w+)\\{([^}]*)\\}` - ").FindAllStringSubmatch(section(t, text, "## Metrics"), -1) {
		listed[m[1]] = strings.ReplaceAll(m[2], `="dnsguard"`, "")
	}
	if len(have) == 0 || !maps.Equal(listed, have) {
		t.Errorf("%s lists\n%v\nand plugin/metrics declares\n%v", readme, listed, have)
	}
	for _, doc := range []string{readme, migration} {
		for _, name := range regexp.MustCompile(`coredns_dnsguard_\w+`).FindAllString(readFile(t, doc), -1) {
			if _, ok := have[regexp.MustCompile(`_(bucket|count|sum)$`).ReplaceAllString(name, "")]; !ok {
				t.Errorf("%s names %s, which there is not", doc, name)
			}
		}
	}
}

// TestReadmeExplain holds that the README has a line for each key of an
// explanation, and no others, and all words for ranks.
func TestReadmeExplain(t *testing.T) {
	text := section(t, readFile(t, readme), "## Explain")
	files, err := filepath.Glob("plugin/explain/*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	told := make(map[string]bool)
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		for _, m := range regexp.MustCompile(`\bt\.add\("(\w+)"`).FindAllStringSubmatch(readFile(t, f), -1) {
			told[m[1]] = true
		}
	}
	listed := make(map[string]bool)
	for _, row := range regexp.MustCompile("(?m)^\\| ((?:`\\w+`(?:, )?)+) \\|").FindAllStringSubmatch(text, -1) {
		for _, m := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(row[1], -1) {
			listed[m[1]] = true
		}
	}
	if len(told) < 20 || !maps.Equal(listed, told) {
		t.Errorf("%s lists\n%v\nand plugin/explain tells\n%v", readme, slices.Sorted(maps.Keys(listed)), slices.Sorted(maps.Keys(told)))
	}
	for r := selector.Fit; r <= selector.Out; r++ {
		if !strings.Contains(text, "`"+r.String()+"`") {
			t.Errorf("%s lacks the rank %s", readme, r)
		}
	}
}

// TestMigrationMetrics holds that the migration guide has each metric that
// forward and its proxies declare in this version of CoreDNS, with what stands for it.
func TestMigrationMetrics(t *testing.T) {
	u := metrics.OfProcess(metrics.Options{Namespace: plugin.Namespace}).Upstream("192.0.2.1:53")
	defer u.Close()
	u.Attempt(upstream.End{Kind: outcome.OK})
	u.Attempt(upstream.End{Kind: outcome.Timeout, Rcode: -1, Probe: true})
	u.Conn(exchange.TCP, true)
	u.Conn(exchange.TCP, false)
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	guide, n := section(t, readFile(t, migration), "## Metrics"), 0
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "coredns_forward_") && !strings.HasPrefix(f.GetName(), "coredns_proxy_") {
			continue
		}
		n++
		if row := regexp.MustCompile("(?m)^\\| `" + f.GetName() + "[`{].*\\| `coredns_(dnsguard|proxy)_"); !row.MatchString(guide) {
			t.Errorf("%s has no row for %s", migration, f.GetName())
		}
	}
	if n < 6 {
		t.Errorf("%d metrics of forward found", n)
	}
}

// TestLinks holds that what the documentation links to is there: files, and headings of the same or another document.
func TestLinks(t *testing.T) {
	for _, doc := range []string{readme, migration, "docs/install.md", "docs/forward-behaviour.md", "CONTRIBUTING.md", "docs/adr/README.md"} {
		for _, m := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(readFile(t, doc), -1) {
			link, err := url.Parse(m[1])
			if err != nil || link.Scheme != "" {
				continue
			}
			target := doc
			if link.Path != "" {
				target = filepath.Join(filepath.Dir(doc), filepath.FromSlash(link.Path))
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %v", doc, err)
				continue
			}
			if link.Fragment != "" && !slices.Contains(anchors(readFile(t, target)), link.Fragment) {
				t.Errorf("%s: %s has no heading #%s", doc, target, link.Fragment)
			}
		}
	}
}

// anchors returns what the headings of a document are linked by.
func anchors(text string) []string {
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(text, -1) {
		all = append(all, strings.ReplaceAll(regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return all
}
