package ledger_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/auditor/internal/ledger/ledgertest"
)

// small makes a segment of three or four entries.
const small = 1200

func sealedOf(tb testing.TB, path string) []string {
	tb.Helper()
	names, err := ledger.Files(path)
	if err != nil {
		tb.Fatal(err)
	}
	return names[:len(names)-1]
}

// segmentedLog writes n entries of one task in small segments.
func segmentedLog(tb testing.TB, n int) string {
	tb.Helper()
	path := logPath(tb)
	l := mustOpen(tb, ledger.Config{Path: path, SegmentBytes: small})
	for v := 1; v <= n; v++ {
		mustAppend(tb, l, newEntry("a", v), ledger.Outcome{Seq: int64(v)})
	}
	mustClose(tb, l)
	return path
}

func TestSegmentsAreOneLog(t *testing.T) {
	t.Parallel()
	const n = 60
	path := segmentedLog(t, n)
	sealed := sealedOf(t, path)
	if len(sealed) < n/5 {
		t.Fatalf("%d segments", len(sealed))
	}
	for _, name := range sealed {
		info, err := os.Stat(name)
		if err != nil || info.Mode().Perm() != 0o444 || info.Size() < small || info.Size() > small+400 {
			t.Errorf("%s: %v: %v", name, info, err)
		}
	}
	ledgertest.Check(t, path, n)
	for _, index := range []string{"kept", "lost"} {
		if index == "lost" {
			mustRemove(t, path+".index")
		}
		l := mustOpen(t, ledger.Config{Path: path, SegmentBytes: small})
		for v := 1; v <= n; v++ {
			mustAppend(t, l, newEntry("a", v), ledger.Outcome{Seq: int64(v), Duplicate: true})
			if line, err := l.Line(int64(v)); err != nil || !bytes.Contains(line, fmt.Appendf(nil, `"id-a-%d"`, v)) {
				t.Errorf("line %d: %s: %v", v, line, err)
			}
		}
		found := int64(0)
		through, err := l.Find(context.Background(), 0, ledger.Filter{TaskID: "a"}, func(p ledger.Place, _ []byte) bool {
			found++
			return p.Seq == found
		})
		if err != nil || found != n || through != n {
			t.Errorf("found %d entries through %d: %v", found, through, err)
		}
		awaitChecked(t, l)
		if l.Fault() != nil {
			t.Error(l.Fault())
		}
		mustClose(t, l)
	}
}

// copyLog copies the folder of a log as a crash would leave it: a file with two
// names keeps both.
func copyLog(tb testing.TB, path string) string {
	tb.Helper()
	to := tb.TempDir()
	names, err := filepath.Glob(path + "*")
	if err != nil {
		tb.Fatal(err)
	}
	var infos []os.FileInfo
	for i, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			tb.Fatal(err)
		}
		infos = append(infos, info)
		at := filepath.Join(to, filepath.Base(name))
		if info.IsDir() {
			continue // the index is made again
		}
		for j := range i {
			if os.SameFile(infos[j], info) {
				err = errors.Join(err, os.Link(filepath.Join(to, filepath.Base(names[j])), at))
			}
		}
		b, rerr := os.ReadFile(name)
		if err = errors.Join(err, rerr); err == nil {
			if _, serr := os.Stat(at); serr != nil {
				err = os.WriteFile(at, b, info.Mode().Perm())
			}
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	return filepath.Join(to, filepath.Base(path))
}

// After each step of a roll-over the process may end: the next start has every
// acknowledged entry, and goes on.
func TestARollOverThatEndsAtAnyStep(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	var images []string
	var acked []int
	done := 0
	l := mustOpen(t, ledger.Config{Path: path, SegmentBytes: small, OnRoll: func() {
		images, acked = append(images, copyLog(t, path)), append(acked, done)
	}})
	for v := 1; v <= 12; v++ {
		mustAppend(t, l, newEntry("a", v), ledger.Outcome{Seq: int64(v)})
		done = v
	}
	mustClose(t, l)
	if len(images) < 2*4 || len(images)%4 != 0 {
		t.Fatalf("%d steps", len(images))
	}
	for i, image := range images {
		l := mustOpen(t, ledger.Config{Path: image, SegmentBytes: small})
		if l.Len() != int64(acked[i]) {
			t.Fatalf("step %d: %d entries, %d were acknowledged", i, l.Len(), acked[i])
		}
		for v := 1; v <= 15; v++ {
			mustAppend(t, l, newEntry("a", v), ledger.Outcome{Seq: int64(v), Duplicate: v <= acked[i]})
		}
		mustClose(t, l)
		ledgertest.Check(t, image, 15)
		mustClose(t, mustOpen(t, ledger.Config{Path: image, SegmentBytes: small}))
	}
}

