package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dnsguard/dnsguard/plugin/loopguard"
)

// LoopProbe is what became of a question that a probe for a loop asked.
type LoopProbe uint8

// The results.
const (
	LoopSent       LoopProbe = iota // it was sent: each has one of the others too, in the end
	LoopReturned                    // it came back
	LoopAnswered                    // the upstream answered something else: no loop by this name
	LoopUnanswered                  // no reply

	loopProbes
)

var loopProbeNames = [loopProbes]string{"sent", "returned", "answered", "unanswered"}

// String returns the value of the metric label.
func (r LoopProbe) String() string { return loopProbeNames[r] }

// loopVecs are the metrics about loops, per upstream.
type loopVecs struct {
	suspected, loopProbes, detected *prometheus.CounterVec
}

func newLoopVecs(counter func(name, help string, labels ...string) *prometheus.CounterVec) loopVecs {
	return loopVecs{
		suspected:  counter("loop_suspected_total", "Counter of reasons to probe an upstream for a loop, per reason.", "to", "reason"),
		loopProbes: counter("loop_probes_total", "Counter of questions of probes for loops, sent and by what became of them.", "to", "result"),
		detected:   counter("loop_detected_total", "Counter of times that queries to an upstream were found to come back.", "to"),
	}
}

func (v *loopVecs) all() []*prometheus.CounterVec {
	return []*prometheus.CounterVec{v.suspected, v.loopProbes, v.detected}
}

// loopSeries are those of one upstream. That of detections is always there.
type loopSeries struct {
	suspicions [loopguard.Reasons]counterSlot
	loops      [loopProbes]counterSlot
	found      prometheus.Counter
}

// LoopSuspected counts a reason for a probe.
func (u *Upstream) LoopSuspected(r loopguard.Reason) {
	s := u.use()
	s.inc(&s.suspicions[r], s.m.suspected, s.to, r.String())
}

// LoopProbe counts a question of a probe.
func (u *Upstream) LoopProbe(r LoopProbe) {
	s := u.use()
	s.inc(&s.loops[r], s.m.loopProbes, s.to, r.String())
}

// LoopDetected counts a loop.
func (u *Upstream) LoopDetected() { u.use().found.Inc() }

func (s *series) inc(slot *counterSlot, of *prometheus.CounterVec, labels ...string) {
	c := slot.Load()
	if c == nil {
		c = s.counter(slot, of, labels...)
	}
	(*c).Inc()
}

// LoopFlood counts a probe that got no reply, because too many came.
func (m *Metrics) LoopFlood() { m.flood.Inc() }
