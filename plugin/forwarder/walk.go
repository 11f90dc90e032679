package forwarder

import (
	"context"
	"errors"
	"time"

	"github.com/dnsguard/dnsguard/plugin/dnsmsg"
	"github.com/dnsguard/dnsguard/plugin/exchange"
	"github.com/dnsguard/dnsguard/plugin/outcome"
	"github.com/dnsguard/dnsguard/plugin/race"
	"github.com/dnsguard/dnsguard/plugin/selector"
	"github.com/dnsguard/dnsguard/plugin/upstream"
	"github.com/dnsguard/dnsguard/plugin/zones"

	"github.com/miekg/dns"
)

// walk is the way of one query through the pool: the Contest of a race. One
// goroutine uses it at a time; a Forwarder reuses them.
type walk struct {
	f       *Forwarder
	results chan upstream.Result
	timer   *time.Timer

	req      *Request
	flight   *flight // of it
	query    *exchange.Query
	stamped  *exchange.Query // the same with a stamp; nil: nobody has been sent it
	start    time.Time
	view     zones.View
	eligible zones.Set
	order    []selector.Candidate
	tries    []*upstream.Attempt
	tcp      bool // the client's own transport asks for TCP

	pending int       // attempts whose result has not come
	tried   zones.Set // upstreams that have been asked
	resent  int       // attempts beyond the first of each upstream
	unsent  int       // attempts that ended before anything was sent
	hedged  bool
	paused  int   // times that nothing was done for a while, after faults of this host
	cause   Cause // why the next attempt is made
	steered bool

	held    held // the best denial so far
	failed  []*upstream.Attempt
	kinds   []outcome.Kind // of failed
	refused zones.Set
	denied  zones.Set
	typed   zones.Set       // of denied: those that denied the type alone
	soft    *held           // the last reply that says failure
	cut     *held           // the last truncated reply
	spare   upstream.Result // of a trial, put by

	last     *upstream.Attempt // the last that was launched
	lateIn   time.Duration     // after its sending it is late
	lateAt   time.Time         // when the next attempt is due; zero: none
	checkAt  time.Time         // when the wait for verifiers is looked at again; zero: none
	long     time.Time         // when it has waited for as long as a fault may cost, but for connecting
	deadline time.Time
	lived    bool // there was a sign of life when it was asked for

	answer Answer
}

// held is a reply that is kept until it is clear whether it is to be used.
type held struct {
	reply    exchange.Reply
	by       *upstream.Attempt
	at       time.Time
	verify   zones.Set // who may still contradict
	credible bool
	exists   bool // it shows that the name exists
}

// Waits.
const (
	deadWait  = 45 * time.Millisecond   // for an answer of upstreams that are known to be dead
	lostWait  = 2500 * time.Millisecond // for any sign of life
	deadTrial = 250 * time.Millisecond  // between queries that a dead upstream is shown
)

func newWalk(f *Forwarder) *walk {
	return &walk{
		f: f, results: make(chan upstream.Result, 2*f.most), timer: newStoppedTimer(),
	}
}

func newStoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// begin puts the pool in order and makes the first attempt. It reports
// whether there is an answer already.
func (w *walk) begin(now time.Time, r *Request) (over bool) {
	w.req, w.start, w.deadline = r, now, now.Add(w.f.cfg.Timeout)
	var err error
	if err = w.pack(r); err != nil {
		w.fail(outcome.FormErr, dnsmsg.EDE{Code: dns.ExtendedErrorCodeOther, Text: err.Error()})
		w.answer.Malformed = true
		return true
	}
	w.tcp = w.f.cfg.ForceTCP || (r.Key.Stream && !w.f.cfg.PreferUDP)
	w.f.hedges.Earn()
	w.f.trials.Earn()
	w.f.rescues.Earn()
	w.rank(now)
	if w.f.allEjected(w.order) {
		w.f.cfg.Observer.AllEjected()
	}
	prospect, withheld := w.look(now)
	if withheld {
		return w.withhold()
	}
	switch prospect {
	case Hopeful:
	case AllLoop:
		if !r.Probe {
			return w.fail(outcome.Loop, w.whyLoops())
		}
	case NoUpstream:
		return w.fail(outcome.Unreachable, dnsmsg.EDE{Code: dns.ExtendedErrorCodeNotReady, Text: w.f.cfg.Empty()})
	case NotAllowed:
		return w.fail(outcome.Refused, dnsmsg.EDE{Code: dns.ExtendedErrorCodeProhibited, Text: "no upstream may be asked for this private zone"})
	case AllEjected:
		return w.fail(outcome.Unreachable, dnsmsg.EDE{Code: dns.ExtendedErrorCodeNetworkError, Text: "all upstreams are ejected"})
	case AllDead:
		return w.beginDead(now)
	}
	w.long = now.Add(w.longWait())
	w.launchNext(now)
	w.tryOut(now)
	return false
}

// look says what is clear of the query now, and leaves those out of the order
// that it does not go to. A probe may be withheld.
func (w *walk) look(now time.Time) (p Prospect, withheld bool) {
	p = w.f.prospect(now, w.order)
	if p != AllLoop {
		w.leaveOutLoops()
	}
	return p, w.req.Probe && len(w.order) > 0 && !w.confine()
}

// beginDead shows the query to one of the dead upstreams, if it is the time
// for a trial, and gives it little time.
func (w *walk) beginDead(now time.Time) (over bool) {
	w.deadline = now.Add(deadWait)
	for _, c := range w.order {
		if w.up(c.Index).TryTrial(now, deadTrial) {
			w.send(now, &upstream.Attempt{Index: c.Index, Options: exchange.Options{TCP: w.tcp}})
			w.tried = w.f.all // and to no other
			return false
		}
	}
	return w.fail(outcome.Unreachable, w.f.whyDead())
}

