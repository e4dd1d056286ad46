//go:build failpoint

package app

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// A power loss leaves what was synced, and nothing of a sync that failed, also when
// the log goes on in another file.
func TestAPowerLossKeepsWhatWasSynced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	sealed := logFile(t, path)
	write(t, sealed, "old\n")
	first := pointed(sealed).(*pointedFile)
	write(t, first, "synced\n")
	mustSync(t, first)
	write(t, first, "dropped\n")
	drop(path, first.synced, first.size) // by a Sync that failed
	write(t, first, "late\n")
	mustSync(t, first)
	if err := errors.Join(os.Rename(path, path+".1"), os.Chmod(path+".1", 0o444)); err != nil {
		t.Fatal(err)
	}
	second := pointed(logFile(t, path)).(*pointedFile)
	write(t, second, "next\n")
	mustSync(t, second)
	write(t, second, "gone\n")
	drop(path, second.synced, second.size)
	write(t, second, "never\n")
	second.losePower()
	for name, want := range map[string]string{path + ".1": "old\nsynced\n\x00\x00\x00\x00\x00\x00\x00\x00late\n", path: "next\n"} {
		if got, err := os.ReadFile(name); string(got) != want || err != nil {
			t.Errorf("after the power loss %s: %q, %v, want %q", name, got, err, want)
		}
	}
}

func logFile(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func write(t *testing.T, w io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
}

func mustSync(t *testing.T, p *pointedFile) {
	t.Helper()
	if err := p.Sync(); err != nil {
		t.Fatal(err)
	}
}
