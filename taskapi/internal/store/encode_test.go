package store

import (
	"testing"
	"time"

	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// TestEncodeAllocatesAnIDAndTheBytes: all changes wait for the goroutine that encodes.
func TestEncodeAllocatesAnIDAndTheBytes(t *testing.T) {
	answer, origin, now := ownedTask()
	got := testing.AllocsPerRun(100, func() {
		if _, err := encode(answer, origin, now); err != nil {
			t.Fatal(err)
		}
	})
	if got > 2 {
		t.Errorf("%v allocations, want 2", got)
	}
}

func BenchmarkEncode(b *testing.B) {
	answer, origin, now := ownedTask()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := encode(answer, origin, now); err != nil {
			b.Fatal(err)
		}
	}
}

func ownedTask() (task.Answer, task.Origin, time.Time) {
	now := time.Now().Truncate(time.Microsecond)
	origin := task.Origin{CorrelationID: newID(now), TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	return task.Answer{Task: task.New(newID(now), "Buy milk", newID(now), now), Kind: task.WasCreated}, origin, now
}
