package test

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
)

// levels is the order of the packages: each may import those of a strictly lower level only. Level 0 are the leaves.
// A directory that is not listed has the level of the directory above it that is (top), except below plugin/, where each package is listed.
var levels = map[string]int{
	"plugin/outcome":   0,
	"plugin/dnsmsg":    0,
	"plugin/race":      0,
	"plugin/loopguard": 0,
	"plugin/recovery":  0,

	"plugin/exchange":   1,
	"plugin/zones":      1,
	"plugin/resolvconf": 1,

	"plugin/upstream": 2,

	"plugin/selector": 3,
	"plugin/probe":    3,

	"plugin/forwarder": 4,
	"plugin/observe":   4,

	"plugin/explain": 5,
	"plugin/mesh":    5,
	"plugin/metrics": 5,
	"plugin/status":  5,

	"": 6, // the root package

	"cmd": 7,

	"test": 8,
}

// restricted are the imports that only some packages or files may have. Tests, and what is below test/, may import anything.
var restricted = []struct {
	prefix string   // of the import path
	except []string // directories (the root is "") and files that may
	why    string
}{
	{"github.com/coredns/", []string{"", "cmd", "plugin/exchange/doh.go", "plugin/exchange/doq.go"}, "CoreDNS and Caddy are for the root package and cmd"},
	{"github.com/prometheus/client_golang", []string{"plugin/metrics"}, "only plugin/metrics uses client_golang"},
	{"k8s.io/", []string{"plugin/mesh"}, "only plugin/mesh uses client-go"},
	{"math/rand", []string{}, "use math/rand/v2, or crypto/rand where it must not be guessed"},
	{"github.com/dnsguard/dnsguard/test", []string{}, "test/ is for tests"},
}

// catchAlls are package names that say nothing about what is in them.
var catchAlls = []string{"util", "utils", "common", "helper", "helpers", "misc"}

func TestLayers(t *testing.T)            { check(t, brokenLayers) }
func TestRestrictedImports(t *testing.T) { check(t, restrictedImports) }
func TestPlaces(t *testing.T)            { check(t, misplacedFiles) }

// levelOf returns the level of a package; false: the table does not say.
func levelOf(pkg string) (int, bool) {
	if level, ok := levels[pkg]; ok {
		return level, true
	}
	if top, _, below := strings.Cut(pkg, "/"); below && top != "plugin" {
		level, ok := levels[top]
		return level, ok
	}
	return 0, false
}

// ownPackage returns the directory of an import path of this module; false: another module's.
func ownPackage(importPath string) (string, bool) {
	if importPath == modulePath {
		return "", true
	}
	return strings.CutPrefix(importPath, modulePath+"/")
}

// brokenLayers finds imports within the module that go up or sideways, and packages that have no level. What is below test/ has no order of
// its own, and _test.go files none at all: the compiler stops them from going in circles.
func brokenLayers(files []*goFile) []string {
	var breaches []string
	for _, f := range files {
		from, ok := levelOf(f.pkg())
		if !ok {
			breaches = append(breaches, fmt.Sprintf("%s: package %s has no level: put it into the table in test/arch_test.go", f.path, f.pkg()))
			continue
		}
		if f.isTest() || inside(f.pkg(), "test") {
			continue
		}
		for _, importPath := range slices.Sorted(maps.Keys(f.imports)) {
			pkg, own := ownPackage(importPath)
			if !own {
				continue
			}
			to, ok := levelOf(pkg)
			if !ok || to >= from {
				breaches = append(breaches, fmt.Sprintf("%s (level %d) imports %s (level %d): only lower levels may be imported", f.path, from, importPath, to))
			}
		}
	}
	return breaches
}

// restrictedImports finds imports that the table above keeps to a few.
func restrictedImports(files []*goFile) []string {
	var breaches []string
	for _, f := range files {
		if f.isTest() || inside(f.pkg(), "test") {
			continue
		}
		for _, importPath := range slices.Sorted(maps.Keys(f.imports)) {
			for _, r := range restricted {
				if !matches(importPath, r.prefix) || allows(r.except, f) {
					continue
				}
				breaches = append(breaches, fmt.Sprintf("%s imports %s: %s", f.path, importPath, r.why))
			}
		}
	}
	return breaches
}

// matches says whether an import path is prefix or below it; math/rand/v2 is not below math/rand.
func matches(importPath, prefix string) bool {
	return inside(importPath, strings.TrimSuffix(prefix, "/")) && !strings.HasSuffix(importPath, "/v2")
}

// allows says whether a file is one of the exceptions.
func allows(except []string, f *goFile) bool {
	return slices.ContainsFunc(except, func(e string) bool {
		if e == "" {
			return f.pkg() == ""
		}
		return e == f.path || inside(f.pkg(), e)
	})
}

