package zones

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/test/tape"
)

// FuzzTable: whatever is learned, of whatever names, what is counted is true,
// and nobody is known that is not in the pool.
func FuzzTable(f *testing.F) {
	const (
		three = "\x02"             // upstreams
		www   = "\x02\x02\x01\x0a" // www.a.com.
		dot   = "\x01\x03\x0a"     // x\.y.com., of two labels
	)
	for _, seed := range []string{
		three + "\x03" + www + "\x00\x02\x00" + "\x07" + www + "\x06" + www + "\x01" + www + "\x00\x00",
		three + strings.Repeat("\x03"+dot+"\x00\x02\x00", 2),
		three + strings.Repeat("\x01"+dot+"\x01", 4) + "\x00\x01\x02" + dot + "\x01",
		three + "\x03" + www + "\x01\x04\x01" + strings.Repeat("\x04"+www+"\x00\x05\x02\x00", 5) + "\x06" + www + "\x00\x00\x00",
		"\x3f\x03" + www + "\x07" + strings.Repeat("\xff", 16) + "\x02" + www + "\x05\x05\x00\x03",
		three + "\x08\xff\x03" + www + "\x01\x01\x00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		x := tape.New(script)
		s := session{x: x, n: 1 + x.Pick(64), now: start}
		s.table = New(s.n)
		for steps := 0; !x.Done() && steps < 200; steps++ {
			s.step(t)
			if !s.flooded { // counting takes long then
				s.check(t)
			}
		}
		s.check(t)
	})
}

// session is a table, and a life for it.
type session struct {
	x       *tape.Tape
	n       int
	now     time.Time
	table   *Table
	flooded bool
}

func (s *session) step(t *testing.T) {
	t.Helper()
	x := s.x
	switch x.Pick(9) {
	case 0:
		s.now = s.now.Add(tape.Of(x, time.Second, weakFor, expires, 24*time.Hour))
	case 1:
		s.table.Failed(s.now, s.name(), x.Pick(s.n))
	case 2:
		s.table.Positive(s.now, s.name(), x.Pick(s.n))
	case 3:
		s.table.disputed(s.now, s.name(), x.Pick(s.n), s.set(), s.set())
	case 4:
		s.table.Agreed(s.now, Agreement{Name: s.name(), SOA: s.soa(), Absent: s.set(), NoData: s.set(), Refused: s.set()})
	case 5:
		s.table.disputedType()
	case 6:
		by := x.Pick(s.n)
		d := s.table.Denied(s.now, Denial{Name: s.name(), SOA: s.soa(), By: by, NoData: x.Yes()})
		if d.Verify.Has(by) || d.Verify&^s.table.all != 0 {
			t.Errorf("%b are to verify a denial of %d, of %d", d.Verify, by, s.n)
		}
	case 7:
		v := s.table.View(s.now, s.name())
		if (v.Good|v.Bad|v.Weak|v.Struck|v.Refuses|v.Name|v.Poor)&^s.table.all != 0 || v.Good&v.Bad != 0 || v.Weak&^v.Struck != 0 {
			t.Errorf("%+v, of %d", v, s.n)
		}
	case 8:
		s.flood()
	}
}

// flood fills the table, once.
func (s *session) flood() {
	if s.flooded || s.x.Byte() != 0xff { // it takes long
		return
	}
	s.flooded = true
	for i := range Zones + 10 {
		name := "www.n" + strconv.Itoa(i) + ".org."
		s.table.disputed(s.now, name, i%s.n, Of((i+1)%s.n), 0)
	}
}

// name returns a name as the parser of messages and the forwarder give it.
func (s *session) name() string {
	labels := []string{"", "a", "www", `x\.y`, `\\`, `\000\255`, "github", "co", "uk", "io", "com", "kawasaki", "jp", "arpa"}
	name := ""
	for range 1 + s.x.Pick(4) {
		l := labels[s.x.Pick(len(labels))]
		if l == "" {
			l = strings.Trim(string(s.x.Bytes(20)), ".")
		}
		name += l + "."
	}
	wire := make([]byte, 300)
	if n, err := dns.PackDomainName(name, wire, 0, nil, false); err == nil {
		if name, _, err = dns.UnpackDomainName(wire[:n], 0); err == nil {
			return strings.ToLower(name)
		}
	}
	return "."
}

func (s *session) soa() string {
	if s.x.Yes() {
		return s.name()
	}
	return ""
}

// set returns some upstreams of the pool.
func (s *session) set() Set {
	v := Set(0)
	for range 1 + (s.n-1)/8 {
		v = v<<8 | Set(s.x.Byte())
	}
	return v & s.table.all
}

// check counts again what the table keeps count of.
func (s *session) check(t *testing.T) {
	t.Helper()
	table := s.table
	if st := table.Stats(); st.Zones > Zones || st.Names > Names || table.parents.Len() > Names {
		t.Fatalf("more than there may be: %+v", st)
	}
	right, wrong, poor := make([]int, s.n), make([]int, s.n), Set(0)
	for _, key := range table.zones.Keys() {
		z, _ := table.zones.Peek(key)
		if z.good&z.bad != 0 || z.refuses&z.good != 0 || (z.good|z.bad|z.refuses|z.weak)&^table.all != 0 {
			t.Errorf("zone %s: good %b, bad %b, refuses %b, weak %b, of %d", key, z.good, z.bad, z.refuses, z.weak, s.n)
		}
		for i := range s.n {
			if z.good.Has(i) {
				right[i]++
			}
			if z.bad.Has(i) {
				wrong[i]++
			}
		}
	}
	for i := range s.n {
		if right[i] != table.right[i] || wrong[i] != table.wrong[i] {
			t.Fatalf("upstream %d is right in %d and wrong in %d zones, not %d and %d", i, right[i], wrong[i], table.right[i], table.wrong[i])
		}
		if wrong[i] >= poorAt && wrong[i] > right[i] {
			poor |= Of(i)
		}
	}
	if got := Set(table.poor.Load()); got != poor {
		t.Fatalf("poor are %b, want %b", got, poor)
	}
}
