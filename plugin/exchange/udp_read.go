package exchange

import (
	"bytes"
	"errors"
	"net"
	"os"
	"time"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// readSize is the largest datagram that is taken. We advertise 1,232 octets;
// not every server cares. One octet more tells a datagram that was cut.
const readSize = 4096

var errForged = errors.New("too many datagrams that belong to no query")

// read hands out the replies until the socket is closed.
func (s *udpSocket) read() {
	events := s.pool.cfg.Events
	events.Sockets(UDP, 1)
	defer events.Sockets(UDP, -1)
	ok, err := s.readBatches()
	if !ok {
		err = s.readOneByOne()
	}
	s.failed(err)
	s.conn.Close()
}

func (s *udpSocket) readOneByOne() error {
	buf := make([]byte, readSize+1)
	for {
		n, err := s.conn.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return net.ErrClosed // shut
		}
		if err != nil {
			return err
		}
		s.receive(buf[:n], s.pool.now())
	}
}

// receive deals with one datagram. One that makes it panic is lost, as others are.
func (s *udpSocket) receive(b []byte, now time.Duration) {
	defer s.pool.cfg.Recoverer.Recover("a datagram")
	sink, rtt, match := s.match(b, now)
	switch match {
	case matchReply:
		sink.Done(s.reply(b, rtt))
	case matchKept:
		r := s.reply(b, rtt)
		r.Wire = bytes.Clone(b[:min(len(b), readSize)])
		sink.Done(r)
	case matchLate:
		s.pool.cfg.Events.Late(rtt)
	case matchForged, matchForgedTooOften:
		s.pool.cfg.Events.Mismatched()
	}
	if match == matchForgedTooOften {
		s.fail(outcome.Mismatched, s.pool.cfg.about(UDP, errForged))
	}
}

// reply parses a datagram that has found its exchange.
func (s *udpSocket) reply(b []byte, rtt time.Duration) Reply {
	r := Reply{Size: len(b), Proto: UDP, Local: s.local, RTT: rtt}
	var err error
	if len(b) > readSize {
		r.Kind, err = outcome.Malformed, errTooLarge
	} else {
		r.Msg, r.Kind, err = parse(b, true)
	}
	if err != nil {
		r.Err = s.pool.cfg.about(UDP, err)
	}
	return r
}

// udpMatch is what a datagram turned out to be.
type udpMatch uint8

const (
	matchReply          udpMatch = iota // to an exchange that waits
	matchKept                           // likewise, and the reply's octets are wanted
	matchLate                           // to one that was cancelled
	matchDuplicate                      // to one that has its reply
	matchForged                         // to none
	matchForgedTooOften                 // to none, and the socket is to be given up
)

// match finds the exchange that b belongs to, and ends it (RFC 5452, section 9.1).
func (s *udpSocket) match(b []byte, now time.Duration) (sink Sink, rtt time.Duration, match udpMatch) {
	sink, rtt, match, shut := s.matchOne(b, now)
	if shut {
		s.shut()
	}
	return sink, rtt, match
}

// matchOne does so, and reports whether the socket is done.
func (s *udpSocket) matchOne(b []byte, now time.Duration) (sink Sink, rtt time.Duration, match udpMatch, shut bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.belongsLocked(b); f == nil {
		match = s.forgedLocked()
	} else {
		rtt = now - f.sent
		switch f.state {
		case waiting:
			sink = f.sink
			if f.q.Keep {
				match = matchKept
			}
			f.end(answered)
			s.out--
		case cancelled:
			match = matchLate
			f.state = late
			s.owed--
		default:
			match = matchDuplicate
		}
		shut = s.settleLocked(now)
	}
	return sink, rtt, match, shut
}

// belongsLocked returns the flight, or the tombstone, that b is a reply to.
func (s *udpSocket) belongsLocked(b []byte) *udpFlight {
	if !isResponse(b) {
		return nil
	}
	f := s.flights.find(messageID(b))
	switch {
	case f == nil:
		return nil
	case f.state == waiting && answers(b, f.q), f.state != waiting && repeats(b, int(f.size), f.print):
		return f
	}
	return nil
}

func (s *udpSocket) forgedLocked() udpMatch {
	if s.out == 0 {
		return matchForged
	}
	s.forged++
	if s.forged < maxForged {
		return matchForged
	}
	return matchForgedTooOften
}
