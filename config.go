package dnsguard

import (
	"crypto/tls"
	"net/netip"
	"time"
)

// Config is all that one dnsguard directive can say. Parse fills it in;
// setDefaults completes it; Validate refuses what makes no sense. Nothing
// changes it afterwards.
//
// The syntax of an option is given where forward does not have it; the others
// take forward's arguments and have forward's meaning.
type Config struct {
	// at is where the stanza begins: at.wrap gives an error that is found later its file and line.
	at position
	// zone is that of the server block, and of all queries that come in; "": not known.
	zone string

	// From is the zone whose queries are forwarded, normalised. No default.
	From string
	// Except are the zones below From that are passed to the next plugin, normalised. Default: none.
	Except []string
	// To are the TO arguments in their order. At least 1, at most 15.
	To []To

	// ForceTCP sends by TCP whatever the client used. Default: false.
	ForceTCP bool
	// PreferUDP sends by UDP first whatever the client used. ForceTCP goes before it. Default: false.
	PreferUDP bool
	// Expire is how long an idle socket is kept. Default (when not set): 10 s; not negative; 0: no idle socket is kept.
	Expire    time.Duration
	ExpireSet bool
	// MaxAge is how long a connection may be used in all; 0: no bound. Not less than Expire where it is not 0. Default 0.
	MaxAge time.Duration
	// MaxIdleConns is how many idle connections are kept per upstream; 0: no bound. Default 0; not negative.
	MaxIdleConns int
	// ReadTimeout is how long an upstream has for a reply before the attempt counts as failed. Default 2 s; more than 0.
	ReadTimeout time.Duration
	// Mode is who answers: ModeGuard, or ModeObserve: queries are forwarded exactly as by forward, and what a guard would
	// have done is counted and logged. Options that forward does not have, and PolicyAdaptive, then say what is watched for.
	// Default ModeGuard.
	//
	//	mode guard|observe
	Mode string
	// Timeout is how long a client waits at the most; no attempt outlasts it, whatever ReadTimeout says.
	// Default 4.5 s, or ReadTimeout (up to 60 s) where that is longer; 100 ms to 60 s.
	//
	//	timeout DURATION
	Timeout time.Duration

	// MaxFails is forward's max_fails. 0 keeps every upstream in for ever: Eject.Off follows. Another number raises
	// Eject.Failures to itself, and never lowers it: forward counts failed probes, Eject counts failed attempts.
	// It does not go together with the eject option. Default (when not set): 2.
	MaxFails    uint32
	MaxFailsSet bool
	// MaxConnectAttempts bounds the attempts per client query; 0: no bound but the time (and 64). Default (when not set): 2 + number of upstreams,
	// which the user of Config adds up, since To may stand for more upstreams than it has entries.
	MaxConnectAttempts    uint32
	MaxConnectAttemptsSet bool
	// HealthInterval is the interval of probes towards an upstream that fails. Default 500 ms; not negative (0: the default).
	HealthInterval time.Duration
	// HealthNoRec clears RD in probes. Default: false.
	HealthNoRec bool
	// HealthDomain is the name that probes ask for (NS), normalised. Default ".".
	HealthDomain string

	// DoHMethod is GET or POST. Default POST.
	DoHMethod string
	// TLS is the client configuration of tls, https and quic upstreams, with TLSServerName in it. Never nil.
	// It is shared: clone it for an upstream that has a ServerName of its own.
	TLS *tls.Config
	// tlsDigest is of the files that TLS was made of; "" where there are none. The same digest: the same certificates.
	tlsDigest string
	// TLSServerName is the name that certificates are checked against. Default: none. Not together with a To.ServerName.
	TLSServerName string
	// SourceAddress is the local address of all sockets. Default: zero, the kernel's choice.
	SourceAddress netip.Addr
	// Resolvers are asked, one after the other, for the addresses of host names among To. Default: /etc/hosts, then those of /etc/resolv.conf.
	Resolvers []netip.AddrPort

	// Policy is the order of the upstreams: PolicyAdaptive (the lowest expected time), or forward's PolicyRandom,
	// PolicyRoundRobin or PolicySequential. Default PolicyAdaptive.
	//
	//	policy adaptive|random|round_robin|sequential
	Policy string
	// MaxConcurrent bounds the client queries in flight; 0: no bound. Default (when not set): 16384; in ModeObserve 0.
	MaxConcurrent    int
	MaxConcurrentSet bool
	// Next are the response codes on which the next forwarding plugin is asked. Default: none.
	Next []int
	// NextOnNodata asks the next forwarding plugin on NODATA. Default: false.
	NextOnNodata bool
	// FailfastAllUnhealthy answers SERVFAIL at once while all upstreams are ejected. Default: false.
	FailfastAllUnhealthy bool
	// Failover are further response codes that are not taken while another upstream can be asked, never NOERROR. Default: none.
	Failover []int

	// Hedge is the share of queries that may be sent twice because the first attempt is late.
	// Default (when not set): 0.05; 0 (off) to 1.
	//
	//	hedge off
	//	hedge SHARE    (0.05)
	//	hedge PERCENT% (5%)
	Hedge    float64
	HedgeSet bool
	// NXDomainTrust passes every denial on unverified. Default: false (verify: a denial is checked against another upstream
	// as long as the pool does not agree on the zone).
	//
	//	nxdomain verify|trust
	NXDomainTrust bool
	// Eject is when and for how long an upstream is taken out.
	Eject EjectConfig
	// PrivateZones are zones that only some upstreams may be asked for, each zone once. Default: none.
	//
	//	private_zones ZONE... [at IP...]
	//
	// ZONE may be a network in CIDR notation, which stands for its reverse zones. The option may be repeated.
	PrivateZones []PrivateZone
	// EDNSOptions are the codes of the client's EDNS options that upstreams may see (RFC 6891, section 6.1.2), each once.
	// EDNS is hop by hop, so the default is none. In the Corefile a code may have its name, as in ednsOptionNames.
	//
	//	edns_options all
	//	edns_options CODE...   (ecs nsid 65001)
	EDNSOptions []uint16
	// EDNSAll passes all of the client's EDNS options on but those that concern one hop alone (cookie, TCP keepalive, padding). Default: false.
	EDNSAll bool
	// Explain is who is told what the directive knows of its upstreams.
	Explain ExplainConfig
	// Loop is how queries are found that come back. In ModeObserve nothing is done about them.
	Loop LoopConfig
}

