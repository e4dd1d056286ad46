package event_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/taskwire/taskwire/internal/event"
)

// checkAll holds for every event that a reader accepted: each form can be
// written, reads back as the same event, and is written the same again.
func checkAll(t testing.TB, e event.Event) {
	t.Helper()
	first, err := event.Append(nil, e)
	if err != nil {
		t.Fatalf("accepted but cannot be written: %v\n%v", err, facts(e))
	}
	for name, got := range everyForm(t, e) {
		if diff := cmp.Diff(facts(e), facts(got)); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", name, diff)
		}
		if strings.Contains(name, "binary") {
			continue // the types of extensions are lost, so the JSON may differ
		}
		if second, err := event.Append(nil, got); err != nil || string(second) != string(first) {
			t.Fatalf("%s: written as %s, then as %s, %v", name, first, second, err)
		}
	}
}

func wantTyped(t testing.TB, err error) {
	t.Helper()
	if bad := (*event.InvalidError)(nil); !errors.As(err, &bad) && !errors.Is(err, event.ErrMediaType) {
		t.Fatalf("refused with a %T: %v", err, err)
	}
}

// small keeps the forms of an accepted event within the size that all readers accept.
func small(body []byte) bool { return len(body) < event.MaxBytes/8 }

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{` + good + `,"data":{"a":1}}`))
	f.Add([]byte(`{` + good + `,"data_base64":"AAEC","x":true,"n":-2147483648,"taskversion":7}`))
	f.Add([]byte(`{` + good + `,"datacontenttype":"text/plain; charset=utf-8","data":"x\u0000"}`))
	f.Add([]byte(`{` + good + `,"time":"2025-01-15T10:30:00.120+02:00","dataschema":"HTTP://x/%7e?#","subject":"a % b"}`))
	f.Add([]byte(`[{` + good + `}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if !small(body) {
			return
		}
		if events, err := event.FromHTTP(http.Header{"Content-Type": {"application/cloudevents-batch+json"}}, body); err != nil {
			wantTyped(t, err)
		} else if len(events) > 0 {
			checkAll(t, events[len(events)-1])
		}
		e, err := event.Parse(body)
		if err != nil {
			wantTyped(t, err)
			return
		}
		checkAll(t, e)
	})
}

func FuzzFromRecord(f *testing.F) {
	f.Add([]byte(`{`+good+`}`), "content-type", "application/cloudevents+json", "id", "1")
	f.Add([]byte(`{"event_id":"1","event_type":"t","occurred_at":"2025-01-15T10:30:00","data":{"task_id":"x"}}`), "a", "b", "c", "d")
	f.Add([]byte(`{"event_id":"1","event_type":"t","version":2,"a":{},"data":{"task_id":"x"},"metadata":{"user_id":"u","seq":1.5}}`), "taskwire-actor", "a", "c", "d")
	f.Add([]byte(` {"a":1} `), "content-type", "application/json", "taskversion", "007")
	f.Add([]byte("\xff"), "ce_x", "", "traceparent", "00-1")
	f.Fuzz(func(t *testing.T, value []byte, key, header, name, text string) {
		if !small(value) {
			return
		}
		r := event.Record{Value: value, Headers: headers("ce_specversion", "1.0", "ce_id", "1", "ce_source", "s", "ce_type", "t", key, header, "ce_"+name, text)}
		for _, r := range []event.Record{r, {Value: value}, {Value: value, Headers: headers(key, header)}} {
			e, _, err := event.FromRecord(r)
			if err != nil {
				wantTyped(t, err)
				continue
			}
			checkAll(t, e)
		}
	})
}

