// Package hostile is an upstream that means harm, and what must hold all the
// same: fuzz targets that serve queries while upstreams reply with whatever the
// fuzz input says.
//
// A [Peer] answers in a fakedns.Net. What it does with each query and each
// connection is read from a tape: true and false answers, codes, denials,
// referrals, records of any type with any data, forged and broken messages,
// several of them, late, cut, in pieces, or none. It keeps account of what it
// was asked, and of those of its replies that a careful client may take, as an
// RFC 5452 reading of them says that shares no code with the plugin.
//
// All methods may be called concurrently.
package hostile