// newQuery packs what is sent. The attempts outlive the walk, and so does the query.
func newQuery(r *Request) (*exchange.Query, error) {
	q := &struct {
		exchange.Query
		room [88]byte // enough for most, and all of it is of a size that the allocator has
	}{}
	err := pack(&q.Query, q.room[:0], r)
	return &q.Query, err
}

func pack(q *exchange.Query, room []byte, r *Request) (err error) {
	q.Wire, q.QuestionEnd, err = dnsmsg.Pack(room, r.Key, r.Name)
	q.Keep = r.Look != nil && r.Look.Wire
	return err
}

func (w *walk) up(i int) *upstream.Upstream { return w.f.cfg.Upstreams[i] }

// run waits for the end.
func (w *walk) run(ctx context.Context, now time.Time, fl *flight) {
	err := race.Run(ctx, w, w.results, w.timer, now, w.f.closed)
	if err != nil && !errors.Is(err, race.ErrStopped) && !fl.leave() { // this client is gone, others wait
		err = race.Run(context.Background(), w, w.results, w.timer, time.Now(), w.f.closed)
	}
	switch {
	case err == nil:
	case errors.Is(err, context.DeadlineExceeded):
		w.giveUp(time.Now())
	default:
		w.fail(outcome.Cancelled, dnsmsg.EDE{Code: dns.ExtendedErrorCodeOther, Text: "query cancelled"})
	}
}

// launchNext asks the next upstream in order that has not been asked.
func (w *walk) launchNext(now time.Time) bool {
	for _, c := range w.order {
		if !w.tried.Has(c.Index) {
			return w.launch(now, c.Index, exchange.Options{})
		}
	}
	return false
}

// launch makes an attempt, if one more is allowed.
func (w *walk) launch(now time.Time, i int, opt exchange.Options) bool {
	if w.spent() {
		return false
	}
	opt.TCP = opt.TCP || w.tcp
	if w.tried.Has(i) {
		w.resent++
	}
	opt.NoRedial = w.hasUntried(selector.Fit, i)
	w.last = &upstream.Attempt{Index: i, Options: opt}
	w.send(now, w.last)
	late := w.up(i).LateAfter()
	if len(w.tries) > 1 && w.up(i).SRTT() == 0 {
		late /= 2 // nothing known of it, and some time is gone
	}
	w.lateIn = late << max(w.resent-1, 0)
	w.lateAt = now.Add(w.lateIn)
	if long := w.long; w.lateAt.After(long) && long.After(now) && w.hasUntried(selector.Failing, -1) {
		w.lateAt = long
	}
	return true
}

// spent reports whether no further attempt may be made. Attempts that ended
// before anything was sent do not count, but are bounded as well.
func (w *walk) spent() bool { return len(w.tries)-w.unsent >= w.f.most || len(w.tries) >= 2*w.f.most }

func (w *walk) send(now time.Time, a *upstream.Attempt) {
	w.tried |= zones.Of(a.Index)
	if w.flight != nil {
		w.flight.asked.Store(uint64(w.tried))
	}
	a.Anyway = w.req.Probe
	a.KeepEDNS = w.req.Key.DO || w.req.Key.Options != ""
	w.tries = append(w.tries, a)
	w.pending++
	query := w.queryFor(a.Index)
	w.up(a.Index).Send(now, query, a, w.results)
	if watch := w.watch(); watch != nil {
		watch.Started(a, query, w.causeOf(a))
	}
}

// Trials.
const (
	trialSuspect = 500 * time.Millisecond // between queries shown to an upstream that is suspect or ejected
	trialProving = 100 * time.Millisecond // and to one that is on its way back
	trialStale   = 2 * time.Second        // an estimate of this age is renewed
	recheckOdds  = 200                    // one query in this many rechecks an upstream that was wrong in the zone
)

// tryOut shows the query to one more upstream, beside the first, where
// something is to be learned: so no client waits for the lesson.
func (w *walk) tryOut(now time.Time) {
	if len(w.order) < 2 || w.order[0].Rank >= selector.Failing {
		return
	}
	others := w.order[1:]
	first := w.f.cfg.Draw(len(others)) // so that each has its turn
	for k := range others {
		c := others[(first+k)%len(others)]
		u := w.up(c.Index)
		every := trialSuspect
		switch c.Rank {
		case selector.Sole, selector.Failing, selector.Out:
			if !u.Ripe(now) {
				continue
			}
			if u.State() == upstream.HalfOpen {
				every = trialProving
			}
		case selector.Unfit:
			if w.f.cfg.Draw(recheckOdds) != 0 {
				continue
			}
		default:
			if !u.Stale(now, trialStale) {
				continue
			}
			every = trialStale
		}
		if w.spent() || !u.TryTrial(now, every) {
			continue
		}
		if !w.f.trials.Take() {
			return
		}
		w.send(now, &upstream.Attempt{
			Index: c.Index, Trial: true,
			Options: exchange.Options{TCP: w.tcp},
		})
		return
	}
}

// release readies the walk for the next query.
func (w *walk) release() {
	for len(w.results) > 0 {
		<-w.results
	}
	clear(w.tries)
	clear(w.failed)
	*w = walk{
		f: w.f, results: w.results, timer: w.timer,
		order: w.order[:0], tries: w.tries[:0], failed: w.failed[:0], kinds: w.kinds[:0],
	}
}
