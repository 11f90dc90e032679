// Package resolvconf reads the name servers that files in the format of
// resolv.conf list, and watches such files (watch.go).
//
// A file is watched by reading it every now and then. Notifications by the
// kernel are no help: their number is limited for each user of a host, and a
// process that gets none is not told of anything.
//
// The functions may be called concurrently; each Watcher has one goroutine.
//
// resolv.conf(5).
package resolvconf

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"

	"github.com/miekg/dns"
)

// MaxSize is the size in octets of the largest file that is read.
const MaxSize = 1 << 20

// What is wrong with a file; errors of the file system besides.
var (
	ErrEmpty   = errors.New("lists no usable nameserver")
	ErrSize    = fmt.Errorf("larger than %d octets", MaxSize)
	ErrNotFile = errors.New("not a regular file")
)

// Read returns the content of a file.
func Read(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, withoutPath(err)
	case info.IsDir():
		return nil, ErrNotFile
	case !info.Mode().IsRegular() && info.Mode()&fs.ModeDevice == 0: // opening a pipe may take for ever
		return nil, ErrNotFile
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, withoutPath(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	switch {
	case err != nil:
		return nil, withoutPath(err)
	case len(text) > MaxSize:
		return nil, ErrSize
	}
	return text, nil
}

// withoutPath takes the path, which the caller knows, out of err's text.
func withoutPath(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// Parse returns the addresses of the name servers that text lists, each once
// and in their order. What stands in the place of one and is no address is
// passed over, as resolvers do. The error is ErrEmpty where none remains.
func Parse(text []byte) ([]netip.Addr, error) {
	conf, err := dns.ClientConfigFromReader(bytes.NewReader(withoutLong(text)))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEmpty, err)
	}
	var servers []netip.Addr
	seen := make(map[netip.Addr]bool)
	for _, s := range conf.Servers {
		ip, err := netip.ParseAddr(s)
		if err != nil {
			continue
		}
		if ip = ip.Unmap(); !seen[ip] {
			seen[ip] = true
			servers = append(servers, ip)
		}
	}
	if len(servers) == 0 {
		return nil, ErrEmpty
	}
	return servers, nil
}

// Line returns the number of the line, from 1, that names a server; 0: none does.
func Line(text []byte, server netip.Addr) int {
	n := 0
	for line := range bytes.Lines(text) {
		n++
		fields := bytes.Fields(line)
		if len(fields) < 2 || string(fields[0]) != "nameserver" {
			continue
		}
		if ip, err := netip.ParseAddr(string(fields[1])); err == nil && ip.Unmap() == server {
			return n
		}
	}
	return 0
}

// maxLine is the length in octets of the longest line that may list a name
// server. At much longer ones the library stops reading, and says nothing.
const maxLine = 4096

// withoutLong returns text without the lines that are longer.
func withoutLong(text []byte) []byte {
	if len(text) <= maxLine {
		return text
	}
	var kept []byte
	for line := range bytes.Lines(text) {
		if len(line) <= maxLine {
			kept = append(kept, line...)
		}
	}
	return kept
}