// misplacedFiles finds files directly in plugin/, and packages whose name or directory says nothing.
func misplacedFiles(files []*goFile) []string {
	var breaches []string
	for _, f := range files {
		if f.pkg() == "plugin" {
			breaches = append(breaches, f.path+": no Go file may be directly in plugin/")
		}
		name := strings.TrimSuffix(f.syntax.Name.Name, "_test")
		if slices.Contains(catchAlls, name) || slices.Contains(catchAlls, path.Base(f.pkg())) {
			breaches = append(breaches, f.path+": a package is named after what it is for, not "+name)
		}
	}
	return breaches
}

func TestBrokenLayersSees(t *testing.T) {
	checkCases(t, brokenLayers, []ruleCase{
		{"down", importing(t, "plugin/upstream/a.go", modulePath+"/plugin/outcome", modulePath+"/plugin/exchange"), ""},
		{"from the root", importing(t, "a.go", modulePath+"/plugin/status"), ""},
		{"from a command", importing(t, "cmd/coredns/a.go", modulePath), ""},
		{"others' packages", importing(t, "plugin/outcome/a.go", "errors", "example.org/x"), ""},
		{"tests may", importing(t, "plugin/outcome/a_test.go", modulePath+"/test/fakedns"), ""},
		{"test to test", importing(t, "test/bench/a.go", modulePath+"/test/fakedns"), ""},
		{"up", importing(t, "plugin/exchange/a.go", modulePath+"/plugin/forwarder"), "plugin/exchange/a.go (level 1) imports"},
		{"sideways", importing(t, "plugin/zones/a.go", modulePath+"/plugin/exchange"), "(level 1)"},
		{"a leaf", importing(t, "plugin/race/a.go", modulePath+"/plugin/outcome"), "plugin/race/a.go"},
		{"the root", importing(t, "plugin/status/a.go", modulePath), "plugin/status/a.go"},
		{"a test package", importing(t, "dnsguard.go", modulePath+"/test/fakedns"), "dnsguard.go (level 6)"},
		{"without a level", importing(t, "plugin/novel/a.go"), "plugin/novel has no level"},
		{"below a package", importing(t, "plugin/exchange/quic/a.go"), "plugin/exchange/quic has no level"},
		{"a new top", importing(t, "pkg/a.go"), "pkg has no level"},
	})
}

func TestRestrictedImportsSees(t *testing.T) {
	const caddy, core = "github.com/coredns/caddy", "github.com/coredns/coredns/plugin/pkg/doh"
	checkCases(t, restrictedImports, []ruleCase{
		{"root", importing(t, "setup.go", caddy, core), ""},
		{"command", importing(t, "cmd/coredns/main.go", core), ""},
		{"DoH", importing(t, "plugin/exchange/doh.go", core), ""},
		{"a test", importing(t, "plugin/exchange/udp_test.go", core), ""},
		{"test code", importing(t, "test/e2e/lab.go", core, "k8s.io/client-go/rest"), ""},
		{"rand/v2", importing(t, "plugin/selector/p2c.go", "math/rand/v2"), ""},
		{"metrics", importing(t, "plugin/metrics/a.go", "github.com/prometheus/client_golang/prometheus"), ""},
		{"mesh", importing(t, "plugin/mesh/a.go", "k8s.io/client-go/informers"), ""},
		{"CoreDNS", importing(t, "plugin/exchange/udp.go", core), "plugin/exchange/udp.go imports " + core},
		{"Caddy", importing(t, "plugin/status/page.go", caddy), "CoreDNS and Caddy"},
		{"client_golang", importing(t, "dnsguard.go", "github.com/prometheus/client_golang/prometheus"), "only plugin/metrics"},
		{"client-go", importing(t, "setup.go", "k8s.io/client-go/kubernetes"), "only plugin/mesh"},
		{"rand", importing(t, "plugin/selector/p2c.go", "math/rand"), "math/rand/v2"},
		{"fakes", importing(t, "health.go", modulePath+"/test/fakedns"), "test/ is for tests"},
	})
}

func TestMisplacedFilesSees(t *testing.T) {
	checkCases(t, misplacedFiles, []ruleCase{
		{"in its place", source(t, "plugin/race/a.go", "package race"), ""},
		{"directly in plugin", source(t, "plugin/a.go", "package plugin"), "directly in plugin/"},
		{"directory", source(t, "plugin/util/a.go", "package thing"), "plugin/util/a.go"},
		{"name", source(t, "plugin/thing/a.go", "package helpers"), "not helpers"},
		{"of a test", source(t, "plugin/thing/a_test.go", "package common_test"), "not common"},
	})
}
