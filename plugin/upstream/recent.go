package upstream

import "time"

// recentFor is the length of the window over which attempts are counted.
const recentFor = time.Minute

// recent counts over a window that slides: what is in the window before this
// one counts by the share of it that the sliding one still covers. Instants
// must not go back by more than a window.
type recent struct {
	began    int64 // of this window
	old, cur int   // counts of the window before, and of this one
}

// at returns the count as it stands at instant t.
func (r recent) at(t int64) recent {
	d := t - r.began
	if d < int64(recentFor) {
		return r
	}
	now := recent{began: t - d%int64(recentFor)}
	if d < 2*int64(recentFor) {
		now.old = r.cur
	}
	return now
}

// add counts one at instant t.
func (r *recent) add(t int64) {
	if t-r.began >= int64(recentFor) {
		*r = r.at(t)
	}
	r.cur++
}

// count returns how many there were in the window that ends at instant t.
func (r recent) count(t int64) int {
	r = r.at(t)
	left := 1 - float64(t-r.began)/float64(recentFor)
	return r.cur + int(float64(r.old)*min(max(left, 0), 1)+0.5)
}
