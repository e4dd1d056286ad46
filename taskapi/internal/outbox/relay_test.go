package outbox_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/retry"
	"github.com/taskwire/taskwire/taskapi/internal/outbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errBroken = errors.New("broken")

// world is an outbox and a topic in memory. It fails the test itself when a
// row is marked that is not in the topic.
type world struct {
	t *testing.T

	mu       sync.Mutex
	rows     []outbox.Row
	late     map[int64]bool // ids of rows that have not appeared
	marked   map[int64]bool
	topic    []event.Record
	stored   map[string]bool // values of the first indexed records of topic
	indexed  int
	produces int
	marks    int
	wake     chan struct{}

	partitions int             // 1 when zero; a task is in the one of its last letter
	down       map[string]bool // tasks whose partition has no leader: a produce lasts until its deadline

	// faults, asked with the number of the call, from 1
	onProduce func(n int, recs []event.Record, store func(...int)) error
	onMark    func(n int, mark func()) error
	onRead    func() error
}

func newWorld(t *testing.T) *world {
	return &world{t: t, marked: map[int64]bool{}, stored: map[string]bool{}, wake: make(chan struct{}, 1)}
}

// add commits n events of each task in turn.
func (w *world) add(n int, tasks ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for range n {
		for _, id := range tasks {
			row := outbox.Row{ID: int64(len(w.rows) + 1), TaskID: id}
			row.Event = fmt.Appendf(nil, "%s event %d", id, row.ID)
			w.rows = append(w.rows, row)
		}
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *world) Partitions(context.Context, string) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return max(1, w.partitions), nil
}

func (w *world) Partition(key string, n int) int { return int(key[len(key)-1]-'a') % n }

// set makes the leader of a task's partition go or come back.
func (w *world) set(down bool, task string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down == nil {
		w.down = map[string]bool{}
	}
	w.down[task] = down
}

func (w *world) isDown(task string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.down[task]
}

// waiting counts the rows of a task that are not marked.
func (w *world) waiting(task string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.rows {
		if r.TaskID == task && !w.marked[r.ID] {
			n++
		}
	}
	return n
}

func (w *world) Next(_ context.Context, after int64, limit, size int) (page outbox.Page, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.onRead != nil {
		if err := w.onRead(); err != nil {
			return page, err
		}
	}
	for _, r := range w.rows {
		if w.late[r.ID] {
			continue
		}
		if len(page.Rows) == limit {
			break
		}
		if r.ID > after && !w.marked[r.ID] {
			page.Rows = append(page.Rows, r)
		}
	}
	page.Settled = math.MaxInt64
	for id := range w.late {
		page.Settled = min(page.Settled, id-1)
	}
	return page, nil
}

func (w *world) Published(ctx context.Context, ids []int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, r := range w.topic[w.indexed:] {
		w.stored[string(r.Value)] = true
	}
	w.indexed = len(w.topic)
	for _, id := range ids {
		if !w.stored[string(w.rows[id-1].Event)] {
			w.t.Errorf("row %d was marked and is not in the topic", id)
		}
	}
	mark := func() {
		for _, id := range ids {
			w.marked[id] = true
		}
	}
	w.marks++
	if w.onMark != nil {
		return w.onMark(w.marks, mark)
	}
	mark()
	return nil
}

