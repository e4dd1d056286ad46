package ledger_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
)

// BenchmarkAppend is 64 goroutines that append an entry at a time and wait, to an
// empty log, or to the one in LEDGER_BENCH_LOG.
func BenchmarkAppend(b *testing.B) {
	var syncs atomic.Int64
	path := os.Getenv("LEDGER_BENCH_LOG")
	if path == "" {
		path = logPath(b)
	}
	l, err := ledger.Open(context.Background(), ledger.Config{Path: path, OnSync: func(time.Duration, int) { syncs.Add(1) }})
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
				n := uint64(time.Now().UnixNano())
				e := newEntry(uuidV7(time.Now(), uint64(w)), v)
				e.ID = uuidV7(time.Now(), n)
				if out := l.Append(e)[0]; out.Err != nil {
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
// the time and the memory of the index. LEDGER_BENCH_ENTRIES sets another size,
// LEDGER_BENCH_LOG a log that is kept, to start an auditor with.
func BenchmarkOpen(b *testing.B) {
	n := 1_000_000
	if s := os.Getenv("LEDGER_BENCH_ENTRIES"); s != "" {
		if _, err := fmt.Sscan(s, &n); err != nil {
			b.Fatal(err)
		}
	}
	path := os.Getenv("LEDGER_BENCH_LOG")
	if path == "" {
		path = filepath.Join(b.TempDir(), "audit.log")
	}
	if _, err := os.Stat(path); err != nil {
		fill(b, path, n)
	}
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		before := heap()
		began := time.Now()
		var progress rate.Sometimes
		progress.Interval = 5 * time.Second
		l, err := ledger.Open(context.Background(), ledger.Config{Path: path, OnIndex: func(done, total int64) {
			progress.Do(func() { b.Logf("%d of %d MB after %v", done>>20, total>>20, time.Since(began)) })
		}})
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

// fill writes the log without Append: ten million entries take some seconds.
func fill(b *testing.B, path string, n int) {
	b.Helper()
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range n {
		at := began.Add(time.Duration(i) * time.Millisecond)
		e := newEntry(uuidV7(began.Add(time.Duration(i/3)*time.Millisecond), uint64(i/3)), i%3+1)
		e.ID = uuidV7(at, uint64(i))
		line, err := ledger.RenderLine(e, int64(i+1), at)
		if err != nil {
			b.Fatal(err)
		}
		_, _ = w.Write(line) // Flush returns the first error
	}
	if err := w.Flush(); err != nil {
		b.Fatal(err)
	}
}

func uuidV7(at time.Time, n uint64) string {
	h := n * 0x9e3779b97f4a7c15
	ms := at.UnixMilli()
	return fmt.Sprintf("%08x-%04x-7%03x-8%03x-%012x", ms>>16, ms&0xffff, h>>52, h>>40&0xfff, h&(1<<48-1))
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
