package dnsguard

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

// inFiles makes a directory with files of all kinds the current one:
// resolv.conf, dns.example (a file that looks like a host name), empty and the
// directory sub.
func inFiles(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"resolv.conf": "nameserver 192.0.2.1\n",
		"dns.example": "nameserver 192.0.2.1\n",
		"empty":       "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	return dir
}

func TestParseTo(t *testing.T) {
	dir := inFiles(t)
	addr := func(transport, text, name string) To {
		return To{Transport: transport, Addr: netip.MustParseAddrPort(text), ServerName: name}
	}
	for text, want := range map[string]To{
		"192.0.2.1":                         addr("dns", "192.0.2.1:53", ""),
		"192.0.2.1:5353":                    addr("dns", "192.0.2.1:5353", ""),
		"dns://192.0.2.1":                   addr("dns", "192.0.2.1:53", ""),
		"dns://192.0.2.1:5353":              addr("dns", "192.0.2.1:5353", ""),
		"::1":                               addr("dns", "[::1]:53", ""),
		"[::1]":                             addr("dns", "[::1]:53", ""),
		"[2001:db8::1]:5353":                addr("dns", "[2001:db8::1]:5353", ""),
		"::ffff:192.0.2.1":                  addr("dns", "192.0.2.1:53", ""),
		"fe80::1%eth0":                      addr("dns", "[fe80::1%eth0]:53", ""),
		"[fe80::1%eth0]:5353":               addr("dns", "[fe80::1%eth0]:5353", ""),
		"dns://fe80::1%eth0":                addr("dns", "[fe80::1%eth0]:53", ""),
		"tls://192.0.2.1":                   addr("tls", "192.0.2.1:853", ""),
		"tls://[2001:db8::1]:854":           addr("tls", "[2001:db8::1]:854", ""),
		"tls://192.0.2.1%a.example":         addr("tls", "192.0.2.1:853", "a.example"),
		"tls://192.0.2.1%a.example:854":     addr("tls", "192.0.2.1:854", "a.example"),
		"tls://[2001:db8::1%a.example]:854": addr("tls", "[2001:db8::1]:854", "a.example"),
		"tls://[2001:db8::1%a.example]":     addr("tls", "[2001:db8::1]:853", "a.example"),
		"tls://[2001:db8::1]%a.example:854": addr("tls", "[2001:db8::1]:854", "a.example"),
		"tls://2001:db8::1%a.example:854":   addr("tls", "[2001:db8::1]:854", "a.example"),
		"tls://fe80::1%a.example":           addr("tls", "[fe80::1]:853", "a.example"),
		"tls://fe80::1%eth0%a.example":      addr("tls", "[fe80::1%eth0]:853", "a.example"),
		"quic://192.0.2.1":                  addr("quic", "192.0.2.1:853", ""),
		"quic://192.0.2.1%A.example:8853":   addr("quic", "192.0.2.1:8853", "A.example"),
		"https://192.0.2.1":                 addr("https", "192.0.2.1:443", ""),
		"https://192.0.2.1:8443":            addr("https", "192.0.2.1:8443", ""),
		"https://192.0.2.1%a.example":       addr("https", "192.0.2.1:443", "a.example"),

		"resolv.conf":                {Transport: "dns", File: "resolv.conf"},
		"dns.example":                {Transport: "dns", File: "dns.example"},
		"dns://resolv.conf":          {Transport: "dns", File: "resolv.conf"},
		"sub/../empty":               {Transport: "dns", File: "sub/../empty"},
		dir + "/empty":               {Transport: "dns", File: dir + "/empty"},
		os.DevNull:                   {Transport: "dns", File: os.DevNull},
		"host.example":               {Transport: "dns", Host: "host.example", Port: 53},
		"sub":                        {Transport: "dns", Host: "sub", Port: 53},
		"missing.conf":               {Transport: "dns", Host: "missing.conf", Port: 53},
		dir + "/missing.conf":        {Transport: "dns", File: dir + "/missing.conf"},
		"dns.example:5353":           {Transport: "dns", Host: "dns.example", Port: 5353},
		"a_b.svc.cluster.local.":     {Transport: "dns", Host: "a_b.svc.cluster.local.", Port: 53},
		"a27.0.0.1a":                 {Transport: "dns", Host: "a27.0.0.1a", Port: 53},
		"tls://dns.example":          {Transport: "tls", Host: "dns.example", Port: 853},
		"tls://dns.example%b.c:854":  {Transport: "tls", Host: "dns.example", Port: 854, ServerName: "b.c"},
		"quic://dns.example":         {Transport: "quic", Host: "dns.example", Port: 853},
		"https://dns.example:8443":   {Transport: "https", Host: "dns.example", Port: 8443},
		"https://resolv.conf%a.name": {Transport: "https", Host: "resolv.conf", Port: 443, ServerName: "a.name"},
	} {
		want.Text = text
		got, err := parseTo(text)
		if err != nil || got != want {
			t.Errorf("parseTo(%q)\ngot  %+v, %v\nwant %+v", text, got, err, want)
		}
	}
}

