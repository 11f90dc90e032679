package exchange

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// badReplies returns seeds: replies to q, good and bad.
func badReplies(q *Query) [][]byte {
	good := answer(q.Wire)
	loop := append(append([]byte(nil), good[:q.QuestionEnd]...), 0xc0, byte(q.QuestionEnd), 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 1, 2, 3, 4)
	opt := append(append([]byte(nil), good[:q.QuestionEnd]...), 0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 4, 0, 8, 0, 9)
	return [][]byte{
		good, nil, good[:1], good[:11], good[:12], good[:q.QuestionEnd], good[:len(good)-1], loop,
		with(opt, func(b []byte) { b[7], b[11] = 0, 1 }),
		with(good, func(b []byte) { b[2] |= 2 }),
		with(good, func(b []byte) { b[6], b[7] = 0xff, 0xff }),
		with(good[:12], func(b []byte) { b[3], b[5] = 2, 0 }),
		with(good, func(b []byte) { b[12] = 0xc0 }),
		bytes.Repeat([]byte{0xff}, 100),
	}
}

// FuzzUDPReply: whatever comes is ignored, or ends the exchange with an outcome
// that fits; nothing panics.
func FuzzUDPReply(f *testing.F) {
	q := query("www.example.org")
	for _, b := range badReplies(q) {
		f.Add(b, true)
		f.Add(b, false)
	}
	cfg, _ := testConfig("dns", netip.MustParseAddrPort("192.0.2.53:53"))
	cfg.Dial = newMemNet().dial
	p := newUDPPool(&cfg)
	f.Cleanup(p.Close)
	f.Fuzz(func(t *testing.T, b []byte, rightID bool) {
		sink := newSink()
		s, flight, err := p.assign(q, Options{}, sink, cfg.Rand64(), p.now())
		if err != nil {
			t.Fatal(err)
		}
		defer flight.Cancel()
		if rightID && len(b) >= headerLen {
			b = with(b, func(b []byte) { setID(flight.id)(b); b[2] |= 0x80 })
		}
		s.receive(b, p.now())
		select {
		case r := <-sink:
			if (r.Msg == nil) != (r.Kind == outcome.Malformed || r.Kind == outcome.Mismatched) || r.Kind == outcome.Unknown {
				t.Fatalf("reply %+v", r)
			}
		default:
		}
	})
}

// FuzzTCPStream: a stream of anything is cut into frames, and each is ignored or
// ends an exchange.
func FuzzTCPStream(f *testing.F) {
	q := query("www.example.org")
	for _, b := range badReplies(q) {
		frame := append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
		f.Add(frame)
		f.Add(append(append([]byte(nil), frame...), frame...))
		f.Add(frame[:max(len(frame)-1, 0)])
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		cfg, _ := testConfig("dns", netip.MustParseAddrPort("192.0.2.53:53"))
		p := newStreamPool(&cfg, TCP, nil)
		c := &streamConn{pool: p, flights: make(map[uint16]*streamFlight), done: make(chan struct{})}
		p.conns = append(p.conns, c)
		sink := newSink()
		fl := &streamFlight{pool: p, q: q, sink: sink, conn: c, sentIt: true}
		if len(stream) > 4 {
			fl.id = binary.BigEndian.Uint16(stream[2:])
		}
		c.flights[fl.id] = fl
		c.out = 1
		r := bufio.NewReader(bytes.NewReader(stream))
		var buf []byte
		for {
			var err error
			if buf, err = readFrame(r, buf); err != nil {
				break
			}
			c.receive(buf)
		}
		p.Close()
		got := <-sink
		if got.Kind == outcome.Unknown || got.Kind >= outcome.Count {
			t.Fatalf("reply %+v", got)
		}
	})
}
