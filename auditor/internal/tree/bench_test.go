package tree

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
)

// BenchmarkLeaf is what the tree costs for each entry beside the hash of its line,
// tiles not written.
func BenchmarkLeaf(b *testing.B) {
	var e Edge
	for i := 0; b.Loop(); i++ {
		var leaf [32]byte
		binary.BigEndian.PutUint64(leaf[:], uint64(i))
		e.Append(leaf)
	}
}

// BenchmarkLedger appends from 64 goroutines to a log with a tree and to one
// without, in turns on the same disk. x-bare is the ratio of their rates.
func BenchmarkLedger(b *testing.B) {
	const turn, writers = 2000, 64
	var took [2]time.Duration
	var append [2]func(n int)
	for i, with := range []bool{false, true} {
		append[i] = openForBench(b, with, writers)
	}
	n := 0
	for ; b.Loop(); n++ {
		for k := range 2 {
			i := (k + n) % 2
			began := time.Now()
			append[i](turn)
			took[i] += time.Since(began)
		}
	}
	b.ReportMetric(float64(n*turn)/took[0].Seconds(), "without/s")
	b.ReportMetric(float64(n*turn)/took[1].Seconds(), "with/s")
	b.ReportMetric(took[0].Seconds()/took[1].Seconds(), "x-without")
}

func openForBench(b *testing.B, with bool, writers int) func(n int) {
	b.Helper()
	dir := b.TempDir()
	var l *Log
	cfg := ledger.Config{Path: filepath.Join(dir, "audit.log")}
	if with {
		cfg.OnLines = func(first int64, leaves [][32]byte) error { l.Append(first, leaves); return nil }
	}
	log, err := ledger.Open(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	if with {
		l = openTreeForBench(b, dir, 0, func(context.Context, int64, int64, func([32]byte) error) error { return nil })
		wg.Go(func() { _ = l.Run(ctx) })
	}
	b.Cleanup(func() { log.Close(); stop(); wg.Wait() })
	next := 0
	return func(n int) {
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for v := range n / writers {
					for _, out := range log.Append(ledger.Entry{ID: fmt.Sprintf("%d-%d-%d", next, w, v), Source: "task-api", Type: "task.updated", Time: "2025-01-15T10:30:00Z",
						Attributes: []ledger.Attribute{{Name: "subject", Value: "t"}}, Data: []byte(`{"task_id":"0198a5b0-7d1c-7000-8000-000000000000","title":"` + strings.Repeat("x", 100) + `","status":"pending","owner_id":null}`)}) {
						if out.Err != nil {
							b.Error(out.Err)
						}
					}
				}
			})
		}
		wg.Wait()
		next++
	}
}

func openTreeForBench(b *testing.B, dir string, lines int64, source Source) *Log {
	b.Helper()
	folder, err := OpenFolder(dir)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { folder.Close() })
	skey, err := os.ReadFile(filepath.Join(dir, "key"))
	if err != nil {
		text, err := NewKey("")
		if err != nil {
			b.Fatal(err)
		}
		skey = []byte(text)
		if err := os.WriteFile(filepath.Join(dir, "key"), skey, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	keys, err := ParseKeys(skey)
	if err != nil {
		b.Fatal(err)
	}
	l, err := Open(b.Context(), Config{Store: folder, Source: source, Lines: lines, Keys: func() (*Keys, error) { return keys, nil }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	return l
}

// BenchmarkLarge makes the tree of a million leaves, or of TREE_BENCH_LEAVES, and
// measures a start, the proof of an entry and its verification.
func BenchmarkLarge(b *testing.B) {
	n := int64(1_000_000)
	if s := os.Getenv("TREE_BENCH_LEAVES"); s != "" {
		if _, err := fmt.Sscan(s, &n); err != nil {
			b.Fatal(err)
		}
	}
	dir := b.TempDir()
	source := func(_ context.Context, after, upTo int64, yield func([32]byte) error) error {
		for i := after; i < upTo; i++ {
			if err := yield(Leaf(binary.BigEndian.AppendUint64(nil, uint64(i)))); err != nil {
				return err
			}
		}
		return nil
	}
	began := time.Now()
	l := openTreeForBench(b, dir, n, source)
	var wg sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	wg.Go(func() { _ = l.Run(ctx) })
	if _, err := l.Prove(b.Context(), n); err != nil {
		b.Fatal(err)
	}
	b.Logf("%d leaves with their tiles in %v", n, time.Since(began))
	stop()
	wg.Wait()
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			openTreeForBench(b, dir, n, source)
		}
	})
	b.Run("prove", func(b *testing.B) {
		for i := int64(0); b.Loop(); i++ {
			if _, err := l.Prove(b.Context(), i*7919%n+1); err != nil {
				b.Fatal(err)
			}
		}
	})
	p, err := l.Prove(b.Context(), n/2)
	if err != nil {
		b.Fatal(err)
	}
	keys, err := l.cfg.Keys()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("verify-proof", func(b *testing.B) {
		for b.Loop() {
			if _, err := p.Verify(binary.BigEndian.AppendUint64(nil, uint64(n/2-1)), keys.Verifiers...); err != nil {
				b.Fatal(err)
			}
		}
	})
}
