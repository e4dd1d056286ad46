package ledger_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/auditor/internal/ledger/ledgertest"
)

// indexedLog writes a log of n entries, three per task, with its index.
func indexedLog(tb testing.TB, n int) string {
	tb.Helper()
	path := logPath(tb)
	l := mustOpen(tb, ledger.Config{Path: path})
	batch := make([]ledger.Entry, 0, n)
	for i := range n {
		batch = append(batch, newEntry(fmt.Sprintf("task-%d", i/3), i%3+1))
	}
	for i, out := range l.Append(batch...) {
		if out.Err != nil || out.Seq != int64(i+1) {
			tb.Fatalf("%d: %+v", i, out)
		}
	}
	mustClose(tb, l)
	return path
}

// checkKnown appends what indexedLog wrote again and what follows it: nothing may
// be written twice, nothing refused, and no version may seem to be missing.
func checkKnown(t *testing.T, path string, n int) {
	t.Helper()
	l := mustOpen(t, ledger.Config{Path: path})
	if err := know(l, n); err != nil {
		t.Fatal(err)
	}
	for i := range 6 {
		out := l.Append(newEntry(fmt.Sprintf("task-%d", i), 4))[0]
		if out.Err != nil || out.Duplicate || out.VersionGap != nil || out.Seq != int64(n+i+1) {
			t.Fatalf("new: %+v", out)
		}
	}
	mustClose(t, l)
	ledgertest.Check(t, path, n+6)
}

func know(l *ledger.Ledger, n int) error {
	for i := range n {
		out := l.Append(newEntry(fmt.Sprintf("task-%d", i/3), i%3+1))[0]
		if out.Err != nil {
			return out.Err
		}
		if !out.Duplicate || out.Seq != int64(i+1) {
			return fmt.Errorf("entry %d again: %+v", i+1, out)
		}
	}
	return nil
}

func copyFolder(tb testing.TB, from, to string) {
	tb.Helper()
	if err := errors.Join(os.RemoveAll(to), os.CopyFS(to, os.DirFS(from))); err != nil {
		tb.Fatal(err)
	}
}

func TestAnIndexThatIsNotOfThisLog(t *testing.T) {
	t.Parallel()
	const n = 100
	for name, c := range map[string]struct {
		change  func(t *testing.T, path string)
		rebuilt string
	}{
		"intact": {func(*testing.T, string) {}, ""},
		"lost":   {func(t *testing.T, path string) { mustRemove(t, path+".index") }, "there was none"},
		"empty":  {func(t *testing.T, path string) { mustRemove(t, path+".index"); _ = os.Mkdir(path+".index", 0o700) }, ""},
		"of another log": {func(t *testing.T, path string) {
			other := logPath(t)
			l := mustOpen(t, ledger.Config{Path: other})
			for v := range n {
				mustAppend(t, l, newEntry("other", v+1), ledger.Outcome{Seq: int64(v + 1)})
			}
			mustClose(t, l)
			copyFolder(t, other+".index", path+".index")
		}, "another line"},
		"of a longer log": {func(t *testing.T, path string) {
			copyFolder(t, indexedLog(t, 2*n)+".index", path+".index")
		}, "the log has"},
		"of an earlier state of this log": {func(t *testing.T, path string) {
			before := t.TempDir()
			copyFolder(t, path+".index", before)
			l := mustOpen(t, ledger.Config{Path: path})
			mustAppend(t, l, newEntry("late", 1), ledger.Outcome{Seq: n + 1})
			mustClose(t, l)
			log, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			end := bytes.LastIndexByte(log[:len(log)-1], '\n') + 1
			if err := errors.Join(os.Truncate(path, int64(end)), os.Remove(path+".acked")); err != nil {
				t.Fatal(err)
			}
		}, "the log has"},
	} {
		t.Run(name, func(t *testing.T) {
			path := indexedLog(t, n)
			c.change(t, path)
			l := mustOpen(t, ledger.Config{Path: path})
			if got := l.Recovered(); got.Entries != n || (got.Rebuilt == "") != (c.rebuilt == "") || !strings.Contains(got.Rebuilt, c.rebuilt) {
				t.Errorf("recovered %+v, want %d entries, rebuilt because of %q", got, n, c.rebuilt)
			}
			mustClose(t, l)
			checkKnown(t, path, n)
		})
	}
}

func mustRemove(tb testing.TB, path string) {
	tb.Helper()
	if err := os.RemoveAll(path); err != nil {
		tb.Fatal(err)
	}
}

// The index was written without an fsync: after a crash it may be any of its
// earlier states. The log's tail is read again, and only that.
func TestAStaleIndexIsCompletedFromTheTail(t *testing.T) {
	t.Parallel()
	path := indexedLog(t, 60)
	stale := t.TempDir()
	copyFolder(t, path+".index", stale)
	l := mustOpen(t, ledger.Config{Path: path})
	for i := range 30 {
		mustAppend(t, l, newEntry("late", i+1), ledger.Outcome{Seq: int64(61 + i)})
	}
	mustClose(t, l)
	copyFolder(t, stale, path+".index")
	l = mustOpen(t, ledger.Config{Path: path})
	if got := l.Recovered(); got.Replayed != 30 || got.Entries != 90 || got.Rebuilt != "" || got.VersionGaps != 0 {
		t.Fatalf("recovered %+v", got)
	}
	if err := know(l, 60); err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		mustAppend(t, l, newEntry("late", i+1), ledger.Outcome{Seq: int64(61 + i), Duplicate: true})
	}
	ledgertest.Check(t, path, 90)
}

