package dnsguard

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"github.com/coredns/coredns/plugin/pkg/transport"
)

// defaultPorts are the transports that a TO may have, and their ports. Never written to.
var defaultPorts = map[string]uint16{
	transport.DNS:   53,
	transport.TLS:   853, // RFC 7858, section 3.1
	transport.HTTPS: 443, // RFC 8484, section 8.1
	transport.QUIC:  853, // RFC 9250, section 4.1.1
}

// parseTo reads one TO argument: [TRANSPORT://]HOST[%SERVERNAME][:PORT], or a
// file. As in forward, it is an IP address, else a file that exists, else a
// host name. An error begins with the text in quotes.
func parseTo(text string) (To, error) {
	to, err := classifyTo(text)
	if err != nil {
		return To{}, fmt.Errorf("%q: %w", text, err)
	}
	return to, nil
}

func classifyTo(text string) (To, error) {
	to := To{Text: text, Transport: transport.DNS}
	rest := text
	if scheme, after, ok := strings.Cut(text, "://"); ok {
		if _, ok := defaultPorts[scheme]; !ok {
			return to, errors.New("transport must be dns, tls, https or quic")
		}
		to.Transport, rest = scheme, after
	}
	if to.Transport == transport.DNS {
		return to.classify(rest)
	}
	if err := checkNoPath(to.Transport, rest); err != nil {
		return to, err
	}
	if strings.Contains(rest, "%") {
		if rest, to.ServerName = cutServerName(rest); !isHost(to.ServerName) {
			return to, fmt.Errorf("TLS server name %w", badValue(to.ServerName, "a host name"))
		}
	}
	return to.classify(rest)
}

// checkNoPath refuses paths of files and of URLs.
func checkNoPath(trans, rest string) error {
	switch {
	case !strings.Contains(rest, "/"):
		return nil
	case trans == transport.HTTPS:
		return errors.New("must have no path: /dns-query is used")
	default:
		return fmt.Errorf("must be an IP address or a host name: the servers in a file are not asked by %s", trans)
	}
}

// classify sees whether rest, which has neither transport nor server name any
// more, is an address, a file or a host name. A file is for plain DNS alone.
func (t To) classify(rest string) (To, error) {
	plain := t.Transport == transport.DNS
	host, port, portErr := splitPort(rest, defaultPorts[t.Transport])
	if ip, err := parseAddr(host); err == nil {
		t.Addr = netip.AddrPortFrom(ip.Unmap(), port)
		return t, portErr
	}
	if plain {
		if isFile, err := findFile(rest); isFile || err != nil {
			t.File = rest
			return t, err
		}
	}
	if !isHost(host) {
		return t, errors.New(notATo(plain, host))
	}
	t.Host, t.Port = host, port
	return t, portErr
}

func notATo(plain bool, host string) string {
	switch {
	case plain && strings.Contains(host, "%"):
		return "must be an IPv6 address before a %ZONE; a %SERVERNAME goes with tls, https and quic only"
	case plain:
		return "must be an IP address, a file or a host name"
	default:
		return "must be an IP address or a host name"
	}
}

// cutServerName takes what follows the last % out, but for the port:
// 192.0.2.1%name:853 and [2001:db8::1%name]:853.
func cutServerName(text string) (rest, name string) {
	i := strings.LastIndexByte(text, '%')
	host, name, port := text[:i], text[i+1:], ""
	if j := strings.LastIndexByte(name, ':'); j >= 0 {
		name, port = name[:j], name[j:]
	}
	name = strings.TrimSuffix(name, "]")
	if strings.Contains(host, ":") {
		host = "[" + strings.Trim(host, "[]") + "]"
	}
	return host + port, name
}

// findFile reports whether there is a file, or a device, that can be read, or
// may be one day: an absolute path is taken for a file that somebody is about to
// write. Else, that there is none is an error for what cannot be a host name.
func findFile(path string) (bool, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(path, "/"):
		return true, nil
	case err != nil && strings.Contains(path, "/"):
		return false, fmt.Errorf("cannot be read: %w", withoutPath(err))
	case err != nil:
		return false, nil
	case info.IsDir() && strings.Contains(path, "/"):
		return false, errors.New("must be a file, not a directory")
	case info.IsDir():
		return false, nil
	case !info.Mode().IsRegular(): // opening one may block
		return true, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return false, fmt.Errorf("cannot be read: %w", withoutPath(err))
	}
	return true, f.Close()
}

// withoutPath takes the path, which is named already, out of err's text.
func withoutPath(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}
