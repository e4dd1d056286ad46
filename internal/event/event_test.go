package event_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/internal/event"
)

var update = flag.Bool("update", false, "write the golden files anew")

// sample is an event with everything in it; the owner's title needs escapes in
// JSON and the actor needs percent-encoding in HTTP headers.
func sample(t testing.TB) event.Event {
	t.Helper()
	owner := "7b1f6a52-3c59-4c5c-8d0e-1f2a3b4c5d6e"
	e, err := event.New(event.Change{
		ID:            "0197a0b1-2c3d-7e4f-8a5b-6c7d8e9f0a1b",
		Type:          event.TypeUpdated,
		Time:          time.Date(2026, 1, 2, 4, 4, 5, 678900000, time.FixedZone("", 3600)),
		TaskVersion:   3,
		CorrelationID: "order-66",
		Actor:         `Größe "x" 100%`,
		TraceParent:   "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		TraceState:    "vendor=1",
		Data:          event.Data{TaskID: "4f3c2b1a-0000-4000-8000-00000000002a", Title: `Buy <b>"milk"</b> & brød`, Status: "in_progress", OwnerID: &owner},
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// facts is all that an event says, in the form that no travel changes.
func facts(e event.Event) map[string]string {
	m := map[string]string{"data": string(e.DataEncoded), "binary": fmt.Sprint(e.DataBase64)}
	names := []string{"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema"}
	if e.Context != nil {
		names = slices.AppendSeq(names, maps.Keys(e.Extensions()))
	}
	for _, name := range names {
		if v, ok := event.Attribute(e, name); ok {
			m[name] = v
		}
	}
	return m
}

// TestWireForms holds the forms that other programs read to their golden files.
func TestWireForms(t *testing.T) {
	e := sample(t)
	structured, err := event.Structured(e)
	if err != nil {
		t.Fatal(err)
	}
	binary, err := event.Binary(e)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "kafka-structured", recordText(structured))
	golden(t, "kafka-binary", recordText(binary))
	golden(t, "http-structured", messageText(event.StructuredHTTP(e)))
	golden(t, "http-binary", messageText(event.BinaryHTTP(e)))
	golden(t, "http-batch", messageText(event.BatchHTTP([]event.Event{e, e})))
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name+".txt")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func recordText(r event.Record) string {
	var b strings.Builder
	for _, h := range r.Headers {
		fmt.Fprintf(&b, "%s: %s\n", h.Key, h.Value)
	}
	fmt.Fprintf(&b, "\n%s\n%s\n", r.Key, r.Value)
	return b.String()
}

func messageText(h http.Header, body []byte, err error) string {
	var b bytes.Buffer
	if err != nil {
		return err.Error()
	}
	_ = h.Write(&b)
	return strings.ReplaceAll(b.String(), "\r\n", "\n") + "\n" + string(body) + "\n"
}

func TestEveryFormReadsBackAsTheSameEvent(t *testing.T) {
	e := sample(t)
	for name, got := range everyForm(t, e) {
		if diff := cmp.Diff(facts(e), facts(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if n, ok := event.TaskVersion(got); n != 3 || !ok {
			t.Errorf("%s: task version = %d, %v", name, n, ok)
		}
		if v, ok := got.Extensions()["taskversion"].(int32); v != 3 || !ok {
			t.Errorf("%s: taskversion is a %T, want int32", name, got.Extensions()["taskversion"])
		}
	}
}

// everyForm sends e through all forms it has.
func everyForm(t testing.TB, e event.Event) map[string]event.Event {
	t.Helper()
	must := func(got event.Event, err error) event.Event {
		t.Helper()
		if err != nil {
			t.Fatalf("%v\nof %v", err, facts(e))
		}
		return got
	}
	structured, err := event.Structured(e)
	if err != nil {
		t.Fatal(err)
	}
	binary, err := event.Binary(e)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]event.Event{
		"kafka structured": must(event.FromRecord(structured)),
		"kafka bare":       must(event.FromRecord(event.Record{Value: structured.Value})),
		"kafka binary":     must(event.FromRecord(binary)),
		"parse":            must(event.Parse(structured.Value)),
	}
	for name, form := range map[string]func(event.Event) (http.Header, []byte, error){
		"http structured": event.StructuredHTTP,
		"http binary":     event.BinaryHTTP,
		"http batch":      func(e event.Event) (http.Header, []byte, error) { return event.BatchHTTP([]event.Event{e}) },
	} {
		h, body, err := form(e)
		if err != nil {
			t.Fatal(err)
		}
		events, err := event.FromHTTP(h, body)
		if err != nil || len(events) != 1 {
			t.Fatalf("%s: %d events, %v\nof %v", name, len(events), err, facts(e))
		}
		out[name] = events[0]
	}
	return out
}

func TestThePlainEnvelopeIsTheSameEvent(t *testing.T) {
	// As the original's Python publisher prints it.
	const envelope = `{"event_type": "task.created", "data": {"task_id": "task-123", "title": "Buy groceries", "status": "pending", "owner_id": null}, "metadata": {"correlation_id": "req-456", "source": "task-api"}, "event_id": "a1b2c3d4", "occurred_at": "2025-01-15T10:30:00.000000+00:00"}`
	e, err := event.FromRecord(event.Record{Key: []byte("task-123"), Value: []byte(envelope)})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"specversion": "1.0", "id": "a1b2c3d4", "source": "task-api", "type": "task.created", "time": "2025-01-15T10:30:00Z",
		"subject": "task-123", "partitionkey": "task-123", "correlationid": "req-456", "datacontenttype": "application/json",
		"data": `{"task_id": "task-123", "title": "Buy groceries", "status": "pending", "owner_id": null}`, "binary": "false",
	}
	if diff := cmp.Diff(want, facts(e)); diff != "" {
		t.Error(diff)
	}
	task, err := event.Task(e)
	if want := (event.Data{TaskID: "task-123", Title: "Buy groceries", Status: "pending"}); err != nil || !cmp.Equal(want, task) {
		t.Errorf("task = %+v, %v", task, err)
	}
}

func TestNewKeepsTheOriginalsFourMembers(t *testing.T) {
	e := sample(t)
	want := `{"task_id":"4f3c2b1a-0000-4000-8000-00000000002a","title":"Buy <b>\"milk\"</b> & brød","status":"in_progress","owner_id":"7b1f6a52-3c59-4c5c-8d0e-1f2a3b4c5d6e"}`
	if got := string(e.DataEncoded); got != want {
		t.Errorf("data = %s\nwant   %s", got, want)
	}
	if err := e.Validate(); err != nil {
		t.Errorf("the SDK refuses it: %v", err)
	}
	body, err := event.Append(nil, e)
	if err != nil {
		t.Fatal(err)
	}
	var sdk event.Event
	if err := json.Unmarshal(body, &sdk); err != nil {
		t.Errorf("the SDK cannot read it: %v", err)
	}
}

func TestNewRefusesWhatNoTaskEventHas(t *testing.T) {
	good := event.Change{ID: "1", Type: event.TypeCreated, Time: time.Now(), TaskVersion: 1, CorrelationID: "c", Data: event.Data{TaskID: "t", Title: "x", Status: "pending"}}
	for name, spoil := range map[string]func(*event.Change){
		"type":    func(c *event.Change) { c.Type = "task.deleted" },
		"id":      func(c *event.Change) { c.ID = "" },
		"time":    func(c *event.Change) { c.Time = time.Time{} },
		"version": func(c *event.Change) { c.TaskVersion = 0 },
		"large":   func(c *event.Change) { c.TaskVersion = 1 << 31 },
		"task":    func(c *event.Change) { c.Data.TaskID = "" },
		"title":   func(c *event.Change) { c.Data.Title = "\xff" },
		"corr":    func(c *event.Change) { c.CorrelationID = "a\nb" },
	} {
		c := good
		spoil(&c)
		if _, err := event.New(c); err == nil {
			t.Errorf("%s: New took it", name)
		}
	}
	if _, err := event.New(good); err != nil {
		t.Error(err)
	}
}

func wantInvalid(t *testing.T, err error, attribute, reason string) {
	t.Helper()
	bad := (*event.InvalidError)(nil)
	if !errors.As(err, &bad) {
		t.Errorf("error = %v, want an *InvalidError", err)
		return
	}
	if bad.Attribute != attribute || !strings.Contains(bad.Reason, reason) {
		t.Errorf("refused as %q %q, want %q %q", bad.Attribute, bad.Reason, attribute, reason)
	}
}
