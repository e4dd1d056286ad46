package event_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/taskwire/taskwire/internal/event"
)

const good = `"specversion":"1.0","id":"1","source":"s","type":"t"`

func TestParseRefusesWhatCouldBeReadInTwoWays(t *testing.T) {
	for _, c := range []struct{ body, attribute, reason string }{
		{`{"id":"1","source":"s","type":"t"}`, "specversion", "is missing"},
		{`{"specversion":null,"id":"1","source":"s","type":"t"}`, "specversion", "is missing"},
		{`{"specversion":"0.3","id":"1","source":"s","type":"t"}`, "specversion", "is not 1.0"},
		{`{"specversion":"9.9","id":"1","source":"s","type":"t"}`, "specversion", "is not 1.0"},
		{`{"specversion":"1.0","source":"s","type":"t"}`, "id", "is missing"},
		{`{"specversion":"1.0","id":"","source":"s","type":"t"}`, "id", "is empty"},
		{`{"specversion":"1.0","id":7,"source":"s","type":"t"}`, "id", "is not a string"},
		{`{"specversion":"1.0","id":"a\nb","source":"s","type":"t"}`, "id", "control character"},
		{`{"specversion":"1.0","id":"a\u0000","source":"s","type":"t"}`, "id", "control character"},
		{`{"specversion":"1.0","id":"a\u0085","source":"s","type":"t"}`, "id", "control character"},
		{`{"specversion":"1.0","id":"a\uffff","source":"s","type":"t"}`, "id", "not a character"},
		{`{"specversion":"1.0","id":"` + strings.Repeat("x", 2049) + `","source":"s","type":"t"}`, "id", "longer than 2048"},
		{`{"specversion":"1.0","id":"1","type":"t"}`, "source", "is missing"},
		{`{"specversion":"1.0","id":"1","source":"a b","type":"t"}`, "source", "URI"},
		{`{"specversion":"1.0","id":"1","source":"%zz","type":"t"}`, "source", "URI"},
		{`{"specversion":"1.0","id":"1","source":"s"}`, "type", "is missing"},
		{`{` + good + `,"id":"2"}`, "id", "is given twice"},
		{`{` + good + `,"i\u0064":"2"}`, "id", "is given twice"},
		{`{` + good + `,"data":1,"data":2}`, "data", "is given twice"},
		{`{` + good + `,"data":{"a":1,"a":2}}`, "data", "names a member twice"},
		{`{` + good + `,"data":` + strings.Repeat("[", 10_000), "", "nested deeper than 10000 levels at byte"},
		{`{` + good + `,"data":1,"data_base64":"AA=="}`, "data", "is given twice"},
		{`{` + good + `,"data_base64":"A"}`, "data_base64", "is not base64"},
		{`{` + good + `,"data_base64":"AA=\n="}`, "data_base64", "is not base64"},
		{`{` + good + `,"data_base64":"AB=="}`, "data_base64", "is not base64"},
		{`{` + good + `,"data_base64":7}`, "data_base64", "is not a string"},
		{`{` + good + `,"datacontenttype":"application/json","data_base64":"/w=="}`, "data", "promises"},
		{`{` + good + `,"datacontenttype":"text/plain","data":{}}`, "data", "is not a string"},
		{`{` + good + `,"datacontenttype":"json"}`, "datacontenttype", "media type"},
		{`{` + good + `,"datacontenttype":";"}`, "datacontenttype", "media type"},
		{`{` + good + `,"dataschema":"rel"}`, "dataschema", "absolute"},
		{`{` + good + `,"Upper":"x"}`, "", `"Upper"`},
		{`{` + good + `,"task_id":"x"}`, "", `"task_id"`},
		{`{` + good + `,"":"x"}`, "", "empty name"},
		{`{` + good + `,"\u000a":"x"}`, "", `"\n"`},
		{`{` + good + `,"ext":{}}`, "ext", "is not a string, an integer or a boolean"},
		{`{` + good + `,"ext":1.5}`, "ext", "32-bit integer"},
		{`{` + good + `,"ext":1e2}`, "ext", "32-bit integer"},
		{`{` + good + `,"ext":2147483648}`, "ext", "32-bit integer"},
		{`{` + good + `,"time":"yesterday"}`, "time", "RFC 3339"},
		{`{` + good + `,"time":"2025-01-15T1:30:00Z"}`, "time", "RFC 3339"},
		{`{` + good + `,"time":"2025-01-15T10:30:00,5Z"}`, "time", "RFC 3339"},
		{`{` + good + `,"time":"2025-01-15T10:30:00"}`, "time", "RFC 3339"},
		{`{` + good + `,"time":"0000-01-01T00:00:00+01:00"}`, "time", "RFC 3339"},
		{`{` + good + `,"time":"2025-01-15T10:30:00.1234567891Z"}`, "time", "nanosecond"},
		{`{` + good + `,"subject":""}`, "subject", "is empty"},
		{`{` + good + `} {}`, "", "follow"},
		{`{` + good, "", "cut off"},
		{`{` + good + `,}`, "", "not JSON"},
		{"{" + good + ",\"subject\":\"\xff\"}", "", "UTF-8"},
		{`{` + good + `,"subject":"\ud800"}`, "", "UTF-8"},
		{"\ufeff{" + good + "}", "", "not JSON"},
		{`[]`, "", "object"}, {``, "", "empty"}, {`null`, "", "object"}, {`not json`, "", "not JSON"},
		{`{` + good + `,"data":"` + strings.Repeat("x", event.MaxBytes) + `"}`, "", "longer"},
	} {
		_, err := event.Parse([]byte(c.body))
		if bad := (*event.InvalidError)(nil); !errors.As(err, &bad) || bad.Attribute != c.attribute || !strings.Contains(bad.Reason, c.reason) {
			t.Errorf("Parse(%.120s) = %v, want %s %s", c.body, err, c.attribute, c.reason)
		}
	}
}

