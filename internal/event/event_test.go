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

	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/internal/event"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// sample is an event with everything in it: the title needs escapes in JSON and
// the actor needs percent-encoding in HTTP headers.
func sample(t testing.TB) event.Event {
	t.Helper()
	body, err := event.AppendChange(nil, sampleChange())
	if err != nil {
		t.Fatal(err)
	}
	e, err := event.Parse(body)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// facts is everything that an event says and that its form must not change.
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
	binary, err := event.Binary(e)
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := event.Envelope(e)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "kafka-envelope", recordText(envelope))
	golden(t, "kafka-structured", recordText(structured(t, e)))
	golden(t, "kafka-binary", recordText(binary))
	golden(t, "http-structured", messageText(structuredHTTP(e)))
	golden(t, "http-binary", messageText(event.BinaryHTTP(e)))
	golden(t, "http-batch", messageText(batchHTTP(e, e)))
}

func structured(t testing.TB, e event.Event) event.Record {
	t.Helper()
	body, err := event.Append(nil, e)
	if err != nil {
		t.Fatalf("%v\nof %v", err, facts(e))
	}
	key, _ := event.Attribute(e, event.PartitionKey)
	return event.Structured(key, body)
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(goldenPath(name), []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(string(readGolden(t, name)), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

func goldenPath(name string) string { return filepath.Join("testdata", "golden", name+".txt") }

func readGolden(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(goldenPath(name))
	if err != nil {
		t.Fatal(err)
	}
	return content
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
	record := structured(t, e)
	binary, err := event.Binary(e)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]event.Event{}
	for name, c := range map[string]struct {
		record event.Record
		mode   event.Mode
	}{
		"kafka structured": {record, event.ModeStructured},
		"kafka bare":       {event.Record{Value: record.Value}, event.ModeStructured},
		"kafka binary":     {binary, event.ModeBinary},
	} {
		got, mode, err := event.FromRecord(c.record)
		if err != nil || mode != c.mode {
			t.Fatalf("%s: mode %q, %v\nof %v", name, mode, err, facts(e))
		}
		out[name] = got
	}
	for name, form := range map[string]func(event.Event) (http.Header, []byte, error){
		"http structured": structuredHTTP,
		"http binary":     event.BinaryHTTP,
		"http batch":      func(e event.Event) (http.Header, []byte, error) { return batchHTTP(e) },
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
	e, mode, err := event.FromRecord(event.Record{Key: []byte("task-123"), Value: []byte(envelope)})
	if err != nil || mode != event.ModeEnvelope {
		t.Fatalf("mode %q, %v", mode, err)
	}
	want := map[string]string{
		"specversion": "1.0", "id": "a1b2c3d4", "source": "task-api", "type": "task.created", "time": "2025-01-15T10:30:00Z",
		"subject": "task-123", "partitionkey": "task-123", "correlationid": "req-456", "datacontenttype": "application/json",
		"data": `{"task_id": "task-123", "title": "Buy groceries", "status": "pending", "owner_id": null}`, "binary": "false",
	}
	if diff := cmp.Diff(want, facts(e)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	task, err := event.Task(e)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(event.Data{TaskID: "task-123", Title: "Buy groceries", Status: "pending"}, task); diff != "" {
		t.Errorf("task (-want +got):\n%s", diff)
	}
}

func TestDataKeepsTheOriginalsFourMembers(t *testing.T) {
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

func TestTextsAreThoseOfTheAttributes(t *testing.T) {
	e, err := event.Parse([]byte(`{"specversion":"1.0","id":"1","source":"/s?a=b","type":"t","time":"2025-01-15T10:30:00+01:00",
		"subject":"x","dataschema":"http://x/y","zeta":"z","taskversion":7,"flag":true,"alpha":"a","datacontenttype":"text/plain","data":"d"}`))
	if err != nil {
		t.Fatal(err)
	}
	texts, names := event.Texts(e), event.Attributes(e)
	if len(texts) != len(names) || len(names) != 12 {
		t.Fatalf("%d texts of %d attributes", len(texts), len(names))
	}
	for i, name := range names {
		if text, _ := event.Attribute(e, name); texts[i] != (event.Text{Name: name, Text: text}) {
			t.Errorf("%+v, want %s %q", texts[i], name, text)
		}
	}
}
