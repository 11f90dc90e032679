// Package options shows that every option of the directive acts: its tests
// read a Corefile, put the plugin among fake upstreams, and count what those
// see and how long clients wait. That options are read, and what is refused, is
// tested beside the parser.
//
// The tests run in the bubbles of testing/synctest, but for those of options
// that are about real sockets: source_address, resolver and the order of
// directives.
package options
