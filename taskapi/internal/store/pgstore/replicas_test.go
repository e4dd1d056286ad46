package pgstore_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/pgtest"
	"github.com/taskwire/taskwire/taskapi/internal/store/pgstore"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

func key(value string) task.IdempotencyKey {
	return task.IdempotencyKey{Value: value, Fingerprint: sha256.Sum256([]byte(value))}
}

// topic is what a relay has published: the versions of each task in their order.
type topic struct {
	mu       sync.Mutex
	versions map[string][]int64
	settled  int64 // the highest that Next has reported
}

// publish takes what waits until ctx ends and nothing does.
func (p *topic) publish(t *testing.T, ctx context.Context, s *pgstore.Store) {
	for {
		page, err := s.Next(context.WithoutCancel(ctx), 0, 50, 1<<20)
		if err != nil {
			if !errors.Is(err, task.ErrUnavailable) {
				t.Errorf("Next: %v", err)
			}
			if ctx.Err() != nil {
				return
			}
			continue
		}
		if len(page.Rows) == 0 && ctx.Err() != nil {
			return
		}
		var ids []int64
		p.mu.Lock()
		for _, row := range page.Rows {
			if row.ID <= p.settled {
				t.Errorf("row %d appeared after %d was settled", row.ID, p.settled)
			}
			e, err := event.Parse(row.Event)
			if err != nil {
				t.Error(err)
			}
			v, _ := event.TaskVersion(e)
			p.versions[row.TaskID] = append(p.versions[row.TaskID], v)
			ids = append(ids, row.ID)
		}
		p.mu.Unlock()
		for s.Published(context.WithoutCancel(ctx), ids) != nil { // what is marked is never above what is published
			if t.Failed() {
				return
			}
		}
		p.settled = max(p.settled, min(page.Settled, last(ids)))
	}
}

func last(ids []int64) int64 {
	if len(ids) == 0 {
		return 0
	}
	return ids[len(ids)-1]
}

// check wants every version of every task from 1, in order.
func (p *topic) check(t *testing.T, acknowledged map[string]int64) {
	t.Helper()
	for id, versions := range p.versions {
		for i, v := range versions {
			if v != int64(i+1) {
				t.Fatalf("task %s: published versions %v", id, versions)
			}
		}
	}
	for id, v := range acknowledged {
		if int64(len(p.versions[id])) < v {
			t.Errorf("task %s was acknowledged at version %d, %d are published", id, v, len(p.versions[id]))
		}
	}
}

// load changes tasks through replicas until done returns true. A change with an unknown
// outcome is repeated under its key, through any replica, until there is an answer.
func load(t *testing.T, replicas []*pgstore.Store, done func(changes int) bool) map[string]int64 {
	var mu sync.Mutex
	acknowledged := map[string]int64{}
	changes := 0
	var ids []string
	note := func(a task.Answer) {
		mu.Lock()
		defer mu.Unlock()
		changes++
		if acknowledged[a.Task.ID] == 0 {
			ids = append(ids, a.Task.ID)
		}
		acknowledged[a.Task.ID] = max(acknowledged[a.Task.ID], a.Task.Version)
	}
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 7))
			for n := 0; !t.Failed(); n++ {
				mu.Lock()
				end, known := done(changes), len(ids)
				target := ""
				if known > 0 {
					target = ids[rnd.IntN(known)]
				}
				mu.Unlock()
				if end {
					return
				}
				k, versions := key(fmt.Sprintf("%d-%d", w, n)), map[int64]bool{}
				for answered := false; !answered && !t.Failed(); {
					s := replicas[rnd.IntN(len(replicas))]
					var a task.Answer
					var err error
					if known < 20 {
						a, err = s.Create(t.Context(), task.Create{Title: "x", Origin: origin, IdempotencyKey: k})
					} else {
						a, err = s.Update(t.Context(), task.Update{ID: target, Patch: task.Patch{Title: new(fmt.Sprintf("%d-%d", w, n))}, Origin: origin, IdempotencyKey: k})
					}
					busy := (*task.BusyError)(nil)
					switch {
					case err == nil:
						versions[a.Task.Version] = true
						note(a)
						answered = rnd.IntN(4) > 0 // sometimes again, for the same answer
					case !errors.Is(err, task.ErrUnavailable) && !errors.As(err, &busy):
						t.Errorf("change: %v", err)
					}
				}
				if len(versions) > 1 {
					t.Errorf("several answers under one key: versions %v", versions)
				}
			}
		})
	}
	wg.Wait()
	return acknowledged
}

