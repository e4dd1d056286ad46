package pump_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/journal"
	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/registry"
	"github.com/taskwire/taskwire/internal/registrytest"
	"github.com/taskwire/taskwire/schemas"
)

// library is a registry that can be down, and what the bridge knows of it.
type library struct {
	down    atomic.Bool
	fake    registrytest.Fake
	url     string
	schemas *registry.Schemas
	id      int    // of the schema of task events
	named   string // the dataschema of what is written with it
}

func newLibrary(t *testing.T) *library {
	t.Helper()
	l := &library{fake: registrytest.Start(t)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if l.down.Load() {
			http.Error(w, "starting", http.StatusServiceUnavailable)
			return
		}
		l.fake.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	l.url = server.URL
	c, err := registry.New(registry.Config{URL: l.url}, "test")
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Register(t.Context(), "events-value", schemas.TaskEvent)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	l.id, l.named, l.schemas = r.ID, r.DataSchema, l.begin(t)
	return l
}

// begin returns what a bridge that starts knows of the registry: nothing.
func (l *library) begin(t *testing.T) *registry.Schemas {
	t.Helper()
	c, err := registry.New(registry.Config{URL: l.url}, "test")
	if err != nil {
		t.Fatal(err)
	}
	s := registry.NewSchemas(c, slog.New(slog.DiscardHandler))
	s.Settle, s.Restore = 300*time.Millisecond, 300*time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait(); c.Close() })
	return s
}

// inAvro is a record of a task event in Avro.
func inAvro(t *testing.T, schema int, id, key string) *kgo.Record {
	t.Helper()
	value, err := avro.MustParse(schemas.TaskEvent).AppendEncode(registry.AppendHeader(nil, schema), map[string]any{"task_id": key, "title": id, "status": "pending", "owner_id": nil})
	if err != nil {
		t.Fatal(err)
	}
	return withValue(id, key, value)
}

func withValue(id, key string, value []byte) *kgo.Record {
	r := &kgo.Record{Topic: "events", Key: []byte(key), Value: value}
	for _, h := range [][2]string{{"ce_specversion", "1.0"}, {"ce_id", id}, {"ce_source", "s"}, {"ce_type", "t"}, {"ce_partitionkey", key},
		{"ce_dataschema", "http://registry/subjects/events-value/versions/1"}, {"content-type", "application/avro"}} {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: h[0], Value: []byte(h[1])})
	}
	return r
}

// reader is a sink that keeps what it is sent.
type reader struct {
	server *httptest.Server
	mu     sync.Mutex
	bodies []string
	types  []string
}

func newReader(t *testing.T) *reader {
	r := &reader{}
	r.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.bodies, r.types = append(r.bodies, string(body)), append(r.types, req.Header.Get("Content-Type"))
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(r.server.Close)
	return r
}

// ids are the events in the order in which they came.
func (r *reader) ids(t *testing.T) (ids []string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.bodies {
		var e struct{ ID string }
		if err := json.Unmarshal([]byte(b), &e); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, e.ID)
	}
	return ids
}

func TestDataInAvroIsPostedAsJSON(t *testing.T) {
	const attributes = `"specversion":"1.0","id":"e1","source":"s","type":"t"`
	const data = `{"task_id":"k","title":"e1","status":"pending","owner_id":null}`
	for name, c := range map[string]struct {
		mode        pump.Mode
		asIs        bool
		contentType string
		body        func(value string) string
	}{
		"structured": {pump.Structured, false, "application/cloudevents+json; charset=utf-8", func(string) string {
			return `{` + attributes + `,"datacontenttype":"application/json","dataschema":"` + schemas.TaskEventJSON + `","partitionkey":"k","data":` + data + `}`
		}},
		"binary":          {pump.Binary, false, "application/json", func(string) string { return data }},
		"binary as it is": {pump.Binary, true, "application/avro", func(value string) string { return value }},
		"structured as it is": {pump.Structured, true, "application/cloudevents+json; charset=utf-8", func(string) string {
			return `{` + attributes + `,"datacontenttype":"application/avro","dataschema":"http://registry/subjects/events-value/versions/1","partitionkey":"k","data_base64":"AAAAAAECawRlMQAA"}`
		}},
	} {
		t.Run(name, func(t *testing.T) {
			l, sink := newLibrary(t), newReader(t)
			b := setup(t, sink.server.URL)
			b.cfg.Mode, b.cfg.AsIs, b.cfg.Schemas = c.mode, c.asIs, l.schemas
			rec := inAvro(t, l.id, "e1", "k")
			b.produce(rec)
			_, stop := b.run()
			b.untilCommitted(1)
			stop()
			if want := c.body(string(rec.Value)); len(sink.bodies) != 1 || sink.bodies[0] != want || sink.types[0] != c.contentType {
				t.Errorf("posted %q as %q\nwant   %q as %s", sink.bodies, sink.types, want, c.contentType)
			}
		})
	}
}

