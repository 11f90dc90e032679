package scenario

import (
	"fmt"
	"strings"
)

// section is one file of a txtar archive, and where it begins.
type section struct {
	name string
	line int // of its first line, from 1
	text string
}

// archive reads the txtar format (golang.org/x/tools/txtar), and keeps line
// numbers, which that package does not.
func archive(text string) (comment string, sections []section) {
	var current strings.Builder
	flush := func() {
		if len(sections) == 0 {
			comment = current.String()
		} else {
			sections[len(sections)-1].text = current.String()
		}
		current.Reset()
	}
	n := 0
	for line := range strings.Lines(text) {
		n++
		mark := strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(mark, "-- "); ok && strings.HasSuffix(name, " --") {
			flush()
			sections = append(sections, section{name: strings.TrimSpace(strings.TrimSuffix(name, " --")), line: n + 1})
			continue
		}
		current.WriteString(line)
	}
	flush()
	return comment, sections
}

// lines calls f for each line that is neither empty nor a comment, and adds
// the place to its error.
func (s section) lines(file string, f func(line string) error) error {
	n := s.line - 1
	for line := range strings.Lines(s.text) {
		n++
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if err := f(line); err != nil {
			return fmt.Errorf("%s:%d: %w", file, n, err)
		}
	}
	return nil
}
