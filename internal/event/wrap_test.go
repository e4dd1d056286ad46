package event_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	ce "github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/internal/event"
)

const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

var noon = time.Date(2026, 1, 2, 12, 0, 0, 5_000_000, time.UTC)

func TestWrap(t *testing.T) {
	const place = `"specversion":"1.0","id":"orders.v1/3/42","source":"kafka:orders.v1","type":"kafka.record"`
	for name, c := range map[string]struct {
		record event.Record
		want   string
	}{
		"JSON": {event.Record{Key: []byte("o-1"), Value: []byte(` {"total": 5} `), Time: noon},
			`{` + place + `,"subject":"o-1","time":"2026-01-02T12:00:00.005Z","datacontenttype":"application/json","partitionkey":"o-1","data":{"total": 5}}`},
		"text":                {event.Record{Value: []byte("hello\n")}, `{` + place + `,"datacontenttype":"application/octet-stream","data":"hello\n"}`},
		"bytes":               {event.Record{Value: []byte("\xff\x00")}, `{` + place + `,"datacontenttype":"application/octet-stream","data_base64":"/wA="}`},
		"a tombstone":         {event.Record{Key: []byte("o-1"), Headers: headers("content-type", "application/json")}, `{` + place + `,"subject":"o-1","partitionkey":"o-1"}`},
		"an empty value":      {event.Record{Value: []byte{}}, `{` + place + `,"datacontenttype":"application/octet-stream"}`},
		"a content type":      {event.Record{Value: []byte("a,b"), Headers: headers("Content-Type", "text/csv; charset=utf-8")}, `{` + place + `,"datacontenttype":"text/csv; charset=utf-8","data":"a,b"}`},
		"JSON with a type":    {event.Record{Value: []byte("[1]"), Headers: headers("content-type", "application/vnd.x+json")}, `{` + place + `,"datacontenttype":"application/vnd.x+json","data":[1]}`},
		"a wrong type":        {event.Record{Value: []byte("{"), Headers: headers("content-type", "application/json")}, `{` + place + `,"datacontenttype":"application/octet-stream","data":"{"}`},
		"a name twice":        {event.Record{Value: []byte(`{"a":1,"a":2}`)}, `{` + place + `,"datacontenttype":"application/octet-stream","data":"{\"a\":1,\"a\":2}"}`},
		"two types":           {event.Record{Value: []byte("1"), Headers: headers("content-type", "text/csv", "Content-Type", "text/plain")}, `{` + place + `,"datacontenttype":"application/json","data":1}`},
		"no media type":       {event.Record{Value: []byte("1"), Headers: headers("content-type", "json\n")}, `{` + place + `,"datacontenttype":"application/json","data":1}`},
		"an event":            {event.Record{Value: []byte(`{` + good + `}`), Headers: headers("content-type", "application/cloudevents+json")}, `{` + place + `,"datacontenttype":"application/json","data":{` + good + `}}`},
		"attributes":          {event.Record{Value: []byte("1"), Headers: headers("ce_id", "forged", "ce_type", "task.created", "taskwire-actor", "me", "other", "x")}, `{` + place + `,"datacontenttype":"application/json","data":1}`},
		"a trace":             {event.Record{Value: []byte("1"), Headers: headers("Traceparent", trace, "tracestate", "a=b")}, `{` + place + `,"datacontenttype":"application/json","traceparent":"` + trace + `","tracestate":"a=b","data":1}`},
		"a trace of no state": {event.Record{Value: []byte("1"), Headers: headers("tracestate", "a=b", "traceparent", "")}, `{` + place + `,"datacontenttype":"application/json","data":1}`},
		"a key of bytes":      {event.Record{Key: []byte("\xff"), Value: []byte("1")}, `{` + place + `,"datacontenttype":"application/json","data":1}`},
		"a key of lines":      {event.Record{Key: []byte("a\nb"), Value: []byte("1")}, `{` + place + `,"datacontenttype":"application/json","data":1}`},
		"a key of blanks":     {event.Record{Key: []byte("  "), Value: []byte("1")}, `{` + place + `,"datacontenttype":"application/json","data":1}`},
		"a long key":          {event.Record{Key: bytes.Repeat([]byte("k"), 3000), Value: []byte("1")}, `{` + place + `,"datacontenttype":"application/json","data":1}`},
		"no time":             {event.Record{Value: []byte("1"), Time: time.UnixMilli(-1)}, `{` + place + `,"datacontenttype":"application/json","data":1}`},
		"a time beyond years": {event.Record{Value: []byte("1"), Time: time.UnixMilli(1 << 60)}, `{` + place + `,"datacontenttype":"application/json","data":1}`},
	} {
		e, err := event.Wrap("orders.v1", 3, 42, c.record)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		body, err := event.Append(nil, e)
		if diff := cmp.Diff(c.want, string(body)); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

func TestWrapRefusesOnlyWhatIsTooLong(t *testing.T) {
	r := event.Record{Value: bytes.Repeat([]byte{0}, event.MaxBytes)}
	if _, err := event.Wrap("t", 0, 0, r); err != nil {
		t.Errorf("%d bytes: %v", len(r.Value), err)
	}
	r.Value = append(r.Value, 0)
	var invalid *event.InvalidError
	if _, err := event.Wrap("t", 0, 0, r); !errors.As(err, &invalid) {
		t.Errorf("%d bytes: %v, want an *InvalidError", len(r.Value), err)
	}
}

// FuzzWrap: any record becomes an event that our reader and the SDK's take, with
// the record's own value as data, and nothing in the record names or dates it.
func FuzzWrap(f *testing.F) {
	f.Add([]byte("key"), []byte(`{"a":1}`), "content-type", "application/json", "traceparent", trace, int64(1_700_000_000_000))
	f.Add([]byte{0xff}, []byte("{"), "Content-Type", "text/json", "content-type", "text/plain", int64(-1))
	f.Add([]byte(" "), []byte{}, "ce_id", "1", "tracestate", strings.Repeat("x", 2048), int64(1<<62))
	f.Add(bytes.Repeat([]byte("é"), 1024), []byte("\xff"), "content-type", `a/b; c="`+strings.Repeat("d", 2030)+`"`, "tracestate", strings.Repeat("x", 2048), int64(0))
	f.Fuzz(func(t *testing.T, key, value []byte, name1, value1, name2, value2 string, ms int64) {
		if !small(value) {
			return
		}
		e, err := event.Wrap("a.b", 1, 2, event.Record{Key: key, Value: value, Headers: headers(name1, value1, name2, value2), Time: time.UnixMilli(ms)})
		if err != nil {
			t.Fatal(err)
		}
		checkAll(t, e)
		if e.ID() != "a.b/1/2" || e.Source() != "kafka:a.b" || e.Type() != event.TypeRecord {
			t.Errorf("it is %s, %s, %s", e.ID(), e.Source(), e.Type())
		}
		if want := value; !bytes.Equal(e.DataEncoded, want) && (!event.JSONType(e) || !bytes.Equal(e.DataEncoded, bytes.Trim(want, " \t\r\n"))) {
			t.Errorf("data %q, want %q", e.DataEncoded, want)
		}
		body, err := event.Append(nil, e)
		if err != nil {
			t.Fatal(err)
		}
		var theirs ce.Event
		if err := json.Unmarshal(body, &theirs); err != nil {
			t.Fatalf("the SDK cannot read %s: %v", body, err)
		}
		if err := theirs.Validate(); err != nil {
			t.Errorf("the SDK refuses %s: %v", body, err)
		}
	})
}
