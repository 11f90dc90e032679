// Package tape reads decisions from the bytes of a fuzz input: which of
// several things to do, how often, with what. A tape that is used up goes on
// with zeros, so that every input means something, and the first choice
// everywhere should be the harmless one.
//
// A Tape is for one goroutine.
package tape

import "time"

// Tape is the rest of an input.
type Tape struct{ rest []byte }

// New returns a tape of b, which nobody may change from then on.
func New(b []byte) *Tape { return &Tape{rest: b} }

// Done reports whether the tape is used up.
func (t *Tape) Done() bool { return len(t.rest) == 0 }

// Byte returns the next octet.
func (t *Tape) Byte() byte {
	if t.Done() {
		return 0
	}
	b := t.rest[0]
	t.rest = t.rest[1:]
	return b
}

// Pick returns a number in [0, n), for n up to 256.
func (t *Tape) Pick(n int) int { return int(t.Byte()) % n }

// Yes decides; it is false where the tape is used up.
func (t *Tape) Yes() bool { return t.Byte()&1 == 1 }

// Uint16 returns two octets as a number.
func (t *Tape) Uint16() uint16 { return uint16(t.Byte())<<8 | uint16(t.Byte()) }

// Bytes returns up to most octets, as many as the next octet says and there are.
func (t *Tape) Bytes(most int) []byte {
	n := min(int(t.Byte()), most, len(t.rest))
	b := t.rest[:n:n]
	t.rest = t.rest[n:]
	return b
}

// Of returns one of a list.
func Of[T any](t *Tape, list ...T) T { return list[t.Pick(len(list))] }

// Wait returns a duration, from none to longer than any client waits.
func (t *Tape) Wait() time.Duration {
	return Of(t, 0, time.Millisecond, 6*time.Millisecond, 40*time.Millisecond, 250*time.Millisecond, time.Second, 2100*time.Millisecond, 7*time.Second)
}
