package forwardlike

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// page is where the behaviours are listed.
const page = "../../docs/forward-behaviour.md"

// functions returns the names of the tests in a directory.
func functions(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`).FindAllStringSubmatch(string(text), -1) {
			names = append(names, m[1])
		}
	}
	return names
}

// TestPage holds that the tests and scenarios that the page names are there, and that it names all tests of this package.
func TestPage(t *testing.T) {
	content, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	text, known := string(content), make(map[string][]string)
	named := make(map[string]bool)
	for _, m := range regexp.MustCompile("`((?:test|plugin)/\\w+|dnsguard)\\.(Test\\w+)`").FindAllStringSubmatch(text, -1) {
		dir := filepath.Join("../..", strings.TrimPrefix(m[1], "dnsguard"))
		if known[dir] == nil {
			known[dir] = functions(t, dir)
		}
		if !slices.Contains(known[dir], m[2]) {
			t.Errorf("%s: there is no %s.%s", page, m[1], m[2])
		}
		named[m[1]+"."+m[2]] = true
	}
	for _, m := range regexp.MustCompile("scenario `([\\w-]+)`").FindAllStringSubmatch(text, -1) {
		if _, err := os.Stat("../scenario/testdata/" + m[1] + ".txtar"); err != nil {
			t.Errorf("%s: %v", page, err)
		}
	}
	for _, name := range functions(t, ".") {
		if name != "TestPage" && !named["test/forwardlike."+name] {
			t.Errorf("%s does not name %s", page, name)
		}
	}
}
