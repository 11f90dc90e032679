package dnsguard

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/coredns/coredns/plugin"
	pkgtls "github.com/coredns/coredns/plugin/pkg/tls"
	"github.com/coredns/coredns/plugin/pkg/transport"

	"github.com/miekg/dns"
)

// option is what the parser knows of one option.
type option struct {
	args     string // the arguments, as in the README
	min, max int    // how many there may be
	repeats  bool   // may be given more than once, and adds up
	excludes string // the option that it does not go together with
	// set reads the arguments into the stanza. Its errors begin with what
	// follows the option's name: `"x": must be ...`.
	set func(s *stanza, args []string) error
}

func (o option) takes(n int) bool { return n >= o.min && n <= o.max }

const anyNumber = math.MaxInt

// options are all options by their names; forward's first, and in its order.
// Never written to.
var options = map[string]option{
	"except":               {args: "ZONE...", min: 1, max: anyNumber, repeats: true, set: setExcept},
	"max_fails":            {args: "INTEGER", min: 1, max: 1, excludes: "eject", set: setMaxFails},
	"max_connect_attempts": {args: "INTEGER", min: 1, max: 1, set: setMaxConnectAttempts},
	"health_check":         {args: "DURATION [no_rec] [domain FQDN]", min: 1, max: 4, set: setHealthCheck},
	"force_tcp":            {set: func(s *stanza, _ []string) error { s.ForceTCP = true; return nil }},
	"prefer_udp":           {set: func(s *stanza, _ []string) error { s.PreferUDP = true; return nil }},
	"tls":                  {args: "[CERT KEY] [CA]", max: 3, set: setTLS},
	"tls_servername":       {args: "NAME", min: 1, max: 1, set: setTLSServerName},
	"expire":               {args: "DURATION", min: 1, max: 1, set: setExpire},
	"max_age":              {args: "DURATION", min: 1, max: 1, set: setMaxAge},
	"max_idle_conns":       {args: "INTEGER", min: 1, max: 1, set: setMaxIdleConns},
	"read_timeout":         {args: "DURATION", min: 1, max: 1, set: setReadTimeout},
	"doh_method":           {args: "GET|POST", min: 1, max: 1, set: setDoHMethod},
	"policy":               {args: "adaptive|random|round_robin|sequential", min: 1, max: 1, set: setPolicy},
	"max_concurrent":       {args: "INTEGER", min: 1, max: 1, set: setMaxConcurrent},
	"next":                 {args: "RCODE...", min: 1, max: anyNumber, repeats: true, set: setNext},
	"next_on_nodata":       {set: func(s *stanza, _ []string) error { s.NextOnNodata = true; return nil }},
	"failfast_all_unhealthy_upstreams": {
		set: func(s *stanza, _ []string) error { s.FailfastAllUnhealthy = true; return nil },
	},
	"failover":       {args: "RCODE...", min: 1, max: anyNumber, repeats: true, set: setFailover},
	"resolver":       {args: "IP[:PORT]...", min: 1, max: anyNumber, set: setResolver},
	"source_address": {args: "IP", min: 1, max: 1, set: setSourceAddress},

	"mode":          {args: "guard|observe", min: 1, max: 1, set: setMode},
	"timeout":       {args: "DURATION", min: 1, max: 1, set: setTimeout},
	"hedge":         {args: "off|SHARE|PERCENT%", min: 1, max: 1, set: setHedge},
	"nxdomain":      {args: "verify|trust", min: 1, max: 1, set: setNXDomain},
	"eject":         {args: ejectArgs, min: 1, max: 8, excludes: "max_fails", set: setEject},
	"private_zones": {args: "ZONE... [at IP...]", min: 1, max: anyNumber, repeats: true, set: setPrivateZones},
	"edns_options":  {args: "all|CODE...", min: 1, max: anyNumber, set: setEDNSOptions},
	"explain":       {args: explainArgs, min: 1, max: anyNumber, set: setExplain},
	"loop":          {args: loopArgs, min: 1, max: anyNumber, repeats: true, set: setLoop},
}

func setExcept(s *stanza, args []string) error {
	for _, arg := range args {
		zones, err := parseZone(arg)
		if err != nil {
			return err
		}
		s.Except = append(s.Except, zones...)
	}
	return nil
}