func TestALotOfAttributesIsRefused(t *testing.T) {
	var many, long strings.Builder
	for i := range 26 {
		for j := range 3 {
			name := string(rune('a'+i)) + string(rune('a'+j))
			many.WriteString(`,"` + name + `":"x"`)
			if i < 6 && j == 0 {
				long.WriteString(`,"` + name + `":"` + strings.Repeat("x", 2000) + `"`)
			}
		}
	}
	for _, extra := range []string{many.String(), long.String()} {
		_, err := event.Parse([]byte("{" + good + extra + "}"))
		wantInvalid(t, err, "", "attributes")
	}
}

func TestRefusalsNeverRepeatAValue(t *testing.T) {
	for _, body := range []string{
		`{"specversion":"s3cret","id":"1","source":"s","type":"t"}`, `{` + good + `,"time":"s3cret"}`, `{` + good + `,"datacontenttype":"s3cret"}`,
		`{` + good + `,"source":"s3cret"}`, `{` + good + `,"data":s3cret}`, `s3cret`,
	} {
		if _, err := event.Parse([]byte(body)); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("Parse(%s) = %v", body, err)
		}
	}
}

func TestBatchesAreReadWholeOrNotAtAll(t *testing.T) {
	h := http.Header{"Content-Type": {"application/cloudevents-batch+json"}}
	events, err := event.FromHTTP(h, []byte(` [{`+good+`}, {`+strings.Replace(good, `"1"`, `"2"`, 1)+`}] `))
	if err != nil || len(events) != 2 || events[1].ID() != "2" {
		t.Errorf("batch = %v, %v", events, err)
	}
	if events, err := event.FromHTTP(h, []byte(`[]`)); err != nil || len(events) != 0 {
		t.Errorf("empty batch = %v, %v", events, err)
	}
	for body, pointer := range map[string]string{
		`[{` + good + `},{}]`:                    "#/1/specversion",
		`[{` + good + `},{` + good + `,"id":1}]`: "#/1/id",
		`[{` + good + `}`:                        "#/1",
		`[{` + good + `}]]`:                      "#",
		`[1]`:                                    "#/0",
		`{` + good + `}`:                         "#",
		``:                                       "#",
	} {
		_, err := event.FromHTTP(h, []byte(body))
		if bad := (*event.InvalidError)(nil); !errors.As(err, &bad) || bad.Pointer() != pointer {
			t.Errorf("FromHTTP(%s) = %v, want a refusal of %s", body, err, pointer)
		}
	}
}

func headers(pairs ...string) []event.Header {
	var out []event.Header
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, event.Header{Key: pairs[i], Value: []byte(pairs[i+1])})
	}
	return out
}

