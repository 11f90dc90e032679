package explain

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/dnsguard/dnsguard/plugin/forwarder"
	"github.com/dnsguard/dnsguard/plugin/selector"
	"github.com/dnsguard/dnsguard/plugin/upstream"
	"github.com/dnsguard/dnsguard/plugin/zones"
)

// Passed tells that a query for the name is not forwarded by the directive, and why.
func (d Directive) Passed(name, why string) Text {
	t := d.begin()
	t.add("name", name)
	t.add("forwarded", "no")
	t.add("why", why)
	return t
}

// Name tells what would be done with a query for a name: first in all, then
// each upstream's part in it.
func (d Directive) Name(name string, e forwarder.Explanation) []Text {
	texts := []Text{d.verdict(name, e)}
	for _, p := range e.Order {
		texts = append(texts, d.place(p, e))
	}
	for _, p := range e.Barred {
		t := d.begin()
		t.add("order", "never")
		t.add("to", p.Upstream.To)
		t.add("transport", p.Upstream.Transport)
		t.add("state", p.Upstream.State)
		t.add("why", "names in "+e.Private+" do not go to it")
		texts = append(texts, t)
	}
	return texts
}

func (d Directive) verdict(name string, e forwarder.Explanation) Text {
	t := d.begin()
	t.add("name", name)
	rcode, why := prospect(e)
	if rcode == "" {
		t.add("forwarded", "yes")
		var first []string
		for _, p := range e.Order {
			if p.At == 1 {
				first = append(first, p.Upstream.To)
			}
		}
		t.add("first", strings.Join(first, ","))
	} else {
		t.add("forwarded", "no")
		t.add("answer", rcode)
	}
	t.add("why", why)
	t.add("policy", e.Policy)
	t.add("private_zone", e.Private)
	if e.Known.Zone != "" {
		t.add("zone", e.Known.Zone)
		t.add("zone_until", instant(e.Known.Until))
	}
	t.add("name_until", instant(e.Known.NameUntil))
	return t
}

// prospect tells what a client is answered where no upstream decides.
func prospect(e forwarder.Explanation) (rcode, why string) {
	switch e.Prospect {
	case forwarder.NoUpstream:
		return "SERVFAIL", e.Empty
	case forwarder.NotAllowed:
		return "REFUSED", "no upstream may be asked for names in " + e.Private
	case forwarder.AllEjected:
		return "SERVFAIL", "all upstreams are ejected"
	case forwarder.AllLoop:
		return "SERVFAIL", "queries to all upstreams come back"
	case forwarder.AllDead:
		return "SERVFAIL", "all upstreams are known to be dead; now and then one is shown a query"
	case forwarder.Hopeful:
	}
	return "", ""
}

func (d Directive) place(p forwarder.Place, e forwarder.Explanation) Text {
	t := d.begin()
	order := strconv.Itoa(p.At)
	if p.Rank == selector.Loop {
		order = "never"
	}
	t.add("order", order)
	t.add("to", p.Upstream.To)
	t.add("transport", p.Upstream.Transport)
	t.add("state", p.Upstream.State)
	t.add("rank", p.Rank.String())
	t.add("expected", trip(p.Expected))
	t.add("credibility", credibility(p.Index, e.Known.View))
	if e.Known.Weak.Has(p.Index) {
		t.add("weak_until", instant(e.Known.WeakUntil))
	}
	t.add("why", why(p, e.Known))
	return t
}

// credibility lists what the upstream has shown to know.
func credibility(i int, v zones.View) string {
	var shown []string
	for _, w := range []struct {
		name string
		set  zones.Set
	}{{"name", v.Name}, {"good", v.Good}, {"bad", v.Bad}, {"refuses", v.Refuses}, {"weak", v.Weak}, {"poor", v.Poor}} {
		if w.set.Has(i) {
			shown = append(shown, w.name)
		}
	}
	return strings.Join(shown, ",")
}

// why says what the rank comes from.
func why(p forwarder.Place, k zones.Knowledge) string {
	switch p.Rank {
	case selector.Fit:
		if shown := right(p.Index, k); shown != "" {
			return shown
		}
		return "nothing speaks against it"
	case selector.Unsure:
		if p.Upstream.LastReply.IsZero() {
			return "has never replied"
		}
		return "was wrong in more zones than it was right in, and is not known in this one"
	case selector.Sole:
		return fmt.Sprintf("%s, but %s", trouble(&p.Upstream), right(p.Index, k))
	case selector.Unfit:
		return wrong(p.Index, k)
	case selector.Failing, selector.Out, selector.Loop:
		return trouble(&p.Upstream)
	}
	return ""
}

func right(i int, k zones.Knowledge) string {
	switch {
	case k.Name.Has(i):
		return "has answered this name, which another one denied"
	case k.Name == 0 && k.Good.Has(i):
		return "has answered in " + k.Zone
	}
	return ""
}

func wrong(i int, k zones.Knowledge) string {
	switch {
	case k.Weak.Has(i):
		return "has failed in " + k.Zone + " of late, where another one answered"
	case k.Name != 0:
		return "another one has answered this name, where it was denied"
	case k.Refuses.Has(i):
		return "has refused in " + k.Zone + " what another one answered"
	}
	return "has denied in " + k.Zone + " what another one answered"
}

// trouble says what is wrong with an upstream that does not answer everything.
func trouble(u *upstream.Snapshot) string {
	if u.State == upstream.Healthy.String() && u.NoTCP {
		return "the query would go by TCP, which does not work"
	}
	if u.Reason == "" {
		return u.State
	}
	return u.State + ": " + u.Reason
}
