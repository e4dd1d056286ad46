// Package storetest is the suite that every store passes: what task.Store and
// outbox.Source promise, whatever database is behind them.
package storetest

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/eventsign"
	"github.com/taskwire/taskwire/taskapi/internal/outbox"
	"github.com/taskwire/taskwire/taskapi/internal/store/record"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// Store is what the suite exercises.
type Store interface {
	task.Store
	outbox.Source
}

// Options are what a case asks of the store; zero values are the defaults.
type Options struct {
	OutboxLimit int64
	Now         func() time.Time
	Signer      record.Signer
}

// Open makes an empty, running store that ends with the test.
type Open func(t *testing.T, o Options) Store

// Run runs the suite.
func Run(t *testing.T, open Open) {
	for name, test := range map[string]func(*testing.T, Open){
		"ACreatedTaskCanBeRead":               createdTask,
		"AnEventDescribesTheChange":           eventContent,
		"ASignedEventKeepsItsBytes":           signedEvent,
		"NoChangeMakesNoEvent":                noChange,
		"CompletingTwiceEmitsOnce":            completeTwice,
		"AnUnknownTaskIsNotFound":             notFound,
		"AnOldVersionIsRefused":               oldVersion,
		"ARepeatUnderAKeyGivesTheFirstAnswer": repeat,
		"AKeyWithAnotherRequestIsRefused":     keyReused,
		"AKeyExpires":                         keyExpires,
		"ConcurrentRepeatsMakeOneTask":        concurrentRepeats,
		"ConcurrentChangesGetEveryVersion":    concurrentChanges,
		"ConcurrentCompletionsEmitOnce":       concurrentCompletions,
		"AListPagesInOrderOfCreation":         list,
		"AFullOutboxRefusesChangesOnly":       fullOutbox,
		"RowsComeInOrderUntilTheyAreMarked":   outboxOrder,
		"AGapInTheMarksComesBack":             outboxGap,
		"ACommitWakesTheRelay":                wake,
		"TheBacklogIsCountedAndDated":         backlog,
		"ACallerThatGaveUpIsNotServed":        gaveUp,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, open) })
	}
}

func create(t *testing.T, s Store, title string) task.Task {
	t.Helper()
	a, err := s.Create(t.Context(), task.Create{Title: title, Origin: origin})
	if err != nil {
		t.Fatalf("create %q: %v", title, err)
	}
	return a.Task
}

var origin = task.Origin{CorrelationID: "corr-1", Actor: "alice", TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}

func update(t *testing.T, s Store, id string, p task.Patch) task.Answer {
	t.Helper()
	a, err := s.Update(t.Context(), task.Update{ID: id, Patch: p, Origin: origin})
	if err != nil {
		t.Fatalf("update %s: %v", id, err)
	}
	return a
}

// Events reads everything that waits, without marking it.
func Events(t *testing.T, s outbox.Source) []event.Event {
	t.Helper()
	var out []event.Event
	for _, r := range next(t, s, 1<<20, 1<<30) {
		e, err := event.Parse(r.Event)
		if err != nil {
			t.Fatalf("outbox row %d: %v", r.ID, err)
		}
		if e.Subject() != r.TaskID {
			t.Errorf("outbox row %d: subject %q under key %q", r.ID, e.Subject(), r.TaskID)
		}
		out = append(out, e)
	}
	return out
}

// next reads the first rows that wait.
func next(t *testing.T, s outbox.Source, rows, bytes int) []outbox.Row {
	t.Helper()
	page, err := s.Next(t.Context(), 0, rows, bytes)
	if err != nil {
		t.Fatal(err)
	}
	return page.Rows
}

// kinds is "type version" of each event that waits.
func kinds(t *testing.T, s outbox.Source) []string {
	t.Helper()
	var out []string
	for _, e := range Events(t, s) {
		v, ok := event.TaskVersion(e)
		if !ok {
			t.Errorf("event %s has no task version", e.ID())
		}
		out = append(out, fmt.Sprintf("%s %d", e.Type(), v))
	}
	return out
}

func want(t *testing.T, s outbox.Source, events ...string) {
	t.Helper()
	if got := kinds(t, s); !slices.Equal(got, events) {
		t.Errorf("events = %q, want %q", got, events)
	}
}

