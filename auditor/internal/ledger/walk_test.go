package ledger_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
)

// TestWalk reads what Append wrote, in blocks of any content, and names the first
// line that is no entry or has the number of another one.
func TestWalk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l, err := ledger.Open(t.Context(), ledger.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	for v := range 40 {
		e := newEntry("t", v+1)
		e.Data = []byte(`{"title":"` + strings.Repeat("x", v*3000) + `"}`) // 2.3 MB, so several blocks
		mustAppend(t, l, e, ledger.Outcome{Seq: int64(v) + 1})
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	for _, c := range []struct {
		name string
		text []byte
		torn int64
		bad  int64
		says string
	}{
		{"whole", text, 0, 0, ""},
		{"torn", append(bytes.Clone(text), `{"seq":41`...), 9, 0, ""},
		{"empty", nil, 0, 0, ""},
		{"no entry", bytes.Replace(text, []byte(`{"seq":30,`), []byte(`{"sec":30,`), 1), 0, 30, `"{\"seq\":" expected`},
		{"a line less", append(bytes.Clone(bytes.Join(lines[:20], nil)), bytes.Join(lines[21:], nil)...), 0, 21, "the line has the number 22"},
	} {
		if err := os.WriteFile(path, c.text, 0o600); err != nil {
			t.Fatal(err)
		}
		var got []byte
		var bad *ledger.BadLine
		blocks := 0
		torn, err := ledger.Walk(t.Context(), path, func(b *ledger.Block) error {
			blocks++
			if bad == nil {
				bad = b.Bad
			}
			if b.Offset != int64(len(got)) || b.First != int64(bytes.Count(got, []byte("\n")))+1 || b.Count != len(b.Leaves) {
				t.Errorf("%s: a block of %d lines from line %d at byte %d after %d bytes", c.name, b.Count, b.First, b.Offset, len(got))
			}
			b.Each(func(i int, line []byte, at int64) bool {
				if at != int64(len(got)) || b.Leaves[i] != sha256.Sum256(line) {
					t.Errorf("%s: line %d of the block is at byte %d, want %d", c.name, i, at, len(got))
				}
				got = append(got, line...)
				return true
			})
			return nil
		})
		if err != nil || torn != c.torn || !bytes.Equal(got, c.text[:int64(len(c.text))-torn]) || len(c.text) > 2<<20 && blocks < 2 {
			t.Errorf("%s: %d bytes in %d blocks, %d torn: %v", c.name, len(got), blocks, torn, err)
		}
		if c.bad == 0 != (bad == nil) || bad != nil && (bad.Line != c.bad || !strings.Contains(bad.Reason, c.says) || !bytes.HasPrefix(c.text[bad.Byte:], []byte(`{"se`)) && c.name != "no entry") {
			t.Errorf("%s: bad line %+v, want line %d: %s", c.name, bad, c.bad, c.says)
		}
	}
	stop := errors.New("enough")
	if _, err := ledger.Scan(t.Context(), path, func(*ledger.Block) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("stopped with %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ledger.Scan(ended, path, func(*ledger.Block) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled with %v", err)
	}
}
