package pgstore_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/taskwire/taskwire/internal/pgtest"
	"github.com/taskwire/taskwire/internal/postgres"
	"github.com/taskwire/taskwire/taskapi/internal/store/pgstore"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// BenchmarkChanges compares one transaction for all changes that wait with one for
// each change. A change is a create or the completion of that task.
func BenchmarkChanges(b *testing.B) {
	for _, shape := range []struct{ writers, batch int }{{1, 512}, {2, 512}, {4, 512}, {16, 1}, {32, 1}, {1, 1}} {
		for _, callers := range []int{1, 64, 256} {
			b.Run(fmt.Sprintf("writers=%d/batch=%d/callers=%d", shape.writers, shape.batch, callers), func(b *testing.B) {
				s, err := pgstore.Open(b.Context(), pgstore.Shape(config(pgtest.Start(b)), shape.writers, shape.batch))
				if err != nil {
					b.Fatal(err)
				}
				ctx, cancel := context.WithCancel(b.Context())
				done := make(chan error, 1)
				go func() { done <- s.Run(ctx) }()
				var n atomic.Int64
				b.SetParallelism(max(1, callers/2))
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					for last := ""; pb.Next(); {
						if last != "" {
							if _, err := s.Update(ctx, task.Update{ID: last, Patch: task.Complete(), Origin: origin}); err != nil {
								b.Error(err)
							}
							last = ""
							continue
						}
						a, err := s.Create(ctx, task.Create{Title: fmt.Sprint(n.Add(1)), Origin: origin})
						if err != nil {
							b.Error(err)
						}
						last = a.Task.ID
					}
				})
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "changes/s")
				cancel()
				if err := <-done; err != nil {
					b.Error(err)
				}
				_ = s.Close()
			})
		}
	}
}

// BenchmarkNotify compares commits that tell the relay in their transaction with
// those that do it after, as announce does, and with none that do.
func BenchmarkNotify(b *testing.B) {
	for _, how := range []string{"none", "inside", "after"} {
		b.Run(how, func(b *testing.B) {
			db := pgtest.Start(b)
			pool, err := postgres.Open(b.Context(), postgres.Config{URL: db.URL}, 17)
			if err != nil {
				b.Fatal(err)
			}
			defer pool.Close()
			if _, err := pool.Exec(b.Context(), "CREATE TABLE t (n int)"); err != nil {
				b.Fatal(err)
			}
			statement := "INSERT INTO t VALUES (1)"
			if how == "inside" {
				statement = "WITH sent AS (SELECT pg_notify('c', '')) INSERT INTO t SELECT 1 FROM sent"
			}
			committed, done := make(chan struct{}, 1), make(chan struct{})
			go func() {
				defer close(done)
				for range committed {
					if _, err := pool.Exec(b.Context(), "SELECT set_config('synchronous_commit', 'off', true), pg_notify('c', '')"); err != nil {
						b.Error(err)
					}
				}
			}()
			b.SetParallelism(8)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := pool.Exec(b.Context(), statement); err != nil {
						b.Error(err)
					}
					if how != "after" {
						continue
					}
					select {
					case committed <- struct{}{}:
					default:
					}
				}
			})
			b.StopTimer()
			close(committed)
			<-done
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
		})
	}
}

// BenchmarkOutbox is what one relay can read and mark, without Kafka.
func BenchmarkOutbox(b *testing.B) {
	db := pgtest.Start(b)
	s, err := pgstore.Open(b.Context(), config(db))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	if _, err := db.Connect(b).Exec(b.Context(), fmt.Sprintf(`INSERT INTO taskapi.outbox SELECT nextval('taskapi.outbox_id'), gen_random_uuid(), decode(repeat('7b', 600), 'hex'), now() FROM generate_series(1, %d);
		INSERT INTO taskapi.unpublished SELECT id FROM taskapi.outbox`, b.N)); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for n := 0; n < b.N; {
		page, err := s.Next(b.Context(), 0, 1000, 512<<10)
		if err != nil || len(page.Rows) == 0 {
			b.Fatal(n, err)
		}
		var ids []int64
		for _, row := range page.Rows {
			ids = append(ids, row.ID)
		}
		if err := s.Published(b.Context(), ids); err != nil {
			b.Fatal(err)
		}
		n += len(ids)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
