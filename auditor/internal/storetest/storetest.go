// Package storetest is the suite that every store of the audit log passes: same
// answers, same lines, same order, whatever the log is kept in.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
)

// Store is what the suite exercises.
type Store interface {
	Append(entries ...ledger.Entry) []ledger.Outcome
	Find(ctx context.Context, after int64, f ledger.Filter, yield func(p ledger.Place, line []byte) bool) (through int64, err error)
	Place(ctx context.Context, seq int64) (ledger.Place, error)
	Text(ctx context.Context, p ledger.Place) io.Reader
	Await(ctx context.Context, after int64) error
	Len() int64
	VersionGaps() int64
	Close() error
}

// New makes an empty log and returns the function that opens it, and opens it
// again after Close.
type New func(t *testing.T, now func() time.Time) (open func() Store)

// At is the clock of the suite: it stands still.
var At = time.Date(2025, 1, 15, 10, 30, 1, 5000, time.UTC)

func clock() time.Time { return At }

// Run runs the suite.
func Run(t *testing.T, makeNew New) {
	for name, test := range map[string]func(*testing.T, func() Store){
		"ALineIsTheDocumentedOne":    documentedLine,
		"AnEventIsStoredOnce":        once,
		"ABatchIsResolvedInOrder":    batch,
		"AMistakeStopsNoOther":       mistake,
		"VersionGapsAreFlagged":      versionGaps,
		"ManyAtOnce":                 manyAtOnce,
		"FindFilters":                find,
		"FindStopsWhereItIsTold":     findStops,
		"TextReadsPartsOfLongLines":  longLine,
		"AwaitWakesUp":               await,
		"ALogThatIsOpenedAgain":      reopen,
		"AClosedLogTakesNothing":     closed,
		"NothingIsFoundInAnEmptyLog": empty,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, makeNew(t, clock)) })
	}
}

// Event is one version of a task.
func Event(task string, version int) ledger.Entry {
	return ledger.Entry{
		ID: fmt.Sprintf("id-%s-%d", task, version), Source: "task-api", Type: "task.updated", Time: "2025-01-15T10:30:00Z",
		Attributes: []ledger.Attribute{
			{Name: "datacontenttype", Value: "application/json"}, {Name: "specversion", Value: "1.0"}, {Name: "subject", Value: task},
			{Name: "taskversion", Value: int64(version)}, {Name: "correlationid", Value: "req-789"},
		},
		Data: fmt.Appendf(nil, `{"task_id":%q,"title":"Write %d","status":"pending","owner_id":null}`, task, version),
	}
}

// Lines reads all of the log.
func Lines(t testing.TB, s Store) []string {
	t.Helper()
	var lines []string
	through, err := s.Find(t.Context(), 0, ledger.Filter{}, func(p ledger.Place, line []byte) bool {
		if p.Seq != int64(len(lines))+1 || p.Length != int64(len(line)) {
			t.Errorf("line %d is at %+v", len(lines)+1, p)
		}
		lines = append(lines, string(line))
		return true
	})
	if err != nil || through != s.Len() || through != int64(len(lines)) {
		t.Fatalf("read %d lines of %d, through %d: %v", len(lines), s.Len(), through, err)
	}
	return lines
}