func TestRecordsThatAreNoEvents(t *testing.T) {
	binary := []string{"ce_specversion", "1.0", "ce_id", "1", "ce_source", "s", "ce_type", "t"}
	with := func(more ...string) []event.Header {
		return headers(append(binary[:len(binary):len(binary)], more...)...)
	}
	structured := headers("content-type", "application/cloudevents+json")
	for name, c := range map[string]struct {
		record            event.Record
		attribute, reason string
	}{
		"tombstone":              {event.Record{Key: []byte("k")}, "", "tombstone"},
		"tombstone, binary":      {event.Record{Headers: with()}, "", "tombstone"},
		"empty":                  {event.Record{Value: []byte{}}, "", "empty"},
		"empty structured":       {event.Record{Value: []byte{}, Headers: structured}, "", "empty"},
		"oversized":              {event.Record{Value: make([]byte, event.MaxBytes+1)}, "", "longer"},
		"not JSON":               {event.Record{Value: []byte("hello")}, "", "not JSON"},
		"other JSON":             {event.Record{Value: []byte(`{"a":1}`)}, "specversion", "is missing"},
		"avro":                   {event.Record{Value: []byte("x"), Headers: headers("content-type", "application/cloudevents+avro")}, "", "format"},
		"batch":                  {event.Record{Value: []byte("[]"), Headers: headers("content-type", "application/cloudevents-batch+json")}, "", "batch"},
		"two content types":      {event.Record{Value: []byte("{" + good + "}"), Headers: append(structured, structured...)}, "datacontenttype", "twice"},
		"two ids":                {event.Record{Value: []byte("1"), Headers: with("CE_ID", "2")}, "id", "twice"},
		"deep binary data":       {event.Record{Value: []byte(strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001)), Headers: with("content-type", "application/json")}, "data", "nested deeper than 10000"},
		"missing id":             {event.Record{Value: []byte("1"), Headers: headers("ce_specversion", "1.0")}, "id", "is missing"},
		"empty id":               {event.Record{Value: []byte("1"), Headers: headers("ce_specversion", "1.0", "ce_id", "")}, "id", "is empty"},
		"bad UTF-8":              {event.Record{Value: []byte("1"), Headers: with("ce_subject", "\xff")}, "subject", "UTF-8"},
		"line feed":              {event.Record{Value: []byte("1"), Headers: with("ce_subject", "a\nb")}, "subject", "control"},
		"ce_datacontenttype":     {event.Record{Value: []byte("1"), Headers: with("ce_datacontenttype", "a/b")}, "datacontenttype", "content-type header"},
		"ce_data":                {event.Record{Value: []byte("1"), Headers: with("ce_data", "1")}, "data", "is not an attribute"},
		"data not JSON":          {event.Record{Value: []byte("x"), Headers: with("content-type", "application/json")}, "data", "promises"},
		"data with a name twice": {event.Record{Value: []byte(`{"a":1,"a":2}`), Headers: with("content-type", "application/json")}, "data", "twice"},
		"event_id first":         {event.Record{Value: []byte(`{"event_id":"1",` + good + `}`)}, "", `"event_id"`},
		"envelope, no id":        {event.Record{Value: []byte(`{"event_type":"t","event_id":null,"data":{}}`)}, "event_id", "is not a string"},
		"envelope, no type":      {event.Record{Value: []byte(`{"event_id":"1","data":{}}`)}, "type", "is missing"},
		"envelope, no data":      {event.Record{Value: []byte(`{"event_id":"1","event_type":"t"}`)}, "data", "object"},
		"envelope, no room":      {event.Record{Value: []byte(`{"event_id":"1","event_type":"t","data":{"envelope":1},"seq":1.5}`)}, "data", "envelope"},
		"envelope, header":       {event.Record{Value: []byte(`{"event_id":"1","event_type":"t","data":{}}`), Headers: headers("taskwire-id", "2")}, "id", "twice"},
		"envelope, headers":      {event.Record{Value: []byte(`{"event_id":"1","event_type":"t","data":{}}`), Headers: headers("taskwire-actor", "a", "Taskwire-Actor", "b")}, "actor", "twice"},
		"envelope, bad time":     {event.Record{Value: []byte(`{"event_id":"1","event_type":"t","data":{},"occurred_at":"now"}`)}, "time", "RFC 3339"},
		"envelope, metadata 1":   {event.Record{Value: []byte(`{"event_id":"1","event_type":"t","data":{},"metadata":1}`)}, "metadata", "object"},
		"envelope, task":         {event.Record{Value: []byte(`{"event_id":"1","event_type":"t","data":{"task_id":1}}`)}, "data.task_id", "string"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := event.FromRecord(c.record)
			wantInvalid(t, err, c.attribute, c.reason)
		})
	}
}