// While the registry is down, what has a known schema goes on, and so do other keys.
// What waits is no dead letter however long it lasts, and goes in order when the
// registry is back.
func TestARegistryThatIsDown(t *testing.T) {
	l, sink := newLibrary(t), newReader(t)
	b := setup(t, sink.server.URL)
	b.cfg.Schemas, b.cfg.Attempts, b.cfg.For, b.cfg.Journal = l.schemas, 1, time.Millisecond, journal.New()
	apptest.Await(t, "the schema is known", func() bool { _, err := l.schemas.Get(l.id, ""); return err == nil })
	other := `{"type":"record","name":"Other","fields":[{"name":"x","type":"string"}]}`
	l.down.Store(true)
	unknown := l.id + 1 // until it is registered
	b.produce(inAvro(t, l.id, "known", "a"), withValue("unknown 1", "b", append(registry.AppendHeader(nil, unknown), "\x02x"...)), withValue("unknown 2", "b", append(registry.AppendHeader(nil, unknown), "\x02y"...)),
		event("json", "c"), inAvro(t, l.id, "behind", "b"))
	s, stop := b.run()
	apptest.Await(t, "the other keys go on", func() bool { return len(sink.ids(t)) == 2 })
	apptest.Await(t, "the wait is shown", func() bool {
		return b.blocked("schema") == 1
	})
	if state := s.Status()[0]; state.Blocking == nil || state.Blocking.EventID != "unknown 1" || !strings.Contains(state.Blocking.Reason, "503") {
		t.Errorf("blocking = %+v, want the event and the registry's answer", state.Blocking)
	}
	if offset, _ := b.committed(); offset > 1 {
		t.Errorf("committed %d, past an event that waits", offset)
	}
	l.down.Store(false)
	l.register(t, other, unknown)
	b.untilCommitted(5)
	stop()
	if diff := cmp.Diff([]string{"unknown 1", "unknown 2", "behind"}, sink.ids(t)[2:]); diff != "" {
		t.Errorf("after the outage (-want +got):\n%s", diff)
	}
	if letters := b.letters(); len(letters) != 0 {
		t.Errorf("%d dead letters, want none", len(letters))
	}
	var waited []string
	steps, _ := b.cfg.Journal.After(0, 100, nil)
	for _, step := range steps {
		if step.Kind == journal.Undecoded && strings.Contains(step.Error, "503") {
			waited = append(waited, step.Event)
		}
	}
	if diff := cmp.Diff([]string{"unknown 1"}, waited); diff != "" {
		t.Errorf("the journal says what waits, once (-want +got):\n%s", diff)
	}
}

