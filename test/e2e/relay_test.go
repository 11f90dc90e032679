package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// roundTrip is the time that a relay adds to each reply.
const roundTrip = 6 * time.Millisecond

// relay stands at a host's port 53, hands everything on to the real server
// on the host's loopback, and gives each reply back one round trip after
// the query came. It never looks further than the ID.
type relay struct {
	delay time.Duration
	udp   atomic.Int64 // queries by UDP
	tcp   atomic.Int64 // queries by TCP

	ctx context.Context // ends with the relay
	wg  sync.WaitGroup
}

// relay starts one on the host's address, port 53, UDP and TCP.
func (h *host) relay(delay time.Duration) *relay {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &relay{delay: delay, ctx: ctx}
	var front net.PacketConn
	var back net.Conn
	var listener net.Listener
	backend := fmt.Sprintf("127.0.0.1:%d", backendPort)
	if err := h.do(func() error {
		var errs [3]error
		front, errs[0] = net.ListenPacket("udp", h.addrPort(53))
		back, errs[1] = net.Dial("udp", backend)
		listener, errs[2] = net.Listen("tcp", h.addrPort(53))
		return errors.Join(errs[:]...)
	}); err != nil {
		h.t.Fatal(err)
	}
	for _, c := range []any{front, back} {
		// Bursts wait in the socket while the machine is busy with others.
		_ = c.(interface{ SetReadBuffer(int) error }).SetReadBuffer(4 << 20)
	}
	slots := new(slots)
	r.wg.Go(func() { r.forth(front.(*net.UDPConn), back, slots) })
	r.wg.Go(func() { r.back(front.(*net.UDPConn), back, slots) })
	r.wg.Go(func() { r.accept(h, listener, backend) })
	h.t.Cleanup(func() {
		cancel()
		for _, c := range []io.Closer{front, back, listener} {
			c.Close()
		}
		r.wg.Wait()
	})
	return r
}

// queries is the number of queries that have come.
func (r *relay) queries() int64 { return r.udp.Load() + r.tcp.Load() }

// slots maps the IDs towards the server to who asked, and with which ID.
type slots struct {
	mu   sync.Mutex
	next uint16
	slot [1 << 16]struct {
		from netip.AddrPort
		id   uint16
		at   time.Time
	}
}

func (s *slots) put(from netip.AddrPort, id uint16) uint16 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	e := &s.slot[s.next]
	e.from, e.id, e.at = from, id, time.Now()
	return s.next
}

func (r *relay) forth(front *net.UDPConn, back net.Conn, s *slots) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := front.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n < 12 {
			continue
		}
		r.udp.Add(1)
		binary.BigEndian.PutUint16(buf, s.put(from, binary.BigEndian.Uint16(buf)))
		_, _ = back.Write(buf[:n]) // a server that is gone is one that drops
	}
}

func (r *relay) back(front *net.UDPConn, back net.Conn, s *slots) {
	buf := make([]byte, 64<<10)
	for {
		n, err := back.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n < 12 {
			continue
		}
		s.mu.Lock()
		e := s.slot[binary.BigEndian.Uint16(buf)]
		s.mu.Unlock()
		reply := append([]byte(nil), buf[:n]...)
		binary.BigEndian.PutUint16(reply, e.id)
		time.AfterFunc(time.Until(e.at.Add(r.delay)), func() { _, _ = front.WriteToUDPAddrPort(reply, e.from) })
	}
}

func (r *relay) accept(h *host, l net.Listener, backend string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		r.wg.Go(func() {
			defer c.Close()
			b, err := h.dial("tcp", backend)
			if err != nil {
				return
			}
			defer b.Close()
			defer context.AfterFunc(r.ctx, func() { c.Close(); b.Close() })()
			var pair sync.WaitGroup
			// Either side's end is both sides' end.
			pair.Go(func() { defer b.Close(); copyMessages(b, c, 0, &r.tcp) })
			pair.Go(func() { defer c.Close(); copyMessages(c, b, r.delay, nil) })
			pair.Wait()
		})
	}
}

// copyMessages copies messages with their two bytes of length (RFC 1035,
// section 4.2.2), each after the delay, and counts them. Those on their way do
// not hold up the next.
func copyMessages(to io.Writer, from io.Reader, delay time.Duration, count *atomic.Int64) {
	type message struct {
		due  time.Time
		wire []byte
	}
	way := make(chan message, 1<<12)
	var writer sync.WaitGroup
	writer.Go(func() {
		for m := range way {
			if d := time.Until(m.due); d > 0 {
				<-time.After(d)
			}
			_, _ = to.Write(m.wire) // who has gone away reads no more either
		}
	})
	defer writer.Wait()
	defer close(way)
	for {
		var size [2]byte
		if _, err := io.ReadFull(from, size[:]); err != nil {
			return
		}
		msg := make([]byte, 2+int(binary.BigEndian.Uint16(size[:])))
		copy(msg, size[:])
		if _, err := io.ReadFull(from, msg[2:]); err != nil {
			return
		}
		if count != nil {
			count.Add(1)
		}
		way <- message{time.Now().Add(delay), msg}
	}
}
