package test

import (
	"go/ast"
	"path"
	"slices"
	"strings"
	"testing"
)

// sleepers are the files, and the directories, whose tests may sleep: they deal with real processes.
var sleepers = []string{"test/e2e"}

func TestNoSleep(t *testing.T) { check(t, sleeps) }
func TestNoInit(t *testing.T)  { check(t, inits) }
func TestNoExit(t *testing.T)  { check(t, exits) }

// sleeps finds time.Sleep in tests. In the bubble of testing/synctest a sleep takes no time and is how a test lets time pass, so that a file
// which uses synctest may.
func sleeps(files []*goFile) []string {
	var breaches []string
	for _, f := range files {
		if !f.isTest() {
			continue
		}
		if _, bubbles := f.imports["testing/synctest"]; bubbles {
			continue
		}
		if slices.ContainsFunc(sleepers, func(allowed string) bool { return inside(f.path, allowed) }) {
			continue
		}
		eachCall(f, func(call *ast.CallExpr) {
			if name, fn := callee(call); fn == "Sleep" && name != "" && name == f.imports["time"] {
				breaches = append(breaches, f.at(call)+": a test does not sleep: wait for the event, or use testing/synctest")
			}
		})
	}
	return breaches
}

// inits finds init functions, but the one of setup.go that registers the plugin and does nothing else.
func inits(files []*goFile) []string {
	var breaches []string
	for _, f := range files {
		for _, decl := range f.syntax.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || fn.Name.Name != "init" {
				continue
			}
			if f.path != "setup.go" || !onlyRegisters(fn) {
				breaches = append(breaches, f.at(fn)+": no init function but that of setup.go, which calls plugin.Register and nothing else")
			}
		}
	}
	return breaches
}

// onlyRegisters says whether the body is one call of plugin.Register.
func onlyRegisters(fn *ast.FuncDecl) bool {
	if len(fn.Body.List) != 1 {
		return false
	}
	statement, ok := fn.Body.List[0].(*ast.ExprStmt)
	if !ok {
		return false
	}
	call, ok := statement.X.(*ast.CallExpr)
	if !ok {
		return false
	}
	name, function := callee(call)
	return name == "plugin" && function == "Register"
}

// exits finds what ends the process: panic, os.Exit, and the Fatal and Panic of a log. Programs (cmd/, and those below test/) and tests may;
// the fakes below test/ may panic, where they contradict themselves.
func exits(files []*goFile) []string {
	var breaches []string
	for _, f := range files {
		if f.isTest() || inside(f.pkg(), "cmd") || f.isCommand() && inside(f.pkg(), "test") {
			continue
		}
		logs := []string{"log", "clog", "slog", "klog"}
		for importPath, name := range f.imports {
			if path.Base(importPath) == "log" {
				logs = append(logs, name)
			}
		}
		eachCall(f, func(call *ast.CallExpr) {
			name, fn := callee(call)
			ends := name == "" && fn == "panic" && !inside(f.pkg(), "test") ||
				name != "" && name == f.imports["os"] && fn == "Exit" ||
				slices.Contains(logs, name) && (strings.HasPrefix(fn, "Fatal") || strings.HasPrefix(fn, "Panic"))
			if ends {
				breaches = append(breaches, f.at(call)+": "+strings.TrimPrefix(name+"."+fn, ".")+": return an error, nothing ends the process")
			}
		})
	}
	return breaches
}

// eachCall calls visit with all calls in the file.
func eachCall(f *goFile, visit func(*ast.CallExpr)) {
	ast.Inspect(f.syntax, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			visit(call)
		}
		return true
	})
}

// callee returns what a call of x.f or f names; empty strings for all others.
func callee(call *ast.CallExpr) (name, fn string) {
	switch called := call.Fun.(type) {
	case *ast.Ident:
		return "", called.Name
	case *ast.SelectorExpr:
		if x, ok := called.X.(*ast.Ident); ok {
			return x.Name, called.Sel.Name
		}
	}
	return "", ""
}

