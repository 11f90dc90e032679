package recovery

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// book is what a Recoverer told.
type book struct {
	mu     sync.Mutex
	told   []string
	stacks []string
	count  atomic.Int64
}

func (b *book) report(where string, cause any, stack []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told = append(b.told, where+": "+cause.(string))
	b.stacks = append(b.stacks, string(stack))
}

func (b *book) recoverer() *Recoverer { return New(b.report, func() { b.count.Add(1) }) }

func (b *book) want(t *testing.T, count int64, told ...string) {
	t.Helper()
	if b.count.Load() != count || !slices.Equal(b.told, told) {
		t.Errorf("counted %d and told %q, want %d and %q", b.count.Load(), b.told, count, told)
	}
}

func explode() { panic("boom") }

func TestRecover(t *testing.T) {
	b := new(book)
	r := b.recoverer()
	func() {
		defer r.Recover("here")
	}()
	b.want(t, 0)
	after := 0
	for range 3 {
		func() {
			defer r.Recover("here", func() { after++ }, func() { panic("again") }, func() { after++ })
			explode()
		}()
	}
	if b.want(t, 6, "here: boom"); after != 6 {
		t.Errorf("did %d of 6 things afterwards", after)
	}
	if !strings.Contains(b.stacks[0], "explode") {
		t.Errorf("stack without the place of the panic:\n%s", b.stacks[0])
	}
	func() {
		defer r.Recover("there")
		explode()
	}()
	b.want(t, 7, "here: boom", "there: boom")
}

func TestGo(t *testing.T) {
	b := new(book)
	r := b.recoverer()
	var (
		wg   sync.WaitGroup
		done atomic.Int64
	)
	add := func(n int64) func() { return func() { done.Add(n) } }
	r.Go(&wg, "good", add(1), add(10))
	r.Go(&wg, "bad", explode, add(100), add(1000))
	wg.Wait()
	if b.want(t, 1, "bad: boom"); done.Load() != 1101 {
		t.Errorf("did %d, want 1101", done.Load())
	}
}

func TestAfterFunc(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := new(book)
		r := b.recoverer()
		timer := r.AfterFunc(time.Second, "timer", explode)
		for i := range int64(3) {
			time.Sleep(time.Second)
			synctest.Wait()
			b.want(t, i+1, "timer: boom")
			timer.Reset(time.Second)
		}
		timer.Stop()
	})
}

// TestNil holds that the nil Recoverer runs everything, and recovers nothing.
func TestNil(t *testing.T) {
	var (
		r    *Recoverer
		wg   sync.WaitGroup
		done atomic.Int64
	)
	r.Go(&wg, "", func() { done.Add(1) })
	wg.Wait()
	timer := r.AfterFunc(time.Hour, "", func() {})
	timer.Stop()
	defer func() {
		if recover() == nil || done.Load() != 1 {
			t.Errorf("recovered, or did %d of 1 things", done.Load())
		}
	}()
	defer r.Recover("here")
	explode()
}
