package exchange

import "time"

// flightState is how far an exchange has come.
type flightState uint8

const (
	waiting   flightState = iota
	answered              // the sink has been told, or is about to be
	cancelled             // nobody waits; the reply may still come
	late                  // cancelled, and the reply came
)

// udpFlight is one exchange on a socket, and then its tombstone: it keeps its ID
// taken for as long as the socket lives, so that no late reply can be taken for
// the answer to another query.
type udpFlight struct {
	sock *udpSocket
	sent time.Duration // since the pool began

	// guarded by sock.mu
	q     *Query // nil once ended
	sink  Sink   // nil once ended
	print uint32 // fingerprint of the question, once ended
	size  uint16 // octets of the question, once ended
	id    uint16
	state flightState
	held  bool // it could not be written
}

// end makes a tombstone of f.
func (f *udpFlight) end(state flightState) {
	question := f.q.Wire[headerLen:f.q.QuestionEnd]
	f.print, f.size = fingerprint(question), uint16(len(question))
	f.state, f.q, f.sink = state, nil, nil
}

const (
	slabLen   = 64
	maxInLife = 1 << 15 // exchanges of one socket, whatever happens: half of all IDs
)

// flightTable holds all the flights of a socket's life by ID. It is an open
// hash table: IDs are random already, and nothing is ever removed.
type flightTable struct {
	slots []*udpFlight // length a power of two, at most half full
	slab  []udpFlight  // not yet used
	n     int
}

// find returns the flight with an ID, or nil.
func (t *flightTable) find(id uint16) *udpFlight {
	if len(t.slots) == 0 {
		return nil
	}
	mask := len(t.slots) - 1
	for i := int(id) & mask; ; i = (i + 1) & mask {
		f := t.slots[i]
		if f == nil || f.id == id {
			return f
		}
	}
}

// add makes a flight with an unpredictable ID that no other flight of this
// socket has had; bits are the first draw.
func (t *flightTable) add(bits uint64, rand64 func() uint64) *udpFlight {
	if 2*t.n >= len(t.slots) {
		t.grow()
	}
	id := uint16(bits)
	for t.find(id) != nil {
		id = uint16(rand64())
	}
	if len(t.slab) == 0 {
		t.slab = make([]udpFlight, min(slabLen, max(4, t.n))) // many sockets carry one query in all
	}
	f := &t.slab[0]
	t.slab = t.slab[1:]
	f.id = id
	t.put(f)
	t.n++
	return f
}

func (t *flightTable) put(f *udpFlight) {
	mask := len(t.slots) - 1
	i := int(f.id) & mask
	for t.slots[i] != nil {
		i = (i + 1) & mask
	}
	t.slots[i] = f
}

func (t *flightTable) grow() {
	old := t.slots
	t.slots = make([]*udpFlight, max(16, 4*len(old)))
	for _, f := range old {
		if f != nil {
			t.put(f)
		}
	}
}

// waiting returns the flights that nobody has been told about.
func (t *flightTable) waiting() []*udpFlight {
	var fs []*udpFlight
	for _, f := range t.slots {
		if f != nil && f.state == waiting {
			fs = append(fs, f)
		}
	}
	return fs
}
