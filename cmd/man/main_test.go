package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const (
	readme = "../../README.md"
	manual = "../../man/coredns-dnsguard.7"
)

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestManualIsFresh(t *testing.T) {
	want, err := generate(read(t, readme))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, manual), want) {
		t.Error("man/coredns-dnsguard.7 does not match README.md: run go generate ./...")
	}
}

// TestManualIsThePlugins holds that the page has the sections that CoreDNS's have, and nothing of what stands before them in the README.
func TestManualIsThePlugins(t *testing.T) {
	page := string(read(t, manual))
	var sections []string
	for _, m := range regexp.MustCompile(`(?m)^\.SH "(.*)"$`).FindAllStringSubmatch(page, -1) {
		sections = append(sections, m[1])
	}
	all := strings.Join(sections, ",") + ","
	for _, want := range []string{"NAME,DESCRIPTION,SYNTAX,", "METRICS,", "EXAMPLES,", "BUGS,", "SEE ALSO,"} {
		if !strings.Contains(all, want) {
			t.Errorf("the sections are %s without %s", all, want)
		}
	}
	if !strings.HasPrefix(all, "NAME,") {
		t.Errorf("the sections are %s, must begin with NAME", all)
	}
	if !regexp.MustCompile(`(?m)^\.SH "NAME"\n\.PP\n\\fIdnsguard\\fR \\- `).MatchString(page) {
		t.Error("the name is not in the form that whatis reads")
	}
	before, _, _ := strings.Cut(string(read(t, readme)), begin)
	for _, m := range regexp.MustCompile(`(?m)^## (.*)$`).FindAllStringSubmatch(before, -1) {
		if strings.Contains(all, strings.ToUpper(m[1])+",") {
			t.Errorf("the section %s is not the man page's", m[1])
		}
	}
}

// TestManualLosesNothing compares the words of the page with those of the README.
func TestManualLosesNothing(t *testing.T) {
	_, text, _ := strings.Cut(string(read(t, readme)), begin)
	page := strings.NewReplacer(`\-`, "-", `\e`, `\`, `\(aq`, "'", `\(ga`, "`", `\(ha`, "^", `\(ti`, "~", `\&`, "").Replace(string(read(t, manual)))
	page = regexp.MustCompile(`\\f[BIR]`).ReplaceAllString(page, "")
	have := make(map[string]int)
	words := regexp.MustCompile(`[\w.%/:-]*\w`)
	for _, w := range words.FindAllString(strings.ToLower(page), -1) {
		have[w]++
	}
	text = regexp.MustCompile(`\]\([^)]*\)`).ReplaceAllString(text, "]") // links
	text = regexp.MustCompile("(?m)^(```|~~~).*$").ReplaceAllString(text, "")
	text = strings.NewReplacer("`", "", "*", "").Replace(text)
	for _, w := range words.FindAllString(strings.ToLower(text), -1) {
		if have[w]--; have[w] < 0 {
			t.Errorf("%q is in the README more often than in the page", w)
		}
	}
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	in, out := filepath.Join(dir, "README.md"), filepath.Join(dir, "man", "x.7")
	if err := run(in, out); err == nil {
		t.Error("no error for a README that does not exist")
	}
	for text, want := range map[string]string{
		"# x\n\n## Description\n":                         "no section Name",
		"# x\n\n## Name\n\nx - y\n\n> quoted\n":           "section Name: the manual page has no form for a Blockquote",
		"# x\n\n## Name\n\nx - y\n\n#### Deep\n":          "section Name: the manual page has no form for a Heading",
		"# x\n\n## Name\n\nx - y\n\n<b>bold</b>\n\n- z\n": "no form for a RawHTML",
		"# x\n\n## Name\n\nx ![y](z)\n":                   "no form for a Image",
		"# x\n\n## Name\n\n* x\n\n  > y\n":                "no form for a Blockquote",
		"# x\n\n## Name\n\nx  \ny\n":                      "no form for a Text",
	} {
		if err := os.WriteFile(in, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := run(in, out); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %s", text, err, want)
		}
	}
	if err := os.WriteFile(in, []byte("# x\n\n## Before\n\nno\n\n## Name\n\n*x* - y\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(in, out); err != nil {
		t.Fatal(err)
	}
	got := string(read(t, out))
	if !strings.HasSuffix(got, ".SH \"NAME\"\n.PP\n\\fIx\\fR \\- y\n") || strings.Contains(got, "no\n") {
		t.Errorf("wrote %s", got)
	}
}
