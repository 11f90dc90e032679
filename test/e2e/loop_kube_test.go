package e2e

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsguard/dnsguard/plugin/loopguard"
	"github.com/dnsguard/dnsguard/test/fakedns"
)

const (
	// kubeUpstream is what all servers forward to, which each host translates to another address: so they are one group, where their key is the same.
	kubeUpstream = "10.0.0.53"
	// kubeGroup is how the group is spelt that its marks are made of.
	kubeGroup = ".\ndns://" + kubeUpstream + ":53%"
	// kubeLearns is how long a server may take to know its cluster, from when it could.
	kubeLearns = 40 * time.Second

	goingOn = "loops: going on without what tells this cluster from others"
)

// kubeStage is two clusters and servers in them, and in none.
type kubeStage struct {
	*lab
	t        *testing.T
	one, two *kube
	uid      map[*kube]string // nil: ""
	hosts    int
}

// A server learns from a real Kubernetes API what its cluster is known by, with
// the rights that CoreDNS has, sooner or later; and only servers of one cluster
// take each other for replicas.
func TestLoopKube(t *testing.T) {
	requiresKube(t)
	requiresDirective(t, directive())
	s := newKubeStage(t)
	coredns := s.one.token("kube-system", "coredns")
	s.listsOnly(coredns)

	// These forward to the public server.
	here, there, nowhere := s.start(s.one.pod(coredns), publicServer), s.start(s.two.pod(s.two.token("kube-system", "coredns")), publicServer), s.start(nil, publicServer)
	s.one.account("default", "other")
	forbidden := s.start(s.one.pod(s.one.token("default", "other")), publicServer)
	s.one.account("default", "gone")
	pod := s.one.pod(s.one.token("default", "gone"))
	s.one.delete("/api/v1/namespaces/default/serviceaccounts/gone")
	outdated := s.start(pod, publicServer)
	early := s.host("early", "10.244.1.1")
	early.filter("output", "ip daddr "+s.one.addr.String()+" tcp dport 443 reject with tcp reset")
	late := s.startOn(early, s.one.pod(coredns), publicServer)

	for _, row := range []struct {
		server *server
		known  *kube
		told   string // why the cluster is not known; "": it is
	}{
		{here, s.one, ""},
		{there, s.two, ""},
		{nowhere, nil, ""},
		{forbidden, nil, "may not list namespaces"},
		{outdated, nil, "does not accept the token"},
		{late, nil, "connection refused"},
	} {
		s.knows(row.server, row.known)
		s.told(row.server, row.told)
		s.answers(row.server)
	}

	// What these three wait for comes while the others are looked at.
	early.filter("output")
	pod.renew(coredns)
	s.one.bind("default", "other")
	s.replicas(here, there, nowhere, coredns)
	forbidden.reload(kubeCorefile()) // or a minute later
	for _, server := range []*server{late, outdated, forbidden} {
		s.knows(server, s.one)
	}
	s.told(late, "connection refused")
	s.told(outdated, "does not accept the token")
	for _, server := range []*server{late, outdated} {
		if len(server.log.lines("is known now")) != 1 {
			t.Errorf("it is not told that the cluster is known:\n%s", server.log.tail(logTail))
		}
	}

	s.one.stop()
	here.reload(kubeCorefile())
	s.knows(here, s.one)
	s.told(here, "")
	s.answers(here)
}

func newKubeStage(t *testing.T) *kubeStage {
	t.Helper()
	l := newLab(t)
	l.host("far", publicServer).fake(publicServer)
	s := &kubeStage{lab: l, t: t}
	s.one, s.two = l.host("api1", "10.96.0.1").startKube(), l.host("api2", "10.97.0.1").startKube()
	coreDNS(t) // which is built meanwhile
	s.uid = map[*kube]string{nil: ""}
	for _, k := range []*kube{s.one, s.two} {
		k.ready()
		k.coreDNS()
		s.uid[k] = k.uid()
	}
	return s
}

// listsOnly holds that CoreDNS's rights are checked: it may list namespaces, and not get one.
func (s *kubeStage) listsOnly(token string) {
	s.t.Helper()
	const all = "/api/v1/namespaces"
	for path, want := range map[string]int{all: http.StatusOK, all + "/kube-system": http.StatusForbidden} {
		eventually(s.t, 10*time.Second, s.one.api, func() error { // bindings take a moment
			status, body, err := s.one.ask(token, http.MethodGet, path, "")
			if err == nil && status != want {
				err = fmt.Errorf("%s: %d %s, want %d", path, status, body, want)
			}
			return err
		})
	}
}

func kubeCorefile() string { return readyBlock + block(53, kubeUpstream, "loop interval 1s") }

// start starts a server on a host of its own, in a pod (nil: in no cluster),
// whose queries go to an address.
func (s *kubeStage) start(p *pod, to string) *server {
	s.t.Helper()
	s.hosts++
	return s.startOn(s.host(fmt.Sprintf("pod%d", s.hosts), fmt.Sprintf("10.244.0.%d", s.hosts)), p, to)
}

func (s *kubeStage) startOn(h *host, p *pod, to string) *server {
	s.t.Helper()
	h.nft(fmt.Sprintf(`table ip e2e_upstream {
 chain out {
  type nat hook output priority -100
  ip daddr %[1]s udp dport 53 dnat to %[2]s
  ip daddr %[1]s tcp dport 53 dnat to %[2]s
 }
}
`, kubeUpstream, to))
	wrapper := noPod()
	if p != nil {
		wrapper = p.wrapper()
	}
	return h.coredns(kubeCorefile(), wrapper...)
}

