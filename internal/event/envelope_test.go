package event_test

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/taskwire/taskwire/internal/event"
)

// TestAnEnvelopeReadsBackAsTheSameEvent draws the events that the Task API
// makes. The bridge's structured form of them is the outbox's, byte for byte.
func TestAnEnvelopeReadsBackAsTheSameEvent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		printable := rapid.StringMatching(`[ -~]{1,60}`)
		optional := rapid.OneOf(rapid.Just(""), printable)
		c := event.Change{
			ID: printable.Draw(t, "id"), Type: rapid.SampledFrom([]string{event.TypeCreated, event.TypeUpdated, event.TypeCompleted}).Draw(t, "type"),
			Time:        time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "seconds"), rapid.SampledFrom([]int64{0, 1000, 500_000_000, 123_456_000, 7}).Draw(t, "nanoseconds")),
			TaskVersion: rapid.Int64Range(1, 1<<31-1).Draw(t, "version"), CorrelationID: optional.Draw(t, "correlation id"),
			Actor: optional.Draw(t, "actor"), TraceParent: optional.Draw(t, "trace parent"), TraceState: optional.Draw(t, "trace state"),
			Data: event.Data{TaskID: printable.Draw(t, "task id"), Title: rapid.StringOfN(rapid.RuneFrom([]rune("a\"\\/<>&ü😀\u2028")), 1, 40, -1).Draw(t, "title"), Status: "pending"},
		}
		if rapid.Bool().Draw(t, "owned") {
			c.Data.OwnerID = new(printable.Draw(t, "owner"))
		}
		stored, err := event.AppendChange(nil, c)
		if err != nil {
			t.Skip(err)
		}
		e, err := event.Parse(stored)
		if err != nil {
			t.Fatal(err)
		}
		r, err := event.Envelope(e)
		if err != nil {
			t.Fatal(err)
		}
		if string(r.Key) != c.Data.TaskID {
			t.Fatalf("key %q, want the task's id %q", r.Key, c.Data.TaskID)
		}
		got, mode, err := event.FromRecord(r)
		if err != nil || mode != event.ModeEnvelope {
			t.Fatalf("mode %q, %v, of %s", mode, err, r.Value)
		}
		again, err := event.Append(nil, got)
		if err != nil || string(again) != string(stored) {
			t.Fatalf("%v\n%s became\n%s", err, stored, again)
		}
	})
}

