package scenario

import (
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Run runs the scenario, and a healthy run before it where its bounds need
// one. It opens the bubbles itself.
func (s *Scenario) Run(t *testing.T) {
	var healthy *world
	if s.relative() {
		synctest.Test(t, func(t *testing.T) { healthy = s.play(t, true, nil) })
		if t.Failed() {
			return
		}
	}
	synctest.Test(t, func(t *testing.T) { s.play(t, false, healthy) })
}

// play runs the script once; with a healthy world the expectations are left out.
func (s *Scenario) play(t *testing.T, isHealthy bool, base *world) *world {
	w, err := newWorld(t, s, isHealthy)
	if err != nil {
		t.Fatalf("%s: %v", s.File, err)
	}
	before := make(map[string]bool)
	for id := range goroutines() {
		before[id] = true
	}
	w.everyGuard(guard.Start)
	defer w.stop(t, before)
	for i := range s.steps {
		st := &s.steps[i]
		if st.at >= 0 {
			late := time.Since(w.start) - st.at
			if late > 0 {
				t.Fatalf("%s: %q begins %v late: the steps before it took longer", st.where, st.text, late)
			}
			time.Sleep(-late)
		}
		w.perform(st.do)
		if !isHealthy {
			w.check(t, i, base)
		}
	}
	return w
}

// episode is what one step came to. A step without work repeats the one
// before it, up to a later time.
type episode struct {
	results  []result
	from, to time.Duration
	again    bool
}

// perform does the work of a step, waits until all queries have returned, and
// keeps what they came to.
func (w *world) perform(do *work) {
	var e episode
	if do == nil {
		if n := len(w.episodes); n > 0 {
			e = w.episodes[n-1]
		}
		e.again = true
	} else {
		w.last = nil
		e.from = time.Since(w.start)
		w.send(do)
		w.others.Wait()
		e.results = w.last
	}
	e.to = time.Since(w.start) + 1
	w.episodes = append(w.episodes, e)
}

// send sends the queries of a step.
func (w *world) send(do *work) {
	var wg sync.WaitGroup
	if do.rate == 0 {
		for range do.count {
			w.launch(&wg, do, do.name, do.types[0])
		}
		wg.Wait()
		return
	}
	// Clients come at random: exponential gaps, the same in each run.
	chance := rand.New(rand.NewPCG(w.scenario.Seed, uint64(len(w.episodes))))
	var due time.Duration
	began := time.Now()
	for i := 0; ; i++ {
		due += time.Duration(chance.ExpFloat64() / do.rate * float64(time.Second))
		if due >= do.span {
			break
		}
		time.Sleep(due - time.Since(began))
		name, types := do.pick(i, chance), do.types[chance.IntN(len(do.types)):]
		if do.together == 0 || chance.Float64() >= do.together {
			types = types[:1]
		} else {
			types = do.types
		}
		for _, qtype := range types {
			for range do.pods {
				w.launch(&wg, do, name, qtype)
			}
		}
	}
	wg.Wait()
}

// pick chooses a name for the i-th query of a load.
func (do *work) pick(i int, chance *rand.Rand) string {
	zone := do.zones[i%len(do.zones)]
	prefix := "n"
	if chance.Float64() < do.absent {
		prefix = "nx"
	}
	return prefix + strconv.Itoa(i/len(do.zones)%do.names) + "." + zone
}

func (w *world) launch(wg *sync.WaitGroup, do *work, name string, qtype uint16) {
	w.launched++
	n := w.launched
	wg.Go(func() {
		r := w.ask(&do.client, name, qtype, n)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.last = append(w.last, r)
	})
}
