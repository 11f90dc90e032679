// Package test holds the rules of the house as tests: what may import what, what code does not do, that each package says what it is for.
// Its subdirectories are the fakes, scenarios, end-to-end tests and benchmarks.
package test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const modulePath = "github.com/dnsguard/dnsguard"

// goFile is one Go file of the module, parsed.
type goFile struct {
	path    string            // relative to the module's root, with slashes
	imports map[string]string // import path -> the name that the file calls it by

	fset   *token.FileSet
	syntax *ast.File
}

// pkg returns the directory of the file relative to the module's root; "" for the root.
func (f *goFile) pkg() string {
	if dir := path.Dir(f.path); dir != "." {
		return dir
	}
	return ""
}

// isTest says whether the file is compiled for tests only.
func (f *goFile) isTest() bool { return strings.HasSuffix(f.path, "_test.go") }

// isCommand says whether the file belongs to a program.
func (f *goFile) isCommand() bool { return f.syntax.Name.Name == "main" }

// at is where n stands, for a breach.
func (f *goFile) at(n ast.Node) string {
	return f.path + ":" + strconv.Itoa(f.fset.Position(n.Pos()).Line)
}

// inside says whether the package is dir or below it.
func inside(pkg, dir string) bool { return pkg == dir || strings.HasPrefix(pkg, dir+"/") }

// parseGo parses one file; source nil: reads it below root.
func parseGo(root, name string, source any) (*goFile, error) {
	f := &goFile{path: name, imports: make(map[string]string), fset: token.NewFileSet()}
	var err error
	f.syntax, err = parser.ParseFile(f.fset, filepath.Join(root, filepath.FromSlash(name)), source, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	for _, spec := range f.syntax.Imports {
		importPath, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		called := path.Base(importPath)
		if spec.Name != nil {
			called = spec.Name.Name
		}
		f.imports[importPath] = called
	}
	return f, nil
}

// parseModule parses all Go files below root but those that the go command ignores.
func parseModule(root string) ([]*goFile, error) {
	var files []*goFile
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		switch base := d.Name(); {
		case err != nil:
			return err
		case name == root:
			return nil
		case strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || d.IsDir() && (base == "testdata" || base == "vendor"):
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		case d.IsDir() || filepath.Ext(base) != ".go":
			return nil
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		f, err := parseGo(root, filepath.ToSlash(rel), nil)
		if err == nil {
			files = append(files, f)
		}
		return err
	})
	return files, err
}

var parsedModule = sync.OnceValues(func() ([]*goFile, error) { return parseModule("..") })

// module returns the module's Go files.
func module(t *testing.T) []*goFile {
	t.Helper()
	files, err := parsedModule()
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 10 {
		t.Fatalf("found %d Go files: this test is not where it should be", len(files))
	}
	return files
}

// source makes the files that tables feed to rules, from name and source in turn.
func source(t *testing.T, nameAndSource ...string) []*goFile {
	t.Helper()
	var files []*goFile
	for pair := range slices.Chunk(nameAndSource, 2) {
		f, err := parseGo("", pair[0], pair[1])
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

// importing makes a file that imports the packages and does nothing.
func importing(t *testing.T, name string, paths ...string) []*goFile {
	t.Helper()
	var b strings.Builder
	b.WriteString("package p\n")
	for _, p := range paths {
		fmt.Fprintf(&b, "import _ %q\n", p)
	}
	return source(t, name, b.String())
}

// rule finds breaches, one line each, in files.
type rule func(files []*goFile) []string

// check fails the test with every breach in the module.
func check(t *testing.T, r rule) {
	t.Helper()
	for _, breach := range r(module(t)) {
		t.Error(breach)
	}
}

// ruleCase shows a rule some files: want is part of the one breach in them; empty: there is none.
type ruleCase struct {
	name  string
	files []*goFile
	want  string
}

// checkCases fails the test where r does not see the breach of a case, or sees one where there is none.
func checkCases(t *testing.T, r rule, cases []ruleCase) {
	t.Helper()
	for _, c := range cases {
		got := r(c.files)
		switch {
		case c.want == "" && len(got) != 0:
			t.Errorf("%s: breaches %q, want none", c.name, got)
		case c.want != "" && (len(got) != 1 || !strings.Contains(got[0], c.want)):
			t.Errorf("%s: breaches %q, want one with %q", c.name, got, c.want)
		}
	}
}
