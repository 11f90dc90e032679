// Package scenario replays whole behaviours of the plugin: what upstreams do
// over time, what clients ask, and what must come of it. Each scenario is a
// text file (testdata/*.txtar, README.md says how to write one), run inside a
// testing/synctest bubble, so that a minute of faults takes part of a second.
//
// The network and the servers are package fakedns, the plugin is the real
// one. A scenario whose bounds are relative to health is run twice: first
// with servers that all know everything and have no fault.
//
// Parse and Run may be called concurrently; Run must be called inside a bubble.
package scenario
