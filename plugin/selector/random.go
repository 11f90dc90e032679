package selector

// random asks in random order, as forward's policy of that name.
type random struct{}

func (random) Name() string { return "random" }

func (random) Strict() bool { return true }

func (random) keys(cs []Candidate, draw func(n int) int) {
	for i := range cs {
		cs[i].key = -int64(1 + draw(1<<30))
	}
}
