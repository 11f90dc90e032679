package dnsguard

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/coredns/coredns/plugin/pkg/proxy"
	"github.com/coredns/coredns/plugin/pkg/transport"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/metrics"
	"github.com/dnsguard/dnsguard/plugin/observe"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/upstream"
)

// hop is the way to a server as forward has it: CoreDNS's proxy.
type hop struct {
	*proxy.Proxy

	transport string          // dns, tls, https or quic
	http      *http.Transport // nil where the transport is another
	counts    *metrics.Upstream

	started, closed sync.Once
}

// observeMember gives a member an upstream that is only watched, of which c
// says the rest, and the hop to it.
func (g *Guard) observeMember(m *member, c upstream.Config) {
	m.hop = newHop(&g.cfg, m.endpoint)
	m.hop.counts = g.env.Metrics.Relayed(c.To)
	c.Exchanger, c.Observer = observe.Silent{}, observer{m.hop.counts, g.log}
	m.up = upstream.New(c, time.Now())
}

// newHop returns the hop to an endpoint, set up as forward does it.
func newHop(cfg *Config, e Endpoint) *hop {
	p := &hop{Proxy: proxy.NewProxy(pluginName, e.Addr.String(), e.Transport), transport: e.Transport}
	if e.Transport == transport.HTTPS {
		p.http = newHTTPTransport()
		p.SetHTTPClient(&http.Client{Transport: p.http, Timeout: dohTimeout})
		p.SetDOHRequestOptions(cfg.DoHMethod)
	}
	if e.Transport != transport.DNS {
		p.SetDOHHost(cfg.TLSServerName)
		p.SetTLSConfig(hopTLS(cfg, e))
		p.GetHealthchecker().SetTLSConfig(hopTLS(cfg, e)) // one of its own: net/http changes it at the first use
	}
	p.SetExpire(cfg.Expire)
	p.SetMaxAge(cfg.MaxAge)
	p.SetMaxIdleConns(cfg.MaxIdleConns)
	p.SetReadTimeout(cfg.ReadTimeout)
	check := p.GetHealthchecker()
	check.SetRecursionDesired(!cfg.HealthNoRec)
	check.SetDomain(cfg.HealthDomain)
	if cfg.ForceTCP && e.Transport != transport.TLS && e.Transport != transport.QUIC { // those have one of their own
		check.SetTCPTransport()
	}
	if cfg.SourceAddress.IsValid() {
		ip := net.IP(cfg.SourceAddress.AsSlice())
		p.SetLocalAddress(ip)
		check.SetLocalAddress(ip)
	}
	return p
}

// dohTimeout bounds a query by HTTPS, as in forward, whatever read_timeout says.
const dohTimeout = 2 * time.Second

func newHTTPTransport() *http.Transport {
	if t, ok := http.DefaultTransport.(*http.Transport); ok {
		return t.Clone()
	}
	return &http.Transport{ForceAttemptHTTP2: true} // somebody has replaced the default
}

// hopTLS returns the client configuration for an endpoint. As in forward the
// name of an https upstream is that of the directive.
func hopTLS(cfg *Config, e Endpoint) *tls.Config {
	c := cfg.TLS.Clone()
	if e.ServerName != "" && e.Transport != transport.HTTPS {
		c.ServerName = e.ServerName
	}
	c.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	return c
}

// start begins to look after idle connections, and makes health checks possible.
func (p *hop) start(interval time.Duration) { p.started.Do(func() { p.Start(interval) }) }

// close ends what the proxy has started, and closes its connections. CoreDNS
// leaves the latter to a finalizer, which must not run after this. A health
// check under way ends by itself.
func (p *hop) close() {
	p.closed.Do(func() {
		runtime.SetFinalizer(p.Proxy, nil)
		p.Stop() // closes those of QUIC
		p.GetTransport().Stop()
		if p.http != nil {
			p.http.CloseIdleConnections()
		}
		if p.counts != nil {
			p.counts.Close()
		}
	})
}

// ended tells the model what became of an attempt.
func (r *relay) ended(ctx context.Context, i int, sent time.Time, a attempt) {
	if r.query == nil {
		return
	}
	now := time.Now()
	reply := exchange.Reply{Proto: r.proto(i, a), Local: a.local, Err: a.err}
	switch {
	case a.err != nil && ctx.Err() != nil:
		reply.Kind = outcome.Cancelled
	case a.err != nil:
		reply.Kind = kindOf(a.err, reply.Proto)
	case !r.state.Match(a.reply):
		reply.Kind = outcome.Mismatched
	default:
		reply.Kind = outcome.Classify(a.reply, reply.Proto == exchange.UDP)
		reply.Msg, reply.RTT = a.reply, now.Sub(sent)
	}
	r.observe(func() { r.query.Ended(now, reply) })
}

// proto is what carried an attempt; what was meant to, where there was no socket.
func (r *relay) proto(i int, a attempt) exchange.Proto {
	switch r.members[i].hop.transport {
	case transport.TLS:
		return exchange.TLS
	case transport.HTTPS:
		return exchange.HTTPS
	case transport.QUIC:
		return exchange.QUIC
	}
	if a.proto == "tcp" {
		return exchange.TCP
	}
	return exchange.UDP
}

// kindOf returns what an error of a proxy came to.
func kindOf(err error, p exchange.Proto) outcome.Kind {
	if _, ok := errors.AsType[*dns.Error](err); ok {
		return outcome.Malformed
	}
	switch {
	case errors.Is(err, proxy.ErrInvalidRequest), errors.Is(err, proxy.ErrUnsupportedRequest), err.Error() == proxy.ErrTransportStopped:
		return outcome.Cancelled // nothing was sent
	case p == exchange.QUIC:
		return exchange.QUICKind(err)
	}
	return outcome.FromError(err)
}