// Nothing is to be expected for these: they are dead letters, and those behind go on.
func TestWhatNoSchemaReads(t *testing.T) {
	l, sink := newLibrary(t), newReader(t)
	b := setup(t, sink.server.URL)
	b.cfg.Schemas, b.cfg.Block = l.schemas, true
	header := registry.AppendHeader(nil, l.id)
	wrong := map[string][]byte{
		"no header":        []byte(`{"task_id":"k"}`),
		"too short":        append(header[:len(header):len(header)], "\x02k"...),
		"bytes behind":     append(append(header[:len(header):len(header)], "\x02k\x02x\x00\x00"...), 0),
		"no such status":   append(header[:len(header):len(header)], "\x02k\x02x\x08\x00"...),
		"a string bomb":    append(header[:len(header):len(header)], "\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"...),
		"an unknown id":    append(registry.AppendHeader(nil, 99), "\x02k"...),
		"a negative id":    {0, 0xff, 0xff, 0xff, 0xff, 0},
		"other wire forms": {0xc3, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0},
	}
	var order []string
	for id, value := range wrong {
		order = append(order, id)
		b.produce(withValue(id, "k", value))
	}
	b.produce(inAvro(t, l.id, "good", "k"))
	_, stop := b.run()
	b.untilCommitted(int64(len(wrong)) + 1)
	stop()
	if diff := cmp.Diff([]string{"good"}, sink.ids(t)); diff != "" {
		t.Errorf("posted (-want +got):\n%s", diff)
	}
	var got []string
	for _, letter := range b.letters() {
		got = append(got, letter.ID)
		if letter.Letter.Reason != deadletter.Malformed {
			t.Errorf("%s: reason %s", letter.ID, letter.Letter.Reason)
		}
	}
	if diff := cmp.Diff(order, got); diff != "" {
		t.Errorf("dead letters (-want +got):\n%s", diff)
	}
}

// Another schema under the id, as in a registry that was set up again without its data:
// who knows the one of before keeps it, and to others the data does not fit.
func TestAnotherSchemaUnderTheID(t *testing.T) {
	l, sink := newLibrary(t), newReader(t)
	b := setup(t, sink.server.URL)
	b.cfg.Schemas, b.cfg.Block = l.schemas, true
	apptest.Await(t, "the schema is known", func() bool { _, err := l.schemas.Get(l.id, ""); return err == nil })
	l.fake.Reset()
	l.register(t, `{"type":"record","name":"Other","fields":[{"name":"x","type":"int"},{"name":"y","type":"double"}]}`, l.id)
	b.produce(inAvro(t, l.id, "known", "k"))
	_, stop := b.run()
	b.untilCommitted(1)
	stop()
	b.cfg.Schemas = l.begin(t)
	b.produce(inAvro(t, l.id, "unfit", "k"))
	_, stop = b.run()
	b.untilCommitted(2)
	stop()
	if diff := cmp.Diff([]string{"known"}, sink.ids(t)); diff != "" {
		t.Errorf("posted (-want +got):\n%s", diff)
	}
	if letters := b.letters(); len(letters) != 1 || letters[0].ID != "unfit" || letters[0].Letter.Reason != deadletter.Malformed {
		t.Errorf("dead letters = %+v", letters)
	}
}

