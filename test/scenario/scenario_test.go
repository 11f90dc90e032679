package scenario

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
)

var seed = flag.Uint64("seed", 1, "seed of all draws in the scenarios")

func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s, err := Parse(file, string(text))
			if err != nil {
				t.Fatal(err)
			}
			if strings.TrimSpace(s.Comment) == "" {
				t.Errorf("%s:1: says not what it shows", file)
			}
			s.Seed = *seed
			s.Run(t)
		})
	}
}

func TestGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := make(chan struct{})
		before := len(goroutines())
		go func() { <-stop }()
		if n := len(goroutines()) - before; n != 1 {
			t.Errorf("counted %d goroutines; want 1", n)
		}
		close(stop)
		synctest.Wait()
		if n := len(goroutines()) - before; n != 0 {
			t.Errorf("counted %d goroutines after the end; want 0", n)
		}
	})
}
