//go:build failpoint

package app

import (
	"os"
	"path/filepath"
	"testing"
)

// A power loss leaves what was synced, and nothing of a sync that failed.
func TestAPowerLossKeepsWhatWasSynced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("old\n"); err != nil {
		t.Fatal(err)
	}
	p := pointed(f).(*pointedFile)
	write := func(s string) {
		t.Helper()
		if _, err := p.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	write("synced\n")
	if err := p.Sync(); err != nil {
		t.Fatal(err)
	}
	write("dropped\n")
	p.lost = append(p.lost, [2]int64{p.synced, p.size}) // a Sync that failed
	write("late\n")
	if err := p.Sync(); err != nil {
		t.Fatal(err)
	}
	write("never\n")
	p.losePower()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := "old\nsynced\n\x00\x00\x00\x00\x00\x00\x00\x00late\n"; string(got) != want {
		t.Errorf("after the power loss: %q, want %q", got, want)
	}
}
