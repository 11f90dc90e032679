package loopguard

import (
	"bytes"
	"strings"
	"testing"
)

var (
	key    = NewKey([]byte("secret"))
	other  = NewKey([]byte("Secret"))
	ours   = key.Group(". 10.0.0.1")
	theirs = key.Group(". 10.0.0.2")
)

const suffix = "loop.dnsguard.internal."

func question(name string) []byte {
	var q []byte
	for _, l := range strings.Split(strings.TrimSuffix(name, "."), ".") {
		q = append(append(q, byte(len(l))), l...)
	}
	return append(q, 0, 0, 1, 0, 1)
}

func TestStamp(t *testing.T) {
	s := Stamp{}.Next(theirs)
	data := key.Append(nil, s, question("www.Example.org"))[4:]
	got, ok := key.Parse(data, question("wWw.example.ORG"))
	if !ok || !got.Has(theirs) || got.Has(ours) || got.Hops != 1 {
		t.Errorf("%+v, %v", got, ok)
	}
	got = got.Next(ours)
	if got.Hops != 2 || !got.Has(theirs) || !got.Has(ours) {
		t.Errorf("%+v", got)
	}
	for i := range 5 {
		got = got.Next(Group(i))
	}
	if got.Hops != 7 || got.Has(ours) || !got.Has(4) || got.Spent() || !got.Next(9).Spent() || !got.Next(9).Next(9).Spent() {
		t.Errorf("%+v", got)
	}
	if n := len(key.Append(nil, got, nil)); n != MaxSize {
		t.Errorf("%d octets", n)
	}
}

// TestStampForged holds that what is not whole, or for another question, or of another key is no stamp.
func TestStampForged(t *testing.T) {
	q := question("www.example.org")
	data := key.Append(nil, Stamp{}.Next(theirs).Next(ours), q)[4:]
	if _, ok := key.Parse(data, question("www.example.net")); ok {
		t.Error("for another question")
	}
	if _, ok := other.Parse(data, q); ok {
		t.Error("of another key")
	}
	for i := range data {
		if _, ok := key.Parse(data[:i], q); ok {
			t.Errorf("cut after %d octets", i)
		}
		changed := bytes.Clone(data)
		changed[i] ^= 1
		if _, ok := key.Parse(changed, q); ok {
			t.Errorf("octet %d changed", i)
		}
	}
	if _, ok := key.Parse(append(bytes.Clone(data), 0), q); ok {
		t.Error("one octet more")
	}
}

// TestFormed holds what is taken for a stamp of somebody who has another key.
func TestFormed(t *testing.T) {
	s := Stamp{}
	for i := range MaxHops {
		s = s.Next(Group(i))
		data := other.Append(nil, s, question("www.example.org"))[4:]
		if !Formed(data) || !bytes.Equal(AppendOption(nil, data), other.Append(nil, s, question("www.example.org"))) {
			t.Errorf("%x", data)
		}
		for i := range data {
			if size := len(data[:i]); Formed(data[:i]) && (size-headSize-macSize)%groupSize != 0 {
				t.Errorf("%x", data[:i])
			}
		}
		for _, bad := range [][]byte{append(bytes.Clone(data), 0), append([]byte{2}, data[1:]...), append([]byte{1, 9}, data[2:]...), append([]byte{1, 0}, data[2:]...), make([]byte, 200)} {
			if Formed(bad) {
				t.Errorf("%x", bad)
			}
		}
	}
}

// TestPath holds that queries which have come another way are told apart.
func TestPath(t *testing.T) {
	seen := map[uint32]bool{0: true}
	if (Stamp{}).Path() != 0 {
		t.Error("nowhere is somewhere")
	}
	for _, s := range []Stamp{
		Stamp{}.Next(1), Stamp{}.Next(2), Stamp{}.Next(1).Next(2), Stamp{}.Next(2).Next(1), Stamp{}.Next(1).Next(1), Stamp{}.Next(1).Next(1).Next(1).Next(1), Stamp{}.Next(1).Next(1).Next(1),
	} {
		if seen[s.Path()] {
			t.Errorf("%+v twice", s)
		}
		seen[s.Path()] = true
	}
}

func TestToken(t *testing.T) {
	token := Token{Nonce: [10]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, Group: ours}
	name := key.Name(token, suffix)
	if got, kind := key.ParseName(strings.ToUpper(name)); !kind || got != token {
		t.Errorf("%s: %+v, %v", name, got, kind)
	}
	for name, want := range map[string]bool{
		name: true, key.Name(token, "example.org."): true, "www.example.org.": false, suffix: false, "x." + suffix: false, "x." + name: false,
		name[1:]: false, strings.Replace(name, ".", "-", 1): false, other.Name(token, suffix): false, name[:len(name)-len(suffix)-1]: false,
	} {
		if _, ok := key.ParseName(name); ok != want {
			t.Errorf("%s: %v, want %v", name, ok, want)
		}
	}
	if a := key.Answer(token); !key.Answered(token, strings.ToUpper(a)) || other.Answered(token, a) || key.Answered(token, "") || key.Answered(Token{Group: ours}, a) {
		t.Errorf("answer %s", a)
	}
	if strings.Contains(name, key.Answer(token)) {
		t.Error("the name tells the answer")
	}
}

func BenchmarkStamp(b *testing.B) {
	q := question("www.example.org")
	var room [MaxSize]byte
	s := Stamp{}.Next(ours)
	b.ReportAllocs()
	for b.Loop() {
		data := key.Append(room[:0], s, q)
		if got, ok := key.Parse(data[4:], q); !ok || !got.Has(ours) {
			b.Fatal(got)
		}
	}
}

func FuzzParse(f *testing.F) {
	q := question("www.example.org")
	f.Add(key.Append(nil, Stamp{}.Next(ours), q)[4:], q)
	f.Add([]byte{1}, []byte{})
	f.Fuzz(func(t *testing.T, data, q []byte) {
		if s, ok := key.Parse(data, q); ok && !bytes.Equal(key.Append(nil, s, q)[4:], data) {
			t.Errorf("%x is not %+v", data, s)
		}
	})
}

func FuzzParseName(f *testing.F) {
	f.Add(key.Name(Token{Group: ours}, suffix))
	f.Add("a.b.c." + suffix)
	f.Fuzz(func(t *testing.T, name string) {
		if token, ok := key.ParseName(name); ok && key.Name(token, name[tokenLen:]) != strings.ToLower(name[:tokenLen])+name[tokenLen:] {
			t.Errorf("%s is not %+v", name, token)
		}
	})
}
