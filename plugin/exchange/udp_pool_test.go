package exchange

import (
	"fmt"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

// ask makes one exchange and has the far end that got it answer.
func ask(t *testing.T, x Exchanger, n *memNet, fars map[*memConn]bool) {
	t.Helper()
	sink := newSink()
	x.Start(query("www.example.org"), Options{}, sink)
	for {
		select {
		case far := <-n.far:
			fars[far] = true
			continue
		default:
		}
		break
	}
	for far := range fars {
		select {
		case b := <-far.in:
			far.Write(answer(b))
			wantKind(t, sink.wait(t), outcome.OK)
			return
		default:
		}
	}
	t.Fatal("nobody got the query")
}

func TestUDPRetiresByQueries(t *testing.T) {
	inMemory(t, func(t *testing.T, x *udpPool, n *memNet, _ *counts) {
		fars := make(map[*memConn]bool)
		for range 3*maxQueries + 1 {
			ask(t, x, n, fars)
		}
		if got := n.dials.Load(); got != 4 {
			t.Errorf("%d sockets, want 4", got)
		}
		open := 0
		for far := range fars {
			if !far.peer.closed() {
				open++
			}
		}
		if open != 1 {
			t.Errorf("%d sockets open, want 1", open)
		}
	})
}

func TestUDPRetiresByAge(t *testing.T) {
	inMemory(t, func(t *testing.T, x *udpPool, n *memNet, ev *counts) {
		fars := make(map[*memConn]bool)
		for range 40 { // 20 s
			ask(t, x, n, fars)
			time.Sleep(500 * time.Millisecond)
		}
		if got := n.dials.Load(); got < 2 || got > 5 {
			t.Errorf("%d sockets in 20 s, want 2 to 5", got)
		}
		time.Sleep(2 * minLifetime)
		synctest.Wait()
		if got := ev.sockets[UDP].Load(); got != 0 {
			t.Errorf("%d idle sockets, want 0", got)
		}
	})
}

// TestUDPLingers: a retired socket waits for those who wait, and for a late
// reply, but not for ever.
func TestUDPLingers(t *testing.T) {
	inMemory(t, func(t *testing.T, x *udpPool, n *memNet, ev *counts) {
		sink := newSink()
		h := x.Start(query("slow.example.org"), Options{}, sink)
		far := <-n.far
		time.Sleep(3 * minLifetime) // retired by now
		synctest.Wait()
		if far.peer.closed() {
			t.Fatal("closed with an exchange outstanding")
		}
		h.Cancel()
		time.Sleep(linger - time.Millisecond)
		synctest.Wait()
		if far.peer.closed() {
			t.Fatal("closed before the late reply could come")
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if !far.peer.closed() {
			t.Fatal("still open")
		}

		h = x.Start(query("slow.example.org"), Options{}, sink)
		far = <-n.far
		late := answer(far.next(t))
		time.Sleep(3 * minLifetime)
		h.Cancel()
		far.Write(late)
		synctest.Wait()
		if ev.late.Load() != 1 || !far.peer.closed() {
			t.Errorf("%d late; closed: %v", ev.late.Load(), far.peer.closed())
		}
	})
}

func TestUDPFresh(t *testing.T) {
	inMemory(t, func(t *testing.T, x *udpPool, n *memNet, _ *counts) {
		first := newSink()
		x.Start(query("www.example.org"), Options{}, first)
		shared := <-n.far
		for i := range 3 {
			sink := newSink()
			x.Start(query(fmt.Sprint(i, ".example.org")), Options{Fresh: true}, sink)
			far := <-n.far
			far.Write(answer(far.next(t)))
			wantKind(t, sink.wait(t), outcome.OK)
			synctest.Wait()
			if !far.peer.closed() {
				t.Error("a fresh socket stays open")
			}
		}
		shared.Write(answer(shared.next(t)))
		wantKind(t, first.wait(t), outcome.OK)
	})
}

// TestUDPBounded: whatever is outstanding, the sockets are bounded, and fresh
// ones are the fewer the more there are.
func TestUDPBounded(t *testing.T) {
	inMemory(t, func(t *testing.T, x *udpPool, n *memNet, ev *counts) {
		sinks := make([]chanSink, 3*maxSockets)
		handles := make([]Handle, len(sinks))
		for i := range sinks {
			sinks[i] = newSink()
			handles[i] = x.Start(query("www.example.org"), Options{Fresh: true}, sinks[i])
			sinks[i].none(t)
		}
		synctest.Wait()
		if got := ev.sockets[UDP].Load(); got < maxFresh || got > maxFresh+wantSockets {
			t.Errorf("%d sockets, want %d to %d", got, maxFresh, maxFresh+wantSockets)
		}
		for _, h := range handles {
			if !h.Cancel() {
				t.Error("ended by itself")
			}
		}
	})
}

func TestUDPGrows(t *testing.T) {
	inMemory(t, func(t *testing.T, x *udpPool, n *memNet, ev *counts) {
		handles := make([]Handle, 10_000)
		for i := range handles {
			handles[i] = x.Start(query("www.example.org"), Options{}, newSink())
		}
		synctest.Wait()
		got := ev.sockets[UDP].Load()
		if got < 10_000/maxOut || got > maxSockets {
			t.Errorf("%d sockets for 10,000 exchanges", got)
		}
		for _, h := range handles {
			h.Cancel()
		}
		for range 200 { // 20 s
			h := x.Start(query("www.example.org"), Options{}, newSink())
			time.Sleep(100 * time.Millisecond)
			h.Cancel()
		}
		if got := len(*x.active.Load()); got != 1 {
			t.Errorf("%d active sockets with little to do, want 1", got)
		}
		if got := ev.sockets[UDP].Load(); got > 4 {
			t.Errorf("%d open sockets with little to do", got)
		}
	})
}

// TestUDPLocalFault: without descriptors the pool goes on with what it has.
func TestUDPLocalFault(t *testing.T) {
	inMemory(t, func(t *testing.T, x *udpPool, n *memNet, _ *counts) {
		n.fail = func() error { return syscall.EMFILE }
		sink := newSink()
		x.Start(query("www.example.org"), Options{}, sink)
		wantKind(t, sink.wait(t), outcome.Local)
		n.fail = nil
		fars := make(map[*memConn]bool)
		ask(t, x, n, fars)
		n.fail = func() error { return syscall.EMFILE }
		for range 2 * maxQueries { // worn out, and no other to be had
			ask(t, x, n, fars)
		}
		x.Start(query("www.example.org"), Options{Fresh: true}, sink)
		if len(fars) != 1 {
			t.Errorf("%d sockets, want 1", len(fars))
		}
		for far := range fars {
			far.Write(answer(far.next(t)))
		}
		wantKind(t, sink.wait(t), outcome.OK)
		if got := n.dials.Load(); got > 4 {
			t.Errorf("%d dials during the fault", got)
		}
		n.fail = nil
		time.Sleep(retryOpen)
		ask(t, x, n, fars)
		if len(fars) != 2 {
			t.Errorf("%d sockets after the fault, want 2", len(fars))
		}
	})
}

func TestFlightTable(t *testing.T) {
	var table flightTable
	rand64 := seeded(1)
	seen := make(map[uint16]*udpFlight)
	for range maxInLife {
		f := table.add(rand64(), rand64)
		if seen[f.id] != nil {
			t.Fatalf("ID %d twice", f.id)
		}
		seen[f.id] = f
	}
	for id := range 1 << 16 {
		if table.find(uint16(id)) != seen[uint16(id)] {
			t.Fatalf("ID %d: wrong flight", id)
		}
	}
}
