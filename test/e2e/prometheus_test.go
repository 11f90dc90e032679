package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// troubledCorefile has every kind of trouble that metrics tell of: the servers
// of the node's resolv.conf, a zone whose only upstream refuses connections, one
// whose upstream sends what nobody asked for, one that takes one query at once, one whose list is
// missing, one whose upstream forwards back, and one whose upstream does so for some names.
const troubledCorefile = `
ready.e2e.test:53 {
    template IN TXT . {
        answer "{{ .Name }} 0 IN TXT ready"
    }
}
.:53 {
    prometheus :9153
    dnsguard closed.example 10.0.0.3
    dnsguard forged.example 10.0.0.5
    dnsguard full.example 114.114.114.114 {
        max_concurrent 1
    }
    dnsguard looping.example 10.0.0.6
    dnsguard partly.example 10.0.0.7
    dnsguard unlisted.example /nowhere/resolv.conf
    dnsguard . /etc/resolv.conf {
        policy round_robin
    }
}
`

// The hosts of that Corefile.
const (
	goodAddr    = "114.114.114.114"
	deniesAddr  = "172.16.0.50" // public names
	silentAddr  = "10.0.0.2"
	closedAddr  = "10.0.0.3"
	blockedAddr = "10.0.0.4" // by a packet filter on the node itself
	forgedAddr  = "10.0.0.5" // beside each reply come others that nobody asked for
	loopingAddr = "10.0.0.6" // forwards back
	partlyAddr  = "10.0.0.7" // forwards some names back
)

// leadsBack is the Corefile of a host with both of the latter. %TO% is where the queries come from.
const leadsBack = `.:53 {
 bind ` + loopingAddr + `
 forward . %TO%
}
partly.example:53 {
 bind ` + partlyAddr + `
 template ANY ANY . {
  rcode NXDOMAIN
  authority "partly.example. 60 IN SOA ns.partly.example. hostmaster.partly.example. 1 7200 1800 86400 60"
 }
}
back.partly.example:53 {
 bind ` + partlyAddr + `
 forward . %TO%
}
`

// Prometheus itself scrapes the server while there is trouble: each query and
// each alert of docs/monitoring.md finds something, and nothing that promtool objects to.
// What has gone from the configuration is gone from the metrics.
func TestPrometheus(t *testing.T) {
	requires(t, "unbound", "dnsmasq", "prometheus", "promtool")
	requiresDirective(t, dnsguard)
	zones := public()
	l := newLab(t)
	r := l.report("metrics", nil,
		l.upstream("denies", deniesAddr, dnsmasq(private())),
		l.dropped("silent", silentAddr),
		upstream{host: l.host("blocked", blockedAddr)},
		l.upstream("good", goodAddr, unbound("static", zones...)),
	)
	l.host("closed", closedAddr)
	l.forger("forged", forgedAddr)
	back := l.host("back", loopingAddr)
	l.ip("-n", back.ns, "addr", "add", partlyAddr+"/32", "dev", "eth0")
	hopOf(loopingAddr, "Corefile", leadsBack, coreDNS(t), "-conf", "%DIR%/Corefile")(back, r.node.addr.String())
	r.resolvConf(r.upstreams)
	r.node.filter("output", "ip daddr "+blockedAddr+" udp dport 53 drop")
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "monitoring.md"))
	if err != nil {
		t.Fatal(err)
	}
	rules := fenced(string(text), "yaml")
	// They are there before the server, so that they miss nothing of it.
	classic, native := r.node.prometheus(9090, rules), r.node.prometheus(9091, rules, "--enable-feature=native-histograms")
	s := r.node.coredns(troubledCorefile)

	questions := mix(4000, publicQuestions(zones)...)
	var wg sync.WaitGroup
	for zone, rate := range map[string]int{"closed.example.": 10, "forged.example.": 5, "full.example.": 200, "looping.example.": 5, "back.partly.example.": 5} {
		lost := make([]question, 15*rate)
		for i := range lost {
			lost[i] = question{name: fmt.Sprintf("n%d.%s", i, zone), qtype: dns.TypeA}
		}
		wg.Go(func() { r.client.load(r.node.addrPort(53), rate, lost) })
	}
	r.client.load(r.node.addrPort(53), 400, questions)
	wg.Wait()

	t.Run("queries", func(t *testing.T) { classic.findsAll(t, queriesOf(fenced(string(text), "promql"))) })
	t.Run("alerts", func(t *testing.T) { classic.raisesAll(t) })
	t.Run("forward's dashboards", func(t *testing.T) {
		classic.findsAll(t, map[string]string{
			"time": `histogram_quantile(0.99, sum by (to, le) (rate(coredns_proxy_request_duration_seconds_bucket{proxy_name="dnsguard", to="` + goodAddr + `:53"}[5m])))`,
			"rate": `sum by (to, rcode) (rate(coredns_proxy_request_duration_seconds_count{proxy_name="dnsguard", rcode="NXDOMAIN", to="` + deniesAddr + `:53"}[5m]))`,
			"dead": `rate(coredns_proxy_healthcheck_failures_total{proxy_name="dnsguard", to="` + silentAddr + `:53"}[5m]) > 0`,
		})
	})
	t.Run("native histograms", func(t *testing.T) {
		native.findsAll(t, map[string]string{
			"dnsguard": `histogram_quantile(0.99, sum by (to) (rate(coredns_dnsguard_request_duration_seconds{to="` + goodAddr + `:53"}[5m])))`,
			"proxy":    `histogram_quantile(0.99, sum by (to) (rate(coredns_proxy_request_duration_seconds{proxy_name="dnsguard", to="` + goodAddr + `:53"}[5m])))`,
		})
	})
	t.Run("promtool", func(t *testing.T) { s.passesPromtool(t) })
	t.Run("series go", func(t *testing.T) { s.forgetsUpstreams(t, r) })
	s.alive()
}

