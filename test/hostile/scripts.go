package hostile

import "github.com/miekg/dns"

// The beginning of a script: what becomes of connections.
const (
	accepts  = "\x00\x00"
	probed   = "\x04\x00" // and answers probes
	refuses  = "\x00\x01"
	hangs    = "\x00\x03"
	chatters = "\x00\x05\x04\x00\x02ab"
)

// The first octet of an act: how many replies, and what else.
const (
	one     = "\x00"
	none    = "\x03"
	two     = "\x05"
	nine    = "\x07"
	closing = "\x08"
	resets  = "\x10"
	stops   = "\x1b" // no reply, and no end
	splits  = "\x20"
	lies    = "\x28"
	closed  = "\x33" // no reply but ICMP
)

// says is a reply of a kind, as it is.
func says(k kind) string { return sends(k, 0, "", "\x00") }

// sends is a reply of a kind; how is what becomes of it.
func sends(k kind, n uint16, raw, how string) string {
	s := string(rune(k))
	if k.takesNumber() {
		s += string([]byte{byte(n >> 8), byte(n)})
	}
	if k.takesBytes() {
		s += string([]byte{byte(len(raw))}) + raw
	}
	return s + how
}

// late, forged and cut are what may become of a reply.
const (
	late   = "\x01\x04"
	forged = "\x02\x00\x01"
	query  = "\x04\x80\x00" // with QR off
	bitten = "\x06\x20\x40"
	cut    = "\x08\x03"
)

// Scripts returns seeds for New: one of each kind of reply, and what happens in
// the field.
func Scripts() []string {
	all := []string{
		"",
		accepts + none,
		probed + none,
		probed + stops,
		accepts + closed + "\x00",
		accepts + stops,
		refuses + one + says(kindTC),
		hangs + one + says(kindTC),
		chatters + one + says(kindTC) + one + says(kindData),
		accepts + nine + sends(kindData, 0, "", forged) + sends(kindData, 0, "", query) + says(kindOther) + says(kindEcho) + sends(kindGarbage, 0, "xyz", "\x00"),
		accepts + one + sends(kindData, 0, "", late) + none + none,
		accepts + two + sends(kindNXDomain, 0, "", "\x00") + sends(kindData, 0, "", late),
		accepts + one + sends(kindData, 0, "", bitten) + one + sends(kindData, 0, "", cut),
		accepts + closing + says(kindData) + resets + says(kindData) + splits + says(kindData) + "\x09" + lies + says(kindData) + "\x05",
		accepts + one + sends(kindNoQuestion, dns.RcodeRefused, "", "\x00") + one + sends(kindHeader, dns.RcodeNotImplemented, "", "\x00"),
		accepts + one + sends(kindRcode, dns.RcodeFormatError, "", "\x00") + one + says(kindData),
		accepts + one + sends(kindRcode, dns.RcodeBadVers, "", "\x00") + one + sends(kindRcode, 4095, "", "\x00"),
	}
	for _, rrtype := range []uint16{dns.TypeSVCB, dns.TypeNSEC, dns.TypeAPL, dns.TypeLOC, dns.TypeHIP, dns.TypeOPT, dns.TypeTXT, dns.TypeTSIG, dns.TypeIPSECKEY, dns.TypeNULL} {
		all = append(all, accepts+one+sends(kindRecord, rrtype, "\x00\x01\x00\x00\x01\x00\x01\x00", "\x00"))
	}
	for k := range kinds {
		all = append(all, accepts+one+sends(k, 600, "\xff\x00\xc0", "\x00"))
	}
	return all
}
