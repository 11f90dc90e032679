package fakedns

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// serveStream answers the queries of one connection until it ends (RFC 7766).
func (s *Server) serveStream(raw net.Conn, proto Proto, from netip.AddrPort) {
	defer raw.Close()
	conn := raw
	if proto == TLS {
		if s.Key == nil {
			return
		}
		conn = tls.Server(raw, s.tlsConfig())
		defer conn.Close()
	}
	var writing sync.Mutex
	for served := 0; ; served++ {
		if d := s.idle(); d > 0 {
			raw.SetReadDeadline(time.Now().Add(d))
		} else {
			raw.SetReadDeadline(time.Time{})
		}
		wire, err := readFrame(conn)
		if err != nil {
			return
		}
		v := s.receive(arrival{wire: wire, proto: proto, from: from, served: served})
		switch {
		case v.errno != 0, v.reset:
			pause(v.after, raw)
			reset(raw)
			return
		case v.hangup:
			pause(v.after, raw)
			return
		}
		if v.relayed != nil {
			v.relayed(func(wire []byte) {
				writing.Lock()
				defer writing.Unlock()
				writeFrame(conn, wire)
			})
		}
		for _, p := range v.packets {
			if p.stray {
				continue
			}
			after(p.after, func() {
				writing.Lock()
				defer writing.Unlock()
				writeFrame(conn, p.wire)
			})
		}
	}
}

// pause lets the round trip pass before the connection ends, or less where
// the client ends it first.
func pause(d time.Duration, c net.Conn) {
	c.SetReadDeadline(time.Now().Add(d))
	io.Copy(io.Discard, c)
}

func readFrame(c net.Conn) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return nil, err
	}
	wire := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(c, wire)
	return wire, err
}

func writeFrame(c net.Conn, wire []byte) error {
	frame := make([]byte, 2, 2+len(wire))
	binary.BigEndian.PutUint16(frame, uint16(len(wire)))
	_, err := c.Write(append(frame, wire...))
	return err
}
