package store

import (
	"testing"
	"time"

	"github.com/taskwire/taskwire/taskapi/internal/task"
)

func BenchmarkEncode(b *testing.B) {
	now := time.Now().Truncate(time.Microsecond)
	a := task.Answer{Task: task.New(newID(now), "Buy milk", newID(now), now), Kind: task.WasCreated}
	origin := task.Origin{CorrelationID: newID(now), TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := encode(a, origin, now); err != nil {
			b.Fatal(err)
		}
	}
}