func (w *world) Produce(ctx context.Context, topic string, recs []event.Record) error {
	for w.isDown(string(recs[0].Key)) {
		if retry.Pause(ctx, 100*time.Millisecond) != nil { // as the producer looks for a new leader
			return context.Cause(ctx)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if topic != "task-events" {
		w.t.Errorf("topic %q", topic)
	}
	if _, ok := ctx.Deadline(); !ok {
		w.t.Error("a produce without a deadline")
	}
	store := func(positions ...int) {
		for _, i := range positions {
			w.topic = append(w.topic, recs[i])
		}
	}
	w.produces++
	if w.onProduce != nil {
		return w.onProduce(w.produces, recs, store)
	}
	w.topic = append(w.topic, recs...)
	return nil
}

func (w *world) Wake() <-chan struct{} { return w.wake }

func (w *world) Backlog(context.Context) (outbox.Backlog, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return outbox.Backlog{Count: int64(len(w.rows) - len(w.marked))}, nil
}

// check wants every event in the topic, first sightings in order per task,
// and the rows marked; it returns how many records are repeats.
func (w *world) check() (repeats int) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := map[string]bool{}
	order := map[string][]string{}
	for _, r := range w.topic {
		if v := string(r.Value); seen[v] {
			repeats++
		} else {
			seen[v] = true
			order[string(r.Key)] = append(order[string(r.Key)], v)
		}
	}
	want := map[string][]string{}
	for _, r := range w.rows {
		want[r.TaskID] = append(want[r.TaskID], string(r.Event))
		if !w.marked[r.ID] {
			w.t.Errorf("row %d is not marked", r.ID)
		}
	}
	for id, events := range want {
		if !slices.Equal(order[id], events) {
			w.t.Errorf("task %s: topic has %q, want %q", id, order[id], events)
		}
	}
	return repeats
}

func relay(w *world, cfg outbox.Config) *outbox.Relay {
	cfg.Topic = "task-events"
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return outbox.New(cfg, w, w)
}

// Faults come in pairs: it failed, and it failed although it happened.
func TestFaults(t *testing.T) {
	all := func(recs []event.Record) (positions []int) {
		for i := range recs {
			positions = append(positions, i)
		}
		return positions
	}
	tests := []struct {
		name     string
		sabotage func(*world)
		repeats  int
	}{
		{"none", func(*world) {}, 0},
		{"publish failed", func(w *world) {
			w.onProduce = func(n int, recs []event.Record, store func(...int)) error {
				if n <= 3 {
					return errBroken
				}
				store(all(recs)...)
				return nil
			}
		}, 0},
		{"publish failed but happened", func(w *world) {
			w.onProduce = func(n int, recs []event.Record, store func(...int)) error {
				store(all(recs)...)
				if n == 1 {
					return errBroken
				}
				return nil
			}
		}, 6},
		{"a part was acknowledged", func(w *world) {
			w.onProduce = func(n int, recs []event.Record, store func(...int)) error {
				if n > 1 {
					store(all(recs)...)
					return nil
				}
				store(0, 2, 4) // one task lives on the partition that works
				return &outbox.PartialError{Acked: []bool{true, false, true, false, true, false}, Err: errBroken}
			}
		}, 0},
		{"a part was acknowledged, the rest happened too", func(w *world) {
			w.onProduce = func(n int, recs []event.Record, store func(...int)) error {
				store(all(recs)...)
				if n > 1 {
					return nil
				}
				return &outbox.PartialError{Acked: []bool{true, false, true, false, true, false}, Err: errBroken}
			}
		}, 3},
		{"marking failed", func(w *world) {
			w.onMark = func(n int, mark func()) error {
				if n == 1 {
					return errBroken
				}
				mark()
				return nil
			}
		}, 0},
		{"marking failed but happened", func(w *world) {
			w.onMark = func(n int, mark func()) error {
				mark()
				if n == 1 {
					return errBroken
				}
				return nil
			}
		}, 0},
		{"reading failed", func(w *world) {
			n := 0
			w.onRead = func() error {
				if n++; n < 4 {
					return errBroken
				}
				return nil
			}
		}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				tt.sabotage(w)
				w.add(3, "a", "b")
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() { relay(w, outbox.Config{}).Run(ctx) })
				time.Sleep(time.Minute) // virtual
				cancel()
				wg.Wait()
				if got := w.check(); got != tt.repeats {
					t.Errorf("%d repeats, want %d", got, tt.repeats)
				}
			})
		})
	}
}

func TestACommitIsPublishedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { relay(w, outbox.Config{}).Run(ctx) })
		synctest.Wait()
		start := time.Now()
		for range 5 {
			w.add(1, "a")
			synctest.Wait()
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("published after %v", d)
		}
		w.check()
		cancel()
		wg.Wait()
	})
}

// A wake-up can be lost when a process ends between its commit and the relay.
func TestRowsWithoutAWakeUpAreFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { relay(w, outbox.Config{}).Run(ctx) })
		synctest.Wait()
		w.mu.Lock() // as add does, without the wake-up
		w.rows = append(w.rows, outbox.Row{ID: 1, TaskID: "a", Event: []byte("left behind")})
		w.mu.Unlock()
		time.Sleep(10 * time.Second)
		w.check()
		cancel()
		wg.Wait()
	})
}

func TestAnOutageIsLoggedAtMostEveryTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		down := true
		w.onProduce = func(_ int, recs []event.Record, store func(...int)) error {
			if down {
				return errBroken
			}
			store(0)
			return nil
		}
		w.add(1, "a")
		var log bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		r := relay(w, outbox.Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
		wg.Go(func() { r.Run(ctx) })
		time.Sleep(2 * time.Minute)
		w.mu.Lock()
		attempts := w.produces
		down = false
		w.mu.Unlock()
		time.Sleep(10 * time.Second)
		cancel()
		wg.Wait()
		w.check()
		if n := strings.Count(log.String(), "publishing failed"); n < 8 || n > 13 {
			t.Errorf("%d lines in two minutes:\n%s", n, log.String())
		}
		if !strings.Contains(log.String(), "pending=1") || strings.Count(log.String(), "publishing works again") != 1 {
			t.Errorf("log:\n%s", log.String())
		}
		if attempts < 20 || attempts > 200 {
			t.Errorf("%d attempts in two minutes", attempts)
		}
	})
}