// forgetsUpstreams takes one upstream out of the resolv.conf, and others out of the Corefile.
func (s *server) forgetsUpstreams(t *testing.T, r *report) {
	mentions := func(addr string) int { return strings.Count(s.page(), `to="`+addr+`:53"`) }
	all := []string{goodAddr, deniesAddr, silentAddr, closedAddr, blockedAddr, forgedAddr}
	gone := func(addrs ...string) {
		t.Helper()
		eventually(t, 15*time.Second, s.process, func() error {
			for _, addr := range all {
				if n := mentions(addr); (n == 0) != slices.Contains(addrs, addr) {
					return fmt.Errorf("%d lines about %s", n, addr)
				}
			}
			return nil
		})
	}
	gone()
	before := s.metric("coredns_dnsguard_attempts_total")
	r.resolvConf([]upstream{r.upstreams[0], r.upstreams[1], r.good()})
	gone(blockedAddr)
	if after := s.metric("coredns_dnsguard_attempts_total"); after < before/2 {
		t.Errorf("%v attempts counted, %v before: those of others are gone too", after, before)
	}
	r.resolvConf([]upstream{r.upstreams[0], r.good()})
	gone(blockedAddr, silentAddr)
	text := strings.Replace(troubledCorefile, "dnsguard closed.example 10.0.0.3\n", "", 1)
	before = s.metric("coredns_dnsguard_attempts_total")
	if err := os.WriteFile(s.corefile, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(s.pid(), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, s.process, func() error { // meanwhile there is no metrics page
		if len(s.log.lines("Reloading complete")) == 0 {
			return errors.New("not reloaded")
		}
		return nil
	})
	gone(blockedAddr, silentAddr, closedAddr)
	if after := s.metric("coredns_dnsguard_attempts_total"); after < before/2 {
		t.Errorf("%v attempts counted, %v before the reload", after, before)
	}
}

// page is what a scrape of the server returns.
func (s *server) page() string {
	s.t.Helper()
	resp, err := s.client.Get("http://" + s.host.addrPort(9153) + "/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

// passesPromtool holds that promtool has nothing to say about the server's metrics that are dnsguard's.
func (s *server) passesPromtool(t *testing.T) {
	page := s.page()
	if n := strings.Count(page, "# TYPE coredns_dnsguard_"); n < 20 {
		t.Errorf("%d metrics", n)
	}
	cmd := exec.Command("promtool", "check", "metrics")
	cmd.Stdin = strings.NewReader(page)
	out, err := cmd.CombinedOutput() // an error, too, where CoreDNS's own metrics have faults
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "coredns_dnsguard_") || strings.Contains(line, "coredns_proxy_") || strings.Contains(line, "error") {
			t.Error(strings.TrimSpace(line))
		}
	}
}

// forger is a DNS server that gives every name an address, and sends packets
// with wrong IDs after each reply.
func (l *lab) forger(name, addr string) *host {
	l.t.Helper()
	h := l.host(name, addr)
	var c net.PacketConn
	if err := h.do(func() (err error) {
		c, err = net.ListenPacket("udp", h.addrPort(53))
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := c.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			q := new(dns.Msg)
			if err != nil || q.Unpack(buf[:n]) != nil {
				continue
			}
			m := new(dns.Msg).SetReply(q)
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 1)}}
			for range 100 {
				if b, err := m.Pack(); err == nil {
					_, _ = c.WriteTo(b, from) // who is gone needs no reply
				}
				m.Id++
			}
		}
	})
	l.t.Cleanup(func() { c.Close(); wg.Wait() })
	return h
}

