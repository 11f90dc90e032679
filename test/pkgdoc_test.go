package test

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestPackageComments(t *testing.T) { check(t, undocumented) }

// undocumented finds packages that do not begin with a comment in one of their files: "Package x ..." or, for a program, "Command x ...".
// The external test package of a directory (x_test) needs none where there is an x.
func undocumented(files []*goFile) []string {
	type pkg struct{ dir, name string }
	documented := make(map[pkg]bool)
	for _, f := range files {
		p := pkg{f.pkg(), f.syntax.Name.Name}
		documented[p] = documented[p] || introduces(f)
	}
	var breaches []string
	for _, p := range slices.SortedFunc(maps.Keys(documented), func(a, b pkg) int { return strings.Compare(a.dir+a.name, b.dir+b.name) }) {
		tested := pkg{p.dir, strings.TrimSuffix(p.name, "_test")}
		if _, external := documented[tested]; documented[p] || external && tested != p {
			continue
		}
		breaches = append(breaches, "./"+p.dir+": package "+p.name+" has no comment that begins with Package "+p.name+" (Command x for a program) and says what it is for")
	}
	return breaches
}

// introduces says whether the file has the comment of its package.
func introduces(f *goFile) bool {
	comment := f.syntax.Doc.Text()
	if f.isCommand() {
		return strings.HasPrefix(comment, "Command ")
	}
	return strings.HasPrefix(comment, "Package "+f.syntax.Name.Name+" ")
}

func TestUndocumentedSees(t *testing.T) {
	checkCases(t, undocumented, []ruleCase{
		{"documented", source(t, "x/a.go", "// Package x is.\npackage x", "x/b.go", "package x", "x/a_test.go", "package x_test"), ""},
		{"program", source(t, "x/main.go", "// Command y does.\npackage main"), ""},
		{"tests only", source(t, "x/a_test.go", "// Package x_test is.\npackage x_test"), ""},
		{"none", source(t, "x/a.go", "package x"), "./x: package x"},
		{"detached", source(t, "x/a.go", "// Package x is.\n\npackage x"), "./x: package x"},
		{"other name", source(t, "x/a.go", "// Package y is.\npackage x"), "./x: package x"},
		{"program as package", source(t, "x/main.go", "// Package main does.\npackage main"), "./x: package main"},
		{"external tests alone", source(t, "x/a_test.go", "package x_test"), "./x: package x_test"},
	})
}