// TestTheEnvelopeIsTheOriginals reads a record as the original's consumers do:
// json.loads, then event.get of these names.
func TestTheEnvelopeIsTheOriginals(t *testing.T) {
	r, err := event.Envelope(sample(t))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(r.Value, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"event_id": "0197a0b1-2c3d-7e4f-8a5b-6c7d8e9f0a1b", "event_type": "task.updated", "occurred_at": "2026-01-02T03:04:05.678900+00:00",
		"data": map[string]any{
			"task_id": "4f3c2b1a-0000-4000-8000-00000000002a", "title": `Buy <b>"milk"</b> & brød`, "status": "in_progress",
			"owner_id": "7b1f6a52-3c59-4c5c-8d0e-1f2a3b4c5d6e",
		},
		"metadata": map[string]any{"correlation_id": "order-66", "source": "task-api"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNoEnvelopeForWhatItWouldChange(t *testing.T) {
	const task = `"subject":"1","partitionkey":"1","time":"2025-01-15T10:30:00Z","datacontenttype":"application/json","data":{"task_id":"1","title":"x"}`
	for name, change := range map[string][2]string{
		"another subject": {`"subject":"1"`, `"subject":"2"`}, "no time": {`"time":"2025-01-15T10:30:00Z",`, ""},
		"no key": {`"partitionkey":"1",`, ""}, "no task": {`"task_id":"1",`, ""}, "no content type": {`"datacontenttype":"application/json",`, ""},
	} {
		e, err := event.Parse([]byte(`{` + good + `,` + strings.Replace(task, change[0], change[1], 1) + `}`))
		if err != nil {
			t.Fatal(err)
		}
		if r, err := event.Envelope(e); err == nil {
			t.Errorf("%s: written as %s", name, r.Value)
		}
	}
}

// Members that the original does not have are kept, in whatever order they come.
func TestFurtherMembersOfAnEnvelope(t *testing.T) {
	base := map[string]string{
		"specversion": "1.0", "id": "1", "source": "task-api", "type": "t", "subject": "x", "partitionkey": "x",
		"datacontenttype": "application/json", "data": `{"task_id":"x"}`, "binary": "false",
	}
	for name, c := range map[string]struct {
		members, metadata string
		headers           []event.Header
		want              map[string]string
	}{
		"names that are attribute names": {`,"version":2,"urgent":true`, `"tenant":"a"`, nil, map[string]string{"version": "2", "urgent": "true", "tenant": "a"}},
		"names that need a change":       {`,"schema_version":"1.1"`, `"user_id":"u-1","requestId":"r"`, nil, map[string]string{"schemaversion": "1.1", "userid": "u-1", "requestid": "r"}},
		"null says nothing":              {`,"version":null`, `"user_id":null,"correlation_id":null`, nil, nil},
		"the outer member comes first": {`,"version":2`, `"version":1`, nil,
			map[string]string{"version": "2", "data": `{"task_id":"x","envelope":{"metadata":{"version":1}}}`}},
		"the unchanged name comes first": {`,"user_id":1`, `"userid":2`, nil,
			map[string]string{"userid": "2", "data": `{"task_id":"x","envelope":{"user_id":1}}`}},
		"no value of an attribute": {`,"seq":1.5,"tags":["a", "b"]`, `"retry":{"n": 1},"note":"a\nb"`, nil,
			map[string]string{"data": `{"task_id":"x","envelope":{"seq":1.5,"tags":["a", "b"],"metadata":{"note":"a\nb","retry":{"n": 1}}}}`}},
		"names of the specification": {`,"source":"elsewhere","type":"other"`, `"id":"2","time":"now"`, nil,
			map[string]string{"data": `{"task_id":"x","envelope":{"source":"elsewhere","type":"other","metadata":{"id":"2","time":"now"}}}`}},
		"no name of an attribute": {`,"größe":1,"":2,"a.b":3`, ``, nil,
			map[string]string{"data": `{"task_id":"x","envelope":{"":2,"a.b":3,"größe":1}}`}},
		"too long": {`,"note":"` + strings.Repeat("x", 2049) + `"`, ``, nil,
			map[string]string{"data": `{"task_id":"x","envelope":{"note":"` + strings.Repeat("x", 2049) + `"}}`}},
		"headers": {``, ``, headers("Traceparent", "00-1", "tracestate", "a\nb", "taskwire-taskversion", "7", "taskwire-actor", "alice", "other", "x"),
			map[string]string{"traceparent": "00-1", "taskversion": "7", "actor": "alice"}},
		"a header comes first": {`,"actor":"mallory"`, ``, headers("taskwire-actor", "alice"),
			map[string]string{"actor": "alice", "data": `{"task_id":"x","envelope":{"actor":"mallory"}}`}},
	} {
		t.Run(name, func(t *testing.T) {
			want := maps.Clone(base)
			maps.Copy(want, c.want)
			for _, value := range []string{
				`{"event_id":"1","event_type":"t","data":{"task_id":"x"}` + c.members + `,"metadata":{` + c.metadata + `}}`,
				`{"metadata":{` + c.metadata + `}` + c.members + `,"data":{"task_id":"x"},"event_type":"t","event_id":"1"}`,
			} {
				e, _, err := event.FromRecord(event.Record{Value: []byte(value), Headers: c.headers})
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, facts(e)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", value, diff)
				}
			}
		})
	}
}
