package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// reportCorefile is the Corefile of the field reports. %s is the directive.
// The first block answers the question that tells that the server serves,
// without a query to the plugin under test: the first query is to be the
// test's own.
//
// The report's line "kubernetes cluster.local in-addr.arpa ip6.arpa" needs an
// API server and is left out; the templates stand in for it.
const reportCorefile = `
ready.e2e.test:53 {
    template IN TXT . {
        answer "{{ .Name }} 0 IN TXT ready"
    }
}
.:53 {
    errors
    health {
        lameduck 5s
    }
    ready
    template IN A kubernetes.default.svc.cluster.local {
        answer "{{ .Name }} 5 IN A 10.96.0.1"
    }
    template IN ANY cluster.local {
        rcode NXDOMAIN
        authority "cluster.local. 30 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 30"
    }
    prometheus :9153
    %s . /etc/resolv.conf {
        max_concurrent 1000
    }
    cache 30
    loop
    reload
    loadbalance
}
`

// server is a CoreDNS process on a node.
type server struct {
	*process
	corefile string
	client   *http.Client // into the node's namespace
}

// coredns starts one with the Corefile, under the wrapper where one is given
// (a command that ends by executing its arguments), and returns when it
// serves.
func (h *host) coredns(corefile string, wrapper ...string) *server {
	h.t.Helper()
	path := filepath.Join(h.tempDir(), "Corefile")
	if err := os.WriteFile(path, []byte(corefile), 0o644); err != nil {
		h.t.Fatal(err)
	}
	argv := append(wrapper, coreDNS(h.t), "-conf", path)
	s := &server{process: h.start("coredns on "+h.addr.String(), argv...), corefile: path}
	h.lab.subject = s.process
	s.client = h.httpClient()
	s.serves()
	return s
}

// httpClient is a client inside the namespace.
func (h *host) httpClient() *http.Client {
	c := &http.Client{
		Timeout: 5 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
				return h.dial(network, addr)
			},
		},
	}
	h.t.Cleanup(c.CloseIdleConnections)
	return c
}

// serves waits until the server answers.
func (s *server) serves() {
	s.t.Helper()
	eventually(s.t, 15*time.Second, s.process, func() error {
		r, err := s.host.ask(s.host.addrPort(53), ready, dns.TypeTXT)
		if err == nil && len(r.Answer) == 0 {
			err = errors.New("no data yet")
		}
		return err
	})
}

// metric sums the series of one name on the server's metrics page, which have
// all of the labels, as in outcome="ok".
func (s *server) metric(name string, labels ...string) float64 {
	s.t.Helper()
	var sum float64
	for _, v := range s.metrics(name, labels...) {
		sum += v
	}
	return sum
}

// metrics are the values of those series.
func (s *server) metrics(name string, labels ...string) (values []float64) {
	s.t.Helper()
	resp, err := s.client.Get("http://" + s.host.addrPort(9153) + "/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		rest, ok := strings.CutPrefix(lines.Text(), name)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		if slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(rest, l) }) {
			continue
		}
		v, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			s.t.Fatal(err)
		}
		values = append(values, v)
	}
	return values
}

func (s *server) goroutines() int { return int(s.metric("go_goroutines")) }

// cpu is the CPU time that the server has used.
func (s *server) cpu() time.Duration {
	return time.Duration(s.metric("process_cpu_seconds_total") * float64(time.Second))
}

// digResult is what dig printed that tests look at.
type digResult struct {
	text   string
	status string        // the rcode
	took   time.Duration // by dig's own clock, in milliseconds
}

// dig runs the real one in the namespace.
func (h *host) dig(server string, args ...string) digResult {
	h.t.Helper()
	argv := append([]string{"dig", "@" + server, "+tries=1", "+time=5"}, args...)
	out, err := h.command(argv...).CombinedOutput()
	r := digResult{text: string(out)}
	if err != nil {
		r.status = fmt.Sprintf("dig: %v", err)
		return r
	}
	if _, rest, ok := strings.Cut(r.text, "status: "); ok {
		r.status, _, _ = strings.Cut(rest, ",")
	}
	if _, rest, ok := strings.Cut(r.text, "Query time: "); ok {
		n, _, _ := strings.Cut(rest, " ")
		if v, err := strconv.Atoi(n); err == nil {
			r.took = time.Duration(v) * time.Millisecond
		}
	}
	return r
}
