package test

import (
	"go/ast"
	"testing"
)

func TestGoroutines(t *testing.T) { check(t, goroutines) }

// goroutines finds what starts a goroutine or a timer of the plugin's own without plugin/recovery, so that its panic would end the process. Tests,
// programs and the fakes may.
func goroutines(files []*goFile) []string {
	var breaches []string
	for _, f := range files {
		if f.isTest() || inside(f.pkg(), "test") || inside(f.pkg(), "cmd") || f.pkg() == "plugin/recovery" {
			continue
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			if starts(f, n) {
				breaches = append(breaches, f.at(n)+": start it by a recovery.Recoverer, so that a panic does not end the process")
			}
			return true
		})
	}
	return breaches
}

// starts says whether the node is a go statement, a call of WaitGroup.Go, which has one argument, or of time.AfterFunc.
func starts(f *goFile, n ast.Node) bool {
	switch n := n.(type) {
	case *ast.GoStmt:
		return true
	case *ast.CallExpr:
		called, ok := n.Fun.(*ast.SelectorExpr)
		if !ok {
			return false
		}
		x, _ := called.X.(*ast.Ident)
		return called.Sel.Name == "Go" && len(n.Args) == 1 ||
			called.Sel.Name == "AfterFunc" && x != nil && x.Name == f.imports["time"]
	}
	return false
}

func TestGoroutinesSees(t *testing.T) {
	checkCases(t, goroutines, []ruleCase{
		{"recovered", source(t, "a.go", "package p\nfunc f() { r.Go(&wg, \"here\", g); r.AfterFunc(1, \"here\", g) }"), ""},
		{"a test", source(t, "a_test.go", "package p\nfunc f() { go g() }"), ""},
		{"a program", source(t, "cmd/coredns/a.go", "package main\nfunc f() { go g() }"), ""},
		{"a fake", source(t, "test/fakedns/a.go", "package fakedns\nfunc f() { go g() }"), ""},
		{"where it is done", source(t, "plugin/recovery/a.go", "package recovery\nfunc f() { go g() }"), ""},
		{"a context's end", source(t, "a.go", "package p\nimport \"context\"\nfunc f() { context.AfterFunc(c, g) }"), ""},
		{"go", source(t, "plugin/race/a.go", "package race\nfunc f() { go g() }"), "plugin/race/a.go:2: start it"},
		{"wait group", source(t, "plugin/race/a.go", "package race\nfunc f() { x.wg.Go(g) }"), "plugin/race/a.go:2: start it"},
		{"timer", source(t, "a.go", "package p\nimport \"time\"\nfunc f() { time.AfterFunc(1, g) }"), "a.go:3: start it"},
	})
}