func setMaxFails(s *stanza, args []string) (err error) {
	s.MaxFails, err = parseUint32(args[0])
	s.MaxFailsSet = true
	return err
}

func setMaxConnectAttempts(s *stanza, args []string) (err error) {
	s.MaxConnectAttempts, err = parseUint32(args[0])
	s.MaxConnectAttemptsSet = true
	return err
}

func setHealthCheck(s *stanza, args []string) (err error) {
	if s.HealthInterval, err = parseDuration(args[0], spanNotNegative); err != nil {
		return err
	}
	for args = args[1:]; len(args) > 0; args = args[1:] {
		switch {
		case args[0] == "no_rec":
			s.HealthNoRec = true
		case args[0] == "domain" && len(args) == 1:
			return errors.New("domain: found no argument; usage: domain FQDN")
		case args[0] == "domain":
			args = args[1:]
			if _, ok := dns.IsDomainName(args[0]); !ok {
				return fmt.Errorf("domain %w", badValue(args[0], "a domain name"))
			}
			s.HealthDomain = plugin.Name(args[0]).Normalize()
		default:
			return badValue(args[0], "no_rec or domain FQDN")
		}
	}
	return nil
}

func setTLS(s *stanza, args []string) (err error) {
	files := make([]string, len(args))
	for i, arg := range args {
		if files[i] = arg; !filepath.IsAbs(arg) && s.root != "" {
			files[i] = filepath.Join(s.root, arg)
		}
	}
	if s.TLS, err = pkgtls.NewTLSConfigFromArgs(files...); err != nil {
		return fmt.Errorf("%q: %w", files, err)
	}
	s.tlsDigest, err = digest(files)
	return err
}

// digest returns a digest of the files' contents; "" for no file.
func digest(files []string) (string, error) {
	var sums []byte
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		sum := sha256.Sum256(text)
		sums = append(sums, sum[:]...)
	}
	return string(sums), nil
}

func setTLSServerName(s *stanza, args []string) error {
	if !isServerName(args[0]) {
		return badValue(args[0], "the host name or the IP address of a certificate")
	}
	s.TLSServerName = args[0]
	return nil
}

func setExpire(s *stanza, args []string) (err error) {
	s.Expire, err = parseDuration(args[0], spanNotNegative)
	s.ExpireSet = true
	return err
}

func setMaxAge(s *stanza, args []string) (err error) {
	s.MaxAge, err = parseDuration(args[0], spanNotNegative)
	return err
}

func setMaxIdleConns(s *stanza, args []string) (err error) {
	s.MaxIdleConns, err = parseInt(args[0], spanCount)
	return err
}

func setReadTimeout(s *stanza, args []string) (err error) {
	s.ReadTimeout, err = parseDuration(args[0], spanPositive)
	return err
}

func setDoHMethod(s *stanza, args []string) (err error) {
	s.DoHMethod, err = oneOf(args[0], http.MethodGet, http.MethodPost)
	return err
}

func setPolicy(s *stanza, args []string) (err error) {
	s.Policy, err = oneOf(args[0], policies...)
	return err
}

func setMaxConcurrent(s *stanza, args []string) (err error) {
	s.MaxConcurrent, err = parseInt(args[0], spanCount)
	s.MaxConcurrentSet = true
	return err
}

func setNext(s *stanza, args []string) error {
	codes, err := parseRcodes(args)
	s.Next = append(s.Next, codes...)
	return err
}

func setFailover(s *stanza, args []string) error {
	for _, arg := range args {
		if strings.EqualFold(arg, dns.RcodeToString[dns.RcodeSuccess]) {
			return badValue(arg, "a response code other than NOERROR")
		}
	}
	codes, err := parseRcodes(args)
	s.Failover = append(s.Failover, codes...)
	return err
}

func setResolver(s *stanza, args []string) error {
	for _, arg := range args {
		addr, err := parseAddrPort(arg, defaultPorts[transport.DNS])
		if err != nil {
			return badValue(arg, "IP or IP:PORT")
		}
		s.Resolvers = append(s.Resolvers, addr)
	}
	return nil
}

func setSourceAddress(s *stanza, args []string) (err error) {
	s.SourceAddress, err = parseIP(args[0])
	return err
}
