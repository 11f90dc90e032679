package test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// machinePath matches absolute paths of one person's machine: home directories, and Go's cache in root's.
var machinePath = regexp.MustCompile(`(?:^|[^\w./-])(/(?:root/go|work|home/\w+|Users/\w+)/[\w.@-]*)`)

// TestNoMachinePaths looks into all files that git tracks.
func TestNoMachinePaths(t *testing.T) {
	if _, err := os.Stat("../.git"); err != nil {
		t.Skip("not in a git repository")
	}
	list := exec.Command("git", "-c", "safe.directory=*", "ls-files", "-z")
	list.Dir = ".."
	out, err := list.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	for name := range bytes.SplitSeq(bytes.TrimRight(out, "\x00"), []byte{0}) {
		content, err := os.ReadFile(filepath.Join("..", string(name)))
		if os.IsNotExist(err) || len(name) == 0 {
			continue // deleted, and not committed yet
		}
		if err != nil {
			t.Error(err)
			continue
		}
		for _, breach := range machinePaths(string(name), string(content)) {
			t.Error(breach)
		}
	}
}

// machinePaths finds paths of one machine in the content of a file.
func machinePaths(name, content string) []string {
	var breaches []string
	line := 0
	for text := range strings.Lines(content) {
		line++
		if m := machinePath.FindStringSubmatch(text); m != nil {
			breaches = append(breaches, fmt.Sprintf("%s:%d: %s exists on one machine only", name, line, m[1]))
		}
	}
	return breaches
}

func TestMachinePathsSees(t *testing.T) {
	const slash = "/" // so that this file has none itself
	tests := []struct {
		text string
		want int
	}{
		{"see docs/work/plan.md and https://example.org/work/x", 0},
		{"--mount=type=cache,target=/root/.cache/go-build", 0},
		{"/etc/resolv.conf", 0},
		{"/workdir/x", 0},
		{slash + "work/main/go.mod", 1},
		{"cd " + slash + "root/go/pkg", 1},
		{"a line\nx=\"" + slash + "home/someone/src\"\n", 1},
		{"(" + slash + "Users/someone/src)", 1},
	}
	for _, tt := range tests {
		if got := machinePaths("f", tt.text); len(got) != tt.want {
			t.Errorf("%q: breaches %q, want %d", tt.text, got, tt.want)
		}
	}
}