func TestDamagedSegmentsAreNamed(t *testing.T) {
	t.Parallel()
	edit := func(change func([]byte) []byte) func(*testing.T, string, []string) {
		return func(t *testing.T, _ string, sealed []string) {
			b, err := os.ReadFile(sealed[2])
			if err = errors.Join(err, os.Chmod(sealed[2], 0o644), os.WriteFile(sealed[2], change(b), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
	rename := func(t *testing.T, from, to string) {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	lines := func(b []byte) [][]byte { return bytes.SplitAfter(b, []byte("\n")) }
	for name, c := range map[string]struct {
		damage func(t *testing.T, path string, sealed []string)
		named  int // the segment that the error names
	}{
		"first missing":         {func(t *testing.T, _ string, s []string) { mustRemove(t, s[0]) }, 1},
		"one missing":           {func(t *testing.T, _ string, s []string) { mustRemove(t, s[2]) }, 3},
		"renumbered":            {func(t *testing.T, path string, s []string) { rename(t, s[2], path+".000000000008") }, -2},
		"two swapped":           {func(t *testing.T, _ string, s []string) { rename(t, s[2], "x"+t.Name()); _ = s }, -1},
		"foreign":               {edit(func([]byte) []byte { return []byte("root:x:0:0\n") }), 2},
		"empty":                 {edit(func([]byte) []byte { return nil }), 2},
		"last line cut off":     {edit(func(b []byte) []byte { return b[:bytes.LastIndexByte(b[:len(b)-1], '\n')+1] }), 3},
		"last byte cut off":     {edit(func(b []byte) []byte { return b[:len(b)-1] }), 2},
		"a line appended":       {edit(func(b []byte) []byte { return append(b, lines(b)[0]...) }), 2},
		"zeros appended":        {edit(func(b []byte) []byte { return append(b, make([]byte, 100)...) }), 2},
		"a line in it removed":  {edit(func(b []byte) []byte { return bytes.Join(append(lines(b)[:1:1], lines(b)[2:]...), nil) }), 2},
		"a byte in it inserted": {edit(func(b []byte) []byte { return bytes.Replace(b, []byte(`"seq":11`), []byte(`"seq": 11`), 1) }), 2},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			path := segmentedLog(t, 30)
			sealed := sealedOf(t, path)
			if c.named == -1 {
				rename(t, sealed[2], sealed[2]+"x")
				rename(t, sealed[3], sealed[2])
				rename(t, sealed[2]+"x", sealed[3])
				c.named = 2
			} else {
				c.damage(t, path, sealed)
			}
			want := path + ".000000000008"
			if c.named >= 0 {
				want = sealed[c.named]
			}
			for _, acked := range []string{"with", "without"} {
				if acked == "without" {
					mustRemove(t, path+".acked")
				}
				l, err := ledger.Open(context.Background(), ledger.Config{Path: path, SegmentBytes: small})
				if err == nil {
					mustClose(t, l)
				}
				var damage *ledger.DamageError
				if !errors.As(err, &damage) || acked == "without" && !strings.Contains(err.Error(), want) {
					t.Errorf("%s the mark: %v, want damage in %s", acked, err, want)
				}
			}
		})
	}
}

// What keeps the next segment from beginning does not stop the log.
func TestARollOverThatIsNotPossible(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	var told []error
	l := mustOpen(t, ledger.Config{Path: path, SegmentBytes: small, OnMark: func(err error) { told = append(told, err) }})
	other := path + ".000000000001"
	if err := os.WriteFile(other, []byte("not ours\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for v := 1; v <= 20; v++ {
		mustAppend(t, l, newEntry("a", v), ledger.Outcome{Seq: int64(v)})
	}
	mustClose(t, l)
	if len(told) != 1 || !strings.Contains(told[0].Error(), other) {
		t.Errorf("told %v", told)
	}
	mustRemove(t, other)
	ledgertest.Check(t, path, 20)
	l = mustOpen(t, ledger.Config{Path: path, SegmentBytes: small})
	for v := 21; v <= 30; v++ {
		mustAppend(t, l, newEntry("a", v), ledger.Outcome{Seq: int64(v)})
	}
	mustClose(t, l)
	if len(sealedOf(t, path)) == 0 {
		t.Error("no segment was sealed after it became possible")
	}
	ledgertest.Check(t, path, 30)
}
