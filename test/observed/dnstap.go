package observed

import (
	"net"
	"slices"
	"sync"

	dnstap "github.com/dnstap/golang-dnstap"
	"google.golang.org/protobuf/proto"
)

// Taps receives dnstap.
type Taps struct {
	listener net.Listener
	frames   chan []byte
	wg       sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	got   []*dnstap.Dnstap
	bad   []error
}

// ListenTaps receives over all connections to l, which it closes.
func ListenTaps(l net.Listener) *Taps {
	t := &Taps{listener: l, frames: make(chan []byte), conns: make(map[net.Conn]struct{})}
	t.wg.Go(t.accept)
	return t
}

// Addr returns where it listens.
func (t *Taps) Addr() net.Addr { return t.listener.Addr() }

func (t *Taps) accept() {
	var readers sync.WaitGroup
	decoded := make(chan struct{})
	go func() { defer close(decoded); t.decode() }()
	for {
		c, err := t.listener.Accept()
		if err != nil {
			break
		}
		t.mu.Lock()
		t.conns[c] = struct{}{}
		t.mu.Unlock()
		readers.Go(func() {
			defer c.Close()
			in, err := dnstap.NewFrameStreamInput(c, true)
			if err != nil {
				t.note(err)
				return
			}
			in.ReadInto(t.frames)
		})
	}
	readers.Wait()
	close(t.frames)
	<-decoded
}

func (t *Taps) decode() {
	for frame := range t.frames {
		m := new(dnstap.Dnstap)
		if err := proto.Unmarshal(frame, m); err != nil {
			t.note(err)
			continue
		}
		t.mu.Lock()
		t.got = append(t.got, m)
		t.mu.Unlock()
	}
}

func (t *Taps) note(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bad = append(t.bad, err)
}

// Messages returns what was received so far, in its order: the messages of the
// given types, or, without any, all.
func (t *Taps) Messages(types ...dnstap.Message_Type) []*dnstap.Dnstap {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(t.got), func(m *dnstap.Dnstap) bool {
		return len(types) > 0 && !slices.Contains(types, m.GetMessage().GetType())
	})
}

// Errors returns what was received and could not be understood.
func (t *Taps) Errors() []error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.bad)
}

// Close ends all connections.
func (t *Taps) Close() {
	t.listener.Close()
	t.mu.Lock()
	for c := range t.conns {
		c.Close()
	}
	t.mu.Unlock()
	t.wg.Wait()
}