func createdTask(t *testing.T, open Open) {
	s := open(t, Options{})
	before := time.Now()
	const owner = "6f1c2d9e-8a53-4d0a-9b61-0f2f5c3f8a11"
	a, err := s.Create(t.Context(), task.Create{Title: "Grüße 🎉", OwnerID: owner, Origin: origin})
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Get(t.Context(), a.Task.ID)
	if err != nil || got != a.Task {
		t.Fatalf("Get = %+v, %v; want %+v", got, err, a.Task)
	}
	want := task.Task{
		ID: got.ID, Title: "Grüße 🎉", Status: task.Pending, OwnerID: owner, Version: 1, CreatedAt: got.CreatedAt, UpdatedAt: got.CreatedAt,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("task, want (-), got (+):\n%s", diff)
	}
	if _, err := task.ParseUUID(got.ID); err != nil || got.ID[14] != '7' {
		t.Errorf("id = %q, want a UUIDv7", got.ID)
	}
	if d := got.CreatedAt.Sub(before); d < -time.Second || d > time.Minute || got.CreatedAt.Location() != time.UTC {
		t.Errorf("created at %v, asked at %v", got.CreatedAt, before)
	}
}

func eventContent(t *testing.T, open Open) {
	s := open(t, Options{})
	tk := create(t, s, "one")
	e := Events(t, s)[0]
	for name, want := range map[string]string{
		"correlationid": "corr-1", "actor": "alice", "partitionkey": tk.ID, "taskversion": "1", "traceparent": origin.TraceParent,
	} {
		if got, _ := event.Attribute(e, name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	if e.Source() != event.Source || e.Type() != event.TypeCreated || !e.Time().Equal(tk.CreatedAt) {
		t.Errorf("event = %v", e)
	}
	if want := `{"task_id":"` + tk.ID + `","title":"one","status":"pending","owner_id":null}`; string(e.Data()) != want {
		t.Errorf("data = %s, want %s", e.Data(), want)
	}
}

// notary signs, and remembers what the store got from it.
type notary struct {
	*eventsign.Signer
	mu   sync.Mutex
	made map[string]bool
}

func (n *notary) Sign(body []byte) ([]byte, error) {
	signed, err := n.Signer.Sign(body)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.made[string(signed)] = true
	return signed, err
}

// A column that holds an event in any other way than as bytes, such as jsonb or a
// text in another encoding, would spoil its signature.
func signedEvent(t *testing.T, open Open) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := eventsign.MarshalPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, pem, 0o600); err != nil {
		t.Fatal(err)
	}
	signer, err := eventsign.OpenSigner(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := eventsign.ParseKeys([]byte(event.Source + " " + eventsign.PublicText(public)))
	if err != nil {
		t.Fatal(err)
	}
	n := &notary{Signer: signer, made: map[string]bool{}}
	s := open(t, Options{Signer: n})
	tk := create(t, s, `Grüße \u0000 "\\" \ud83d 'é' €  \u2028`)
	update(t, s, tk.ID, task.Patch{Title: new("😀 $1 ''")})
	rows := next(t, s, 1<<20, 1<<30)
	if len(rows) != 2 {
		t.Fatalf("%d events", len(rows))
	}
	for _, r := range rows {
		if !n.made[string(r.Event)] {
			t.Errorf("outbox row %d is not what was signed: %s", r.ID, r.Event)
		}
		e, err := event.Parse(r.Event)
		if err != nil {
			t.Fatal(err)
		}
		if err := keys.Verify(e); err != nil {
			t.Errorf("outbox row %d: %v", r.ID, err)
		}
	}
}

func noChange(t *testing.T, open Open) {
	s := open(t, Options{})
	tk := create(t, s, "one")
	for _, p := range []task.Patch{{}, {Title: new("one")}, {Status: new(task.Pending)}, {OwnerID: new("")}} {
		if a := update(t, s, tk.ID, p); a.Task != tk || a.Kind != task.Unchanged {
			t.Errorf("answer = %+v", a)
		}
	}
	want(t, s, "task.created 1")
}

func completeTwice(t *testing.T, open Open) {
	s := open(t, Options{})
	tk := create(t, s, "one")
	first := update(t, s, tk.ID, task.Complete())
	second := update(t, s, tk.ID, task.Complete())
	if first.Task != second.Task || second.Kind != task.Unchanged || first.Kind != task.WasCompleted {
		t.Errorf("first %+v, second %+v", first, second)
	}
	update(t, s, tk.ID, task.Patch{Status: new(task.Pending)})
	update(t, s, tk.ID, task.Complete())
	want(t, s, "task.created 1", "task.completed 2", "task.updated 3", "task.completed 4")
}

func notFound(t *testing.T, open Open) {
	s := open(t, Options{})
	for _, id := range []string{"", "xyz789", "0198f3c2-0000-7000-8000-000000000000", "a\x00b", "' OR 1=1 --"} {
		if _, err := s.Get(t.Context(), id); !errors.Is(err, task.ErrNotFound) {
			t.Errorf("Get(%q) = %v", id, err)
		}
		if _, err := s.Update(t.Context(), task.Update{ID: id, Patch: task.Complete()}); !errors.Is(err, task.ErrNotFound) {
			t.Errorf("Update(%q) = %v", id, err)
		}
	}
	want(t, s)
}

func oldVersion(t *testing.T, open Open) {
	s := open(t, Options{})
	tk := create(t, s, "one")
	update(t, s, tk.ID, task.Patch{Title: new("two")})
	for _, tt := range []struct {
		match []int64
		ok    bool
	}{{[]int64{1}, false}, {[]int64{}, false}, {[]int64{3}, false}, {[]int64{1, 2}, true}, {nil, true}} {
		_, err := s.Update(t.Context(), task.Update{ID: tk.ID, Match: tt.match, Origin: origin})
		if errors.Is(err, task.ErrVersion) == tt.ok || (tt.ok && err != nil) {
			t.Errorf("match %v: %v", tt.match, err)
		}
	}
}

func key(value, body string) task.IdempotencyKey {
	return task.IdempotencyKey{Value: value, Fingerprint: sha256.Sum256([]byte(body))}
}

func repeat(t *testing.T, open Open) {
	s := open(t, Options{})
	c := task.Create{Title: "one", Origin: origin, IdempotencyKey: key("k", "one")}
	first, err := s.Create(t.Context(), c)
	if err != nil || first.Replayed {
		t.Fatalf("first = %+v, %v", first, err)
	}
	done := task.Update{ID: first.Task.ID, Patch: task.Complete(), Match: []int64{1}, Origin: origin, IdempotencyKey: key("k2", "complete")}
	completed, err := s.Update(t.Context(), done)
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Create(t.Context(), c)
	if err != nil || !again.Replayed || again.Task != first.Task {
		t.Errorf("again = %+v, %v; want the first answer %+v although the task went on", again, err, first)
	}
	// This very request has replaced the version that it asks for.
	if again, err := s.Update(t.Context(), done); err != nil || !again.Replayed || again.Task != completed.Task {
		t.Errorf("completed again = %+v, %v; want %+v", again, err, completed)
	}
	want(t, s, "task.created 1", "task.completed 2")
}

func keyReused(t *testing.T, open Open) {
	s := open(t, Options{})
	if _, err := s.Create(t.Context(), task.Create{Title: "one", Origin: origin, IdempotencyKey: key("k", "one")}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(t.Context(), task.Create{Title: "two", Origin: origin, IdempotencyKey: key("k", "two")}); !errors.Is(err, task.ErrKeyReused) {
		t.Errorf("another request under the key: %v", err)
	}
	// A refusal is not stored as an answer.
	u := task.Update{ID: "nobody", Patch: task.Complete(), Origin: origin, IdempotencyKey: key("k3", "x")}
	if _, err := s.Update(t.Context(), u); !errors.Is(err, task.ErrNotFound) {
		t.Errorf("update = %v", err)
	}
	if _, err := s.Create(t.Context(), task.Create{Title: "three", Origin: origin, IdempotencyKey: key("k3", "y")}); err != nil {
		t.Errorf("a key that came with a refused request: %v", err)
	}
	want(t, s, "task.created 1", "task.created 1")
}

func keyExpires(t *testing.T, open Open) {
	clock := newClock()
	s := open(t, Options{Now: clock.Now})
	c := task.Create{Title: "one", Origin: origin, IdempotencyKey: key("k", "one")}
	first, err := s.Create(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	clock.Advance(task.KeyLifetime - time.Second)
	if again, err := s.Create(t.Context(), c); err != nil || again.Task != first.Task {
		t.Errorf("a second before the end = %+v, %v", again, err)
	}
	clock.Advance(time.Second)
	if again, err := s.Create(t.Context(), c); err != nil || again.Replayed || again.Task.ID == first.Task.ID {
		t.Errorf("after the end = %+v, %v; want a new task", again, err)
	}
}

func concurrentRepeats(t *testing.T, open Open) {
	s := open(t, Options{})
	ids := make([]string, 50)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			a, err := s.Create(t.Context(), task.Create{Title: "one", Origin: origin, IdempotencyKey: key("k", "one")})
			if err != nil {
				t.Errorf("create: %v", err)
			}
			ids[i] = a.Task.ID
		})
	}
	wg.Wait()
	if slices.Sort(ids); ids[0] != ids[len(ids)-1] {
		t.Errorf("several tasks under one key: %q", slices.Compact(ids))
	}
	want(t, s, "task.created 1")
}

