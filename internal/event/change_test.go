package event_test

import (
	"testing"
	"time"

	ce "github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
	jsonv2 "github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/taskwire/taskwire/internal/event"
)

func sampleChange() event.Change {
	owner := "7b1f6a52-3c59-4c5c-8d0e-1f2a3b4c5d6e"
	return event.Change{
		ID:            "0197a0b1-2c3d-7e4f-8a5b-6c7d8e9f0a1b",
		Type:          event.TypeUpdated,
		Time:          time.Date(2026, 1, 2, 4, 4, 5, 678900000, time.FixedZone("", 3600)),
		TaskVersion:   3,
		CorrelationID: "order-66",
		Actor:         `Größe "x" 100%`,
		TraceParent:   "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		TraceState:    "vendor=1",
		Data:          event.Data{TaskID: "4f3c2b1a-0000-4000-8000-00000000002a", Title: `Buy <b>"milk"</b> & brød`, Status: "in_progress", OwnerID: &owner},
	}
}

// reference makes the event of c with the SDK and a JSON encoder.
func reference(c event.Change) (event.Event, error) {
	data, err := jsonv2.Marshal(c.Data)
	if err != nil {
		return event.Event{}, err
	}
	ctx := &ce.EventContextV1{
		ID: c.ID, Type: c.Type, Source: *types.ParseURIRef(event.Source), Time: &types.Timestamp{Time: c.Time},
		Subject: &c.Data.TaskID, DataContentType: new("application/json"),
		Extensions: map[string]any{event.PartitionKey: c.Data.TaskID, event.VersionOfTask: int32(c.TaskVersion)},
	}
	for name, value := range map[string]string{event.CorrelationID: c.CorrelationID, event.Actor: c.Actor, event.TraceParent: c.TraceParent, event.TraceState: c.TraceState} {
		if value != "" {
			ctx.Extensions[name] = value
		}
	}
	return event.Event{Context: ctx, DataEncoded: data}, nil
}

// TestAppendChangeWritesWhatAppendWould also for texts that neither may write.
func TestAppendChangeWritesWhatAppendWould(t *testing.T) {
	written := 0
	rapid.Check(t, func(t *rapid.T) {
		usual := rapid.StringMatching(`[a-zA-Z0-9 .:-]{1,40}`)
		unusual := rapid.OneOf(
			rapid.StringMatching(`[ -~]{1,40}`),
			rapid.StringOfN(rapid.RuneFrom([]rune("aZ\"\\/<>&%ü€😀\u2028\u2029\n\x00\x7f\u0085\ufffe\ufffd")), 0, 20, -1),
			rapid.SampledFrom([]string{"", "\xff", "a\xc3", string(make([]byte, 2000)), string(make([]rune, 2049))}),
			rapid.StringOfN(rapid.RuneFrom([]rune("xé")), 1800, 2100, -1), // about the limits of one value and of all
		)
		text := rapid.OneOf(usual, usual, usual, unusual)
		c := event.Change{
			ID:            text.Draw(t, "id"),
			Type:          rapid.SampledFrom([]string{event.TypeCreated, event.TypeUpdated, event.TypeCompleted}).Draw(t, "type"),
			Time:          time.Unix(0, rapid.Int64().Draw(t, "time")),
			TaskVersion:   rapid.Int64Range(1, 1<<31-1).Draw(t, "version"),
			CorrelationID: text.Draw(t, "correlation id"),
			Actor:         text.Draw(t, "actor"),
			TraceParent:   text.Draw(t, "trace parent"),
			TraceState:    text.Draw(t, "trace state"),
			Data:          event.Data{TaskID: text.Draw(t, "task id"), Title: text.Draw(t, "title"), Status: text.Draw(t, "status")},
		}
		if rapid.Bool().Draw(t, "owned") {
			c.Data.OwnerID = new(text.Draw(t, "owner id"))
		}
		e, wantErr := reference(c)
		var want []byte
		if wantErr == nil {
			want, wantErr = event.Append([]byte("before"), e)
		}
		got, err := event.AppendChange([]byte("before"), c)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("AppendChange: %v, Append: %v", err, wantErr)
		}
		if err != nil {
			if string(got) != "before" {
				t.Fatalf("a refused change was written as %q", got)
			}
			return
		}
		written++
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Fatalf("(-Append +AppendChange):\n%s", diff)
		}
	})
	if written < 10 {
		t.Errorf("only %d changes were written: most of what is drawn is refused", written)
	}
}

func TestAppendChangeRefusesWhatNoTaskEventHas(t *testing.T) {
	if _, err := event.AppendChange(nil, sampleChange()); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*event.Change){
		"type":           func(c *event.Change) { c.Type = "task.deleted" },
		"id":             func(c *event.Change) { c.ID = "" },
		"time":           func(c *event.Change) { c.Time = time.Time{} },
		"year":           func(c *event.Change) { c.Time = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"version":        func(c *event.Change) { c.TaskVersion = 0 },
		"large version":  func(c *event.Change) { c.TaskVersion = 1 << 31 },
		"task id":        func(c *event.Change) { c.Data.TaskID = "" },
		"title":          func(c *event.Change) { c.Data.Title = "\xff" },
		"correlation id": func(c *event.Change) { c.CorrelationID = "a\nb" },
	} {
		c := sampleChange()
		spoil(&c)
		if got, err := event.AppendChange(nil, c); err == nil {
			t.Errorf("%s: written as %s", name, got)
		}
	}
}

// TestAppendChangeAllocatesNothing, not even for what its caller points to.
func TestAppendChangeAllocatesNothing(t *testing.T) {
	change, owner := sampleChange(), "7b1f6a52-3c59-4c5c-8d0e-1f2a3b4c5d6e"
	change.Actor, change.Data.Title = "alice", "Buy milk"
	buf := make([]byte, 0, 2048)
	allocs := testing.AllocsPerRun(100, func() {
		c, id := change, owner
		c.Data.OwnerID = &id
		if _, err := event.AppendChange(buf, c); err != nil {
			t.Error(err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations, want none", allocs)
	}
}

func BenchmarkAppendChange(b *testing.B) {
	usual := sampleChange()
	usual.Actor, usual.TraceParent, usual.TraceState = "", "", ""
	usual.CorrelationID = usual.ID
	usual.Data.Title, usual.Data.OwnerID = "Buy milk", nil
	for name, c := range map[string]event.Change{"usual": usual, "escapes": sampleChange()} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := event.AppendChange(nil, c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