func TestSleepsSees(t *testing.T) {
	const sleeping = "package p\nimport \"time\"\nfunc f() { time.Sleep(1) }"
	checkCases(t, sleeps, []ruleCase{
		{"not a test", source(t, "plugin/race/a.go", sleeping), ""},
		{"allowed", source(t, "test/e2e/a_test.go", sleeping), ""},
		{"bubble", source(t, "a_test.go", "package p\nimport (\"time\"; \"testing/synctest\")\nfunc f() { synctest.Wait(); time.Sleep(1) }"), ""},
		{"another Sleep", source(t, "a_test.go", "package p\nfunc f(time interface{ Sleep(int) }) { time.Sleep(1) }"), ""},
		{"test", source(t, "plugin/race/a_test.go", sleeping), "plugin/race/a_test.go:3"},
		{"beside an allowed one", source(t, "test/e2e2/a_test.go", sleeping), "test/e2e2/a_test.go:3"},
		{"renamed", source(t, "a_test.go", "package p\nimport clock \"time\"\nfunc f() { clock.Sleep(1) }"), "a_test.go:3"},
	})
}

func TestInitsSees(t *testing.T) {
	const registers = "package p\nfunc init() { plugin.Register(\"p\", setup) }"
	checkCases(t, inits, []ruleCase{
		{"none", source(t, "a.go", "package p\nfunc (x t) init() {}"), ""},
		{"registers", source(t, "setup.go", registers), ""},
		{"elsewhere", source(t, "plugin/mesh/setup.go", registers), "plugin/mesh/setup.go:2"},
		{"other", source(t, "plugin/race/a.go", "package p\nfunc init() {}"), "plugin/race/a.go:2"},
		{"more", source(t, "setup.go", "package p\nfunc init() { plugin.Register(\"p\", setup); x = 1 }"), "setup.go:2"},
		{"other call", source(t, "setup.go", "package p\nfunc init() { plugin.Unregister() }"), "setup.go:2"},
		{"in a test", source(t, "a_test.go", "package p\nfunc init() {}"), "a_test.go:2"},
	})
}

func TestExitsSees(t *testing.T) {
	const panics = "func f() { panic(1) }"
	checkCases(t, exits, []ruleCase{
		{"command", source(t, "cmd/coredns/main.go", "package main\nimport \"log\"\nfunc f() { log.Fatal() }"), ""},
		{"test command", source(t, "test/bench/main.go", "package main\nimport \"os\"\nfunc f() { os.Exit(1) }"), ""},
		{"test", source(t, "a_test.go", "package p\n"+panics), ""},
		{"testing's Fatal", source(t, "test/fakedns/a.go", "package p\nfunc f(t *testing.T) { t.Fatal() }"), ""},
		{"panic", source(t, "plugin/race/a.go", "package p\n"+panics), "plugin/race/a.go:2: panic"},
		{"panic in a fake", source(t, "test/fakedns/a.go", "package p\n"+panics), ""},
		{"Exit in a fake", source(t, "test/fakedns/a.go", "package p\nimport \"os\"\nfunc f() { os.Exit(1) }"), "test/fakedns/a.go:3"},
		{"Exit", source(t, "a.go", "package p\nimport \"os\"\nfunc f() { os.Exit(1) }"), "a.go:3: os.Exit"},
		{"Fatal", source(t, "a.go", "package p\nimport l \"log\"\nfunc f() { l.Fatalf(\"\") }"), "a.go:3: l.Fatalf"},
		{"a logger's Fatal", source(t, "a.go", "package p\nvar log logger\nfunc f() { log.Fatal() }"), "a.go:3: log.Fatal"},
		{"log.Panic", source(t, "a.go", "package p\nimport \"log\"\nfunc f() { log.Panicln() }"), "a.go:3: log.Panicln"},
	})
}
