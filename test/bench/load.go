//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	scanStep  = 4  // slots looked at for a time-out in each turn
	loadZones = 64 // zones that the names are spread over
)

// loadConfig is what a load is. Exactly one of outstanding and rate is set.
type loadConfig struct {
	to      netip.AddrPort
	sockets int

	outstanding int // closed loop: a reply sends the next query
	rate        int // open loop: queries/s, evenly spaced, whatever the replies do

	warm    time.Duration // before the measurement begins
	measure time.Duration
	timeout time.Duration // after which a query has failed

	wantAnswer bool              // a reply without an answer is an error
	cpuTime    func() cpuReading // the server's CPU time; may be nil
}

// loadResult is what was seen of the queries that were sent (open loop), or
// answered (closed loop), while measuring.
type loadResult struct {
	took     time.Duration
	answered uint64        // good replies
	failed   uint64        // bad replies, time-outs, and queries that could not be sent for want of a slot
	latency  hist          // of good replies, from when the query was due to be sent
	cpu      time.Duration // CPU time of the server
	own      time.Duration // CPU time of the engine's thread
	late     time.Duration // the longest that the load was late with sending: large means a disturbed machine
}

// qps returns good replies per second.
func (r *loadResult) qps() float64 { return float64(r.answered) / r.took.Seconds() }

type load struct {
	loadConfig
	clients []client
	in, out *batch
	pending int // packets in out
	zone    int // offset of the zone's two digits in a query
	size    int // of a query
	serial  uint32
	turnOf  int // whose turn it is to send
	scan    int // next slot to look at

	begin, end int64 // of the measurement
	deadline   int64 // of the wait for the last replies
	dueNext    int64 // open loop
	phase      phase
	cpu, own   cpuReading
	result     loadResult
	cancel     atomic.Bool
	done       chan struct{}
}

type phase uint8

const (
	phaseNew phase = iota
	phaseWarm
	phaseMeasure
	phaseDrain
)

// serials makes names unique over all loads of a process.
var serials uint32

func newLoad(cfg loadConfig) (*load, error) {
	l := &load{
		loadConfig: cfg,
		in:         newBatch(false),
		out:        newBatch(false),
		done:       make(chan struct{}),
		serial:     serials,
	}
	l.template()
	for i := range cfg.sockets {
		fd, err := udpSocket(netip.AddrPort{}, cfg.to)
		if err != nil {
			l.close()
			return nil, fmt.Errorf("load: %w", err)
		}
		n := slotsPerClient
		if cfg.outstanding > 0 {
			n = min(cfg.outstanding*(i+1)/cfg.sockets-cfg.outstanding*i/cfg.sockets, slotsPerClient)
		}
		c := client{fd: fd, slots: make([]slot, n), free: make([]uint16, n), tail: uint(n)}
		for j := range c.slots {
			c.slots[j].id, c.free[j] = uint16(j), uint16(j)
		}
		l.clients = append(l.clients, c)
	}
	return l, nil
}

func (l *load) close() {
	serials = l.serial
	for _, c := range l.clients {
		unix.Close(c.fd)
	}
}

// turn does what is to be done when the packets have been handled, and reports
// whether the load goes on.
func (l *load) turn(now int64) bool {
	switch {
	case l.cancel.Load():
		return false
	case l.phase == phaseNew:
		l.begin = now + int64(l.warm)
		l.end = l.begin + int64(l.measure)
		l.deadline = l.end + int64(l.timeout)
		l.dueNext = now
		l.phase = phaseWarm
		l.fill(now)
	case l.phase == phaseWarm && now >= l.begin:
		l.phase = phaseMeasure
		l.start(now)
	case l.phase == phaseMeasure && now >= l.end:
		l.phase = phaseDrain
		l.finish(now)
	}
	if l.rate > 0 && l.phase != phaseDrain {
		l.sendDue(now)
	}
	l.expire(now)
	if l.phase != phaseDrain {
		return true
	}
	if l.rate == 0 || l.idle() {
		return false
	}
	if now < l.deadline {
		return true
	}
	for i := range l.clients {
		for j := range l.clients[i].slots {
			if s := &l.clients[i].slots[j]; s.busy && l.counts(s.due) {
				l.result.failed++
			}
		}
	}
	return false
}

