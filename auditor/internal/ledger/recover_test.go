package ledger_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/auditor/internal/ledger/ledgertest"
)

// wholeLog writes a log of n entries and returns its bytes and where each line begins.
func wholeLog(tb testing.TB, n int) (log []byte, starts []int) {
	tb.Helper()
	path := logPath(tb)
	l := mustOpen(tb, ledger.Config{Path: path})
	for v := 1; v <= n; v++ {
		mustAppend(tb, l, newEntry("a", v), ledger.Outcome{Seq: int64(v)})
	}
	mustClose(tb, l)
	log, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	for i := range log {
		if i == 0 || log[i-1] == '\n' {
			starts = append(starts, i)
		}
	}
	return log, starts
}

func writeLog(tb testing.TB, b []byte) string {
	tb.Helper()
	path := logPath(tb)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// checkTorn opens a log whose bytes from good on are an unfinished write. It
// checks that they were moved and that the log continues without them.
func checkTorn(t *testing.T, log []byte, good, entries, total int) {
	t.Helper()
	path := writeLog(t, log)
	l := mustOpen(t, ledger.Config{Path: path})
	r := l.Recovered()
	if r.Entries != int64(entries) {
		t.Fatalf("%d entries, want %d", r.Entries, entries)
	}
	if torn := len(log) > good; torn != (r.Torn != nil) {
		t.Fatalf("torn %+v", r.Torn)
	}
	if r.Torn != nil {
		kept, err := os.ReadFile(r.Torn.Kept)
		if err != nil || !bytes.Equal(kept, log[good:]) {
			t.Fatalf("kept %d bytes of %d: %+v: %v", len(kept), len(log)-good, r.Torn, err)
		}
		want := &ledger.Torn{Offset: int64(good), Bytes: int64(len(kept))}
		if diff := cmp.Diff(want, r.Torn, cmpopts.IgnoreFields(ledger.Torn{}, "Kept", "Reason")); diff != "" {
			t.Fatalf("torn (-want +got):\n%s", diff)
		}
		if !strings.HasPrefix(r.Torn.Kept, fmt.Sprintf("%s.torn-%d-", path, good)) {
			t.Fatalf("kept in %s", r.Torn.Kept)
		}
	}
	for v := entries + 1; v <= total; v++ {
		mustAppend(t, l, newEntry("a", v), ledger.Outcome{Seq: int64(v)})
	}
	mustClose(t, l)
	ledgertest.Check(t, path, total)
	l = mustOpen(t, ledger.Config{Path: path})
	if r := l.Recovered(); r.Torn != nil || r.Entries != int64(total) {
		t.Fatalf("second start: %+v", r)
	}
	mustClose(t, l)
}

func TestCutAtEveryByteOfTheLastTwoRecords(t *testing.T) {
	t.Parallel()
	log, starts := wholeLog(t, 4)
	for cut := starts[2]; cut <= len(log); cut++ {
		good, entries := 0, 0
		for i, s := range append(starts[1:], len(log)) {
			if s <= cut {
				good, entries = s, i+1
			}
		}
		checkTorn(t, log[:cut], good, entries, 4)
	}
	for cut := 0; cut < starts[1]; cut += 7 {
		checkTorn(t, log[:cut], 0, 0, 1)
	}
}

func TestTornTails(t *testing.T) {
	t.Parallel()
	log, starts := wholeLog(t, 3)
	half := string(log[starts[2] : starts[2]+40])
	for name, tail := range map[string]string{
		"one zero":                    "\x00",
		"a sector of zeros":           strings.Repeat("\x00", 512),
		"zeros without end":           strings.Repeat("\x00", 20<<20),
		"zeros and line feeds":        "\x00\n\x00\x00\n",
		"garbage":                     "\xde\xad\xbe\xef",
		"garbage with line feeds":     strings.Repeat("garbage \xff\n", 10000),
		"half a line and zeros":       half + strings.Repeat("\x00", 4096),
		"half a line and a line feed": half + "\n",
		"an empty line":               "\n",
		"JSON that is not an entry":   "{\"seq\":4}\n",
	} {
		t.Run(name, func(t *testing.T) {
			checkTorn(t, append(bytes.Clone(log), tail...), len(log), 3, 5)
		})
	}
	checkTorn(t, bytes.Repeat([]byte{0}, 5000), 0, 0, 2)
}

// checkRefused opens a damaged log and checks that nothing was changed.
func checkRefused(t *testing.T, log []byte) *ledger.DamageError {
	t.Helper()
	path := writeLog(t, log)
	l, err := ledger.Open(context.Background(), ledger.Config{Path: path})
	if err == nil {
		mustClose(t, l)
		return nil
	}
	var damage *ledger.DamageError
	if !errors.As(err, &damage) || damage.Path != path || !strings.Contains(err.Error(), fmt.Sprintf("%s is damaged at byte %d", path, damage.Byte)) {
		t.Fatalf("refused with: %v", err)
	}
	names, _ := filepath.Glob(path + "*")
	if now, _ := os.ReadFile(path); !bytes.Equal(now, log) || len(names) != 1 {
		t.Fatalf("the damaged log was changed; files %v", names)
	}
	return damage
}

func TestBitFlipsBeforeTheLastRecord(t *testing.T) {
	t.Parallel()
	log, starts := wholeLog(t, 4)
	refused, passed := 0, 0
	for at := range starts[3] {
		flipped := bytes.Clone(log)
		flipped[at] ^= 1 << (at % 8)
		damage := checkRefused(t, flipped)
		if damage == nil {
			passed++
			checkStillValid(t, flipped)
			continue
		}
		refused++
		line := 0
		for line+1 < len(starts) && starts[line+1] <= at {
			line++
		}
		if damage.Byte < int64(starts[line]) || damage.Byte > int64(starts[line+1]) {
			t.Fatalf("byte %d flipped, damage at %d: %v", at, damage.Byte, damage)
		}
	}
	t.Logf("%d flips refused, %d made another valid line", refused, passed)
	if refused < passed {
		t.Error("most flips should be refused")
	}
}

// checkStillValid: a flip that is not detected must have made another valid line.
func checkStillValid(t *testing.T, log []byte) {
	t.Helper()
	for line := range bytes.Lines(log) {
		if !json.Valid(line) {
			t.Fatalf("accepted although it is not JSON: %s", line)
		}
	}
}

func TestDamageThatIsNotATornTail(t *testing.T) {
	t.Parallel()
	log, starts := wholeLog(t, 4)
	line := func(i int) string {
		return string(append(log[:len(log):len(log)], 0)[starts[i]:append(starts, len(log))[i+1]])
	}
	renumbered := strings.Replace(line(1), `"seq":2`, `"seq":5`, 1)
	half := line(2)[:50]
	for name, c := range map[string]struct {
		log string
		at  int
	}{
		"a line deleted":                     {line(0) + line(2) + line(3), starts[1]},
		"the first line deleted":             {line(1) + line(2), 0},
		"lines swapped":                      {line(0) + line(2) + line(1) + line(3), starts[1]},
		"the last line twice":                {string(log) + line(3), len(log)},
		"an event again under a new number":  {string(log) + renumbered, len(log)},
		"half a line, then whole ones":       {line(0) + line(1) + half + line(3), -1},
		"zeros, then a whole line":           {line(0) + strings.Repeat("\x00", len(line(1))-1) + "\n" + line(2), starts[1]},
		"a line feed turned into something":  {strings.TrimSuffix(line(0), "\n") + "X" + line(1), starts[1] - 1},
		"whole line behind garbage lines":    {line(0) + "x\ny\nz\n" + line(1), starts[1]},
		"more garbage than a write can hold": {line(0) + strings.Repeat(strings.Repeat("garbage ", 1000)+"\n", 11000), starts[1]},
	} {
		t.Run(name, func(t *testing.T) {
			damage := checkRefused(t, []byte(c.log))
			if damage == nil {
				t.Fatal("not refused")
			}
			if c.at >= 0 && damage.Byte != int64(c.at) {
				t.Errorf("named byte %d, want %d", damage.Byte, c.at)
			}
			t.Log(damage)
		})
	}
}

func TestRecoveryStoppedAtEachStep(t *testing.T) {
	t.Parallel()
	log, _ := wholeLog(t, 3)
	log = log[:len(log)-5]
	for name, wrap := range map[string]func(ledger.File) ledger.File{
		"cut fails": func(f ledger.File) ledger.File {
			return &faultyFile{File: f, truncate: func(int64) error { return errDisk }}
		},
		"fsync of the cut fails": func(f ledger.File) ledger.File { return &faultyFile{File: f, sync: func() error { return errDisk }} },
		"read fails": func(f ledger.File) ledger.File {
			return &faultyFile{File: f, read: func(int64) error { return errDisk }}
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := writeLog(t, log)
			if _, err := ledger.Open(context.Background(), ledger.Config{Path: path, Wrap: wrap}); !errors.Is(err, errDisk) {
				t.Fatalf("open: %v", err)
			}
			l := mustOpen(t, ledger.Config{Path: path})
			if l.Len() != 2 {
				t.Fatalf("%d entries", l.Len())
			}
			mustAppend(t, l, newEntry("a", 3), ledger.Outcome{Seq: 3})
			ledgertest.Check(t, path, 3)
		})
	}
}