// run publishes while it loads, and checks what was published.
func run(t *testing.T, db *pgtest.Database, replicas int, done func(changes int) bool) {
	t.Helper()
	var all []*pgstore.Store
	for range replicas + 1 {
		s, _ := start(t, config(db))
		all = append(all, s)
	}
	p := &topic{versions: map[string][]int64{}}
	ctx, stop := context.WithCancel(t.Context())
	var publishing sync.WaitGroup
	publishing.Go(func() { p.publish(t, ctx, all[replicas]) })
	acknowledged := load(t, all[:replicas], done)
	stop()
	publishing.Wait()
	p.check(t, acknowledged)
}

func TestReplicasKeepTheOrderOfEachTask(t *testing.T) {
	run(t, pgtest.Start(t), 3, func(changes int) bool { return changes >= 6000 })
}

// Sessions that an administrator ends, in the middle of commits, too.
func TestTerminatedSessionsLoseNothing(t *testing.T) {
	db := pgtest.Start(t)
	ends := 0
	run(t, db, 2, func(changes int) bool {
		if changes/150 > ends { // under the load's lock, one at a time
			ends++
			if _, err := db.Server.Terminate(t.Context(), databaseName(t, db)); err != nil {
				t.Error(err)
			}
		}
		return changes >= 3000
	})
	if ends < 10 {
		t.Errorf("only %d times", ends)
	}
}

func databaseName(t *testing.T, db *pgtest.Database) string {
	conn := db.Connect(t)
	defer conn.Close(t.Context())
	return conn.Config().Database
}

// What was acknowledged survives an immediate stop under load, and everything goes on.
func TestAnImmediateStopLosesNothing(t *testing.T) {
	server := pgtest.StartOwn(t)
	db := server.Database(t)
	stops := 0
	run(t, db, 2, func(changes int) bool {
		if stops < 3 && changes/500 > stops {
			stops++
			if err := errors.Join(server.Immediate(), server.Restart()); err != nil {
				t.Error(err)
			}
		}
		return changes >= 2500
	})
}

