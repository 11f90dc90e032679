package main

import "runtime/debug"

// version is dnsguard's; a release sets it with -ldflags "-X main.version=1.2.3".
var version = "0.1.0-dev"

// versionLine says which dnsguard this is. CoreDNS prints its own version after it.
func versionLine() string {
	return "dnsguard " + version
}

// commit returns the commit that the binary was built from, or "unknown" when it was not built in a repository.
func commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return commitOf(info.Settings)
}

// commitOf finds the commit in the settings of a build: 12 digits, and -dirty after them where files differed from it.
func commitOf(settings []debug.BuildSetting) string {
	revision, suffix := "unknown", ""
	for _, s := range settings {
		switch {
		case s.Key == "vcs.revision" && s.Value != "":
			revision = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			suffix = "-dirty"
		}
	}
	return revision + suffix
}
