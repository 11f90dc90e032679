package loopguard

import (
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"strings"
)

// Nonce tells tokens apart.
type Nonce [nonceSize]byte

// Token is what a probe asks for: a name that is never asked for twice.
type Token struct {
	Nonce Nonce
	Group Group
}

const nonceSize = 10

// Labels are the text of a token in base32 (RFC 4648, section 7), which letter
// case does not change: nonce, group, MAC.
var labels = base32.HexEncoding.WithPadding(base32.NoPadding)

// Lengths of the labels.
var (
	nonceLabel = labels.EncodedLen(nonceSize)
	groupLabel = labels.EncodedLen(groupSize)
	macLabel   = labels.EncodedLen(macSize)
)

// Name returns the name of a token under a suffix, which is fully qualified and
// leaves room for it: see Fits.
func (k Key) Name(t Token, suffix string) string {
	group := t.group()
	var b strings.Builder
	b.WriteString(encode(t.Nonce[:]))
	b.WriteByte('.')
	b.WriteString(encode(group[:]))
	b.WriteByte('.')
	b.WriteString(encode(k.tokenMAC(domainToken, t)))
	b.WriteByte('.')
	b.WriteString(suffix)
	return b.String()
}

// Fits reports whether a token can stand before a name (RFC 1035, section 3.1:
// 255 octets on the wire, which begin with a length and end with the root's).
func Fits(name string) bool { return name != "." && tokenLen+len(name) <= 253 }

// Answer returns the text that answers a token. Only a holder of the key can
// know it.
func (k Key) Answer(t Token) string { return encode(k.tokenMAC(domainAnswer, t)) }

// Answered reports whether text is the answer to a token.
func (k Key) Answered(t Token, text string) bool {
	return subtle.ConstantTimeCompare([]byte(k.Answer(t)), []byte(strings.ToLower(text))) == 1
}

// tokenLen is the length of the labels of a token in a name, with the dots.
var tokenLen = nonceLabel + groupLabel + macLabel + 3

// Shaped reports whether a name may begin with a token.
func Shaped(name string) bool {
	return len(name) > tokenLen && name[nonceLabel] == '.' && name[nonceLabel+1+groupLabel] == '.' && name[tokenLen-1] == '.'
}

// ParseName reads the token that a name begins with, whatever is behind it. The
// name is fully qualified, and in any letter case. It returns false for what no
// holder of the key has made.
func (k Key) ParseName(name string) (Token, bool) {
	if !Shaped(name) {
		return Token{}, false
	}
	name = strings.ToLower(name[:tokenLen-1])
	var t Token
	var group [groupSize]byte
	var mac [macSize]byte
	if !decode(t.Nonce[:], name[:nonceLabel]) || !decode(group[:], name[nonceLabel+1:nonceLabel+1+groupLabel]) || !decode(mac[:], name[nonceLabel+groupLabel+2:]) {
		return Token{}, false
	}
	t.Group = Group(binary.BigEndian.Uint32(group[:]))
	if subtle.ConstantTimeCompare(mac[:], k.tokenMAC(domainToken, t)) != 1 {
		return Token{}, false
	}
	return t, true
}

func (t Token) group() (b [groupSize]byte) {
	binary.BigEndian.PutUint32(b[:], uint32(t.Group))
	return b
}

func (k Key) tokenMAC(domain uint64, t Token) []byte {
	group := t.group()
	return binary.BigEndian.AppendUint64(nil, k.mac(domain, append(t.Nonce[:], group[:]...)))
}

func encode(b []byte) string { return strings.ToLower(labels.EncodeToString(b)) }

// decode fills b from text, which is of the right length.
func decode(b []byte, text string) bool {
	got, err := labels.DecodeString(strings.ToUpper(text))
	return err == nil && copy(b, got) == len(b) && encode(b) == text // one spelling only
}