func concurrentChanges(t *testing.T, open Open) {
	s := open(t, Options{})
	tk := create(t, s, "start")
	const callers, each = 16, 20
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				title := fmt.Sprintf("%d of %d", i, c)
				if _, err := s.Update(t.Context(), task.Update{ID: tk.ID, Patch: task.Patch{Title: &title}, Origin: origin}); err != nil {
					t.Errorf("update: %v", err)
				}
			}
		})
	}
	wg.Wait()
	expected := []string{"task.created 1"}
	for v := 2; v <= callers*each+1; v++ {
		expected = append(expected, fmt.Sprintf("task.updated %d", v))
	}
	want(t, s, expected...)
	events := Events(t, s)
	for i := 1; i < len(events); i++ {
		if !events[i].Time().After(events[i-1].Time()) {
			t.Fatalf("event %d is not later than the one before", i)
		}
	}
}

func concurrentCompletions(t *testing.T, open Open) {
	s := open(t, Options{})
	tk := create(t, s, "one")
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			a, err := s.Update(t.Context(), task.Update{ID: tk.ID, Patch: task.Complete(), Origin: origin})
			if err != nil || a.Task.Version != 2 || a.Task.Status != task.Completed {
				t.Errorf("complete = %+v, %v", a, err)
			}
		})
	}
	wg.Wait()
	want(t, s, "task.created 1", "task.completed 2")
}

