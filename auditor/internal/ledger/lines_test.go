package ledger_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
)

// TestLinesAreDurable: OnLines gets each line once, in order, after the fsync that
// covers it and before its answer, as the hash of exactly the bytes on disk.
func TestLinesAreDurable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	var file *faultyFile
	var leaves [][32]byte
	cfg := ledger.Config{Path: path,
		Wrap: func(f ledger.File) ledger.File { file = &faultyFile{File: f}; return file },
		OnLines: func(first int64, lines [][32]byte) error {
			if first != int64(len(leaves))+1 {
				t.Errorf("line %d after %d lines", first, len(leaves))
			}
			leaves = append(leaves, lines...)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Error(err)
			}
			if n := bytes.Count(text[:file.synced.Load()], []byte("\n")); n != len(leaves) {
				t.Errorf("%d lines were handed over when %d were synced", len(leaves), n)
			}
			return nil
		}}
	l, err := ledger.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for v := range 25 {
				for _, out := range l.Append(newEntry(fmt.Sprintf("t%d", w), v+1)) {
					if out.Err != nil {
						t.Error(out.Err)
					}
				}
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	lines = lines[:len(lines)-1]
	if len(lines) != 200 || len(leaves) != len(lines) {
		t.Fatalf("%d lines, %d leaves, want 200", len(lines), len(leaves))
	}
	for i, line := range lines {
		if leaves[i] != sha256.Sum256(line) {
			t.Errorf("line %d: not its hash", i+1)
		}
	}
}