// One request, sent to two replicas at the same time, is made once.
func TestAKeyHoldsAcrossReplicas(t *testing.T) {
	db := pgtest.Start(t)
	one, _ := start(t, config(db))
	two, _ := start(t, config(db))
	for i := range 200 {
		var answers [2]task.Answer
		var wg sync.WaitGroup
		for r, s := range []*pgstore.Store{one, two} {
			wg.Go(func() {
				var err error
				if answers[r], err = s.Create(t.Context(), task.Create{Title: "x", Origin: origin, IdempotencyKey: key(fmt.Sprint(i))}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if answers[0].Task != answers[1].Task || answers[0].Replayed == answers[1].Replayed {
			t.Fatalf("answers %+v and %+v", answers[0], answers[1])
		}
	}
	if b, err := one.Backlog(t.Context()); err != nil || b.Count != 200 {
		t.Errorf("%d events, %v; want 200", b.Count, err)
	}
}

// Of several changes of the same version one succeeds.
func TestAVersionIsTakenOnceAcrossReplicas(t *testing.T) {
	db := pgtest.Start(t)
	one, _ := start(t, config(db))
	two, _ := start(t, config(db))
	a, err := one.Create(t.Context(), task.Create{Title: "x", Origin: origin})
	if err != nil {
		t.Fatal(err)
	}
	for v := int64(1); v <= 50; v++ {
		var won, lost int
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 6 {
			s := []*pgstore.Store{one, two}[i%2]
			wg.Go(func() {
				_, err := s.Update(t.Context(), task.Update{ID: a.Task.ID, Match: []int64{v}, Patch: task.Patch{Title: new(fmt.Sprintf("%d %d", v, i))}, Origin: origin})
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					won++
				case errors.Is(err, task.ErrVersion):
					lost++
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won != 1 || lost != 5 {
			t.Fatalf("version %d: %d won and %d lost", v, won, lost)
		}
	}
}

// A transaction that is held open delays the changes of its task only, for a
// stated time; and a row whose transaction commits late is not skipped.
func TestAHeldOpenTransaction(t *testing.T) {
	db := pgtest.Start(t)
	s, _ := start(t, config(db))
	create := func() task.Task {
		t.Helper()
		a, err := s.Create(t.Context(), task.Create{Title: "x", Origin: origin})
		if err != nil {
			t.Fatal(err)
		}
		return a.Task
	}
	locked, other := create(), create()
	tx, err := db.Connect(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var late int64
	if _, err := tx.Exec(t.Context(), "SELECT FROM taskapi.task WHERE id = $1 FOR UPDATE", locked.ID); err != nil {
		t.Fatal(err)
	}
	if err := tx.QueryRow(t.Context(), "INSERT INTO taskapi.outbox SELECT nextval('taskapi.outbox_id'), task_id, event, created_at FROM taskapi.outbox LIMIT 1 RETURNING id").Scan(&late); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "INSERT INTO taskapi.unpublished VALUES ($1)", late); err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error, 1)
	go func() {
		_, err := s.Update(t.Context(), task.Update{ID: locked.ID, Patch: task.Complete(), Origin: origin})
		waiting <- err
	}()
	began := time.Now()
	for range 50 {
		create()
		if _, err := s.Update(t.Context(), task.Update{ID: other.ID, Patch: task.Patch{Title: new(time.Now().String())}, Origin: origin}); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("other tasks were delayed by %v", took)
	}
	var busy *task.BusyError
	if err := <-waiting; !errors.As(err, &busy) {
		t.Errorf("a change of the locked task: %v, want a *task.BusyError", err)
	}
	for range 3 {
		page, err := s.Next(t.Context(), 0, 1000, 1<<20)
		if err != nil || len(page.Rows) != 102 || page.Settled >= late {
			t.Fatalf("%d rows, settled %d, %v; want 102 and less than the open transaction's %d", len(page.Rows), page.Settled, err, late)
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		page, err := s.Next(t.Context(), late-1, 1000, 1<<20)
		if err != nil || len(page.Rows) == 0 || page.Rows[0].ID != late {
			t.Fatalf("the late row is not there: %v", err)
		}
		if page.Settled >= late {
			return
		}
	}
	t.Error("the late row was never settled")
}

// A sequence that nobody has drawn from already shows its first number.
func TestNothingIsSettledBeforeItIsDrawn(t *testing.T) {
	s, _ := start(t, config(pgtest.Start(t)))
	for range 3 {
		if page, err := s.Next(t.Context(), 0, 10, 1<<20); err != nil || page.Settled != 0 {
			t.Fatalf("settled %d, %v; want 0", page.Settled, err)
		}
	}
	if _, err := s.Create(t.Context(), task.Create{Title: "x", Origin: origin}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		page, err := s.Next(t.Context(), 0, 10, 1<<20)
		if err != nil || len(page.Rows) != 1 {
			t.Fatalf("%d rows, %v", len(page.Rows), err)
		}
		if page.Settled == page.Rows[0].ID {
			return
		}
	}
	t.Error("the only row was never settled")
}
