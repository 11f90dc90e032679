package test

import (
	"go/ast"
	"slices"
	"testing"
)

// The clock on the wall may jump by an hour, and nothing is to come of that: what decides compares instants by their monotonic readings alone,
// which time.Now adds, and Add, Sub, Before, After, Since and Until use. These make an instant without one, or read the other.
var (
	wallFunctions = []string{"Date", "Parse", "ParseInLocation", "Unix", "UnixMicro", "UnixMilli"}
	wallMethods   = []string{"Clock", "Unix", "UnixMicro", "UnixMilli", "UnixNano", "UTC", "YearDay", "Weekday"}
	// wallNoArgument and wallZero are methods of other types too, and told from those by their arguments.
	wallNoArgument = []string{"Date", "Local"}
	wallZero       = []string{"Round", "Truncate"} // of a Duration, with 0, they would do nothing
)

// wallAllowed are the directories that decide nothing by time, and the file that has an instant long gone by for a deadline of a socket.
var wallAllowed = []string{"cmd", "test", "plugin/mesh", "plugin/explain", "plugin/metrics", "plugin/status", "plugin/exchange/udp_socket.go"}

func TestMonotonicClock(t *testing.T) { check(t, wallClocks) }

// wallClocks finds uses of the clock on the wall.
func wallClocks(files []*goFile) []string {
	var breaches []string
	for _, f := range files {
		if f.isTest() || slices.ContainsFunc(wallAllowed, func(allowed string) bool { return f.path == allowed || inside(f.pkg(), allowed) }) {
			continue
		}
		eachCall(f, func(call *ast.CallExpr) {
			if readsWall(f, call) {
				breaches = append(breaches, f.at(call)+": the clock on the wall may jump: use instants of time.Now, and what compares them")
			}
		})
	}
	return breaches
}

func readsWall(f *goFile, call *ast.CallExpr) bool {
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	method := selector.Sel.Name
	if name, _ := callee(call); name != "" && name == f.imports["time"] {
		return slices.Contains(wallFunctions, method)
	}
	switch len(call.Args) {
	case 0:
		return slices.Contains(wallMethods, method) || slices.Contains(wallNoArgument, method)
	case 1:
		literal, ok := call.Args[0].(*ast.BasicLit)
		return slices.Contains(wallZero, method) && ok && literal.Value == "0"
	}
	return method == "AddDate"
}

func TestWallClocksSees(t *testing.T) {
	const clock = "package p\nimport \"time\"\nfunc f(t time.Time, d time.Duration) { _ = "
	checkCases(t, wallClocks, []ruleCase{
		{"instants", source(t, "plugin/upstream/a.go", clock+"time.Since(t.Add(d)); t.Before(time.Now()); t.Sub(t); t.IsZero() }"), ""},
		{"a duration", source(t, "plugin/upstream/a.go", clock+"d.Round(time.Second); time.ParseDuration(\"1s\") }"), ""},
		{"another Local", source(t, "plugin/upstream/a.go", "package p\nfunc f(o observer) { o.Local(nil) }"), ""},
		{"another Parse", source(t, "plugin/resolvconf/a.go", "package p\nfunc f() { Parse(nil); resolvconf.Parse(nil) }"), ""},
		{"metrics", source(t, "plugin/metrics/a.go", clock+"t.Unix() }"), ""},
		{"test", source(t, "plugin/upstream/a_test.go", clock+"t.Unix() }"), ""},
		{"Unix", source(t, "plugin/upstream/a.go", clock+"t.Unix() }"), "plugin/upstream/a.go:3"},
		{"UnixNano of now", source(t, "a.go", clock+"time.Now().UnixNano() }"), "a.go:3"},
		{"UTC", source(t, "plugin/forwarder/a.go", clock+"t.UTC() }"), "plugin/forwarder/a.go:3"},
		{"Local", source(t, "plugin/forwarder/a.go", clock+"t.Local() }"), "plugin/forwarder/a.go:3"},
		{"Round(0)", source(t, "plugin/race/a.go", clock+"t.Round(0) }"), "plugin/race/a.go:3"},
		{"AddDate", source(t, "plugin/zones/a.go", clock+"t.AddDate(0, 0, 1) }"), "plugin/zones/a.go:3"},
		{"time.Unix", source(t, "plugin/probe/a.go", clock+"time.Unix(1, 0) }"), "plugin/probe/a.go:3"},
		{"time.Date", source(t, "pool.go", clock+"time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) }"), "pool.go:3"},
		{"renamed", source(t, "plugin/probe/a.go", "package p\nimport clock \"time\"\nfunc f() { clock.Unix(1, 0) }"), "plugin/probe/a.go:3"},
	})
}
