package avro_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	lib "github.com/twmb/avro"

	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/registry"
	"github.com/taskwire/taskwire/schemas"
	"github.com/taskwire/taskwire/taskapi/internal/avro"
)

// answers are those of a registry: the schema is registered under ID, and its readers
// find it there unless it is lost.
type answers struct {
	registry.Registered
	lost bool
	has  error // of Has
	no   error // of Register
}

type stub struct {
	mu sync.Mutex
	answers
}

func (s *stub) Register(context.Context, string, string) (registry.Registered, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = s.lost && s.no != nil
	return s.Registered, s.no
}

func (s *stub) Has(_ context.Context, r registry.Registered) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.lost && r.ID == s.ID, s.has
}

func (s *stub) set(a answers) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = a
}

func registeredAs(id int) registry.Registered {
	return registry.Registered{ID: id, Version: 1, DataSchema: version}
}

const version = "http://registry/subjects/task-events-value/versions/1"

func encoder(t testing.TB, log *slog.Logger) *avro.Encoder {
	t.Helper()
	e, err := avro.New(&stub{answers: answers{Registered: registeredAs(7)}}, "task-events", log)
	if err == nil {
		err = e.Register(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func change(t testing.TB, title, status, schema string) event.Event {
	t.Helper()
	owner := "01936b2e-7c00-7abc-8def-000000000003"
	body, err := event.AppendChange(nil, event.Change{
		ID: "e1", Type: event.TypeCreated, Time: time.Unix(1, 0), TaskVersion: 1, DataSchema: schema,
		Data: event.Data{TaskID: "t1", Title: title, Status: status, OwnerID: &owner},
	})
	if err != nil {
		t.Fatal(err)
	}
	e, err := event.Parse(body)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func attribute(e event.Event, name string) string {
	text, _ := event.Attribute(e, name)
	return text
}

// Whatever stands in a title, a reader finds the event as it was made, byte for byte.
func TestARecordHasTheEvent(t *testing.T) {
	e := encoder(t, slog.New(slog.DiscardHandler))
	for _, title := range []string{"Buy milk", "Grüße 😀", `"quoted" \ <b>&amp;</b> /`, "\u007f\u00a0", "日本語"} {
		made := change(t, title, "in_progress", avro.DataSchema)
		rec, err := e.Record(made)
		if err != nil {
			t.Fatal(err)
		}
		travels, mode, err := event.FromRecord(rec)
		if err != nil || mode != event.ModeBinary || attribute(travels, "datacontenttype") != "application/avro" || attribute(travels, "dataschema") != version || !travels.DataBase64 {
			t.Fatalf("%q: the record has %v, %s, %v", title, travels, mode, err)
		}
		id, value, err := registry.CutHeader(rec.Value)
		if id != 7 || err != nil {
			t.Errorf("CutHeader = %d, %v", id, err)
		}
		var independent struct {
			TaskID  string  `avro:"task_id"`
			Title   string  `avro:"title"`
			Status  string  `avro:"status"`
			OwnerID *string `avro:"owner_id"`
		}
		if _, err := lib.MustParse(schemas.TaskEvent).Decode(value, &independent); err != nil || independent.Title != title || independent.Status != "in_progress" {
			t.Errorf("the library reads %+v, %v", independent, err)
		}
		schema, err := registry.ParseSchema(schemas.TaskEvent)
		if err != nil {
			t.Fatal(err)
		}
		data, err := schema.AppendJSON(nil, value)
		if err != nil {
			t.Fatal(err)
		}
		back, err := event.AsJSON(travels, data, schema.JSONSchema)
		if err != nil {
			t.Fatal(err)
		}
		want, _ := event.Append(nil, made)
		if got, _ := event.Append(nil, back); !bytes.Equal(got, want) {
			t.Errorf("a reader finds %s\nwant           %s", got, want)
		}
	}
}

// What is no event of the schema goes as JSON, and nothing is held up or lost.
func TestWhatDoesNotFitGoesAsJSON(t *testing.T) {
	var log bytes.Buffer
	e := encoder(t, slog.New(slog.NewJSONHandler(&log, nil)))
	log.Reset()
	for name, made := range map[string]event.Event{
		"made before Avro":     change(t, "x", "pending", ""),
		"of another schema":    change(t, "x", "pending", "https://example.com/other.json"),
		"an unknown status":    change(t, "x", "postponed", avro.DataSchema),
		"one member more":      with(t, change(t, "x", "pending", avro.DataSchema), `{"task_id":"t1","title":"x","status":"pending","owner_id":null,"priority":1}`),
		"members out of order": with(t, change(t, "x", "pending", avro.DataSchema), `{"title":"x","task_id":"t1","status":"pending","owner_id":null}`),
		"white space":          with(t, change(t, "x", "pending", avro.DataSchema), `{"task_id": "t1","title":"x","status":"pending","owner_id":null}`),
	} {
		rec, err := e.Record(made)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		back, mode, err := event.FromRecord(rec)
		want, _ := event.Append(nil, made)
		if got, _ := event.Append(nil, back); err != nil || mode != event.ModeBinary || !bytes.Equal(got, want) {
			t.Errorf("%s: the record has %s, %v\nwant %s", name, got, err, want)
		}
	}
	var line struct{ Msg, Level string }
	if err := json.NewDecoder(&log).Decode(&line); err != nil || line.Level != "ERROR" || line.Msg != "event published as JSON, its schema cannot carry its data" {
		t.Errorf("log line = %+v, %v", line, err)
	}
}

func with(t *testing.T, e event.Event, data string) event.Event {
	t.Helper()
	e, err := event.AsJSON(e, []byte(data), attribute(e, "dataschema"))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestNoRecordWithoutASchema(t *testing.T) {
	down := errors.New("connection refused")
	e, err := avro.New(&stub{answers: answers{no: down}}, "task-events", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Register(t.Context()); !errors.Is(err, down) {
		t.Errorf("Register = %v", err)
	}
	if _, err := e.Record(change(t, "x", "pending", avro.DataSchema)); err == nil {
		t.Error("Record without a registered schema = nil")
	}
}

// A registry that lost its data has the schema again within seconds, and no record
// carries an id that it has denied. One that only does not answer changes nothing.
func TestALostSchema(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log apptest.Log
		s, down := &stub{answers: answers{Registered: registeredAs(7)}}, errors.New("connection refused")
		e, err := avro.New(s, "task-events", slog.New(slog.NewJSONHandler(&log, nil)))
		if err == nil {
			err = e.Register(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { e.Run(ctx) })
		defer running.Wait()
		defer cancel()
		for _, step := range []struct {
			what  string
			a     answers
			after time.Duration
			id    int // of records; 0: there are none
		}{
			{"as ever", answers{Registered: registeredAs(7)}, time.Hour, 7},
			{"no answer", answers{Registered: registeredAs(7), has: down}, time.Hour, 7},
			{"lost", answers{Registered: registeredAs(8), lost: true}, 6 * time.Second, 8},
			{"lost, and registered under the same id", answers{Registered: registeredAs(8), lost: true}, 6 * time.Second, 8},
			{"lost, and not registered again", answers{Registered: registeredAs(9), lost: true, no: down}, 6 * time.Second, 0},
			{"it can be registered", answers{Registered: registeredAs(9), lost: true}, 0, 0},
		} {
			s.set(step.a)
			time.Sleep(step.after)
			synctest.Wait()
			if id := recordID(t, e); id != step.id {
				t.Errorf("%s: records have the id %d, want %d", step.what, id, step.id)
			}
		}
		if err := e.Register(t.Context()); err != nil || recordID(t, e) != 9 { // as the relay does
			t.Errorf("Register = %v, records have the id %d", err, recordID(t, e))
		}
		if n := log.Count("does not answer"); n < 59 || n > 61 {
			t.Errorf("%d lines in an hour without an answer, want one a minute", n)
		}
		if n := count(t, e.Lost); n != 3 || log.Count("schema lost by the registry") != 3 || log.Count("events wait in the outbox") != 1 {
			t.Errorf("lost %v times, want 3; the log has %s", n, log.String())
		}
	})
}

// recordID is the id that a record carries, 0 when there is no record.
func recordID(t *testing.T, e *avro.Encoder) int {
	t.Helper()
	rec, err := e.Record(change(t, "x", "pending", avro.DataSchema))
	if err != nil {
		return 0
	}
	id, _, err := registry.CutHeader(rec.Value)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func count(t *testing.T, c prometheus.Counter) float64 {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err != nil || len(families) != 1 {
		t.Fatal(families, err)
	}
	return families[0].GetMetric()[0].GetCounter().GetValue()
}

func BenchmarkRecord(b *testing.B) {
	e, made := encoder(b, slog.New(slog.DiscardHandler)), change(b, "Buy milk", "pending", avro.DataSchema)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Record(made); err != nil {
			b.Fatal(err)
		}
	}
}
