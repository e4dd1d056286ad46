package store

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// The short way to an event gives the bytes of the long one, or nothing.
func TestTheTwoEncodersAgree(t *testing.T) {
	short := 0
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.StringMatching(`[ -~]{1,40}`), rapid.StringMatching(`[a-z ]{1,40}`), rapid.StringMatching(`\PC{1,10}`))
		now := time.UnixMicro(rapid.Int64Range(0, 1<<52).Draw(t, "time"))
		a := task.Answer{
			Kind: rapid.SampledFrom([]task.Kind{task.WasCreated, task.WasUpdated, task.WasCompleted}).Draw(t, "kind"),
			Task: task.Task{
				ID: newID(now), Title: text.Draw(t, "title"), Version: rapid.Int64Range(1, 1<<31-1).Draw(t, "version"),
				Status:  rapid.SampledFrom([]task.Status{task.Pending, task.InProgress, task.Completed}).Draw(t, "status"),
				OwnerID: rapid.SampledFrom([]string{"", newID(now)}).Draw(t, "owner"),
			},
		}
		origin := task.Origin{
			CorrelationID: rapid.StringMatching(`[ -~]{1,128}`).Draw(t, "correlation"),
			Actor:         rapid.SampledFrom([]string{"", "alice"}).Draw(t, "actor"),
			TraceParent:   rapid.SampledFrom([]string{"", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}).Draw(t, "trace"),
		}
		id := newID(now)
		want, err := encodeAny(a, origin, id, now)
		if err != nil {
			t.Fatal(err)
		}
		got := encodePlain(a, origin, id, now)
		if got == nil {
			return
		}
		short++
		if string(got) != string(want) {
			t.Fatalf("short: %s\nlong:  %s", got, want)
		}
	})
	if short < 5 {
		t.Errorf("the short way was taken %d times only", short)
	}
}

func BenchmarkEncode(b *testing.B) {
	now := time.Now().Truncate(time.Microsecond)
	a := task.Answer{Task: task.New(newID(now), "Buy milk", "", now), Kind: task.WasCreated}
	origin := task.Origin{CorrelationID: newID(now)}
	b.Run("plain", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if encodePlain(a, origin, "id", now) == nil {
				b.Fatal("refused")
			}
		}
	})
	b.Run("any", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := encodeAny(a, origin, "id", now); err != nil {
				b.Fatal(err)
			}
		}
	})
}
