package options

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// syntax is the block of options in the README.
var syntax = regexp.MustCompile(`(?s)dnsguard FROM TO\.\.\. \{\n(.*?)\n\}`)

// TestEveryOption holds that each option in the README's syntax is in a Corefile of these tests.
func TestEveryOption(t *testing.T) {
	missing, err := untested(filepath.Join("..", "..", "README.md"), ".")
	if err != nil {
		t.Fatal(err)
	}
	for _, option := range missing {
		t.Errorf("%s: no test", option)
	}
}

// untested returns the options that no test file in the directory has in a string.
func untested(readme, dir string) ([]string, error) {
	text, err := os.ReadFile(readme)
	if err != nil {
		return nil, err
	}
	block := syntax.FindSubmatch(text)
	if block == nil {
		return nil, errors.New("the README has no syntax")
	}
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return nil, err
	}
	var tests strings.Builder
	for _, f := range files {
		source, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		tests.Write(source)
	}
	var missing []string
	for line := range strings.Lines(string(block[1])) {
		words := strings.Fields(line)
		if len(words) > 0 && !regexp.MustCompile(`"`+words[0]+`\b`).MatchString(tests.String()) {
			missing = append(missing, words[0])
		}
	}
	return missing, nil
}
