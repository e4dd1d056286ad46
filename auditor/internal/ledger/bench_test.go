package ledger_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
)

// BenchmarkAppend is 64 goroutines that append an entry at a time and wait.
func BenchmarkAppend(b *testing.B) {
	var syncs atomic.Int64
	l, err := ledger.Open(context.Background(), ledger.Config{Path: logPath(b), OnSync: func(time.Duration, int) { syncs.Add(1) }})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for w := range 64 {
		wg.Go(func() {
			for v := 1; next.Add(1) <= int64(b.N); v++ {
				if out := l.Append(newEntry(fmt.Sprintf("task-%d", w), v))[0]; out.Err != nil {
					b.Error(out.Err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
	b.ReportMetric(float64(b.N)/float64(syncs.Load()), "appends/fsync")
}

// BenchmarkOpen opens a log of a million entries, three per task, and measures
// the time and the memory of the index. LEDGER_BENCH_ENTRIES sets another size.
func BenchmarkOpen(b *testing.B) {
	n := 1_000_000
	if s := os.Getenv("LEDGER_BENCH_ENTRIES"); s != "" {
		if _, err := fmt.Sscan(s, &n); err != nil {
			b.Fatal(err)
		}
	}
	path := filepath.Join(b.TempDir(), "audit.log")
	fill(b, path, n)
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		before := heap()
		began := time.Now()
		l, err := ledger.Open(context.Background(), ledger.Config{Path: path})
		if err != nil {
			b.Fatal(err)
		}
		took := time.Since(began)
		b.ReportMetric(took.Seconds(), "s/open")
		b.ReportMetric(float64(info.Size())/took.Seconds()/1e6, "MB/s")
		b.ReportMetric(float64(heap()-before)/float64(n), "heap-B/entry")
		if l.Len() != int64(n) {
			b.Fatalf("%d entries", l.Len())
		}
		l.Close()
	}
}

func fill(b *testing.B, path string, n int) {
	b.Helper()
	l, err := ledger.Open(context.Background(), ledger.Config{Path: path})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	batch := make([]ledger.Entry, 0, 10_000)
	for i := range n {
		batch = append(batch, newEntry(fmt.Sprintf("0195a1b2-c3d4-7e5f-8a6b-%012d", i/3), i%3+1))
		if len(batch) == cap(batch) || i == n-1 {
			for _, out := range l.Append(batch...) {
				if out.Err != nil || out.VersionGap != nil {
					b.Fatal(out)
				}
			}
			batch = batch[:0]
		}
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
