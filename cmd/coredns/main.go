// Command coredns is CoreDNS with all of its own plugins and dnsguard. It takes CoreDNS's flags. Without a Corefile it runs a built-in one
// that forwards to the resolvers of the host.
package main

import (
	"flag"
	"fmt"
	"log"
	"sync"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	clog "github.com/coredns/coredns/plugin/pkg/log"
)

//go:generate go run ./gen

func main() {
	if err := dnsserver.SetDirectives(directives); err != nil {
		log.Fatal(err)
	}
	if coremain.GitCommit == "" {
		coremain.GitCommit = commit()
	}

	flag.Parse() // coremain.Run parses them once more, to the same effect
	if isSet("version") {
		fmt.Println(versionLine())
	}

	fallback := &builtin{file: caddy.DefaultConfigFile}
	if isSet("p") || isSet("dns.port") {
		fallback.port = dnsserver.Port
	}
	caddy.SetDefaultCaddyfileLoader("default", fallback)
	greetOnce(fallback)

	coremain.Run()
}

// isSet says whether the flag was given on the command line, and not as false.
func isSet(name string) bool {
	set := false
	flag.Visit(func(f *flag.Flag) {
		set = set || f.Name == name && f.Value.String() != "false"
	})
	return set
}

// greetOnce has the version, and how to try the built-in Corefile where that is used, printed once the servers listen. -quiet silences it.
func greetOnce(fallback *builtin) {
	var once sync.Once
	caddy.RegisterEventHook("dnsguard-greeting", func(event caddy.EventName, _ any) error {
		if event != caddy.InstanceStartupEvent || dnsserver.Quiet {
			return nil
		}
		once.Do(func() {
			for _, line := range append([]string{versionLine()}, fallback.hint()...) {
				say(line)
			}
		})
		return nil
	})
}

// say prints a line to stdout, as JSON where -log-format asks for that.
func say(line string) {
	if clog.IsJSON() {
		clog.Info(line)
		return
	}
	fmt.Println(line)
}