func TestParseToErrors(t *testing.T) {
	dir := inFiles(t)
	const neither = "must be an IP address, a file or a host name"
	for text, want := range map[string]string{
		"":                        neither,
		"300.1.1.1":               neither,
		"a27.0.0.1":               neither,
		"192.0.2.0/24":            "cannot be read: no such file or directory",
		"a b":                     neither,
		"a..b":                    neither,
		"bücher.example":          neither,
		"tls://":                  "must be an IP address or a host name",
		"tls://300.1.1.1":         "must be an IP address or a host name",
		"192.0.2.1:":              `port "": must be a number from 1 to 65535`,
		"192.0.2.1:0":             `port "0": must be a number from 1 to 65535`,
		"192.0.2.1:65536":         `port "65536": must be a number from 1 to 65535`,
		"host.example:domain":     `port "domain": must be a number from 1 to 65535`,
		"tls://192.0.2.1%a:x":     `port "x": must be a number from 1 to 65535`,
		"grpc://192.0.2.1":        "transport must be dns, tls, https or quic",
		"unix:///run/dns":         "transport must be dns, tls, https or quic",
		"https3://192.0.2.1":      "transport must be dns, tls, https or quic",
		"TLS://192.0.2.1":         "transport must be dns, tls, https or quic",
		"://192.0.2.1":            "transport must be dns, tls, https or quic",
		"https://192.0.2.1/":      "must have no path: /dns-query is used",
		"https://a.example/query": "must have no path: /dns-query is used",
		"tls:///etc/resolv.conf":  "must be an IP address or a host name: the servers in a file are not asked by tls",
		"quic://sub/empty":        "must be an IP address or a host name: the servers in a file are not asked by quic",
		"tls://192.0.2.1%":        `TLS server name "": must be a host name`,
		"tls://192.0.2.1%:853":    `TLS server name "": must be a host name`,
		"tls://192.0.2.1%a b":     `TLS server name "a b": must be a host name`,
		"192.0.2.1%dns.example":   "must be an IPv6 address before a %ZONE; a %SERVERNAME goes with tls, https and quic only",
		"fe80::1%eth0]:53":        "must be an IPv6 address before a %ZONE; a %SERVERNAME goes with tls, https and quic only",
		"[fe80::1%eth0]x]":        "must be an IPv6 address before a %ZONE; a %SERVERNAME goes with tls, https and quic only",
		"dns://a.example%name":    "must be an IPv6 address before a %ZONE; a %SERVERNAME goes with tls, https and quic only",
		"./missing.conf":          "cannot be read: no such file or directory",
		dir + "/empty/x":          "cannot be read: not a directory",
		dir:                       "must be a file, not a directory",
		"./sub":                   "must be a file, not a directory",
	} {
		got, err := parseTo(text)
		if err == nil {
			t.Errorf("parseTo(%q) = %+v, want an error", text, got)
			continue
		}
		if want := `"` + text + `": ` + want; err.Error() != want {
			t.Errorf("parseTo(%q)\ngot  %s\nwant %s", text, err, want)
		}
		if got != (To{}) {
			t.Errorf("parseTo(%q): %+v beside the error", text, got)
		}
	}
}

func TestParseToPosition(t *testing.T) {
	wantError(t, "\ndnsguard . 192.0.2.1 https://192.0.2.1/ {\n}", `Testfile:2 - Error during parsing: TO "https://192.0.2.1/": must have no path: /dns-query is used`)
}