func TestOpenStopsWithItsContext(t *testing.T) {
	t.Parallel()
	log, _ := wholeLog(t, 3)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	path := writeLog(t, log)
	l, err := ledger.Open(ctx, ledger.Config{Path: path})
	if err == nil {
		mustClose(t, l)
	} else if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestLongLinesAcrossChunks(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	l := mustOpen(t, ledger.Config{Path: path})
	for i, size := range []int{10, 1 << 20, 5 << 20, 4<<20 - 300, 9 << 20, 3} {
		e := newEntry("a", i+1)
		e.Data = fmt.Appendf(nil, `"%s"`, strings.Repeat("x", size))
		mustAppend(t, l, e, ledger.Outcome{Seq: int64(i + 1)})
	}
	huge := newEntry("a", 7)
	huge.Data = bytes.Repeat([]byte("\xff"), 17<<20)
	var invalid *ledger.InvalidError
	if out := l.Append(huge)[0]; !errors.As(out.Err, &invalid) {
		t.Fatalf("17 MiB: %+v", out)
	}
	mustClose(t, l)
	l = mustOpen(t, ledger.Config{Path: path})
	mustAppend(t, l, newEntry("a", 7), ledger.Outcome{Seq: 7})
	ledgertest.Check(t, path, 7)
}

func FuzzParseLine(f *testing.F) {
	log, starts := wholeLog(f, 2)
	f.Add(log[:starts[1]-1])
	f.Add([]byte(`{"seq":1,"event_id":"a","event_type":"b","occurred_at":null,"data_base64":"","metadata":{"correlation_id":7,"source":"\u001b"},"attributes":{"b":true},"audited_at":"2025-01-15T10:30:01.000005Z"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := ledger.ParseLine(line)
		if err != nil {
			return
		}
		if !json.Valid(line) {
			t.Fatalf("accepted %q, which is not JSON", line)
		}
		// An entry that was read can be written and read again unchanged.
		l, err := ledger.Open(context.Background(), ledger.Config{Path: filepath.Join(t.TempDir(), "audit.log")})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		var invalid *ledger.InvalidError
		switch out := l.Append(e)[0]; {
		case errors.As(out.Err, &invalid):
			return
		case out.Err != nil:
			t.Fatal(out.Err)
		}
		again, err := l.Line(1)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ledger.ParseLine(again)
		if err != nil {
			t.Fatal(err)
		}
		ignored := cmpopts.IgnoreFields(ledger.Entry{}, "Seq", "AuditedAt") // the writer's
		if diff := cmp.Diff(e, got, ignored, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("read again (-first +second):\n%s", diff)
		}
	})
}

func FuzzOpen(f *testing.F) {
	log, _ := wholeLog(f, 3)
	f.Add(log)
	f.Add(log[:len(log)-20])
	f.Fuzz(func(t *testing.T, log []byte) {
		path := filepath.Join(t.TempDir(), "audit.log")
		if err := os.WriteFile(path, log, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := ledger.Open(context.Background(), ledger.Config{Path: path})
		var damage *ledger.DamageError
		if errors.As(err, &damage) || errors.Is(err, ledger.ErrOriginal) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		kept, _ := os.ReadFile(path)
		if !bytes.HasPrefix(log, kept) {
			t.Fatal("opening changed more than the end")
		}
		out := l.Append(newEntry("fuzz", 1))[0]
		var conflict *ledger.ConflictError
		if out.Err != nil && !errors.As(out.Err, &conflict) {
			t.Fatal(out.Err)
		}
	})
}
