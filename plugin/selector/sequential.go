package selector

// sequential asks in the order of the Corefile, as forward's policy of that name.
type sequential struct{}

func (sequential) Name() string { return "sequential" }

func (sequential) Strict() bool { return true }

func (sequential) keys(cs []Candidate, _ func(n int) int) {
	for i := range cs {
		cs[i].key = int64(cs[i].Index)
	}
}
