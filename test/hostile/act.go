package hostile

import (
	"syscall"
	"time"

	"github.com/dnsguard/dnsguard/test/tape"
)

// act is what a peer does with one query.
type act struct {
	replies []reply
	errno   syscall.Errno // by UDP: an ICMP error after the replies; 0: none
	// By a stream:
	end   ending
	split int // octets of each frame that come 1 ms before the rest; 0: all at once
	lie   int // what is added to the length that a frame says it has
}

// ending is what becomes of a connection after an act.
type ending uint8

const (
	endNot ending = iota
	endClose
	endReset
	endHang // nothing is read or written any more
)

// reply is one message, and when it comes after the one before.
type reply struct {
	after time.Duration
	kind  kind
	n     uint16 // a code, a number, a type: what the kind needs
	raw   []byte
	tampering
}

// tampering is what is changed in a message that has been made.
type tampering struct {
	id    uint16 // is XORed with the ID
	flags uint16 // likewise
	at    int    // where an octet is changed; 0: nowhere
	by    byte
	cut   int // how many octets are missing at the end
	more  []byte
}

// welcome is what becomes of an attempt to connect.
type welcome struct {
	after  time.Duration
	errno  syscall.Errno
	banner []byte // what is sent before there is any query
}

func readWelcome(x *tape.Tape) (w welcome) {
	switch x.Pick(8) {
	case 1:
		w.errno = syscall.ECONNREFUSED
	case 2:
		w.errno = syscall.ENETUNREACH
	case 3:
		w.after, w.errno = 127*time.Second, syscall.ETIMEDOUT
	case 4:
		w.after = x.Wait()
	case 5:
		w.banner = x.Bytes(64)
	}
	return w
}

// readAct reads an act. A tape of zeros is a true answer at once to everything.
func readAct(x *tape.Tape) (a act) {
	how := x.Byte()
	for range tape.Of(tape.New([]byte{how & 7}), 1, 1, 1, 0, 1, 2, 3, 9) {
		a.replies = append(a.replies, readReply(x))
	}
	switch how >> 3 & 7 {
	case 1:
		a.end = endClose
	case 2:
		a.end = endReset
	case 3:
		a.end = endHang
	case 4:
		a.split = 1 + int(x.Byte())
	case 5:
		a.lie = int(int8(x.Byte()))
	case 6:
		a.errno = tape.Of(x, syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.EACCES, syscall.EMSGSIZE)
	}
	return a
}

func readReply(x *tape.Tape) reply {
	r := reply{kind: kind(x.Pick(int(kinds)))}
	if r.kind.takesNumber() {
		r.n = x.Uint16()
	}
	if r.kind.takesBytes() {
		r.raw = x.Bytes(120)
	}
	how := x.Byte()
	if how&1 != 0 {
		r.after = x.Wait()
	}
	switch how >> 1 & 7 {
	case 1:
		r.id = x.Uint16()
	case 2:
		r.flags = x.Uint16()
	case 3:
		r.at, r.by = int(x.Byte()), x.Byte()
	case 4:
		r.cut = int(x.Byte())
	case 5:
		r.more = x.Bytes(40)
	}
	return r
}
