package exchange

import "testing"

// closer counts how often it is closed.
type closer struct {
	Exchanger

	closed int
}

func (c *closer) Close() { c.closed++ }

func TestShared(t *testing.T) {
	c := &closer{}
	s := Share(c)
	if !s.Join() || s.Users() != 2 {
		t.Fatalf("%d users", s.Users())
	}
	s.Close()
	if c.closed != 0 {
		t.Error("closed, though somebody uses it")
	}
	s.Close()
	if c.closed != 1 || s.Join() {
		t.Errorf("closed %d times; %d users", c.closed, s.Users())
	}
}
