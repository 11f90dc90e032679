package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestGeneratedFileIsFresh(t *testing.T) {
	want, err := generateFile("../../../plugin.cfg")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../zplugins.go")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("cmd/coredns/zplugins.go does not match plugin.cfg: run go generate ./...")
	}
}

func TestPluginOrder(t *testing.T) {
	f, err := os.Open("../../../plugin.cfg")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	entries, err := parse(f, "plugin.cfg")
	if err != nil {
		t.Fatal(err)
	}
	place := func(name string) int {
		i := slices.IndexFunc(entries, func(e entry) bool { return e.name == name })
		if i < 0 {
			t.Fatalf("plugin.cfg does not list %s", name)
		}
		return i
	}
	guard := place("dnsguard")
	for _, before := range []string{"errors", "log", "cache", "kubernetes", "loop"} {
		if place(before) > guard {
			t.Errorf("%s comes after dnsguard, must come before it", before)
		}
	}
	if place("forward") < guard {
		t.Error("forward comes before dnsguard, must come after it")
	}
}

func TestParse(t *testing.T) {
	const list = "# a comment\n\nerrors:errors\n  prometheus:metrics  \non:github.com/coredns/caddy/onevent\nmine:example.org/x/mine\n"
	got, err := parse(strings.NewReader(list), "list")
	if err != nil {
		t.Fatal(err)
	}
	want := []entry{
		{"errors", "github.com/coredns/coredns/plugin/errors"},
		{"prometheus", "github.com/coredns/coredns/plugin/metrics"},
		{"on", "github.com/coredns/caddy/onevent"},
		{"mine", "example.org/x/mine"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("parse = %v, want %v", got, want)
	}
}

func TestParseErrors(t *testing.T) {
	tests := []struct {
		name, list, want string
	}{
		{"nothing", "# only a comment\n", "list: no plugin is listed"},
		{"no package", "root:root\nerrors\n", `list:2: "errors": must be NAME:PACKAGE`},
		{"twice", "root:root\n\nlog:log\nroot:other\n", `list:4: plugin "root" is listed already, in line 1`},
		{"empty name", ":root\n", `list:1: plugin name ""`},
		{"upper case", "Root:root\n", `list:1: plugin name "Root"`},
		{"blank in name", "ro ot:root\n", `list:1: plugin name "ro ot"`},
		{"empty package", "root:\n", `list:1: package "" of plugin "root"`},
		{"three fields", "root:root:root\n", `list:1: package "root:root" of plugin "root"`},
		{"blank in package", "root: root\n", `list:1: package " root" of plugin "root"`},
		{"outside", "root:../root\n", `list:1: package "../root" of plugin "root"`},
		{"trailing slash", "root:root/\n", `list:1: package "root/" of plugin "root"`},
		{"quote", "root:ro\"ot\n", `list:1: package "ro\"ot" of plugin "root"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parse(strings.NewReader(tt.list), "list")
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("error %v, want one that begins with %s", err, tt.want)
			}
		})
	}
}

func TestGenerateKeepsOrderAndImportsOnce(t *testing.T) {
	got, err := generate([]entry{{"b", "example.org/p"}, {"a", "example.org/p"}, {"c", "example.org/a"}})
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(got, []byte(`_ "example.org/p"`)); n != 1 {
		t.Errorf("example.org/p is imported %d times, want once:\n%s", n, got)
	}
	if !bytes.Contains(got, []byte("\t\"b\",\n\t\"a\",\n\t\"c\",\n")) {
		t.Errorf("the directives are not in the order of the list:\n%s", got)
	}
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	in, out := filepath.Join(dir, "plugin.cfg"), filepath.Join(dir, "z.go")
	if err := run(in, out); err == nil {
		t.Error("no error for a list that does not exist")
	}
	if err := os.WriteFile(in, []byte("errors:errors\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(in, out); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(out); err != nil || !bytes.Contains(got, []byte(`coredns/plugin/errors"`)) {
		t.Errorf("wrote %s, %v", got, err)
	}
}
