package main

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/coredns/caddy"
)

//go:embed Corefile.default
var builtinCorefile string

// builtinPort is the port that Corefile.default names.
const builtinPort = "1053"

// builtin is the Caddyfile loader of last resort: the Corefile of the working directory where there is one, else the one built in.
// Caddy calls it at the start and at each reload, never concurrently.
type builtin struct {
	file string // the Corefile to look for
	port string // what the command line says; empty: nothing

	used bool // the last Load returned the built-in Corefile
}

// Load implements caddy.Loader.
func (b *builtin) Load(serverType string) (caddy.Input, error) {
	contents, err := os.ReadFile(b.file)
	b.used = errors.Is(err, fs.ErrNotExist)
	if b.used {
		return caddy.CaddyfileInput{
			Contents:       []byte(b.corefile()),
			Filepath:       "Corefile.default",
			ServerTypeName: serverType,
		}, nil
	}
	if err != nil {
		return nil, err
	}
	return caddy.CaddyfileInput{Contents: contents, Filepath: b.file, ServerTypeName: serverType}, nil
}

// corefile returns the built-in Corefile, on the port of the command line.
func (b *builtin) corefile() string {
	if b.port == "" {
		return builtinCorefile
	}
	return strings.Replace(builtinCorefile, ".:"+builtinPort+" {", ".:"+b.port+" {", 1)
}

// hint returns the lines that tell how to try the built-in Corefile; none where it is not used.
func (b *builtin) hint() []string {
	if !b.used {
		return nil
	}
	port := b.port
	if port == "" {
		port = builtinPort
	}
	return []string{
		fmt.Sprintf("no %s here: forwarding to the resolvers of /etc/resolv.conf; ask something with", b.file),
		fmt.Sprintf("    dig @127.0.0.1 -p %s example.org", port),
	}
}
