package exchange

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"

	"github.com/coredns/coredns/plugin/pkg/doh"
	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/outcome"
)

var (
	errOtherQuestion = errors.New("reply to another question")
	errContentType   = errors.New("content type is not " + doh.MimeType)
)

// httpError is a status that is not 200.
type httpError int

func (e httpError) Error() string { return fmt.Sprintf("HTTP status %d", int(e)) }

// dohExchanger sends queries by HTTPS, over HTTP/2 where the server has it.
type dohExchanger struct {
	cfg    *Config
	calls  *calls
	tls    *tlsDialer
	client *http.Client
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	conns  map[*countedConn]struct{}
	closed bool
}

func newDoH(cfg *Config) *dohExchanger {
	d := &dohExchanger{
		cfg:   cfg,
		tls:   newTLSDialer(cfg, "h2", "http/1.1"),
		conns: make(map[*countedConn]struct{}),
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.calls = newCalls(cfg, HTTPS, d.do)
	idle := cfg.MaxIdle
	if idle <= 0 {
		idle = maxConns
	}
	d.client = &http.Client{
		Transport: &http.Transport{
			DialTLSContext:      d.dial,
			ForceAttemptHTTP2:   true,
			DisableCompression:  true,
			MaxIdleConnsPerHost: idle,
			MaxConnsPerHost:     maxConns,
			IdleConnTimeout:     cfg.Expire,
			// Probes keep a connection from being idle, so nothing but a ping finds out that it is dead.
			HTTP2: &http.HTTP2Config{SendPingTimeout: time.Second, PingTimeout: time.Second},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return d
}

// Start sends q in a request of its own.
func (d *dohExchanger) Start(q *Query, opt Options, sink Sink) Handle {
	return d.calls.start(q, opt, sink)
}

// Close ends all exchanges and closes the connections.
func (d *dohExchanger) Close() {
	d.calls.close()
	d.mu.Lock()
	d.closed = true
	conns := make([]*countedConn, 0, len(d.conns))
	for c := range d.conns {
		conns = append(conns, c)
	}
	d.mu.Unlock()
	d.cancel()
	d.client.CloseIdleConnections()
	for _, c := range conns {
		_ = c.Close()
	}
	d.wg.Wait()
}

// dial opens a connection to the configured address, whatever the URL says. The
// client may go on dialling for a request that was cancelled; Close ends that.
func (d *dohExchanger) dial(ctx context.Context, _, _ string) (conn net.Conn, err error) {
	defer d.cfg.Recoverer.Recover("connecting by HTTPS", func() { // in a goroutine of the client
		conn, err = nil, &dialError{outcome.Local, errPanic}
	})
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil, errClosed
	}
	d.wg.Add(1)
	d.mu.Unlock()
	defer d.wg.Done()
	ctx, cancel := context.WithTimeout(ctx, 2*d.cfg.ConnectTimeout)
	defer cancel()
	defer context.AfterFunc(d.ctx, cancel)()
	raw, err := dialTCP(d.cfg)(ctx)
	if err != nil {
		return nil, err
	}
	return d.tls.handshake(ctx, d.count(raw))
}

// count has the connection known until it is closed.
func (d *dohExchanger) count(raw net.Conn) net.Conn {
	c := &countedConn{Conn: raw, owner: d}
	d.mu.Lock()
	d.conns[c] = struct{}{}
	d.mu.Unlock()
	d.cfg.Events.Sockets(HTTPS, 1)
	return c
}

// countedConn is a connection of the HTTP client.
type countedConn struct {
	net.Conn
	owner *dohExchanger
	once  sync.Once
}

// Close closes the connection and has it forgotten.
func (c *countedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.owner.mu.Lock()
		delete(c.owner.conns, c)
		c.owner.mu.Unlock()
		c.owner.cfg.Events.Sockets(HTTPS, -1)
	})
	return err
}

// traced follows one request; the client calls back from its own goroutines.
func (d *dohExchanger) traced(ctx context.Context, c *call) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			c.over(info.Conn.LocalAddr())
			d.cfg.Events.Conn(HTTPS, info.Reused)
		},
		WroteRequest: func(info httptrace.WroteRequestInfo) {
			if info.Err == nil {
				c.wrote(time.Now())
			}
		},
	})
}

// do makes one exchange.
func (d *dohExchanger) do(ctx context.Context, q *Query, opt Options, c *call) Reply {
	m, err := message(q, opt.NoEDNS)
	if err != nil {
		return Reply{Kind: outcome.Local, Err: err}
	}
	start := time.Now()
	ctx = d.traced(ctx, c)
	method := d.cfg.DoHMethod
	if method == "" {
		method = http.MethodPost
	}
	host := ""
	if d.cfg.TLS != nil {
		host = d.cfg.TLS.ServerName
	}
	req, err := doh.NewRequestWithContext(ctx, method, d.cfg.Addr.String(), host, m)
	if err != nil {
		return Reply{Kind: outcome.Local, Err: err}
	}
	// A query may be asked twice: the client may try again where the server had
	// closed an idle connection. The empty value keeps the header off the wire.
	req.Header["Idempotency-Key"] = nil
	r := Reply{}
	resp, err := d.client.Do(req)
	if err != nil {
		r.Kind, r.Err = dialKind(err), err
	} else {
		body := &countedBody{ReadCloser: resp.Body, keep: q.Keep}
		resp.Body = body
		r.Msg, r.Kind, r.Err = dohReply(resp, m)
		r.Size, r.Wire = body.n, body.kept
	}
	sent, ok := c.Sent()
	r.Local = sent.Local
	if r.Msg != nil {
		if !ok { // the reply was faster than the news
			sent.At = start
			c.wrote(start)
		}
		r.RTT = time.Since(sent.At)
	}
	return r
}

// dohReply judges a response (RFC 8484, section 4.2), and closes its body.
func dohReply(resp *http.Response, q *dns.Msg) (*dns.Msg, outcome.Kind, error) {
	defer resp.Body.Close() // where the status is bad, nothing more is wanted of it
	if kind, err := judgeHTTP(resp); err != nil {
		return nil, kind, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, resp.Body, dns.MaxMsgSize))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, outcome.Malformed, err
	}
	if err != nil {
		return nil, outcome.FromError(err), err
	}
	m, err := unpack(body)
	if err != nil {
		return nil, outcome.Malformed, err
	}
	if !repeatsQuestion(m, q) {
		return nil, outcome.Mismatched, errOtherQuestion
	}
	return m, outcome.Classify(m, false), nil
}

// judgeHTTP returns what a response without a DNS message in it comes to.
func judgeHTTP(resp *http.Response) (outcome.Kind, error) {
	switch {
	case resp.StatusCode >= 500:
		return outcome.ServFail, httpError(resp.StatusCode)
	case resp.StatusCode >= 400:
		return outcome.Refused, httpError(resp.StatusCode)
	case resp.StatusCode != http.StatusOK:
		return outcome.Malformed, httpError(resp.StatusCode)
	}
	if mt, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || mt != doh.MimeType {
		return outcome.Malformed, errContentType
	}
	return outcome.Unknown, nil
}

// countedBody counts the octets of a body, and keeps them where they are wanted.
type countedBody struct {
	io.ReadCloser
	n    int
	keep bool
	kept []byte
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += n
	if b.keep {
		b.kept = append(b.kept, p[:n]...)
	}
	return n, err
}
