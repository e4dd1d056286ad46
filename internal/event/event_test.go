package event_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/taskwire/taskwire/internal/event"
)

var update = flag.Bool("update", false, "write the golden files anew")

func sample(t *testing.T) event.Event {
	t.Helper()
	owner := "6f1d0a52-5b0e-4f0f-9d43-0c1f6f6c1a11"
	e, err := event.New(event.Change{
		ID: "01935c5e-8c00-7000-8000-000000000001", Type: event.TypeUpdated, Time: time.Date(2026, 11, 24, 10, 0, 0, 123456000, time.UTC),
		TaskVersion: 2, CorrelationID: "req-1", Actor: "ci", TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		Data: event.Data{TaskID: "8a1b7c1e-0000-4000-8000-000000000001", Title: `Größe "x" 100% <€>`, Status: "in_progress", OwnerID: &owner},
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs:\n got: %s\nwant: %s", name, got, want)
	}
}

func recordText(r event.Record) string {
	var b strings.Builder
	fmt.Fprintf(&b, "key: %s\n", r.Key)
	for _, h := range r.Headers {
		fmt.Fprintf(&b, "%s: %s\n", h.Key, h.Value)
	}
	return b.String() + "\n" + string(r.Value) + "\n"
}

func messageText(h http.Header, body []byte) string {
	var lines []string
	for name, values := range h {
		lines = append(lines, name+": "+strings.Join(values, ", "))
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n") + "\n\n" + string(body) + "\n"
}

// TestGolden pins the four wire forms; each must read back as the same event.
func TestGolden(t *testing.T) {
	e := sample(t)
	want, err := event.Append(nil, e)
	if err != nil {
		t.Fatal(err)
	}
	same := func(name string, got event.Event, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: read back: %v", name, err)
			return
		}
		if again, err := event.Append(nil, got); err != nil || !bytes.Equal(again, want) {
			t.Errorf("%s: read back as %s, %v\nwant %s", name, again, err, want)
		}
	}
	for name, write := range map[string]func(event.Event) (event.Record, error){"kafka-structured": event.Structured, "kafka-binary": event.Binary} {
		r, err := write(e)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name+".txt", recordText(r))
		got, err := event.FromRecord(r)
		same(name, got, err)
	}
	for name, write := range map[string]func(event.Event) (http.Header, []byte, error){"http-structured": event.StructuredHTTP, "http-binary": event.BinaryHTTP} {
		h, body, err := write(e)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name+".txt", messageText(h, body))
		got, err := event.FromHTTP(h, body)
		if err != nil || len(got) != 1 {
			t.Fatalf("%s: %d events, %v", name, len(got), err)
		}
		same(name, got[0], nil)
	}
}