func list(t *testing.T, open Open) {
	s := open(t, Options{})
	const owner = "6f1c2d9e-8a53-4d0a-9b61-0f2f5c3f8a11"
	var all, owned, completed, both []string
	for i := range 25 {
		c := task.Create{Title: fmt.Sprint(i), Origin: origin}
		if i%3 == 0 {
			c.OwnerID = owner
		}
		a, err := s.Create(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		id := a.Task.ID
		all = append(all, id)
		if i%2 == 0 {
			update(t, s, id, task.Complete())
			completed = append(completed, id)
		}
		if i%3 == 0 {
			owned = append(owned, id)
		}
		if i%6 == 0 {
			both = append(both, id)
		}
	}
	for _, tt := range []struct {
		filter task.Filter
		want   []string
	}{
		{task.Filter{}, all},
		{task.Filter{OwnerID: owner}, owned},
		{task.Filter{Status: task.Completed}, completed},
		{task.Filter{Status: task.Completed, OwnerID: owner}, both},
		{task.Filter{Status: task.InProgress}, nil},
		{task.Filter{OwnerID: "00000000-0000-0000-0000-000000000000"}, nil},
	} {
		for _, limit := range []int{1, 5, 25, 1000} {
			tt.filter.Limit = limit
			if got := pages(t, s, tt.filter); !slices.Equal(got, tt.want) {
				t.Errorf("%+v gives %q, want %q", tt.filter, got, tt.want)
			}
		}
	}
}

// pages walks the list to its end and checks that no page is empty but the only one.
func pages(t *testing.T, s Store, f task.Filter) []string {
	t.Helper()
	var ids []string
	for {
		page, err := s.List(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Tasks) > f.Limit || (page.More && len(page.Tasks) < f.Limit) {
			t.Fatalf("a page of %d tasks, limit %d, more %v", len(page.Tasks), f.Limit, page.More)
		}
		for _, tk := range page.Tasks {
			ids = append(ids, tk.ID)
		}
		if !page.More {
			return ids
		}
		f.After = ids[len(ids)-1]
	}
}

func fullOutbox(t *testing.T, open Open) {
	s := open(t, Options{OutboxLimit: 3})
	tk := create(t, s, "one")
	keyed := task.Create{Title: "two", Origin: origin, IdempotencyKey: key("k", "two")}
	if _, err := s.Create(t.Context(), keyed); err != nil {
		t.Fatal(err)
	}
	create(t, s, "three")
	var busy *task.BusyError
	if _, err := s.Create(t.Context(), task.Create{Title: "four", Origin: origin}); !errors.As(err, &busy) || busy.RetryAfter <= 0 {
		t.Fatalf("create beyond the limit = %v, want a *task.BusyError", err)
	}
	if _, err := s.Update(t.Context(), task.Update{ID: tk.ID, Patch: task.Complete(), Origin: origin}); !errors.As(err, &busy) {
		t.Errorf("complete beyond the limit = %v", err)
	}
	// A request that emits nothing is still answered.
	update(t, s, tk.ID, task.Patch{})
	if a, err := s.Create(t.Context(), keyed); err != nil || !a.Replayed {
		t.Errorf("a repeat = %+v, %v", a, err)
	}
	rows := next(t, s, 1, 1<<20)
	if len(rows) != 1 {
		t.Fatalf("%d rows, want 1", len(rows))
	}
	if err := s.Published(t.Context(), []int64{rows[0].ID}); err != nil {
		t.Fatal(err)
	}
	create(t, s, "four, now that there is room")
}

func outboxOrder(t *testing.T, open Open) {
	s := open(t, Options{})
	for i := range 10 {
		create(t, s, fmt.Sprint(i))
	}
	var titles []string
	last := int64(0)
	for {
		rows := next(t, s, 3, 1<<20)
		if len(rows) == 0 {
			break
		}
		if again := next(t, s, 3, 1<<20); !slices.EqualFunc(rows, again, func(a, b outbox.Row) bool { return a.ID == b.ID }) {
			t.Fatalf("unmarked rows did not come again: %v", again)
		}
		var ids []int64
		for _, r := range rows {
			if r.ID <= last {
				t.Fatalf("row %d after row %d", r.ID, last)
			}
			last = r.ID
			ids = append(ids, r.ID)
			e, err := event.Parse(r.Event)
			if err != nil {
				t.Fatal(err)
			}
			titles = append(titles, string(e.Data()))
		}
		for range 2 { // twice is allowed
			if err := s.Published(t.Context(), ids); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(titles) != 10 {
		t.Errorf("%d rows, want 10", len(titles))
	}
	if rows := next(t, s, 5, 1); len(rows) != 0 {
		t.Errorf("an empty outbox gave %v", rows)
	}
	create(t, s, "large")
	create(t, s, "larger")
	if rows := next(t, s, 5, 1); len(rows) != 1 {
		t.Errorf("a byte limit below one event gave %d rows; want one", len(rows))
	}
}

func outboxGap(t *testing.T, open Open) {
	s := open(t, Options{})
	for i := range 5 {
		create(t, s, fmt.Sprint(i))
	}
	rows := next(t, s, 10, 1<<20)
	if err := s.Published(t.Context(), []int64{rows[0].ID, rows[2].ID, rows[3].ID}); err != nil {
		t.Fatal(err)
	}
	if left := next(t, s, 10, 1<<20); len(left) != 2 || left[0].ID != rows[1].ID || left[1].ID != rows[4].ID {
		t.Errorf("left = %v; want rows %d and %d", left, rows[1].ID, rows[4].ID)
	}
}

func wake(t *testing.T, open Open) {
	s := open(t, Options{})
	tk := create(t, s, "one")
	select {
	case <-s.Wake():
	case <-time.After(10 * time.Second):
		t.Fatal("no wake-up after a commit")
	}
	update(t, s, tk.ID, task.Patch{})
	select {
	case <-s.Wake():
		t.Error("a wake-up without an event")
	default:
	}
}

func backlog(t *testing.T, open Open) {
	s := open(t, Options{})
	if b, err := s.Backlog(t.Context()); err != nil || b.Count != 0 || !b.Oldest.IsZero() {
		t.Errorf("empty backlog = %+v, %v", b, err)
	}
	first := create(t, s, "one")
	create(t, s, "two")
	if b, err := s.Backlog(t.Context()); err != nil || b.Count != 2 || !b.Oldest.Equal(first.CreatedAt) {
		t.Errorf("backlog = %+v, %v; want 2 since %v", b, err, first.CreatedAt)
	}
}

func gaveUp(t *testing.T, open Open) {
	s := open(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Create(ctx, task.Create{Title: "one", Origin: origin}); !errors.Is(err, context.Canceled) {
		t.Errorf("create = %v, want context.Canceled", err)
	}
	want(t, s)
}

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)} }

// Now is the clock's time.
func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock forward.
func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}
