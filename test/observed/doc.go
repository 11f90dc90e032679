// Package observed receives what CoreDNS's plugins for observing send: frame
// streams of dnstap, and spans for Zipkin. Nothing in it is made up: the frames
// and the spans are decoded by the libraries that real receivers use.
//
// Receivers are given a listener, so that they can be in a network namespace.
// All methods may be called concurrently.
package observed