// marked reports whether a server answers a probe as only one that knows the
// cluster by this does. One whose queries go to another server may have the
// answer from there.
func marked(sv *server, uid string) (bool, error) {
	var secret []byte
	if uid != "" {
		secret = []byte("cluster " + uid)
	}
	key := loopguard.NewKey(secret)
	token := loopguard.Token{Group: key.Group(kubeGroup)}
	_, _ = rand.Read(token.Nonce[:]) // never fails
	r, err := sv.host.ask(sv.host.addrPort(53), key.Name(token, "loop.dnsguard.empty.as112.arpa."), dns.TypeTXT)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(r.Answer, func(rr dns.RR) bool {
		txt, ok := rr.(*dns.TXT)
		return ok && len(txt.Txt) == 1 && key.Answered(token, txt.Txt[0])
	}), nil
}

// knows waits until a server knows its cluster (nil: has the key of those that
// know none), and holds that it takes no other for its own.
func (s *kubeStage) knows(sv *server, own *kube) {
	s.t.Helper()
	for k := range s.uid {
		s.marks(sv, k, k == own)
	}
}

// marks waits until a server has the key of a cluster, or has it no more.
func (s *kubeStage) marks(sv *server, k *kube, want bool) {
	s.t.Helper()
	eventually(s.t, kubeLearns, sv.process, func() error {
		is, err := marked(sv, s.uid[k])
		if err == nil && is != want {
			err = fmt.Errorf("has the key of %q: %t\n%s", s.uid[k], is, sv.log.tail(logTail))
		}
		return err
	})
}

// told holds that the log says once why the cluster is not known; "": never.
func (s *kubeStage) told(sv *server, why string) {
	s.t.Helper()
	eventually(s.t, kubeLearns, sv.process, func() error {
		if why != "" && len(sv.log.lines(goingOn)) == 0 {
			return errors.New("it is not told that the cluster is not known")
		}
		return nil
	})
	lines := sv.log.lines(goingOn)
	if why == "" && len(lines) == 0 || why != "" && len(lines) == 1 && strings.Contains(lines[0], why) {
		return
	}
	s.t.Errorf("%s: in the log %q, want once %q", sv.name, lines, why)
}

// answers holds that queries are answered, and none is cut.
func (s *kubeStage) answers(sv *server) {
	s.t.Helper()
	found := func() float64 {
		return sv.metric("coredns_dnsguard_loop_cut_queries_total") + sv.metric("coredns_dnsguard_loop_detected_total")
	}
	before := found()
	questions := make([]question, 20)
	for i := range questions {
		name := fmt.Sprintf("n%d.%s.example.com.", i, sv.host.addr)
		questions[i] = question{name: name, qtype: dns.TypeA, addr: fakedns.A("", name)}
	}
	if f := measure(questions, sv.host.load(sv.host.addrPort(53), 100, questions)); f.wrong > 0 {
		s.t.Errorf("%s: %d of %d wrong: %s", sv.name, f.wrong, f.total, f.why())
	}
	if n := found() - before; n > 0 {
		s.t.Errorf("%s: %v queries cut, and upstreams taken for looping", sv.name, n)
	}
}

// replicas holds whom servers take for a replica of theirs, whose upstream is
// another server, which has the same upstreams: where a query comes from the
// one to the other it would come there again.
func (s *kubeStage) replicas(here, there, nowhere *server, token string) {
	in := func(k *kube, behind *server) *server {
		if k == nil {
			return s.start(nil, behind.host.addr.String())
		}
		return s.start(k.pod(token), behind.host.addr.String())
	}
	same := in(s.one, here)
	left, right := s.host("left", "10.244.2.1"), s.host("right", "10.244.2.2")
	each := []*server{s.startOn(left, s.one.pod(token), right.addr.String()), s.startOn(right, s.one.pod(token), left.addr.String())}
	for sv, own := range map[*server]*kube{in(s.one, there): s.one, in(s.one, nowhere): s.one, in(nil, here): nil} {
		s.marks(sv, own, true) // those of others are answered by who is behind it
		sent := func() float64 { return sv.metric("coredns_dnsguard_loop_probes_total", `result="sent"`) }
		before := sent()
		// One that does not know its cluster yet takes those that never will for replicas.
		eventually(s.t, 40*time.Second, sv.process, func() error {
			if n, looping := sent()-before, sv.looping(); n < 3 || looping > 0 {
				return fmt.Errorf("%v probes sent, %v upstreams taken for looping", n, looping)
			}
			return nil
		})
		s.answers(sv)
	}
	for _, sv := range append(each, same) {
		s.finds(sv)
	}
}

// finds waits until a server has found a loop, and holds that queries are refused at once.
func (s *kubeStage) finds(sv *server) {
	s.t.Helper()
	eventually(s.t, kubeLearns, sv.process, func() error {
		if sv.looping() != 1 {
			return errors.New("no loop is found")
		}
		return nil
	})
	q := question{name: "loop.example.com.", qtype: dns.TypeA, addr: fakedns.A("", "loop.example.com.")}
	want := "forwarding loop via " + kubeUpstream + ":53"
	for i, a := range sv.host.load(sv.host.addrPort(53), 100, []question{q, q}) {
		if edns := i == 0; !strings.HasPrefix(a.wrong, "SERVFAIL") || edns != strings.Contains(a.wrong, want) {
			s.t.Errorf("%s: %v, want SERVFAIL with %q", sv.name, a, want)
		}
	}
}
