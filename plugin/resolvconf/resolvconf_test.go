package resolvconf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"nameserver 192.0.2.1\n", "192.0.2.1"},
		{"# comment\nsearch example.org\n  nameserver\t192.0.2.1 # first\nnameserver 2001:db8::1\noptions ndots:5", "192.0.2.1 2001:db8::1"},
		{"nameserver ::ffff:192.0.2.1\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\n", "192.0.2.1 fe80::1%eth0"},
		{"nameserver dns.example\nnameserver 192.0.2.\nnameserver 192.0.2.1", "192.0.2.1"},
		{"nameserver 0.0.0.0", "0.0.0.0"},
		{"", ""},
		{"nameserver\n;nameserver 192.0.2.1\n", ""},
		{"\x00\xff\x7fELF nameserver 192.0.2.1", ""},
		{strings.Repeat("x", 70000), ""},
		{"# " + strings.Repeat("x", 70000) + "\nnameserver 192.0.2.1\n", "192.0.2.1"},
	} {
		got, err := Parse([]byte(tc.text))
		if words := words(got); words != tc.want || (err != nil) != (tc.want == "") || err != nil && !errors.Is(err, ErrEmpty) {
			t.Errorf("%.40q: %s, %v; want %q", tc.text, words, err, tc.want)
		}
	}
}

func words(ips []netip.Addr) string {
	var s []string
	for _, ip := range ips {
		s = append(s, ip.String())
	}
	return strings.Join(s, " ")
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(path("file"), []byte("nameserver 192.0.2.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path("large"), make([]byte, MaxSize+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(path("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		path string
		want error
	}{
		{path("file"), nil},
		{"/dev/null", nil},
		{"/dev/zero", ErrSize},
		{path("large"), ErrSize},
		{path("missing"), fs.ErrNotExist},
		{dir, ErrNotFile},
		{path("pipe"), ErrNotFile},
	} {
		text, err := Read(tc.path)
		if !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) {
			t.Errorf("%s: %.40q, %v; want %v", tc.path, text, err, tc.want)
		}
		if err != nil && strings.Contains(err.Error(), tc.path) {
			t.Errorf("%v names the path", err)
		}
	}
}

// file is a file whose content changes, and what a Watcher tells of it.
type file struct {
	mu   sync.Mutex
	text string
	err  error

	told []string
}

func (f *file) set(text string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.text, f.err = text, err
}

func (f *file) read(string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return []byte(f.text), f.err
}

func (f *file) watch(ctx context.Context) {
	w := NewWatcher(Config{
		Path: "resolv.conf",
		Read: f.read,
		Good: func(servers []netip.Addr) { f.told = append(f.told, words(servers)) },
		Bad:  func(err error) { f.told = append(f.told, "bad: "+err.Error()) },
	})
	go w.Run(ctx)
}

func TestWatch(t *testing.T) {
	missing := fs.ErrNotExist
	for name, tc := range map[string]struct {
		steps []any // a content, an error, or a time to wait
		want  []string
	}{
		"changed":                           {[]any{"nameserver 192.0.2.1\n", 5 * time.Second, "nameserver 192.0.2.2\n", 1500 * time.Millisecond}, []string{"192.0.2.1", "192.0.2.2"}},
		"another content, the same list":    {[]any{"nameserver 192.0.2.1\n", 5 * time.Second, "nameserver 192.0.2.1\n#\n", 5 * time.Second}, []string{"192.0.2.1"}},
		"empty for a moment":                {[]any{"nameserver 192.0.2.1\n", 950 * time.Millisecond, "", 180 * time.Millisecond, "nameserver 192.0.2.2\n", 3 * time.Second}, []string{"192.0.2.1", "192.0.2.2"}},
		"empty":                             {[]any{"nameserver 192.0.2.1\n", 5 * time.Second, "", 5 * time.Second, "\n", 5 * time.Second, "nameserver 192.0.2.1\n", 2 * time.Second}, []string{"192.0.2.1", "bad: lists no usable nameserver", "192.0.2.1"}},
		"missing at first":                  {[]any{missing, 5 * time.Second, "nameserver 192.0.2.1\n", 2 * time.Second}, []string{"bad: file does not exist", "192.0.2.1"}},
		"missing for a moment":              {[]any{"nameserver 192.0.2.1\n", 950 * time.Millisecond, missing, 180 * time.Millisecond, "nameserver 192.0.2.1\n", 9 * time.Second}, []string{"192.0.2.1"}},
		"half written":                      {[]any{"nameserver 192.0.2.1\n", 950 * time.Millisecond, "nameserver 192.0.2.20\nnameserver 192.0.2.2", time.Second, "nameserver 192.0.2.20\nnameserver 192.0.2.21\n", 2 * time.Second}, []string{"192.0.2.1", "192.0.2.20 192.0.2.21"}},
		"written slowly":                    {[]any{"nameserver 192.0.2.1\n", 950 * time.Millisecond, "#", 150 * time.Millisecond, "#\n", 150 * time.Millisecond, "#\n#\n", 150 * time.Millisecond, "#\n#\nnameserver 192.0.2.2\n", 2 * time.Second}, []string{"192.0.2.1", "192.0.2.2"}},
		"without an end of the last line":   {[]any{"nameserver 192.0.2.1", 5 * time.Second, "nameserver 192.0.2.2", 4 * time.Second}, []string{"192.0.2.1", "192.0.2.2"}},
		"other causes":                      {[]any{"", 5 * time.Second, missing, 5 * time.Second, fmt.Errorf("%w", missing), 5 * time.Second, ErrNotFile, 5 * time.Second}, []string{"bad: lists no usable nameserver", "bad: file does not exist", "bad: not a regular file"}},
		"the old content again, never told": {[]any{"nameserver 192.0.2.1\n", 950 * time.Millisecond, "nameserver 192.0.2.2\n", 180 * time.Millisecond, "nameserver 192.0.2.1\n", 10 * time.Second}, []string{"192.0.2.1"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, started := &file{}, false
				for _, step := range tc.steps {
					switch step := step.(type) {
					case string:
						f.set(step, nil)
					case error:
						f.set("", step)
					case time.Duration:
						if !started {
							f.watch(t.Context())
							started = true
						}
						time.Sleep(step)
						synctest.Wait()
					}
				}
				if !slices.Equal(f.told, tc.want) {
					t.Errorf("told %q, want %q", f.told, tc.want)
				}
			})
		})
	}
}

// BenchmarkLook is what watching a file costs each second.
func BenchmarkLook(b *testing.B) {
	path := filepath.Join(b.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte("nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch example.org\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	w := NewWatcher(Config{Path: path, Read: Read, Good: func([]netip.Addr) {}, Bad: func(error) {}})
	now := time.Now()
	for b.Loop() {
		w.look(now)
	}
}