func TestMessagesThatAreNoEvents(t *testing.T) {
	for contentType, media := range map[string]bool{
		"text/plain": true, "application/cloudevents+xml": true, "application/cloudevents+json; charset=latin1": true, "a/b/c": true,
		"application/json": false, "": false, "application/x-www-form-urlencoded": false,
		"application/cloudevents+json; charset=utf-8": false,
	} {
		h := http.Header{}
		if contentType != "" {
			h.Set("Content-Type", contentType)
		}
		_, err := event.FromHTTP(h, []byte(`{}`))
		if errors.Is(err, event.ErrMediaType) != media {
			t.Errorf("%q: %v", contentType, err)
		}
		if !media {
			wantInvalid(t, err, "specversion", "is missing")
		}
	}
	for name, c := range map[string]struct {
		header            http.Header
		attribute, reason string
	}{
		"two ids":           {http.Header{"Ce-Id": {"1", "2"}}, "id", "twice"},
		"two content types": {http.Header{"Content-Type": {"a/b", "a/b"}}, "datacontenttype", "twice"},
		"encoded line feed": {http.Header{"Ce-Id": {"a%0Ab"}}, "id", "control"},
		"encoded bad UTF-8": {http.Header{"Ce-Id": {"%FF"}}, "id", "UTF-8"},
		"underscore":        {http.Header{"Ce-Task_id": {"1"}}, "", "task_id"},
		"no id":             {http.Header{"Ce-Specversion": {"1.0"}, "Content-Type": {"text/plain"}}, "id", "is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := event.FromHTTP(c.header, nil)
			wantInvalid(t, err, c.attribute, c.reason)
		})
	}
	h := http.Header{"Ce-Specversion": {"1.0"}, "Ce-Id": {"1"}, "Ce-Source": {"s"}, "Ce-Type": {"t"}}
	_, err := event.FromHTTP(h, make([]byte, event.MaxBytes+1))
	wantInvalid(t, err, "", "longer")
}

func TestHeaderValuesOfOtherSenders(t *testing.T) {
	for raw, want := range map[string]string{
		"Gr%c3%b6%C3%9Fe": "Größe", "Größe": "Größe", `"a b"`: "a b", `"a \"b\" %25"`: `a "b" %`, "%2541": "%41", `"`: `"`, `\"`: `\"`,
		"100%": "100%", "100%4": "100%4", "100% sure": "100% sure", "%zz%41%": "%zzA%", "%%32%35": "%25", `"50 %"`: "50 %",
	} {
		h := http.Header{"Ce-Specversion": {"1.0"}, "Ce-Id": {"1"}, "Ce-Source": {"s"}, "Ce-Type": {"t"}, "Ce-Subject": {raw}}
		events, err := event.FromHTTP(h, nil)
		if err != nil || events[0].Subject() != want {
			t.Errorf("subject %s = %v, %v, want %s", raw, events, err, want)
		}
	}
}

func TestTaskNamesWhatIsMissing(t *testing.T) {
	for data, reason := range map[string]string{
		``:                             "is missing",
		`[]`:                           "object",
		`{"title":"x"}`:                "has no task_id",
		`{"task_id":"1"}`:              "has no title",
		`{"TASK_ID":"1"}`:              "has no task_id",
		`{"task_id":"1","title":null}`: "has no title",
		`{"task_id":1,"title":"x","status":"pending"}`: "object",
	} {
		var e event.Event
		e.DataEncoded = []byte(data)
		_, err := event.Task(e)
		wantInvalid(t, err, "data", reason)
	}
}

func TestWritingRefusesWhatReadingWould(t *testing.T) {
	fresh := func() event.Event {
		e, err := event.Parse([]byte(`{` + good + `,"datacontenttype":"application/json","data":1}`))
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	for name, spoil := range map[string]func(*event.Event){
		"id":     func(e *event.Event) { e.SetID("a\nb") },
		"data":   func(e *event.Event) { e.DataEncoded = []byte("{") },
		"events": func(e *event.Event) { e.Context = nil },
		"v03":    func(e *event.Event) { e.Context = e.Context.AsV03() },
	} {
		e := fresh()
		spoil(&e)
		if _, err := event.Append(nil, e); err == nil {
			t.Errorf("%s: Append wrote it", name)
		}
		if _, err := event.Binary(e); err == nil {
			t.Errorf("%s: Binary wrote it", name)
		}
	}
}
