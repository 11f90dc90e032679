package dnsguard

import (
	"cmp"
	"context"
	"errors"
	"net"
	"slices"
	"time"

	"github.com/coredns/coredns/plugin/debug"
	"github.com/coredns/coredns/plugin/pkg/proxy"
	"github.com/coredns/coredns/request"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/observe"
)

// relay is the way of one query as forward v1.15.0 goes it: in the order of the
// policy, over upstreams that its health checks do not hold for down, until one
// replies. What is seen on the way is told to the model.
type relay struct {
	*observing
	state request.Request
	query *observe.Query // nil: it is not observed
	own   bool           // the guard would not have forwarded it
	taps  *taps          // nil: none
	began time.Time
	asked int // the upstream asked last; -1: none

	order     []int
	at        int // place in order of the next upstream
	down      int // upstreams passed over since the order began
	failovers int // replies with a code of the failover option

	connects    uint64 // attempts that failed
	mostConnect uint64 // 0: no bound
	deadline    time.Time
	tlsDeadline time.Time
	tlsPatience time.Duration // for one TLS connection
}

func (o *observing) relay(ctx context.Context, state request.Request) *relay {
	now := time.Now()
	r := &relay{
		observing: o, state: state, asked: -1, order: o.list(), began: now,
		deadline: now.Add(forwardTimeout), mostConnect: uint64(o.cfg.MaxConnectAttempts),
	}
	if !o.cfg.MaxConnectAttemptsSet {
		r.mostConnect = 2 * uint64(len(o.members))
	}
	r.tlsDeadline = r.deadline
	if d, ok := ctx.Deadline(); ok && d.Before(r.tlsDeadline) {
		r.tlsDeadline = d
	}
	r.tlsPatience = r.tlsDeadline.Sub(now)
	if r.mostConnect != 1 {
		r.tlsPatience /= 2 // the rest is for another connection
	}
	if question, ok := o.question(state); ok {
		r.observe(func() { r.query = o.model.Begin(now, question) })
	} else {
		r.own = true
	}
	return r
}

// list returns the upstreams in the order of the policy. For adaptive, which
// forward does not know, that is forward's default.
func (o *observing) list() []int {
	n := len(o.members)
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	switch {
	case n < 2, o.cfg.Policy == PolicySequential:
	case o.cfg.Policy == PolicyRoundRobin:
		first := int(o.turn.Add(1) % uint32(n))
		copy(order[1:first+1], order[:first])
		order[0] = first
	default:
		for i := n - 1; i > 0; i-- {
			j := o.draw(i + 1)
			order[i], order[j] = order[j], order[i]
		}
	}
	return order
}

// run returns the reply, which may be to another question, or why there is none.
func (r *relay) run(ctx context.Context) (*dns.Msg, error) {
	if len(r.order) == 0 {
		return nil, errors.New(r.empty())
	}
	var last error
	for time.Now().Before(r.deadline) && ctx.Err() == nil && (r.mostConnect == 0 || r.connects < r.mostConnect) {
		i, ok := r.pick()
		if !ok {
			break
		}
		reply, err := r.exchange(ctx, i)
		last = err
		switch {
		case errors.Is(err, proxy.ErrInvalidRequest), errors.Is(err, proxy.ErrUnsupportedRequest):
			return nil, err
		case err != nil:
			if r.cfg.MaxFails != 0 {
				r.members[i].hop.Healthcheck()
			}
			if r.connects++; r.down >= len(r.order) {
				return nil, err // a last resort has failed
			}
		case !r.state.Match(reply):
			debug.Hexdumpf(reply, "Wrong reply for id: %d, %s %d", reply.Id, r.state.QName(), r.state.QType())
			return reply, nil
		case !r.failsOver(reply):
			return reply, nil
		}
	}
	return nil, cmp.Or(last, proxy.ErrNoHealthy)
}

// pick returns the next upstream that is not down. Where all are, one is taken
// by chance, unless that is to end the query: then ok is false.
func (r *relay) pick() (i int, ok bool) {
	for {
		if r.at >= len(r.order) {
			r.at, r.down = 0, 0
		}
		i = r.order[r.at]
		r.at++
		if !r.members[i].hop.Down(r.cfg.MaxFails) {
			return i, true
		}
		if r.down++; r.down >= len(r.order) {
			return r.draw(len(r.order)), !r.cfg.FailfastAllUnhealthy
		}
	}
}

// failsOver reports whether the next upstream is to be asked because of the
// reply's code.
func (r *relay) failsOver(reply *dns.Msg) bool {
	if !slices.Contains(r.cfg.Failover, reply.Rcode) {
		return false
	}
	r.failovers++
	return r.failovers < len(r.order)
}

// exchange asks upstream i; with prefer_udp once more by TCP where the reply
// is truncated.
func (r *relay) exchange(ctx context.Context, i int) (*dns.Msg, error) {
	r.asked = i
	a := r.shown(ctx, i, func(ctx context.Context) attempt {
		a := r.attempt(ctx, i, r.opts)
		if a.err != nil || !a.reply.Truncated || !r.opts.PreferUDP || r.opts.ForceTCP {
			return a
		}
		opts := r.opts
		opts.ForceTCP = true
		return r.attempt(ctx, i, opts)
	})
	return a.reply, a.err
}

// attempt is one exchange. Where the upstream had closed an idle connection
// it goes on over another, and counts once.
func (r *relay) attempt(ctx context.Context, i int, opts proxy.Options) attempt {
	if r.query != nil {
		r.observe(func() { r.query.Sent(time.Now(), i, byTCP(r.state, opts)) })
	}
	for {
		opts.TLSConnectDeadline = time.Now().Add(r.tlsPatience)
		if opts.TLSConnectDeadline.After(r.tlsDeadline) {
			opts.TLSConnectDeadline = r.tlsDeadline
		}
		sent := time.Now()
		reply, local, proto, err := r.members[i].hop.Connect(ctx, r.state, opts)
		if errors.Is(err, proxy.ErrCachedClosed) {
			continue
		}
		a := attempt{reply: reply, local: local, proto: proto, err: err}
		r.ended(ctx, i, sent, a)
		return a
	}
}

// attempt is what CoreDNS's proxy returns.
type attempt struct {
	reply *dns.Msg
	local net.Addr
	proto string // udp or tcp
	err   error
}
