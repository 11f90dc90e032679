package selector

// Leads reports whether Order might put the upstream of that index first: among
// equals that is left to chance or to turns. It sorts cs, takes no turn, and
// draws nothing.
func Leads(p Policy, cs []Candidate, index int) bool {
	Foresee(p, cs)
	_, turns := p.(*roundRobin)
	for i := range cs {
		if cs[i].Index == index {
			return i == 0 || Tied(cs[0], cs[i]) || turns && cs[i].Rank == cs[0].Rank
		}
	}
	return false
}