// The values of Config.Mode.
const (
	ModeGuard   = "guard"
	ModeObserve = "observe"
)

// The values of Config.Policy.
const (
	PolicyAdaptive   = "adaptive"
	PolicyRandom     = "random"
	PolicyRoundRobin = "round_robin"
	PolicySequential = "sequential"
)

// To is one TO argument. Exactly one of Addr, Host and File is set.
type To struct {
	Text       string         // as written
	Transport  string         // dns, tls, https or quic (CoreDNS's plugin/pkg/transport)
	Addr       netip.AddrPort // an address; IPv6 with its zone, IPv4 never as IPv4-mapped IPv6
	Host       string         // a host name, with Port
	Port       uint16         // the port that goes with Host
	File       string         // a file in resolv.conf's format, whose servers are asked by plain DNS; may list none, and an absolute path may not exist yet
	ServerName string         // TLS server name after the %; tls, https and quic only
}

// EjectConfig is when and for how long an upstream is taken out.
//
//	eject off
//	eject [failures N] [share SHARE|PERCENT%] [base DURATION] [max DURATION]
type EjectConfig struct {
	// Off keeps every upstream in; those that do not reply are still probed. Default: false, but true with max_fails 0, which sends no probes either.
	Off bool
	// Failures is the number of failures in a row that eject. Default 5, or MaxFails where that is set and higher; 1 to 1000.
	Failures int
	// Share is the share of failed attempts, over 10 s and at least 20 attempts, that ejects. Default 0.5; more than 0 to 1.
	Share float64
	// Base is how long the first ejection lasts; each further one doubles it. Default 1 s, or Max where that is shorter; 10 ms to 10 m.
	Base time.Duration
	// Max is the longest ejection. Default 30 s, or Base where that is longer; Base to 1 h.
	Max time.Duration
}

// PrivateZone is a zone, and the upstreams that may be asked for names in it.
type PrivateZone struct {
	// Zone is normalised.
	Zone string
	// At are the upstreams that serve it, as addresses; empty: all with an address that is not public.
	// Where every To is an address, each of At is the address of one of them.
	At []netip.Addr
}

// ExplainConfig is who may ask for upstreams.dnsguard., and names below it, in class CH.
//
//	explain off
//	explain to NETWORK...
type ExplainConfig struct {
	// Off tells nobody. Where that is said of all directives of a server block, the names are forwarded as any others. Default: false.
	Off bool
	// To are networks whose clients are told, besides this host: loopback and the addresses of its interfaces.
	// IPv4 is never IPv4-mapped IPv6; the bits of the host are 0. Default: none. Not together with Off.
	To []netip.Prefix
}

// LoopConfig is how queries are found that come back.
//
//	loop on
//	loop off
//	loop [key FILE] [group NAME] [interval DURATION] [suffix NAME...]
//
// The option may be repeated.
type LoopConfig struct {
	// Off marks no queries, sends no probes and answers none. Default: false.
	Off bool
	// Key is the content of the file with the key, which all replicas have; 16 octets at the least. Default: none, the cluster's is taken.
	Key []byte
	// Group is a name that those have in common who are to know each other; what others name otherwise is another group. Default: none.
	Group string
	// Interval is between two probes of an upstream that is not public, where nothing is wrong. Default 1 m; 1 s to 1 h.
	Interval time.Duration
	// Suffixes are what the names of probes end in, normalised, but for loop.dnsguard., which is put before those that do not begin with it. Default: two names that nobody has.
	Suffixes []string
}