func opened(t *testing.T, open func() Store) Store {
	s := open()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// expect compares outcomes as text: "1", "1 duplicate", "conflict 1", "1 gap 0 2".
func expect(t *testing.T, outs []ledger.Outcome, want ...string) {
	t.Helper()
	got := make([]string, len(outs))
	for i, o := range outs {
		var conflict *ledger.ConflictError
		var invalid *ledger.InvalidError
		switch {
		case errors.As(o.Err, &conflict):
			got[i] = fmt.Sprintf("conflict %d", conflict.Seq)
		case errors.As(o.Err, &invalid):
			got[i] = "invalid " + invalid.Attribute
		case o.Err != nil:
			got[i] = o.Err.Error()
		case o.Duplicate:
			got[i] = fmt.Sprintf("%d duplicate", o.Seq)
		default:
			got[i] = fmt.Sprint(o.Seq)
		}
		if o.VersionGap != nil {
			got[i] += fmt.Sprintf(" gap %d %d", o.VersionGap.Last, o.VersionGap.Version)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
}

func documentedLine(t *testing.T, open func() Store) {
	s := opened(t, open)
	expect(t, s.Append(Event("abc123", 1), ledger.Entry{ID: "i", Source: "s", Type: "t", Data: []byte{0, 1}, Base64: true}), "1", "2")
	want := []string{`{"seq":1,"event_id":"id-abc123-1","event_type":"task.updated","occurred_at":"2025-01-15T10:30:00Z",` +
		`"data":{"task_id":"abc123","title":"Write 1","status":"pending","owner_id":null},` +
		`"metadata":{"correlation_id":"req-789","source":"task-api"},` +
		`"attributes":{"datacontenttype":"application/json","specversion":"1.0","subject":"abc123","taskversion":1},` +
		`"audited_at":"2025-01-15T10:30:01.000005Z"}`,
		`{"seq":2,"event_id":"i","event_type":"t","occurred_at":null,"data_base64":"AAE=","metadata":{"correlation_id":null,"source":"s"},` +
			`"attributes":{},"audited_at":"2025-01-15T10:30:01.000005Z"}`}
	if diff := cmp.Diff(want, Lines(t, s)); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

// other is the event with other content under the same source and id.
func other(e ledger.Entry) ledger.Entry {
	e.Data = []byte(`{"task_id":"altered"}`)
	return e
}

func once(t *testing.T, open func() Store) {
	s := opened(t, open)
	a, foreign := Event("a", 1), Event("a", 1)
	foreign.Source = "elsewhere"
	expect(t, s.Append(a), "1")
	expect(t, s.Append(a), "1 duplicate")
	expect(t, s.Append(other(a)), "conflict 1")
	expect(t, s.Append(foreign), "2")
	swapped := ledger.Entry{ID: foreign.Source, Source: foreign.ID, Type: "t"}
	expect(t, s.Append(swapped), "3")
	expect(t, s.Append(a, foreign, swapped), "1 duplicate", "2 duplicate", "3 duplicate")
	if n := len(Lines(t, s)); n != 3 {
		t.Errorf("%d lines", n)
	}
}

func batch(t *testing.T, open func() Store) {
	s := opened(t, open)
	a, b := Event("a", 1), Event("b", 1)
	expect(t, s.Append(a, b, a, other(a), a, Event("a", 2)), "1", "2", "1 duplicate", "conflict 1", "1 duplicate", "3")
	expect(t, s.Append(other(b), b, Event("c", 1), Event("a", 3)), "conflict 2", "2 duplicate", "4", "5")
	if outs := s.Append(); len(outs) != 0 {
		t.Errorf("nothing to append: %v", outs)
	}
	for i, id := range []string{"id-a-1", "id-b-1", "id-a-2", "id-c-1", "id-a-3"} {
		if line := Lines(t, s)[i]; !strings.HasPrefix(line, fmt.Sprintf(`{"seq":%d,"event_id":"%s",`, i+1, id)) {
			t.Errorf("line %d: %s", i+1, line)
		}
	}
}

func mistake(t *testing.T, open func() Store) {
	s := opened(t, open)
	noID, badName := Event("a", 1), Event("b", 1)
	noID.ID = ""
	badName.Attributes = append(badName.Attributes, ledger.Attribute{Name: "x", Value: 1.5})
	expect(t, s.Append(noID, Event("a", 2), badName, Event("a", 3)), "invalid id", "1 gap 0 2", "invalid x", "2")
}

func versionGaps(t *testing.T, open func() Store) {
	s := opened(t, open)
	foreign := Event("a", 2)
	foreign.Source = "elsewhere"
	noVersion := ledger.Entry{ID: "i", Source: "task-api", Type: "t", Attributes: []ledger.Attribute{{Name: "subject", Value: "a"}}}
	byData := Event("a", 3)
	byData.Attributes = []ledger.Attribute{{Name: "taskversion", Value: int64(3)}} // the data names the task
	expect(t, s.Append(Event("a", 1), Event("a", 4), foreign, Event("b", 1)), "1", "2 gap 1 4", "3 gap 0 2", "4")
	expect(t, s.Append(noVersion, byData, Event("a", 5), Event("b", 2)), "5", "6 gap 4 3", "7", "8")
	if s.VersionGaps() != 3 {
		t.Errorf("%d gaps, want 3", s.VersionGaps())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = opened(t, open)
	expect(t, s.Append(Event("a", 6), Event("b", 4)), "9", "10 gap 2 4")
	if s.VersionGaps() != 4 {
		t.Errorf("%d gaps after opening again, want 4", s.VersionGaps())
	}
}

// Several callers deliver the same events at the same time, each task in order, as
// bridges do around a rebalance.
func manyAtOnce(t *testing.T, open func() Store) {
	s := opened(t, open)
	const tasks, versions, callers = 8, 20, 3
	var mu sync.Mutex
	created := map[string]int{}
	var all sync.WaitGroup
	for task := range tasks {
		for range callers {
			all.Go(func() {
				for v := 1; v <= versions; v++ {
					e := Event(fmt.Sprint("t", task), v)
					out := s.Append(e)[0]
					if out.Err != nil || out.VersionGap != nil {
						t.Errorf("%s: %+v", e.ID, out)
						return
					}
					mu.Lock()
					if !out.Duplicate {
						created[e.ID]++
					}
					mu.Unlock()
				}
			})
		}
	}
	all.Wait()
	for id, n := range created {
		if n != 1 {
			t.Errorf("%s was answered as new %d times", id, n)
		}
	}
	if n := len(Lines(t, s)); n != tasks*versions || len(created) != n {
		t.Errorf("%d lines and %d new, want %d", n, len(created), tasks*versions)
	}
}

func find(t *testing.T, open func() Store) {
	s := opened(t, open)
	done := Event("a", 3)
	done.Type, done.Attributes = "task.completed", append(done.Attributes, ledger.Attribute{Name: "actor", Value: "bob"})
	byData := ledger.Entry{ID: "x", Source: "elsewhere", Type: "task.updated", Data: []byte(`{"task_id": "a"}`)}
	odd := Event("\"a\u2028\\", 1)
	expect(t, s.Append(Event("a", 1), Event("b", 1), Event("a", 2), done, Event("b", 2), byData, odd), "1", "2", "3", "4", "5", "6", "7")
	for f, want := range map[ledger.Filter]string{
		{}:                                     "[1 2 3 4 5 6 7]",
		{TaskID: "a"}:                          "[1 3 4 6]",
		{TaskID: "b"}:                          "[2 5]",
		{TaskID: "\"a\u2028\\"}:                "[7]",
		{TaskID: "none"}:                       "[]",
		{Type: "task.completed"}:               "[4]",
		{Type: "task"}:                         "[]",
		{Actor: "bob"}:                         "[4]",
		{Actor: "bo"}:                          "[]",
		{TaskID: "a", Type: "task.updated"}:    "[1 3 6]",
		{Actor: "bob", Type: "task.completed"}: "[4]",
		{Actor: "bob", Type: "task.updated"}:   "[]",
		{TaskID: "b", Actor: "bob"}:            "[]",
	} {
		if got := fmt.Sprint(found(t, s, 0, f, 100)); got != want {
			t.Errorf("%+v: %s, want %s", f, got, want)
		}
	}
	if got := fmt.Sprint(found(t, s, 3, ledger.Filter{TaskID: "a"}, 100)); got != "[4 6]" {
		t.Errorf("after 3: %s", got)
	}
}

// found returns the numbers of up to most entries.
func found(t *testing.T, s Store, after int64, f ledger.Filter, most int) []int64 {
	t.Helper()
	seqs := []int64{}
	if _, err := s.Find(t.Context(), after, f, func(p ledger.Place, _ []byte) bool {
		if len(seqs) == most {
			return false
		}
		seqs = append(seqs, p.Seq)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return seqs
}

func findStops(t *testing.T, open func() Store) {
	s := opened(t, open)
	for v := 1; v <= 150; v++ {
		s.Append(Event("a", v), Event("b", v))
	}
	for _, f := range []ledger.Filter{{}, {TaskID: "a"}, {Type: "task.updated"}} {
		var seqs []int64
		for after := int64(0); ; {
			n := len(seqs)
			through, err := s.Find(t.Context(), after, f, func(p ledger.Place, _ []byte) bool {
				if len(seqs) == n+7 {
					return false
				}
				seqs = append(seqs, p.Seq)
				return true
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(seqs) > n && through < seqs[len(seqs)-1] || through > s.Len() {
				t.Fatalf("%+v: through %d after entry %d", f, through, seqs[len(seqs)-1])
			}
			if after = through; after == s.Len() {
				break
			}
		}
		if want := found(t, s, 0, f, 1000); !cmp.Equal(want, seqs) || len(seqs) < 150 {
			t.Errorf("%+v: in pages %v, at once %v", f, seqs, want)
		}
	}
	if through, err := s.Find(t.Context(), 1000, ledger.Filter{}, func(ledger.Place, []byte) bool { return true }); err != nil || through < 300 {
		t.Errorf("behind the end: through %d, %v", through, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Find(ctx, 0, ledger.Filter{}, func(ledger.Place, []byte) bool { return true }); !errors.Is(err, context.Canceled) {
		t.Errorf("for a caller who is gone: %v", err)
	}
}

func longLine(t *testing.T, open func() Store) {
	s := opened(t, open)
	e := Event("a", 1)
	e.Data = fmt.Appendf(nil, `{"task_id":"a","title":%q}`, strings.Repeat("xy", 600_000))
	expect(t, s.Append(e, Event("a", 2)), "1", "2")
	line := Lines(t, s)[0]
	p, err := s.Place(t.Context(), 1)
	if err != nil || p.Seq != 1 || p.Length != int64(len(line)) {
		t.Fatalf("place %+v, %v", p, err)
	}
	for _, part := range []struct{ from, to int }{{0, len(line)}, {0, 1}, {17, 1_000_000}, {len(line) - 5, len(line)}, {3, 3}} {
		got, err := io.ReadAll(s.Text(t.Context(), ledger.Place{Seq: 1, Offset: p.Offset + int64(part.from), Length: int64(part.to - part.from)}))
		if err != nil || string(got) != line[part.from:part.to] {
			t.Errorf("%d to %d: %d bytes, %v", part.from, part.to, len(got), err)
		}
	}
}

func await(t *testing.T, open func() Store) {
	s := opened(t, open)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var waiters sync.WaitGroup
	for after := range int64(3) {
		waiters.Go(func() {
			if err := s.Await(ctx, after); err != nil || s.Len() <= after {
				t.Errorf("after %d: %v with %d entries", after, err, s.Len())
			}
		})
	}
	for v := 1; v <= 3; v++ {
		s.Append(Event("a", v))
	}
	waiters.Wait()
	gone, leave := context.WithCancel(t.Context())
	leave()
	if err := s.Await(gone, 3); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who is gone: %v", err)
	}
}

func reopen(t *testing.T, open func() Store) {
	s := open()
	expect(t, s.Append(Event("a", 1), Event("b", 1)), "1", "2")
	before := Lines(t, s)
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	s = opened(t, open)
	if diff := cmp.Diff(before, Lines(t, s)); diff != "" {
		t.Errorf("lines changed:\n%s", diff)
	}
	expect(t, s.Append(Event("b", 1), Event("a", 2), other(Event("a", 1))), "2 duplicate", "3", "conflict 1")
}

func closed(t *testing.T, open func() Store) {
	s := open()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if out := s.Append(Event("a", 1))[0]; !errors.Is(out.Err, ledger.ErrClosed) {
		t.Errorf("append: %+v", out)
	}
}

func empty(t *testing.T, open func() Store) {
	s := opened(t, open)
	if n := len(Lines(t, s)); n != 0 || s.Len() != 0 || s.VersionGaps() != 0 {
		t.Errorf("%d lines, Len %d, %d gaps", n, s.Len(), s.VersionGaps())
	}
	for _, seq := range []int64{-1, 0, 1} {
		if _, err := s.Place(t.Context(), seq); !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("place of %d: %v", seq, err)
		}
	}
}