func TestNothingIsPublishedBeforeTheTopicExists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.add(2, "a")
		n := 0
		prepare := func(context.Context) error {
			if n++; n < 5 {
				return errBroken
			}
			return nil
		}
		w.onProduce = func(_ int, recs []event.Record, store func(...int)) error {
			if n < 5 {
				t.Error("published too early")
			}
			store(0, 1)
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		r := relay(w, outbox.Config{Prepare: prepare})
		wg.Go(func() { r.Run(ctx) })
		time.Sleep(time.Minute)
		cancel()
		wg.Wait()
		w.check()
	})
}

func TestABatchInFlightIsMarkedAfterAStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.add(1, "a")
		ctx, cancel := context.WithCancel(t.Context())
		w.onProduce = func(_ int, _ []event.Record, store func(...int)) error {
			cancel()
			store(0)
			return nil
		}
		relay(w, outbox.Config{}).Run(ctx)
		if repeats := w.check(); repeats != 0 {
			t.Errorf("%d repeats", repeats)
		}
	})
}

// A producer repeats until its context ends; during an outage that must not
// delay a stop.
func TestAStopDuringAnOutageIsQuick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.add(1, "a")
		r := outbox.New(outbox.Config{Topic: "task-events", Log: slog.New(slog.DiscardHandler)}, w, stubborn{})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { r.Run(ctx) })
		time.Sleep(time.Minute)
		start := time.Now()
		cancel()
		wg.Wait()
		if d := time.Since(start); d > 0 {
			t.Errorf("Run went on for %v", d)
		}
	})
}

type stubborn struct{ goOn }

func (stubborn) Produce(ctx context.Context, _ string, _ []event.Record) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.add(2500, "a") // three batches
		if err := relay(w, outbox.Config{}).Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.check()
		if w.produces != 3 {
			t.Errorf("%d batches, want 3", w.produces)
		}
	})
}

func TestFlushGivesUpAndLogsWhatRemains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.onProduce = func(int, []event.Record, func(...int)) error { return errBroken }
		w.add(7, "a")
		var log bytes.Buffer
		r := relay(w, outbox.Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start := time.Now()
		if err := r.Flush(ctx); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d > 3*time.Second {
			t.Errorf("took %v", d)
		}
		if !strings.Contains(log.String(), "pending=7") {
			t.Errorf("log: %s", log.String())
		}
	})
}

func TestRecordOfEachMode(t *testing.T) {
	at := time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)
	body, err := event.AppendChange(nil, event.Change{ID: "0198f3c2-0000-7000-8000-000000000000", Type: event.TypeCreated, Time: at, TaskVersion: 1,
		CorrelationID: "c", Data: event.Data{TaskID: "t", Title: "x", Status: "pending"}})
	if err != nil {
		t.Fatal(err)
	}
	e, err := event.Parse(body)
	if err != nil {
		t.Fatal(err)
	}
	structured := event.Record{Key: []byte("t"), Value: body,
		Headers: []event.Header{{Key: "content-type", Value: []byte("application/cloudevents+json; charset=UTF-8")}}}
	binary, err := event.Binary(e)
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := event.Envelope(e)
	if err != nil {
		t.Fatal(err)
	}
	for mode, want := range map[event.Mode]event.Record{
		"": structured, event.ModeStructured: structured, event.ModeBinary: binary, event.ModeEnvelope: envelope,
	} {
		w := newWorld(t)
		w.rows = []outbox.Row{{ID: 1, TaskID: "t", Event: body}}
		w.onProduce = func(_ int, recs []event.Record, _ func(...int)) error {
			w.topic = recs
			return errBroken // nothing to mark: only the record counts here
		}
		if err := relay(w, outbox.Config{Mode: mode}).Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]event.Record{want}, w.topic); diff != "" {
			t.Errorf("mode %q: record, want (-), got (+):\n%s", mode, diff)
		}
	}
}

func TestMetrics(t *testing.T) {
	w := newWorld(t)
	w.add(5, "a")
	reg := prometheus.NewRegistry()
	r := relay(w, outbox.Config{Registry: reg})
	gather := func() map[string]float64 {
		t.Helper()
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]float64{}
		for _, f := range families {
			m := f.GetMetric()[0]
			out[f.GetName()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
		return out
	}
	want := map[string]float64{
		"taskwire_outbox_pending": 5, "taskwire_outbox_oldest_seconds": 0, "taskwire_outbox_published_total": 0, "taskwire_outbox_failures_total": 0,
	}
	if diff := cmp.Diff(want, gather()); diff != "" {
		t.Errorf("before, want (-), got (+):\n%s", diff)
	}
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	want["taskwire_outbox_pending"], want["taskwire_outbox_published_total"] = 0, 5
	if diff := cmp.Diff(want, gather()); diff != "" {
		t.Errorf("after, want (-), got (+):\n%s", diff)
	}
}

type goOn struct{}

func (goOn) Partitions(context.Context, string) (int, error) { return 1, nil }
func (goOn) Partition(string, int) int                       { return 0 }
