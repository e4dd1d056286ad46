package pgstore_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/taskwire/taskwire/internal/pgtest"
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