func (l *load) start(now int64) {
	if l.cpuTime != nil {
		l.cpu = l.cpuTime()
	}
	l.own = threadCPU()
	l.begin = now
}

func (l *load) finish(now int64) {
	l.end = now
	l.result.took = time.Duration(now - l.begin)
	if l.cpuTime != nil {
		l.result.cpu = l.cpuTime().since(l.cpu)
	}
	l.result.own = threadCPU().since(l.own)
}

// fill sends the first queries of a closed loop.
func (l *load) fill(now int64) {
	if l.rate > 0 {
		return
	}
	for i := range l.clients {
		c := &l.clients[i]
		for j := range c.slots {
			l.queue(c, &c.slots[j], now)
		}
		l.flush(c)
	}
}

// sendDue sends what an open loop is to send by now.
func (l *load) sendDue(now int64) {
	for l.dueNext <= now {
		if l.phase == phaseMeasure {
			l.result.late = max(l.result.late, time.Duration(now-l.dueNext))
		}
		c := &l.clients[l.turnOf]
		l.turnOf = (l.turnOf + 1) % len(l.clients)
		if c.head == c.tail {
			if l.counts(l.dueNext) {
				l.result.failed++
			}
		} else {
			j := c.free[c.head%slotsPerClient]
			c.head++
			l.queue(c, &c.slots[j], l.dueNext)
			l.flush(c)
		}
		l.dueNext += int64(time.Second) / int64(l.rate)
	}
}

// next returns when the load has something to send, or never.
func (l *load) next(never int64) int64 {
	if l.rate == 0 || l.phase == phaseDrain {
		return never
	}
	return l.dueNext
}

func (l *load) flush(c *client) {
	if l.pending > 0 {
		l.out.send(c.fd, l.pending)
		l.pending = 0
	}
}

// readable handles one batch of replies.
func (l *load) readable(c *client, now int64) {
	for i := range l.in.recv(c.fd) {
		msg := l.in.packet(i)
		if s := c.match(msg); s != nil {
			if l.counts(l.moment(s, now)) {
				if l.good(msg) {
					l.result.answered++
					l.result.latency.record(time.Duration(now - s.due))
				} else {
					l.result.failed++
				}
			}
			l.again(c, s, now)
		}
	}
	l.flush(c)
}

// moment is when a query happened: a closed loop counts replies while they
// come in, an open one counts queries while they are due.
func (l *load) moment(s *slot, now int64) int64 {
	if l.rate > 0 {
		return s.due
	}
	return now
}

// counts reports whether t lies within the measurement.
func (l *load) counts(t int64) bool {
	return l.phase >= phaseMeasure && t >= l.begin && t < l.end
}

// again reuses the slot of a query that is over.
func (l *load) again(c *client, s *slot, now int64) {
	switch {
	case l.rate > 0:
		s.busy = false
		c.free[c.tail%slotsPerClient] = s.id % slotsPerClient
		c.tail++
	case l.phase == phaseDrain:
		s.busy = false
	default:
		l.queue(c, s, now)
	}
}

// expire looks at a few slots each time, so that no turn is a long one.
func (l *load) expire(now int64) {
	for range scanStep {
		i := l.scan % len(l.clients)
		c := &l.clients[i]
		if j := l.scan / len(l.clients); j < len(c.slots) {
			if s := &c.slots[j]; s.busy && now-s.due > int64(l.timeout) {
				if l.counts(l.moment(s, now)) {
					l.result.failed++
				}
				l.again(c, s, now)
				l.flush(c)
			}
		}
		if l.scan++; l.scan >= len(l.clients)*len(l.clients[0].slots)+len(l.clients) {
			l.scan = 0
		}
	}
}

// idle reports whether no query is outstanding (open loop).
func (l *load) idle() bool {
	for i := range l.clients {
		if c := &l.clients[i]; c.tail-c.head != uint(len(c.slots)) {
			return false
		}
	}
	return true
}
