package tape

import (
	"bytes"
	"testing"
	"time"
)

func TestTape(t *testing.T) {
	x := New([]byte{7, 9, 1, 2, 3, 3, 'a', 'b', 'c', 200, 'd', 5})
	if got := x.Byte(); got != 7 {
		t.Errorf("octet %d", got)
	}
	if got := x.Pick(4); got != 1 {
		t.Errorf("picked %d", got)
	}
	if !x.Yes() || x.Yes() {
		t.Error("1 is no, or 2 is yes")
	}
	if got := Of(x, "p", "q"); got != "q" {
		t.Errorf("chose %s", got)
	}
	if got := x.Bytes(10); !bytes.Equal(got, []byte("abc")) {
		t.Errorf("octets %q", got)
	}
	if got := x.Bytes(10); !bytes.Equal(got, []byte("d\x05")) || !x.Done() {
		t.Errorf("octets %q", got)
	}
}

func TestTapeIsEndless(t *testing.T) {
	x := New(nil)
	if x.Byte() != 0 || x.Uint16() != 0 || x.Pick(3) != 0 || x.Yes() || len(x.Bytes(4)) != 0 || x.Wait() != 0 {
		t.Error("not zeros")
	}
	if got := New([]byte{1, 2, 7}); got.Uint16() != 0x102 || got.Wait() != 7*time.Second {
		t.Error("octets in another order")
	}
}
