package scenario

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// words is a line, read word by word.
type words struct{ list []string }

func (w *words) done() bool { return len(w.list) == 0 }

// next takes a word; "" at the end.
func (w *words) next() string {
	if len(w.list) == 0 {
		return ""
	}
	word := w.list[0]
	w.list = w.list[1:]
	return word
}

// take takes the next word if it is this one.
func (w *words) take(word string) bool {
	if len(w.list) == 0 || w.list[0] != word {
		return false
	}
	w.list = w.list[1:]
	return true
}

func (w *words) duration() (time.Duration, error) {
	text := w.next()
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%q: must be a duration", text)
	}
	return d, nil
}

func (w *words) number() (int, error) {
	text := w.next()
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("%q: must be a whole number", text)
	}
	if n < 0 {
		return 0, errors.New("must not be negative")
	}
	return n, nil
}
