package exchange

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// stubEnv makes the test binary a stub server: a process of its own, so that
// its work is not counted as ours.
const stubEnv = "EXCHANGE_TEST_STUB"

func TestMain(m *testing.M) {
	if os.Getenv(stubEnv) != "" {
		stub()
		return
	}
	os.Exit(m.Run())
}

// stub answers every query by UDP and TCP with one A record, until its standard
// input ends.
func stub() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
	if err != nil {
		panic(err)
	}
	_ = c.SetReadBuffer(4 << 20)
	fmt.Println(addr)
	go stubTCP(l)
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteToUDPAddrPort(stubReply(buf[:n], buf), from)
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// stubReply makes a reply in place: the question, and one A record behind it.
func stubReply(q, buf []byte) []byte {
	end := headerLen
	for buf[end] != 0 {
		end += 1 + int(buf[end])
	}
	end += 5
	buf[2] |= 0x80
	buf[7], buf[11] = 1, 0
	return append(buf[:end], 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1)
}

func stubTCP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			r, w := bufio.NewReader(c), bufio.NewWriter(c)
			buf := make([]byte, 4096)
			for {
				b, err := readFrame(r, buf)
				if err != nil {
					c.Close()
					return
				}
				reply := stubReply(b, b[:cap(b)])
				_ = w.WriteByte(byte(len(reply) >> 8))
				_ = w.WriteByte(byte(len(reply)))
				_, _ = w.Write(reply)
				if r.Buffered() == 0 {
					_ = w.Flush()
				}
			}
		}()
	}
}

func startStub(b testing.TB) netip.AddrPort {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), stubEnv+"=1", "GOMAXPROCS=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return netip.MustParseAddrPort(line[:len(line)-1])
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// window keeps n exchanges outstanding: each reply starts the next, from the
// reader's own goroutine, as cheaply as can be.
type window struct {
	x    Exchanger
	q    *Query
	opt  Options
	mu   sync.Mutex
	left int
	open int
	lost int
	done chan struct{}
}

func (w *window) Done(r Reply) {
	w.mu.Lock()
	if r.Msg == nil {
		w.lost++
	}
	if w.left > 0 {
		w.left--
		w.mu.Unlock()
		w.x.Start(w.q, w.opt, w)
		return
	}
	w.open--
	if w.open == 0 {
		close(w.done)
	}
	w.mu.Unlock()
}

func benchWindow(b *testing.B, opt Options, outstanding int) {
	cfg, _ := testConfig("dns", startStub(b))
	x := mustNew(b, cfg)
	defer x.Close()
	w := &window{x: x, q: query("www.example.org"), opt: opt, done: make(chan struct{})}
	first := newSink()
	x.Start(w.q, opt, first)
	first.wait(b)
	b.ReportAllocs()
	b.ResetTimer()
	n := min(b.N, outstanding)
	w.left, w.open = b.N-n, n
	begin := cpuTime()
	for range n {
		x.Start(w.q, opt, w)
	}
	for stuck, last := 0, -1; stuck < 3; {
		select {
		case <-w.done:
			stuck = 3
		case <-time.After(time.Second): // datagrams were lost: the figure is void
			w.mu.Lock()
			if w.left == last {
				stuck++
			}
			last = w.left
			w.mu.Unlock()
			if stuck == 3 {
				b.Errorf("%d exchanges not answered", w.open)
			}
		}
	}
	b.StopTimer()
	b.ReportMetric(float64((cpuTime()-begin).Nanoseconds())/float64(b.N), "cpu-ns/op")
	if w.lost > 0 {
		b.Errorf("%d exchanges failed", w.lost)
	}
}

func BenchmarkUDP(b *testing.B) {
	for _, n := range []int{1, 8, 64, 128} {
		b.Run(fmt.Sprintf("outstanding=%d", n), func(b *testing.B) { benchWindow(b, Options{}, n) })
	}
}

func BenchmarkUDPFresh(b *testing.B) { benchWindow(b, Options{Fresh: true}, 8) }

func BenchmarkTCP(b *testing.B) {
	for _, n := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("outstanding=%d", n), func(b *testing.B) { benchWindow(b, Options{TCP: true}, n) })
	}
}

// BenchmarkUDPParallel is the way that a server uses it: a goroutine waits for
// each reply.
func BenchmarkUDPParallel(b *testing.B) {
	cfg, _ := testConfig("dns", startStub(b))
	x := mustNew(b, cfg)
	defer x.Close()
	q := query("www.example.org")
	b.ReportAllocs()
	b.SetParallelism(32)
	begin := cpuTime()
	b.RunParallel(func(pb *testing.PB) {
		sink := newSink()
		for pb.Next() {
			x.Start(q, Options{}, sink)
			<-sink
		}
	})
	b.ReportMetric(float64((cpuTime()-begin).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

// BenchmarkParse is what parsing alone costs.
func BenchmarkParse(b *testing.B) {
	q := query("www.example.org")
	buf := make([]byte, 512)
	reply := stubReply(q.Wire, append(buf[:0], q.Wire...)[:512])
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := parse(reply, true); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMatch is what finding the exchange costs, without the network.
func BenchmarkMatch(b *testing.B) {
	n := newMemNet()
	cfg, _ := testConfig("dns", netip.MustParseAddrPort("192.0.2.53:53"))
	cfg.Dial = n.dial
	p := newUDPPool(&cfg)
	defer p.Close()
	q := query("www.example.org")
	reply := answer(q.Wire)
	sink := make(chanSink, 1)
	b.ReportAllocs()
	for b.Loop() {
		s, f, err := p.assign(q, Options{}, sink, cfg.Rand64(), p.now())
		if err != nil {
			b.Fatal(err)
		}
		binary.BigEndian.PutUint16(reply, f.id)
		if _, _, m := s.match(reply, p.now()); m != matchReply {
			b.Fatal("no match")
		}
	}
}
