package index

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// BenchmarkApply adds entries of known tasks, 30 at a time, and looks for each before,
// as an append does. CPU is that of the process, with flushes and compactions.
func BenchmarkApply(b *testing.B) {
	for _, tasks := range []int{1000, 100_000} {
		b.Run(fmt.Sprint(tasks), func(b *testing.B) { benchmarkApply(b, tasks) })
	}
}

func benchmarkApply(b *testing.B, tasks int) {
	x, err := Open(filepath.Join(b.TempDir(), "index"), Config{HasRoom: func() bool { return true }, Changed: func() {}})
	if err != nil {
		b.Fatal(err)
	}
	defer x.Close()
	now := time.Now().UnixMilli()
	list := make([]Entry, 0, 30)
	b.ResetTimer()
	before := cpu()
	for seq := int64(1); seq <= int64(b.N); seq++ {
		id := fmt.Appendf(nil, `"%08x-%04x-7%03x-8%03x-%012x"`, now>>16, now&0xffff, rand.IntN(1<<12), rand.IntN(1<<12), rand.IntN(1<<48))
		if seq%10 == 0 {
			now++
		}
		e := x.Identify([]byte(`"s"`), id, fmt.Appendf(nil, `"t-%d"`, seq%int64(tasks)), 1, true)
		e.Seq, e.At = seq, seq*600
		if found, err := x.Find(e.Event); err != nil || len(found) > 0 {
			b.Fatal(found, err)
		}
		if list = append(list, e); len(list) == cap(list) {
			if err := x.Apply(list, Head{Seq: seq}); err != nil {
				b.Fatal(err)
			}
			list = list[:0]
		}
	}
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/entry")
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