// Every file of the index is damaged in several places, cut, emptied and removed.
// The ledger may notice at the start, or fail later: it never takes a known event
// for a new one or a new one for known, and a further start continues.
func TestAnIndexDamagedAnywhere(t *testing.T) {
	t.Parallel()
	const n = 300
	path := indexedLog(t, n)
	whole := t.TempDir()
	copyFolder(t, path+".index", whole)
	log, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	names, err := fs.Glob(os.DirFS(whole), "*")
	if err != nil || len(names) < 4 {
		t.Fatalf("files of the index: %v: %v", names, err)
	}
	failed := 0
	for _, name := range names {
		file, err := os.ReadFile(filepath.Join(whole, name))
		if err != nil {
			t.Fatal(err)
		}
		damages := map[string][]byte{"removed": nil, "empty": {}, "zeros": make([]byte, len(file)), "cut": file[:len(file)/2], "longer": append(bytes.Clone(file), file...)}
		for i := range 12 {
			if len(file) > 0 {
				flipped := bytes.Clone(file)
				flipped[i*len(file)/12] ^= 0x41
				damages[fmt.Sprint("flipped ", i)] = flipped
			}
		}
		for _, damage := range slices.Sorted(maps.Keys(damages)) {
			copyFolder(t, whole, path+".index")
			if err := os.WriteFile(path, log, 0o600); err != nil {
				t.Fatal(err)
			}
			at := filepath.Join(path+".index", name)
			if content := damages[damage]; content == nil {
				mustRemove(t, at)
			} else if err := os.WriteFile(at, content, 0o600); err != nil {
				t.Fatal(err)
			}
			for start := 1; !useDamagedIndex(t, path, n, name+" "+damage); start++ {
				if failed++; start == 3 {
					t.Fatalf("%s %s: the ledger failed three times", name, damage)
				}
			}
			ledgertest.Check(t, path, n+6)
			mustRemove(t, path+".acked")
		}
	}
	t.Logf("%d files; %d times the ledger failed after the start", len(names), failed)
}

// useDamagedIndex opens the log and appends what it has and six new events, and
// reports whether the ledger lasted that long.
func useDamagedIndex(t *testing.T, path string, n int, damage string) bool {
	t.Helper()
	l, err := ledger.Open(context.Background(), ledger.Config{Path: path})
	if err != nil {
		t.Fatalf("%s: %v", damage, err)
	}
	defer mustClose(t, l)
	err = know(l, n)
	for i := range 6 {
		if err == nil {
			out := l.Append(newEntry(fmt.Sprintf("task-%d", i), 4))[0]
			if err = out.Err; err == nil && (out.VersionGap != nil || out.Seq != int64(n+i+1)) {
				t.Fatalf("%s: new: %+v", damage, out)
			}
		}
	}
	var fault *ledger.FaultError
	if err != nil && !errors.As(err, &fault) {
		t.Fatalf("%s: %v", damage, err)
	}
	awaitChecked(t, l)
	return l.Fault() == nil
}

// awaitChecked waits until the background check is over or the ledger failed.
func awaitChecked(t *testing.T, l *ledger.Ledger) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		done, total := l.Checked()
		if done == total || l.Fault() != nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d bytes checked", done, total)
		}
	}
}

// Damage in the part of the log that Open does not read ends the ledger as damage
// at the start does, and names the byte.
func TestDamageInTheIndexedPartIsFound(t *testing.T) {
	t.Parallel()
	const n = 40
	whole := indexedLog(t, n)
	log, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(log, []byte("\n"))
	renumbered := bytes.Replace(lines[1], []byte(`"seq":2`), []byte(`"seq":3`), 1)
	again := bytes.Replace(lines[0], []byte(`"seq":1`), []byte(`"seq":2`), 1)
	if len(again) != len(lines[1]) {
		t.Fatal("the lines differ in length")
	}
	for name, c := range map[string]struct {
		line []byte
		want string
	}{
		"a byte":              {bytes.Replace(lines[1], []byte(`"event_type"`), []byte(`"event_tXpe"`), 1), fmt.Sprintf("is damaged at byte %d", len(lines[0])+bytes.Index(lines[1], []byte("ype\"")))},
		"renumbered":          {renumbered, fmt.Sprintf("is damaged at byte %d: entry 3 follows entry 1", len(lines[0]))},
		"another event":       {bytes.Replace(lines[1], []byte("id-task-0-2"), []byte("id-task-0-9"), 1), "entry 2 is missing"},
		"an event twice":      {again, fmt.Sprintf("is damaged at byte %d: entry 2 is the event of entry 1 again", len(lines[0]))},
		"zeros":               {make([]byte, len(lines[1])), fmt.Sprintf("is damaged at byte %d", len(lines[0]))},
		"a line feed removed": {append(bytes.Clone(lines[1][:len(lines[1])-1]), ' '), "is damaged at byte"},
	} {
		t.Run(name, func(t *testing.T) {
			path := writeLog(t, bytes.Join([][]byte{lines[0], c.line, bytes.Join(lines[2:], nil)}, nil))
			copyFolder(t, whole+".index", path+".index")
			l := mustOpen(t, ledger.Config{Path: path})
			awaitChecked(t, l)
			var fault *ledger.FaultError
			if err := l.Fault(); !errors.As(err, &fault) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("fault %v, want %s", err, c.want)
			}
			if out := l.Append(newEntry("new", 1))[0]; !errors.As(out.Err, &fault) {
				t.Errorf("append after it: %+v", out)
			}
		})
	}
}
