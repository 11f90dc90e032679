package hostile

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/test/fakedns"
	"github.com/dnsguard/dnsguard/test/tape"
)

// Peer is a hostile upstream. It implements fakedns.Peer.
type Peer struct {
	acts     []act     // what it does with queries, over and over
	welcomes []welcome // what it does with connections, likewise
	probed   bool      // it answers probes, whatever else it does

	mu      sync.Mutex
	queries int
	conns   int
	serving int
	gave    bool // data, to a question but that of probes
	slow    bool // has replied late, or kept a connection waiting
	sockets map[netip.AddrPort]*ledger
	account map[Question]*Account
}

// Account is what became of one question at a Peer.
type Account struct {
	// Sends is how often it was asked, by datagram or in a frame that came whole.
	Sends int
	// Redone is how many of the sends were lost with their connection, or by an
	// error that looks like a fault of the asker's own host. They may be made
	// good by another.
	Redone int
	// Replies are those that may be taken for replies to it.
	Replies []Reply
}

// most is how much of a tape is read.
const most = 48

// New returns the peer that a script describes.
func New(script []byte) *Peer {
	p := &Peer{sockets: make(map[netip.AddrPort]*ledger), account: make(map[Question]*Account)}
	x := tape.New(script)
	how := x.Byte()
	p.probed = how&4 != 0
	for range 1 + how&3 {
		p.welcomes = append(p.welcomes, readWelcome(x))
	}
	for range most {
		p.acts = append(p.acts, readAct(x))
		if x.Done() {
			break
		}
	}
	return p
}

// Account returns what became of a question.
func (p *Peer) Account(q Question) Account {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a := p.account[q]; a != nil {
		return *a
	}
	return Account{}
}

// Gave reports whether the peer has given data to any question but that of probes.
func (p *Peer) Gave() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gave
}

func (p *Peer) dawdle(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.slow = p.slow || d > 0
}

// Slow reports whether the peer has replied late, or kept a connection waiting:
// then nobody can tell for some time that no reply is going to come.
func (p *Peer) Slow() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.slow
}

// Wait lets time pass until no connection is served. It is for bubbles, whose
// clients have closed everything.
func (p *Peer) Wait() {
	for range 600 {
		if p.Serving() == 0 {
			return
		}
		time.Sleep(time.Second)
	}
}

// Serving returns how many connections are being served.
func (p *Peer) Serving() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.serving
}

func (p *Peer) accountLocked(q Question) *Account {
	a := p.account[q]
	if a == nil {
		a = new(Account)
		p.account[q] = a
	}
	return a
}

// next returns what is to be done with the query that has come.
func (p *Peer) next(query []byte) act {
	if q, _, ok := readQuery(query); ok && p.probed && q.Name == "." && q.Type == dns.TypeNS {
		return act{replies: []reply{{kind: kindData}}}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queries++
	return p.acts[(p.queries-1)%len(p.acts)]
}

// Datagram implements fakedns.Peer.
func (p *Peer) Datagram(from netip.AddrPort, wire []byte) []fakedns.Packet {
	a := p.next(wire)
	p.mu.Lock()
	book := p.sockets[from]
	if book == nil {
		book = new(ledger)
		p.sockets[from] = book
	}
	p.mu.Unlock()
	p.ask(book, wire)
	var out []fakedns.Packet
	after := time.Duration(0)
	for _, r := range a.replies {
		after += r.after
		p.dawdle(r.after)
		b := r.make(wire)
		p.reply(book, b)
		out = append(out, fakedns.Packet{After: after, Wire: b})
	}
	if a.errno != 0 {
		p.spoil(book, a.errno)
		out = append(out, fakedns.Packet{After: after, Errno: a.errno})
	}
	return out
}

// Connect implements fakedns.Peer.
func (p *Peer) Connect() (time.Duration, syscall.Errno) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.welcomes[p.conns%len(p.welcomes)]
	p.conns++
	return w.after, w.errno
}

// Stream implements fakedns.Peer.
func (p *Peer) Stream(c net.Conn) (reset bool) {
	p.mu.Lock()
	w := p.welcomes[(p.conns-1)%len(p.welcomes)]
	p.serving++
	p.mu.Unlock()
	s := &stream{peer: p, conn: c}
	defer s.end()
	s.send(w.banner)
	for {
		wire, err := readFrame(c)
		if err != nil {
			return false
		}
		a := p.next(wire)
		p.ask(&s.book, wire)
		for _, r := range a.replies {
			p.dawdle(r.after)
			time.Sleep(r.after)
			s.frame(r.make(wire), a)
		}
		switch a.end {
		case endClose:
			return false
		case endReset:
			time.Sleep(time.Millisecond) // it overtakes what has not been read
			return true
		case endHang: // until the client has enough of it
			_, _ = io.Copy(io.Discard, c)
			return false
		}
	}
}

// ask takes a query into the account.
func (p *Peer) ask(book *ledger, wire []byte) {
	q, id, ok := readQuery(wire)
	if !ok {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	book.asked = append(book.asked, asked{id: id, question: q})
	p.accountLocked(q).Sends++
	if book.spoilt {
		p.accountLocked(q).Redone++
	}
}

// spoil notes that a socket will fail for a reason that is its host's own.
func (p *Peer) spoil(book *ledger, errno syscall.Errno) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if errno != syscall.EMSGSIZE || book.spoilt {
		return
	}
	book.spoilt = true
	for _, a := range book.asked {
		p.accountLocked(a.question).Redone++
	}
}

// reply takes a message that is about to be sent into the account, if it is a
// reply to a query of the socket or connection.
func (p *Peer) reply(book *ledger, wire []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range book.asked {
		if a := &book.asked[i]; answers(wire, a.id, a.question) {
			a.answered = true
			account, r := p.accountLocked(a.question), newReply(wire)
			account.Replies = append(account.Replies, r)
			p.gave = p.gave || r.Msg != nil && r.Msg.Data() && a.question.Name != "."
		}
	}
}

// stream is a connection.
type stream struct {
	peer *Peer
	conn net.Conn
	book ledger
	sent []byte // of which no whole frame has been made yet
}

// frame sends a message, or nearly so.
func (s *stream) frame(wire []byte, a act) {
	b := binary.BigEndian.AppendUint16(nil, uint16(len(wire)+a.lie))
	b = append(b, wire...)
	if a.split > 0 && a.split < len(b) {
		s.send(b[:a.split])
		time.Sleep(time.Millisecond)
		b = b[a.split:]
	}
	s.send(b)
}

// send sends octets, and sees what a reader of frames makes of them.
func (s *stream) send(b []byte) {
	s.sent = append(s.sent, b...)
	for len(s.sent) >= 2 {
		end := 2 + int(binary.BigEndian.Uint16(s.sent))
		if end > len(s.sent) {
			break
		}
		s.peer.reply(&s.book, s.sent[2:end])
		s.sent = s.sent[end:]
	}
	_, _ = s.conn.Write(b)
}

// end notes what was lost with the connection.
func (s *stream) end() {
	s.peer.mu.Lock()
	defer s.peer.mu.Unlock()
	s.peer.serving--
	for _, a := range s.book.asked {
		if !a.answered {
			s.peer.accountLocked(a.question).Redone++
		}
	}
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