func TestPlainEnvelopeBecomesTheSameEvent(t *testing.T) {
	e, err := event.FromRecord(event.Record{Value: []byte(`{"event_type": "task.created", "data": {"task_id": "task-123", "title": "Buy groceries", "status": "pending", "owner_id": null},
		"metadata": {"correlation_id": "req-456", "source": "task-api"}, "event_id": "a1b2", "occurred_at": "2025-01-15T10:30:00.000000+00:00"}`)})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"id": "a1b2", "type": "task.created", "source": "task-api", "subject": "task-123", "partitionkey": "task-123", "correlationid": "req-456", "time": "2025-01-15T10:30:00Z"} {
		if got, _ := event.Attribute(e, name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	if want := `{"task_id": "task-123", "title": "Buy groceries", "status": "pending", "owner_id": null}`; string(e.DataEncoded) != want {
		t.Errorf("data = %s, want the bytes as they were", e.DataEncoded)
	}
}

const good = `"specversion":"1.0","id":"1","source":"s","type":"t"`

func TestParseRefusesWhatCouldBeReadInTwoWays(t *testing.T) {
	for _, c := range []struct{ body, attribute string }{
		{`{"id":"1","source":"s","type":"t"}`, "specversion"},
		{`{"specversion":"0.3","id":"1","source":"s","type":"t"}`, "specversion"},
		{`{"specversion":"1.0","source":"s","type":"t"}`, "id"},
		{`{"specversion":"1.0","id":"","source":"s","type":"t"}`, "id"},
		{`{"specversion":"1.0","id":7,"source":"s","type":"t"}`, "id"},
		{`{"specversion":"1.0","id":"a\nb","source":"s","type":"t"}`, "id"},
		{`{"specversion":"1.0","id":"1","type":"t"}`, "source"},
		{`{"specversion":"1.0","id":"1","source":"s"}`, "type"},
		{`{` + good + `,"id":"2"}`, "event"},
		{`{` + good + `,"data":1,"data_base64":"AA=="}`, "data"},
		{`{` + good + `,"data_base64":"A"}`, "data_base64"},
		{`{` + good + `,"Upper":"x"}`, "event"},
		{`{` + good + `,"ext":{}}`, "ext"},
		{`{` + good + `,"ext":1.5}`, "ext"},
		{`{` + good + `,"time":"yesterday"}`, "time"},
		{`{` + good + `,"subject":""}`, "subject"},
		{`{` + good + `,"dataschema":"rel"}`, "dataschema"},
		{`{` + good + `} {}`, "event"},
		{`{` + good, "event"},
		{"{" + good + ",\"subject\":\"\xff\"}", "event"},
		{`[]`, "event"}, {``, "event"}, {`null`, "event"}, {`not json`, "event"},
	} {
		_, err := event.Parse([]byte(c.body))
		var inv *event.InvalidError
		if !errors.As(err, &inv) || inv.Attribute != c.attribute {
			t.Errorf("Parse(%s) = %v, want a refusal that names %s", c.body, err, c.attribute)
		}
	}
}

func TestParseAcceptsWhatTheSpecificationAllows(t *testing.T) {
	for _, body := range []string{
		`{` + good + `}`,
		`{` + good + `,"subject":null,"data":null}`,
		`{` + good + `,"flag":true,"num":-3,"ext":"x"}`,
		`{` + good + `,"datacontenttype":"text/plain","data":"plain text"}`,
		`{` + good + `,"data_base64":"AAEC"}`,
		` {` + good + `,"data":[1, 2.5e3, {"a":"b"}]} `,
	} {
		e, err := event.Parse([]byte(body))
		if err != nil {
			t.Errorf("Parse(%s) = %v", body, err)
			continue
		}
		first, err := event.Append(nil, e)
		if err != nil {
			t.Errorf("Append: %v", err)
			continue
		}
		again, err := event.Parse(first)
		if err != nil {
			t.Errorf("Parse(%s) = %v", first, err)
			continue
		}
		if second, err := event.Append(nil, again); err != nil || !bytes.Equal(first, second) {
			t.Errorf("not stable: %s then %s", first, second)
		}
	}
}

func TestRecordsThatAreNoEvents(t *testing.T) {
	structured := []event.Header{{Key: "Content-Type", Value: []byte("application/cloudevents+json")}}
	for name, r := range map[string]event.Record{
		"tombstone":         {Key: []byte("k")},
		"not JSON":          {Value: []byte("hello")},
		"other JSON":        {Value: []byte(`{"a":1}`)},
		"avro":              {Value: []byte("x"), Headers: []event.Header{{Key: "content-type", Value: []byte("application/cloudevents+avro")}}},
		"empty structured":  {Headers: structured},
		"two content types": {Value: []byte(`{` + good + `}`), Headers: append(structured, structured...)},
		"duplicate ce_id":   {Headers: []event.Header{{Key: "ce_specversion", Value: []byte("1.0")}, {Key: "ce_id", Value: []byte("1")}, {Key: "CE_ID", Value: []byte("2")}}},
		"missing ce_id":     {Headers: []event.Header{{Key: "ce_specversion", Value: []byte("1.0")}}},
		"data not JSON": {Value: []byte("x"), Headers: []event.Header{{Key: "ce_specversion", Value: []byte("1.0")}, {Key: "ce_id", Value: []byte("1")},
			{Key: "ce_source", Value: []byte("s")}, {Key: "ce_type", Value: []byte("t")}, {Key: "content-type", Value: []byte("application/json")}}},
	} {
		var inv *event.InvalidError
		if _, err := event.FromRecord(r); !errors.As(err, &inv) {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
}

func TestHTTPMediaTypes(t *testing.T) {
	for contentType, want := range map[string]string{
		"text/plain": "media", "application/cloudevents+xml": "media", "application/cloudevents+json; charset=latin1": "media", "a/b/c": "media",
		"application/json": "invalid", "": "invalid",
	} {
		h := http.Header{}
		if contentType != "" {
			h.Set("Content-Type", contentType)
		}
		_, err := event.FromHTTP(h, []byte(`{}`))
		var inv *event.InvalidError
		if got := map[bool]string{true: "media", false: "invalid"}[errors.Is(err, event.ErrMediaType)]; got != want || (want == "invalid" && !errors.As(err, &inv)) {
			t.Errorf("%q: %v, want %s", contentType, err, want)
		}
	}
	h := http.Header{"Content-Type": {"application/cloudevents-batch+json"}}
	events, err := event.FromHTTP(h, []byte(`[{`+good+`},{`+strings.Replace(good, `"1"`, `"2"`, 1)+`}]`))
	if err != nil || len(events) != 2 || events[1].ID() != "2" {
		t.Errorf("batch = %v, %v", events, err)
	}
	var inv *event.InvalidError
	if _, err := event.FromHTTP(h, []byte(`[{`+good+`},{}]`)); !errors.As(err, &inv) || !strings.Contains(inv.Reason, "event 1") {
		t.Errorf("batch with a bad second event: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{` + good + `,"data":{"a":1}}`))
	f.Add([]byte(`{` + good + `,"data_base64":"AAEC","x":true,"n":2147483647}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := event.Parse(body)
		if err != nil {
			return
		}
		first, err := event.Append(nil, e)
		if err != nil {
			t.Fatalf("accepted %q but cannot write it: %v", body, err)
		}
		again, err := event.Parse(first)
		if err != nil {
			t.Fatalf("wrote %q which is refused: %v", first, err)
		}
		if second, _ := event.Append(nil, again); !bytes.Equal(first, second) {
			t.Fatalf("not stable: %q then %q", first, second)
		}
	})
}

func FuzzFromRecord(f *testing.F) {
	f.Add([]byte("k"), []byte(`{`+good+`}`), "content-type", []byte("application/cloudevents+json"))
	f.Add([]byte("k"), []byte(`{"event_id":"1","event_type":"t","data":{"task_id":"x"}}`), "a", []byte("b"))
	f.Add([]byte("k"), []byte(`1`), "ce_id", []byte("x"))
	f.Fuzz(func(t *testing.T, key, value []byte, name string, header []byte) {
		e, err := event.FromRecord(event.Record{Key: key, Value: value, Headers: []event.Header{{Key: name, Value: header}}})
		if err != nil {
			return
		}
		if _, err := event.Append(nil, e); err != nil {
			t.Fatalf("accepted but cannot be written: %v", err)
		}
	})
}

func FuzzFromHTTP(f *testing.F) {
	f.Add("application/cloudevents+json", "1", "s%20x", []byte(`{`+good+`}`))
	f.Add("application/json", "1", "s", []byte(`{}`))
	f.Fuzz(func(t *testing.T, contentType, id, source string, body []byte) {
		h := http.Header{"Content-Type": {contentType}, "Ce-Id": {id}, "Ce-Source": {source}, "Ce-Type": {"t"}, "Ce-Specversion": {"1.0"}}
		events, err := event.FromHTTP(h, body)
		if err != nil {
			return
		}
		for _, e := range events {
			h, body, err := event.BinaryHTTP(e)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := event.FromHTTP(h, body); err != nil || again[0].ID() != e.ID() || again[0].Source() != e.Source() {
				t.Fatalf("binary round trip of %q: %v", e.ID(), err)
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	body := []byte(`{` + good + `,"subject":"8a1b7c1e-0000-4000-8000-000000000001","time":"2026-11-24T10:00:00Z","taskversion":2,"partitionkey":"8a1b7c1e","data":{"task_id":"x","title":"y","status":"pending","owner_id":null}}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := event.Parse(body); err != nil {
			b.Fatal(err)
		}
	}
}
