package ledger_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/auditor/internal/ledger/ledgertest"
)

func newEntry(task string, version int) ledger.Entry {
	return ledger.Entry{
		ID:     fmt.Sprintf("id-%s-%d", task, version),
		Source: "task-api",
		Type:   "task.updated",
		Time:   "2025-01-15T10:30:00Z",
		Attributes: []ledger.Attribute{
			{Name: "datacontenttype", Value: "application/json"},
			{Name: "specversion", Value: "1.0"},
			{Name: "subject", Value: task},
			{Name: "taskversion", Value: int64(version)},
			{Name: "correlationid", Value: "req-789"},
		},
		Data: fmt.Appendf(nil, `{"task_id":%q,"title":"Write %d","status":"pending","owner_id":null}`, task, version),
	}
}

func logPath(tb testing.TB) string { return filepath.Join(tb.TempDir(), "audit.log") }

func mustOpen(tb testing.TB, cfg ledger.Config) *ledger.Ledger {
	tb.Helper()
	l, err := ledger.Open(context.Background(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { mustClose(tb, l) })
	return l
}

func mustClose(tb testing.TB, l *ledger.Ledger) {
	tb.Helper()
	if err := l.Close(); err != nil {
		tb.Fatal(err)
	}
}

func mustAppend(tb testing.TB, l *ledger.Ledger, e ledger.Entry, want ledger.Outcome) {
	tb.Helper()
	got := l.Append(e)[0]
	if got.Err != nil || got.Seq != want.Seq || got.Duplicate != want.Duplicate {
		tb.Fatalf("append %s: %+v, want %+v", e.ID, got, want)
	}
}

func TestLineIsTheDocumentedOne(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	at := time.Date(2025, 1, 15, 11, 30, 1, 5000, time.FixedZone("CET", 3600))
	l := mustOpen(t, ledger.Config{Path: path, Now: func() time.Time { return at }})
	mustAppend(t, l, newEntry("abc123", 1), ledger.Outcome{Seq: 1})

	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"seq":1,"event_id":"id-abc123-1","event_type":"task.updated","occurred_at":"2025-01-15T10:30:00Z",` +
		`"data":{"task_id":"abc123","title":"Write 1","status":"pending","owner_id":null},` +
		`"metadata":{"correlation_id":"req-789","source":"task-api"},` +
		`"attributes":{"datacontenttype":"application/json","specversion":"1.0","subject":"abc123","taskversion":1},` +
		`"audited_at":"2025-01-15T10:30:01.000005Z"}` + "\n"
	if string(got) != want {
		t.Fatalf("line (-want +got):\n%s", cmp.Diff(want, string(got)))
	}
}

func TestEventIsRebuiltFromItsLine(t *testing.T) {
	t.Parallel()
	attrs := func(contentType string, more ...ledger.Attribute) []ledger.Attribute {
		return append([]ledger.Attribute{{Name: "datacontenttype", Value: contentType}}, more...)
	}
	cases := map[string]struct {
		entry ledger.Entry
		data  string // the data that is read back, when it differs
	}{
		"members, spacing and numbers kept": {entry: ledger.Entry{Data: []byte(`{"b" : 1.50e+3,  "a":[ ],"b":"\u00e9/\/"}`)}},
		"line feeds become spaces":          {entry: ledger.Entry{Data: []byte("{\r\n\t\"a\": \"x\\ny\"\n}\n")}, data: "{  \t\"a\": \"x\\ny\" }"},
		"not JSON":                          {entry: ledger.Entry{Data: []byte("line 1\nline 2\x00\xff")}},
		"JSON of another type":              {entry: ledger.Entry{Data: []byte(" 12\n"), Base64: true, Attributes: attrs("text/plain")}},
		"a +json type":                      {entry: ledger.Entry{Data: []byte(`[1]`), Attributes: attrs("application/vnd.x+json; charset=utf-8")}},
		"JSON null is data":                 {entry: ledger.Entry{Data: []byte(`null`)}},
		"empty data is data":                {entry: ledger.Entry{Data: []byte{}}},
		"no data":                           {entry: ledger.Entry{}},
		"bad UTF-8 in a JSON string":        {entry: ledger.Entry{Data: []byte("\"\xff\"")}},
		"nested too deep":                   {entry: ledger.Entry{Data: bytes.Repeat([]byte("["), 5000)}},
		"terminal escapes":                  {entry: ledger.Entry{Attributes: attrs("application/json", ledger.Attribute{Name: "x", Value: "\x1b[31m \u009b \u2028\n\"\\é€😀"})}},
		"every kind of attribute":           {entry: ledger.Entry{Attributes: attrs("", ledger.Attribute{Name: "b", Value: true}, ledger.Attribute{Name: "i", Value: int64(-5)}, ledger.Attribute{Name: "s", Value: ""}, ledger.Attribute{Name: "correlationid", Value: int64(7)})}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			path := logPath(t)
			l := mustOpen(t, ledger.Config{Path: path})
			c.entry.ID, c.entry.Source, c.entry.Type = "i", "s", "t"
			mustAppend(t, l, c.entry, ledger.Outcome{Seq: 1})
			mustAppend(t, l, c.entry, ledger.Outcome{Seq: 1, Duplicate: true})
			mustClose(t, l)
			l = mustOpen(t, ledger.Config{Path: path})
			mustAppend(t, l, c.entry, ledger.Outcome{Seq: 1, Duplicate: true})

			ledgertest.Check(t, path, 1)
			line, err := l.Line(1)
			if err != nil {
				t.Fatal(err)
			}
			got, err := ledger.ParseLine(line)
			if err != nil {
				t.Fatal(err)
			}
			want := string(c.entry.Data)
			if c.data != "" {
				want = c.data
			}
			if string(got.Data) != want || (got.Data == nil) != (c.entry.Data == nil) {
				t.Errorf("data %q, want %q", got.Data, want)
			}
			byName := cmpopts.SortSlices(func(a, b ledger.Attribute) bool { return a.Name < b.Name })
			if diff := cmp.Diff(c.entry.Attributes, got.Attributes, byName); diff != "" {
				t.Errorf("attributes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestInvalidEntriesAreRefused(t *testing.T) {
	t.Parallel()
	l := mustOpen(t, ledger.Config{Path: logPath(t)})
	ok := newEntry("a", 1)
	for name, change := range map[string]func(*ledger.Entry){
		"id":     func(e *ledger.Entry) { e.ID = "" },
		"source": func(e *ledger.Entry) { e.Source = "\xff" },
		"type":   func(e *ledger.Entry) { e.Type = "" },
		"time":   func(e *ledger.Entry) { e.Time = "\xff" },
		"x":      func(e *ledger.Entry) { e.Attributes = append(e.Attributes, ledger.Attribute{Name: "x", Value: 1.5}) },
		"subject": func(e *ledger.Entry) {
			e.Attributes = append(e.Attributes, ledger.Attribute{Name: "subject", Value: "b"})
		},
	} {
		e := newEntry("a", 1)
		change(&e)
		var invalid *ledger.InvalidError
		if out := l.Append(e, ok)[0]; !errors.As(out.Err, &invalid) || invalid.Attribute != name {
			t.Errorf("%s: %v", name, out.Err)
		}
	}
	if l.Len() != 1 {
		t.Errorf("%d entries, want only the valid one", l.Len())
	}
}

func TestSameEventOnceForEver(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	l := mustOpen(t, ledger.Config{Path: path})
	for v := 1; v <= 200; v++ {
		mustAppend(t, l, newEntry("a", v), ledger.Outcome{Seq: int64(v)})
	}
	for range 2 {
		for v := 1; v <= 200; v++ {
			mustAppend(t, l, newEntry("a", v), ledger.Outcome{Seq: int64(v), Duplicate: true})
			other := newEntry("a", v)
			other.Data = []byte(`{}`)
			var conflict *ledger.ConflictError
			if out := l.Append(other)[0]; !errors.As(out.Err, &conflict) || conflict.Seq != int64(v) {
				t.Fatalf("other content: %+v", out)
			}
		}
		mustClose(t, l)
		l = mustOpen(t, ledger.Config{Path: path})
	}
	other := newEntry("a", 1)
	other.Source = "elsewhere"
	mustAppend(t, l, other, ledger.Outcome{Seq: 201})
	ledgertest.Check(t, path, 201)
}

func TestOneCallWithTheSameEventTwice(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	l := mustOpen(t, ledger.Config{Path: path})
	other := newEntry("a", 1)
	other.Type = "task.created"
	outs := l.Append(newEntry("a", 1), newEntry("a", 1), other, newEntry("a", 2))
	var conflict *ledger.ConflictError
	if !errors.As(outs[2].Err, &conflict) || conflict.Seq != 1 {
		t.Errorf("other content: %+v", outs[2])
	}
	outs[2].Err = nil
	want := []ledger.Outcome{{Seq: 1}, {Seq: 1, Duplicate: true}, {}, {Seq: 2}}
	if diff := cmp.Diff(want, outs); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	ledgertest.Check(t, path, 2)
}

func TestConcurrentPostsOfOneEvent(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	l := mustOpen(t, ledger.Config{Path: path})
	var fresh, dup atomic.Int64
	var wg sync.WaitGroup
	const posters, events = 16, 50
	for range posters {
		wg.Go(func() {
			for v := 1; v <= events; v++ {
				switch out := l.Append(newEntry("a", v))[0]; {
				case out.Err != nil:
					t.Error(out.Err)
				case out.Duplicate:
					dup.Add(1)
				default:
					fresh.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if fresh.Load() != events || dup.Load() != events*(posters-1) {
		t.Errorf("%d new, %d duplicates", fresh.Load(), dup.Load())
	}
	ledgertest.Check(t, path, events)
}

func TestVersionGapsAreFlaggedNotRefused(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	l := mustOpen(t, ledger.Config{Path: path})
	for i, c := range []struct {
		task    string
		version int
		want    *ledger.VersionGap
	}{
		{"a", 1, nil}, {"a", 2, nil}, {"b", 2, &ledger.VersionGap{Last: 0, Version: 2}}, {"a", 5, &ledger.VersionGap{Last: 2, Version: 5}},
		{"a", 4, &ledger.VersionGap{Last: 5, Version: 4}}, {"a", 6, nil}, {"b", 3, nil},
	} {
		out := l.Append(newEntry(c.task, c.version))[0]
		if out.Err != nil || out.Seq != int64(i+1) {
			t.Fatalf("%+v", out)
		}
		if diff := cmp.Diff(c.want, out.VersionGap); diff != "" {
			t.Errorf("%s version %d (-want +got):\n%s", c.task, c.version, diff)
		}
	}
	if l.VersionGaps() != 3 {
		t.Errorf("VersionGaps = %d, want 3", l.VersionGaps())
	}
	mustClose(t, l)
	l = mustOpen(t, ledger.Config{Path: path})
	if diff := cmp.Diff(ledger.Recovery{Entries: 7, VersionGaps: 3}, l.Recovered()); diff != "" {
		t.Errorf("Recovered (-want +got):\n%s", diff)
	}
	if out := l.Append(newEntry("a", 7))[0]; out.VersionGap != nil {
		t.Errorf("version 7 after a restart: %+v", out.VersionGap)
	}
}

func TestSecondWriterIsRefused(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	l := mustOpen(t, ledger.Config{Path: path})
	_, err := ledger.Open(context.Background(), ledger.Config{Path: path})
	if !errors.Is(err, ledger.ErrLocked) || !strings.Contains(err.Error(), path) {
		t.Fatalf("second writer: %v", err)
	}
	mustAppend(t, l, newEntry("a", 1), ledger.Outcome{Seq: 1})
	mustClose(t, l)
	if out := l.Append(newEntry("a", 2))[0]; !errors.Is(out.Err, ledger.ErrClosed) {
		t.Fatalf("after close: %+v", out)
	}
	mustOpen(t, ledger.Config{Path: path})
}

// What is kept beside the log is finished before another process may go on with it.
func TestCloseEndsWhatIsBesideTheLogBeforeTheLock(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	var during error
	l := mustOpen(t, ledger.Config{Path: path, OnClose: func() error {
		_, during = ledger.Open(context.Background(), ledger.Config{Path: path})
		return nil
	}})
	mustAppend(t, l, newEntry("a", 1), ledger.Outcome{Seq: 1})
	mustClose(t, l)
	if !errors.Is(during, ledger.ErrLocked) {
		t.Errorf("Open in OnClose = %v, want the lock held", during)
	}
}

func TestPathsThatAreNoLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open := func(path string) error {
		l, err := ledger.Open(context.Background(), ledger.Config{Path: path})
		if err == nil {
			mustClose(t, l)
		}
		return err
	}
	if err := open(dir); !errors.Is(err, syscall.EISDIR) {
		t.Errorf("directory: %v", err)
	}
	missing := open(filepath.Join(dir, "no", "audit.log"))
	if want := "folder " + filepath.Join(dir, "no") + ": no such file or directory; create it"; !errors.Is(missing, fs.ErrNotExist) || !strings.Contains(missing.Error(), want) {
		t.Errorf("missing directory: %v, want %s", missing, want)
	}
	if err := os.Symlink(filepath.Join(dir, "target"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := open(filepath.Join(dir, "link")); err == nil || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("symbolic link: %v", err)
	}
	shared := filepath.Join(dir, "shared")
	if err := errors.Join(os.WriteFile(shared, nil, 0o600), os.Chmod(shared, 0o666)); err != nil {
		t.Fatal(err)
	}
	if err := open(shared); err == nil || !strings.Contains(err.Error(), "chmod o-w "+shared) {
		t.Errorf("a log that others may write: %v", err)
	}
	if err := errors.Join(os.Chmod(shared, 0o660), open(shared)); err != nil {
		t.Errorf("a log that the group may write, as on a volume with fsGroup: %v", err)
	}
	foreign := filepath.Join(dir, "passwd")
	if err := os.WriteFile(foreign, []byte("root:x:0:0\nbin:x:1:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var damage *ledger.DamageError
	if err := open(foreign); !errors.As(err, &damage) {
		t.Errorf("foreign file: %v", err)
	}
	if b, _ := os.ReadFile(foreign); len(b) != 21 {
		t.Errorf("foreign file was changed: %q", b)
	}
}

// The original's json.dumps writes spaces; its documentation shows lines without.
func TestALogOfTheOriginalSystemIsNamed(t *testing.T) {
	t.Parallel()
	compact := `{"event_id":"evt-001","event_type":"task.created","occurred_at":"2025-01-15T10:30:00Z","data":{"task_id":"abc123","title":"Write capstone lesson","status":"pending","owner_id":null},"metadata":{"correlation_id":"req-789","source":"task-api"},"audited_at":"2025-01-15T10:30:01.000000"}` + "\n"
	spaced := strings.ReplaceAll(strings.ReplaceAll(compact, `":`, `": `), `,"`, `, "`)
	for name, log := range map[string]string{
		"compact": compact, "spaced": spaced, "several lines": spaced + spaced, "unfinished": spaced + spaced[:90], "first line unfinished": spaced[:90],
	} {
		t.Run(name, func(t *testing.T) {
			path := writeLog(t, []byte(log))
			_, err := ledger.Open(context.Background(), ledger.Config{Path: path})
			var damage *ledger.DamageError
			if !errors.Is(err, ledger.ErrOriginal) || errors.As(err, &damage) || !strings.Contains(err.Error(), path) {
				t.Errorf("Open = %v, want %v with the path", err, ledger.ErrOriginal)
			}
			if b, _ := os.ReadFile(path); string(b) != log {
				t.Errorf("the file was changed: %q", b)
			}
		})
	}
}

func TestLinesAndLine(t *testing.T) {
	t.Parallel()
	l := mustOpen(t, ledger.Config{Path: logPath(t)})
	const n = 300
	for v := 1; v <= n; v++ {
		mustAppend(t, l, newEntry("a", v), ledger.Outcome{Seq: int64(v)})
	}
	for _, after := range []int64{-1, 0, 1, 63, 64, 65, 299, 300, 1000} {
		want := max(after, 0)
		err := l.Lines(context.Background(), after, func(p ledger.Place, line []byte) bool {
			want++
			var got struct{ Seq int64 }
			if json.Unmarshal(line, &got) != nil || got.Seq != p.Seq || p.Seq != want {
				t.Errorf("after %d: got %d (%d), want %d", after, p.Seq, got.Seq, want)
			}
			return true
		})
		if err != nil || want != max(n, after) {
			t.Errorf("after %d: ended at %d: %v", after, want, err)
		}
	}
	for _, seq := range []int64{-1, 0, 301} {
		if _, err := l.Line(seq); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("line %d: %v", seq, err)
		}
	}
}
