package event_test

import (
	"slices"
	"testing"
	"time"

	"github.com/taskwire/taskwire/internal/event"
)

func change(t testing.TB) []byte {
	owner := "ann"
	body, err := event.AppendChange(nil, event.Change{
		ID: "0198f3f7-3a2b-7c4d-8e5f-0123456789ab", Type: event.TypeCreated, Time: time.Date(2026, 11, 30, 3, 4, 5, 678_900_000, time.UTC), TaskVersion: 3,
		CorrelationID: "c-1", TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		Data: event.Data{TaskID: "t-1", Title: "Zoë says \"hello\"\n", Status: "pending", OwnerID: &owner},
	})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func TestOutlineOfOurOwnEvents(t *testing.T) {
	r := event.Structured("t-1", change(t))
	var o event.Outline
	if !o.Read(r) {
		t.Fatal("the outline of a change cannot be read")
	}
	sameAsFromRecord(t, &o, r)
	if allocs := testing.AllocsPerRun(1000, func() { o.Read(r) }); allocs > 0 {
		t.Errorf("%.1f allocations to read an outline, want none", allocs)
	}
}

func sameAsFromRecord(t *testing.T, o *event.Outline, r event.Record) {
	t.Helper()
	e, mode, err := event.FromRecord(r)
	if err != nil || mode != event.ModeStructured {
		t.Fatalf("FromRecord reads %q, %v, and Outline does: %s", mode, err, r.Value)
	}
	names := event.Attributes(e)
	for _, name := range append(slices.Clone(names), "none", "dataschema", "subject", "time") {
		want, wantOK := event.Attribute(e, name)
		have, ok := o.Attribute(name)
		if string(have) != want || ok != wantOK {
			t.Errorf("attribute %s = %q, %v; FromRecord has %q, %v", name, have, ok, want, wantOK)
		}
	}
}

func TestOutlineLeavesWhatIsUnusual(t *testing.T) {
	const plain = `{"specversion":"1.0","id":"1","source":"s","type":"t"`
	structured := []event.Header{{Key: "Content-Type", Value: []byte(event.KafkaContentType)}}
	for name, c := range map[string]struct {
		value   string
		headers []event.Header
		read    bool
	}{
		"plain":              {plain + `}`, structured, true},
		"white space":        {" {\n\"specversion\" : \"1.0\",\"id\":\"1\",\"source\":\"s\",\"type\":\"t\"\t} ", structured, true},
		"no content type":    {plain + `}`, nil, true},
		"binary":             {plain + `}`, []event.Header{{Key: "CE_id", Value: []byte("1")}}, false},
		"two content types":  {plain + `}`, append(slices.Clone(structured), structured...), false},
		"another format":     {plain + `}`, []event.Header{{Key: "content-type", Value: []byte("application/cloudevents+avro")}}, false},
		"types":              {plain + `,"n":-7,"b":true}`, structured, true},
		"no integer":         {plain + `,"n":1.5}`, structured, false},
		"minus nothing":      {plain + `,"n":-0}`, structured, false},
		"null":               {plain + `,"n":null}`, structured, false},
		"object":             {plain + `,"n":{}}`, structured, false},
		"letters":            {plain + `,"subject":"Zoë"}`, structured, false},
		"upper case":         {plain + `,"N":"1"}`, structured, false},
		"twice":              {plain + `,"id":"1"}`, structured, false},
		"twice in data":      {plain + `,"data":{"a":1,"a":1}}`, structured, false},
		"same name deeper":   {plain + `,"data":{"a":{"a":[{"a":1},{"a":2}]}}}`, structured, true},
		"data":               {plain + `,"data":[1,-0.5e+7,"\u00e4\n",null,true,{}]}`, structured, true},
		"half a pair":        {plain + `,"data":"\ud800"}`, structured, false},
		"not UTF-8":          {plain + ",\"data\":\"\xff\"}", structured, false},
		"leading zero":       {plain + `,"data":01}`, structured, false},
		"no fraction":        {plain + `,"data":1.}`, structured, false},
		"text":               {plain + `,"datacontenttype":"text/plain","data":"x"}`, structured, false},
		"JSON by its suffix": {plain + `,"datacontenttype":"application/x+json","data":{}}`, structured, true},
		"base64":             {plain + `,"data_base64":"AA=="}`, structured, false},
		"time":               {plain + `,"time":"2026-01-02T03:04:05.120+01:00"}`, structured, true},
		"no time":            {plain + `,"time":"yesterday"}`, structured, false},
		"no version":         {`{"id":"1","source":"s","type":"t"}`, structured, false},
		"version 0.3":        {`{"specversion":"0.3","id":"1","source":"s","type":"t"}`, structured, false},
		"empty id":           {`{"specversion":"1.0","id":"","source":"s","type":"t"}`, structured, false},
		"space in source":    {`{"specversion":"1.0","id":"1","source":"a b","type":"t"}`, structured, false},
		"trailing comma":     {plain + `,}`, structured, false},
		"cut off":            {plain, structured, false},
		"more":               {plain + `}{}`, structured, false},
		"a zero byte":        {plain + "}\x00", structured, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := event.Record{Value: []byte(c.value), Headers: c.headers}
			var o event.Outline
			for range 2 { // it remembers what it has checked
				if got := o.Read(r); got != c.read {
					t.Fatalf("Read = %v, want %v", got, c.read)
				}
				if c.read {
					sameAsFromRecord(t, &o, r)
				}
			}
		})
	}
}

// There is one reading of an event.
func FuzzOutline(f *testing.F) {
	f.Add(change(f), true)
	for _, seed := range []string{
		`{"specversion":"1.0","id":"1","source":"s","type":"t","data":[1,-0.5e+7,"\u00e4\n",null,true,{}]}`,
		`{"specversion":"1.0","id":"1","source":"//a:b/c?d#e","type":"t","time":"2026-01-02T03:04:05.120+01:00","n":-7,"b":true,"dataschema":"http://x/y"}`,
		`{"specversion":"1.0","id":"1","source":"s","type":"t","datacontenttype":"text/json; a=b","data":"x"}`,
	} {
		f.Add([]byte(seed), false)
	}
	var o event.Outline // one for all: what it remembers must make no difference
	f.Fuzz(func(t *testing.T, value []byte, typed bool) {
		r := event.Record{Value: value}
		if typed {
			r = event.Structured("k", value)
		}
		if o.Read(r) {
			sameAsFromRecord(t, &o, r)
		}
	})
}

func BenchmarkOutline(b *testing.B) {
	r := event.Structured("t-1", change(b))
	var o event.Outline
	b.SetBytes(int64(len(r.Value)))
	for b.Loop() {
		o.Read(r)
	}
}
