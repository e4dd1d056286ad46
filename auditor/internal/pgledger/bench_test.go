package pgledger_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/auditor/internal/storetest"
	"github.com/taskwire/taskwire/internal/pgtest"
)

// BenchmarkAppend appends with 64 callers, one event or a hundred at a time, with
// one auditor and with two on the same database.
func BenchmarkAppend(b *testing.B) {
	for _, c := range []struct{ auditors, batch int }{{1, 1}, {1, 100}, {2, 1}} {
		b.Run(fmt.Sprintf("auditors=%d/batch=%d", c.auditors, c.batch), func(b *testing.B) {
			db := pgtest.Start(b)
			ledgers := make([]interface {
				Append(...ledger.Entry) []ledger.Outcome
			}, c.auditors)
			for i := range ledgers {
				l := open(b, config(db.URL))
				defer l.Close()
				ledgers[i] = l
			}
			var next atomic.Int64
			b.SetParallelism(32)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					n := next.Add(1)
					entries := make([]ledger.Entry, c.batch)
					for i := range entries {
						entries[i] = storetest.Event(fmt.Sprintf("t%d-%d", n, i), 1)
					}
					for _, out := range ledgers[n%int64(c.auditors)].Append(entries...) {
						if out.Err != nil {
							b.Error(out.Err)
						}
					}
				}
			})
			b.ReportMetric(float64(b.N*c.batch)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}