func FuzzFromHTTP(f *testing.F) {
	f.Add("application/cloudevents+json", "1", "s%20x", []byte(`{`+good+`}`))
	f.Add("application/json", "1", `"a \" b"`, []byte(`{}`))
	f.Add("", "Gr%C3%B6%C3%9Fe", "s", []byte("\x00"))
	f.Fuzz(func(t *testing.T, contentType, id, subject string, body []byte) {
		if !small(body) {
			return
		}
		h := http.Header{"Content-Type": {contentType}, "Ce-Id": {id}, "Ce-Source": {"s"}, "Ce-Type": {"t"}, "Ce-Specversion": {"1.0"}, "Ce-Subject": {subject}}
		events, err := event.FromHTTP(h, body)
		if err != nil {
			wantTyped(t, err)
			return
		}
		for _, e := range events[:min(len(events), 3)] {
			checkAll(t, e)
		}
	})
}

// TestAnyEventSurvivesEveryForm draws events from everything the specification
// allows; fuzzing alone rarely finds a whole event.
func TestAnyEventSurvivesEveryForm(t *testing.T) {
	text := rapid.StringOf(rapid.RuneFrom([]rune(`aZ0 "%\/ü€😀=,;<>`))).Filter(func(s string) bool { return s != "" })
	rapid.Check(t, func(r *rapid.T) {
		members := map[string]any{"specversion": "1.0", "id": text.Draw(r, "id"), "source": "s", "type": text.Draw(r, "type")}
		if rapid.Bool().Draw(r, "has subject") {
			members["subject"] = text.Draw(r, "subject")
		}
		for name, value := range rapid.MapOfN(rapid.StringMatching(`x[a-z0-9]{0,8}`), text, 0, 20).Draw(r, "extensions") {
			members[name] = value
		}
		contentType := rapid.SampledFrom([]string{"", "application/json", "application/vnd.x+json", "text/plain", "application/octet-stream"}).Draw(r, "content type")
		if contentType != "" {
			members["datacontenttype"] = contentType
		}
		if strings.HasSuffix(contentType, "json") {
			members["data"] = json.RawMessage(rapid.SampledFrom([]string{`{"a": 1}`, `[1,2 ,3]`, `"x"`, `null`, "1e400"}).Draw(r, "json"))
		} else {
			members["data_base64"] = rapid.SliceOf(rapid.Byte()).Draw(r, "data")
		}
		body, err := json.Marshal(members)
		if err != nil {
			r.Fatal(err)
		}
		e, err := event.Parse(body)
		if err != nil {
			r.Fatalf("Parse(%s): %v", body, err)
		}
		checkAll(rapidTB{t, r}, e)
	})
}

// rapidTB lets rapid shrink a failure inside checkAll.
type rapidTB struct {
	testing.TB
	r *rapid.T
}

func (t rapidTB) Fatalf(format string, args ...any) { t.r.Fatalf(format, args...) }
func (t rapidTB) Fatal(args ...any)                 { t.r.Fatal(args...) }

// Each sink reads each event once.
func TestReadingAllocatesLittle(t *testing.T) {
	body, err := event.Append(nil, sample(t))
	if err != nil {
		t.Fatal(err)
	}
	const most = 30 // 21; the race detector takes decoders out of the pool at random
	allocs := testing.AllocsPerRun(100, func() {
		if _, err := event.Parse(body); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > most {
		t.Errorf("%.0f allocations to read an event, want at most %d", allocs, most)
	}
	header := http.Header{"Content-Type": {"application/cloudevents-batch+json"}}
	batch := slices.Concat([]byte("["), body, []byte(","), body, []byte("]"))
	allocs = testing.AllocsPerRun(100, func() {
		if _, err := event.FromHTTP(header, batch); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 2*most+12 {
		t.Errorf("%.0f allocations to read a batch of two, want at most %d", allocs, 2*most+12)
	}
}

func BenchmarkParse(b *testing.B) {
	body, err := event.Append(nil, sample(b))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := event.Parse(body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	e := sample(b)
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if buf, err = event.Append(buf[:0], e); err != nil {
			b.Fatal(err)
		}
	}
}
