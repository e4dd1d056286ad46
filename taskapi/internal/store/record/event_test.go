package record_test

import (
	"testing"
	"time"

	"github.com/taskwire/taskwire/taskapi/internal/store/record"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

func BenchmarkEvent(b *testing.B) {
	now := time.Now().Truncate(time.Microsecond)
	a := task.Answer{Task: task.New(record.NewID(now), "Buy milk", record.NewID(now), now), Kind: task.WasCreated}
	origin := task.Origin{CorrelationID: record.NewID(now), TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := record.Event(a, origin, now, nil, ""); err != nil {
			b.Fatal(err)
		}
	}
}