// fenced returns what stands in the fenced blocks with the info string.
func fenced(text, info string) string {
	var b strings.Builder
	for _, m := range regexp.MustCompile("(?ms)^~~~ "+info+"\n(.*?)^~~~$").FindAllStringSubmatch(text, -1) {
		b.WriteString(m[1] + "\n")
	}
	return b.String()
}

// queriesOf returns the queries, which blank lines separate, by their comments.
func queriesOf(promql string) map[string]string {
	queries := make(map[string]string)
	for _, block := range regexp.MustCompile(`\n\s*\n`).Split(promql, -1) {
		var comment, query []string
		for line := range strings.Lines(block) {
			if text, ok := strings.CutPrefix(line, "#"); ok {
				comment = append(comment, strings.TrimSpace(text))
			} else if line = strings.TrimSpace(line); line != "" {
				query = append(query, line)
			}
		}
		if q := strings.Join(query, " "); q != "" {
			name := strings.Join(comment, " ")
			if name == "" {
				name = q
			}
			queries[name] = q
		}
	}
	return queries
}

// prometheus is a Prometheus on a host, which scrapes the server there every half second.
type prometheus struct {
	*process
	client *http.Client
	url    string
}

func (h *host) prometheus(port int, rules string, flags ...string) *prometheus {
	h.t.Helper()
	dir := h.tempDir()
	for name, content := range map[string]string{
		"rules.yml": rules,
		"prometheus.yml": fmt.Sprintf("global: {scrape_interval: 500ms, scrape_timeout: 400ms, evaluation_interval: 500ms}\nrule_files: [rules.yml]\n"+
			"scrape_configs: [{job_name: coredns, static_configs: [{targets: [%q]}]}]\n", h.addrPort(9153)),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			h.t.Fatal(err)
		}
	}
	if out, err := exec.Command("promtool", "check", "config", filepath.Join(dir, "prometheus.yml")).CombinedOutput(); err != nil {
		h.t.Fatalf("promtool: %v\n%s", err, out)
	}
	at := fmt.Sprintf("127.0.0.1:%d", port)
	argv := append([]string{
		"prometheus", "--config.file=" + filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path=" + filepath.Join(dir, "data"), "--web.listen-address=" + at,
	}, flags...)
	p := &prometheus{process: h.start(argv[0], argv...), client: h.httpClient(), url: "http://" + at}
	eventually(h.t, 30*time.Second, p.process, func() error {
		found, err := p.query("up")
		if err == nil && len(found) == 0 {
			err = errors.New("it does not scrape yet")
		}
		return err
	})
	return p
}

// get fills in what is under data in the answer of the API.
func (p *prometheus) get(path string, data any) error {
	resp, err := p.client.Get(p.url + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer := struct {
		Error string
		Data  any
	}{Data: data}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return err
	}
	if answer.Error != "" {
		return errors.New(answer.Error)
	}
	return nil
}

// query returns the values that a query finds now, by their labels.
func (p *prometheus) query(promql string) (map[string]float64, error) {
	var data struct {
		Result []struct {
			Metric map[string]string
			Value  [2]any
		}
	}
	if err := p.get("/api/v1/query?query="+url.QueryEscape(promql), &data); err != nil {
		return nil, fmt.Errorf("%s: %w", promql, err)
	}
	found := make(map[string]float64)
	for _, r := range data.Result {
		v, err := strconv.ParseFloat(fmt.Sprint(r.Value[1]), 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", promql, err)
		}
		if !math.IsNaN(v) {
			found[fmt.Sprint(r.Metric)] = v
		}
	}
	return found, nil
}

// findsAll holds that each query finds something that is a number.
func (p *prometheus) findsAll(t *testing.T, queries map[string]string) {
	t.Helper()
	if len(queries) == 0 {
		t.Error("no queries")
	}
	for name, q := range queries {
		found, err := p.query(q)
		if err != nil || len(found) == 0 {
			t.Errorf("%s: found nothing (%v):\n%s", name, err, q)
			continue
		}
		t.Logf("%s\n%s\n%v", name, q, found)
	}
}

// raisesAll holds that each of the alerts is raised, or would be after its time.
func (p *prometheus) raisesAll(t *testing.T) {
	t.Helper()
	var data struct {
		Groups []struct {
			Rules []struct{ Name, State, Health, LastError string }
		}
	}
	eventually(t, 10*time.Second, p.process, func() error {
		if err := p.get("/api/v1/rules", &data); err != nil {
			return err
		}
		n := 0
		for _, g := range data.Groups {
			for _, r := range g.Rules {
				if n++; r.Health != "ok" || r.State == "inactive" {
					return fmt.Errorf("%s is %s (%s %s)", r.Name, r.State, r.Health, r.LastError)
				}
			}
		}
		if n < 5 {
			return fmt.Errorf("%d alerts", n)
		}
		return nil
	})
}
