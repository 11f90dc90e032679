package dnsguard

import (
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

func TestParseToUnreadable(t *testing.T) {
	path := filepath.Join(inFiles(t), "secret")
	if err := os.WriteFile(path, nil, 0); err != nil {
		t.Fatal(err)
	}
	if uid := os.Geteuid(); uid == 0 { // who reads everything: not as somebody else, as which this thread looks at files
		const nobody = 65534
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := syscall.Setfsuid(nobody); err != nil {
			t.Fatal(err)
		}
		defer syscall.Setfsuid(uid)
	}
	for _, text := range []string{path, "secret"} {
		wantError(t, "dnsguard . "+text, `Testfile:1 - Error during parsing: TO "`+text+`": cannot be read: permission denied`)
	}
}
