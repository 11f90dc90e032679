//go:build linux

package main

const slotsPerClient = 1 << 11 // queries that one socket can have outstanding; the low bits of an ID

// slot is one query that may be outstanding.
type slot struct {
	due  int64 // when it was to be sent
	name [8]byte
	id   uint16
	busy bool
}

// client is one socket and its queries.
type client struct {
	fd    int
	slots []slot
	free  []uint16 // open loop: a FIFO, so that an ID comes back as late as possible
	head  uint
	tail  uint
}

// template fills every packet of out with the query that only its ID, its
// first label and its zone's number are set in later.
func (l *load) template() {
	q := []byte{0, 0, flagRD >> 8, 0, 0, 1, 0, 0, 0, 0, 0, 0, 8}
	q = append(q, "00000000\x0adnsbench00\x03com\x00"...)
	q = append(q, 0, typeA, 0, 1)
	l.zone = headerLen + 9 + 9
	l.size = len(q)
	for i := range l.out.bufs {
		copy(l.out.bufs[i][:], q)
		l.out.setLen(i, len(q))
	}
}

// queue writes the query of s into the outgoing batch.
func (l *load) queue(c *client, s *slot, due int64) {
	const hex = "0123456789abcdef"
	l.serial++
	for i := range s.name {
		s.name[i] = hex[l.serial>>(28-4*i)&15]
	}
	s.id += slotsPerClient
	s.due, s.busy = due, true
	buf := &l.out.bufs[l.pending]
	putBE16(buf[:], 0, s.id)
	copy(buf[headerLen+1:], s.name[:])
	zone := byte(l.serial % loadZones)
	buf[l.zone], buf[l.zone+1] = '0'+zone/10, '0'+zone%10
	if l.pending++; l.pending == batchSize {
		l.flush(c)
	}
}

// match returns the query that msg is the reply to, or nil.
func (c *client) match(msg []byte) *slot {
	if len(msg) < headerLen+9 || be16(msg, 2)&flagQR == 0 {
		return nil
	}
	id := be16(msg, 0)
	j := int(id % slotsPerClient)
	if j >= len(c.slots) {
		return nil
	}
	s := &c.slots[j]
	if !s.busy || s.id != id || [8]byte(msg[headerLen+1:]) != s.name {
		return nil
	}
	return s
}

func (l *load) good(msg []byte) bool {
	return be16(msg, 2)&(flagTC|rcodeMask) == 0 && (!l.wantAnswer || be16(msg, 6) > 0)
}