// A registry that lost its data has another schema under the id, which the data would
// fit. An event that names the fingerprint of its own is not read with that: it is set
// aside, and goes out as it was made when its schema is registered again, under
// whatever id.
func TestARegistryWithoutItsData(t *testing.T) {
	l, sink := newLibrary(t), newReader(t)
	b := setup(t, sink.server.URL)
	b.cfg.Schemas, b.cfg.Block = l.begin(t), true
	l.fake.Reset()
	l.register(t, strings.Replace(schemas.TaskEvent, `"name": "title"`, `"name": "summary"`, 1), l.id)
	named := func(id string) *kgo.Record {
		rec := inAvro(t, l.id, id, "k")
		for i, h := range rec.Headers {
			if h.Key == "ce_dataschema" {
				rec.Headers[i].Value = []byte(l.named)
			}
		}
		return rec
	}
	b.produce(named("e1"))
	_, stop := b.run()
	b.untilCommitted(1)
	stop()
	if letters := b.letters(); len(letters) != 1 || letters[0].Letter.Reason != deadletter.Malformed || !strings.Contains(letters[0].Letter.Error, "another schema") {
		t.Errorf("dead letters = %+v, want one that says why", letters)
	}
	c, err := registry.New(registry.Config{URL: l.url}, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if r, err := c.Register(t.Context(), "events-value", schemas.TaskEvent); err != nil || r.ID == l.id {
		t.Fatalf("Register = %+v, %v; want another id than %d", r, err, l.id)
	}
	b.cfg.Schemas = l.begin(t)
	b.produce(named("e2"))
	s, _ := b.run()
	b.untilCommitted(2)
	if got := b.redrive(s, &pump.Redrive{Select: everyLetter}); got.Delivered != 1 || got.Failed != 0 {
		t.Errorf("progress %+v, want one delivered", got)
	}
	if diff := cmp.Diff([]string{"e2", "e1"}, sink.ids(t)); diff != "" {
		t.Errorf("posted (-want +got):\n%s", diff)
	}
	for _, body := range sink.bodies {
		if !strings.Contains(body, `"title":"e`) {
			t.Errorf("posted %s, want the data as it was made", body)
		}
	}
}

// A letter that was written because the registry had no such schema is redriven when it
// has one again.
func TestALetterWithoutItsSchemaIsRedriven(t *testing.T) {
	l, sink := newLibrary(t), newReader(t)
	b := setup(t, sink.server.URL)
	b.cfg.Schemas, b.cfg.Block = l.schemas, true
	b.produce(inAvro(t, l.id+1, "lost", "k"))
	_, stop := b.run()
	b.untilCommitted(1)
	stop()
	l.register(t, strings.Replace(schemas.TaskEvent, `"name": "title"`, `"name": "summary"`, 1), l.id+1)
	b.cfg.Schemas = l.begin(t)
	s, _ := b.run()
	if got := b.redrive(s, &pump.Redrive{Select: everyLetter}); got.Delivered != 1 || got.Failed != 0 {
		t.Errorf("progress %+v, want one delivered", got)
	}
	if diff := cmp.Diff([]string{"lost"}, sink.ids(t)); diff != "" {
		t.Errorf("posted (-want +got):\n%s", diff)
	}
	if n := len(b.open()); n != 0 {
		t.Errorf("%d letters are open, want none", n)
	}
}

// An operator may give up on an event whose schema nobody will bring back. If somebody
// does after all, it is not posted.
func TestAnEventWithoutItsSchemaCanBeSkipped(t *testing.T) {
	l, sink := newLibrary(t), newReader(t)
	b := setup(t, sink.server.URL)
	b.cfg.Schemas, b.cfg.Block = l.schemas, true
	l.down.Store(true)
	b.produce(inAvro(t, l.id, "lost", "k"), event("next", "k"))
	s, stop := b.run()
	apptest.Await(t, "it can be skipped", func() bool {
		return s.Skip(t.Context(), pump.Skip{Partition: 0, Offset: 0, Reason: "the registry burnt down", By: "test"}) == nil
	})
	b.untilCommitted(2)
	l.down.Store(false)
	b.produce(inAvro(t, l.id, "later", "other"))
	b.untilCommitted(3)
	stop()
	if ids := sink.ids(t); len(ids) != 3 || !strings.Contains(ids[0], "/skipped/") || ids[1] != "next" || ids[2] != "later" {
		t.Errorf("posted %q, want a notice and the two other events", ids)
	}
	if letters := b.letters(); len(letters) != 1 || letters[0].Letter.Reason != deadletter.Skipped || letters[0].ID != "lost" {
		t.Errorf("dead letters = %+v", letters)
	}
}

// Without a registry an event in Avro waits: posted as it is, it would be another
// event to whoever has had it as JSON before.
func TestAvroWithoutARegistryWaits(t *testing.T) {
	sink := newReader(t)
	b := setup(t, sink.server.URL)
	b.produce(inAvro(t, 1, "e1", "k"), event("e2", "other"))
	s, _ := b.run()
	apptest.Await(t, "the setting is named", func() bool {
		state := s.Status()
		return b.blocked("schema") == 1 && len(state) == 1 && state[0].Blocking != nil && strings.Contains(state[0].Blocking.Reason, "SCHEMA_REGISTRY_URL")
	})
	apptest.Await(t, "the other key goes on", func() bool { return len(sink.ids(t)) == 1 })
}

func (l *library) register(t *testing.T, schema string, want int) {
	t.Helper()
	c, err := registry.New(registry.Config{URL: l.url}, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if r, err := c.Register(t.Context(), "other-value", schema); err != nil || r.ID != want {
		t.Fatalf("Register = %+v, %v; want id %d", r, err, want)
	}
}
