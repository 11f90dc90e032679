package loopguard

import "encoding/binary"

// OptionCode is the EDNS option of stamps, of the range for local and
// experimental use (RFC 6891, section 9).
const OptionCode = 65311

// Bounds of a stamp.
const (
	MaxHops   = 8 // times that a query may be forwarded by guards
	maxGroups = 3 // that a stamp names; the oldest gives way
)

// Stamp says where a query has been.
type Stamp struct {
	Hops   uint8 // times that it was forwarded
	groups [maxGroups]Group
	n      uint8
}

// Has reports whether the query has passed through g.
func (s Stamp) Has(g Group) bool {
	for _, have := range s.groups[:s.n] {
		if have == g {
			return true
		}
	}
	return false
}

// Path returns a digest of where the query has been; 0: nowhere.
func (s Stamp) Path() uint32 {
	if s.n == 0 {
		return 0
	}
	const basis, prime = 0x811c9dc5, 0x01000193 // of FNV-1a, 32 bits
	path := basis ^ uint32(s.Hops)
	for _, g := range s.groups[:s.n] {
		path = (path ^ uint32(g)) * prime
	}
	return max(path, 1)
}

// Spent reports whether the query may not be forwarded any more.
func (s Stamp) Spent() bool { return s.Hops >= MaxHops }

// Next returns the stamp of the query once it has passed through g too.
func (s Stamp) Next(g Group) Stamp {
	if s.Hops < MaxHops {
		s.Hops++
	}
	if s.n == maxGroups {
		copy(s.groups[:], s.groups[1:])
		s.n--
	}
	s.groups[s.n] = g
	s.n++
	return s
}

// The data of the option: version, hops, groups of 4 octets each, MAC of 8.
const (
	version   = 1
	headSize  = 2
	groupSize = 4
	macSize   = 8
	// MaxSize is the size of the longest stamp, with the option's code and length.
	MaxSize = 4 + headSize + maxGroups*groupSize + macSize
)

// Append appends the option to buf. question is the question section that it
// is for, as packed (RFC 1035, section 4.1.2), in any letter case.
func (k Key) Append(buf []byte, s Stamp, question []byte) []byte {
	buf = binary.BigEndian.AppendUint16(buf, OptionCode)
	buf = binary.BigEndian.AppendUint16(buf, uint16(headSize+int(s.n)*groupSize+macSize))
	at := len(buf)
	buf = append(buf, version, s.Hops)
	for _, g := range s.groups[:s.n] {
		buf = binary.BigEndian.AppendUint32(buf, uint32(g))
	}
	return binary.BigEndian.AppendUint64(buf, k.stampMAC(buf[at:], question))
}

// Formed reports whether the data of the option have the form of a stamp,
// whoever has made it.
func Formed(data []byte) bool {
	groups := len(data) - headSize - macSize
	return groups >= groupSize && groups <= maxGroups*groupSize && groups%groupSize == 0 && data[0] == version && data[1] > 0 && data[1] <= MaxHops
}

// AppendOption appends the option with these data to buf.
func AppendOption(buf, data []byte) []byte {
	buf = binary.BigEndian.AppendUint16(buf, OptionCode)
	buf = binary.BigEndian.AppendUint16(buf, uint16(len(data)))
	return append(buf, data...)
}

// Parse reads the data of the option on a query with that question section. It
// returns false for what is no stamp of a holder of the key for the question.
func (k Key) Parse(data, question []byte) (Stamp, bool) {
	body := len(data) - macSize
	groups := (body - headSize) / groupSize
	if body < headSize+groupSize || (body-headSize)%groupSize != 0 || groups > maxGroups || data[0] != version {
		return Stamp{}, false
	}
	if k.stampMAC(data[:body], question) != binary.BigEndian.Uint64(data[body:]) {
		return Stamp{}, false
	}
	s := Stamp{Hops: data[1], n: uint8(groups)}
	for i := range groups {
		s.groups[i] = Group(binary.BigEndian.Uint32(data[headSize+i*groupSize:]))
	}
	return s, true
}

// maxQuestion is the size of the longest question section: a name, type and class.
const maxQuestion = 255 + 4

func (k Key) stampMAC(data, question []byte) uint64 {
	var room [headSize + maxGroups*groupSize + maxQuestion]byte
	buf := append(room[:0], data...)
	for _, c := range question { // a letter in a length octet or a type makes no difference that matters
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		buf = append(buf, c)
	}
	return k.mac(domainStamp, buf)
}
