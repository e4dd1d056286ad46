package pump_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/filter"
	"github.com/taskwire/taskwire/bridge/internal/pump"
	ev "github.com/taskwire/taskwire/internal/event"
	oursink "github.com/taskwire/taskwire/internal/sink"
)

// facts are what every form of an event must keep.
func facts(e ev.Event) map[string]string {
	out := map[string]string{"data": string(e.DataEncoded)}
	for _, name := range ev.Attributes(e) {
		out[name], _ = ev.Attribute(e, name)
	}
	return out
}

// receiver keeps the events that a sink of ours read, and the headers of each post.
type receiver struct {
	mu      sync.Mutex
	got     []map[string]string
	headers []http.Header
}

func newReceiver(t *testing.T) (*receiver, string) {
	r := &receiver{}
	inner := oursink.Handler(func(_ context.Context, events []ev.Event) []oursink.Result {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, e := range events {
			r.got = append(r.got, facts(e))
		}
		results := make([]oursink.Result, len(events))
		for i := range results {
			results[i].Status = http.StatusNoContent
		}
		return results
	})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.headers = append(r.headers, req.Header)
		r.mu.Unlock()
		inner.ServeHTTP(w, req)
	}))
	t.Cleanup(server.Close)
	return r, server.URL
}

func header(pairs ...string) []kgo.RecordHeader {
	var out []kgo.RecordHeader
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, kgo.RecordHeader{Key: pairs[i], Value: []byte(pairs[i+1])})
	}
	return out
}

// forms are one event in each form that a record has, and what else its data may be.
func forms() []*kgo.Record {
	structured := header("content-type", "application/cloudevents+json")
	head := `{"specversion":"1.0","source":"s","type":"t","actor":"Größe \"x\" 100%","taskversion":7,"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","sequence":"12",`
	records := []*kgo.Record{
		{Headers: structured, Value: []byte(head + `"id":"json","time":"2025-01-15T10:30:00.5Z","data":{"a": [1,"b"]}}`)},
		{Headers: structured, Value: []byte(head + `"id":"text","datacontenttype":"text/plain; charset=utf-8","data":"brød\n"}`)},
		{Headers: structured, Value: []byte(head + `"id":"base64","datacontenttype":"image/png","dataschema":"http://x/y","data_base64":"AP8="}`)},
		{Headers: structured, Value: []byte(head + `"id":"none","subject":"none"}`)},
		{Headers: header("ce_specversion", "1.0", "ce_id", "binary", "ce_source", "s", "ce_type", "t", "ce_actor", "Größe", "content-type", "application/json"), Value: []byte(`{"a":1}`)},
		{Value: []byte(`{"event_id":"envelope","event_type":"task.created","occurred_at":"2025-01-15T10:30:00Z","data":{"task_id":"x"},"metadata":{"source":"task-api","correlation_id":"c"}}`)},
	}
	for _, r := range records {
		r.Topic, r.Key = "events", []byte("one") // so that they arrive in this order
	}
	return records
}

func TestASinkReadsTheSameEventInEveryMode(t *testing.T) {
	var want []map[string]string
	for _, r := range forms() {
		rec := ev.Record{Key: r.Key, Value: r.Value}
		for _, h := range r.Headers {
			rec.Headers = append(rec.Headers, ev.Header{Key: h.Key, Value: h.Value})
		}
		e, _, err := ev.FromRecord(rec)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, facts(e))
	}
	for _, mode := range []pump.Mode{pump.Structured, pump.Binary} {
		r, url := newReceiver(t)
		b := setup(t, url)
		b.cfg.Mode = mode
		b.produce(forms()...)
		_, stop := b.run()
		b.untilCommitted(int64(len(want)))
		stop()
		if diff := cmp.Diff(want, r.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", mode, diff)
		}
		for i, h := range r.headers {
			if got := h.Get("Ce-Id"); (got != "") != (mode == pump.Binary) {
				t.Errorf("%s: post %d has ce-id %q", mode, i, got)
			}
		}
		if got, want := r.headers[0].Get("Traceparent"), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"; got != want {
			t.Errorf("%s: traceparent %q, want %q", mode, got, want)
		}
		if got := r.headers[3].Get("Content-Length"); mode == pump.Binary && got != "0" {
			t.Errorf("an event without data has the length %q, want 0", got)
		}
	}
}

func TestAnEventThatTheBinaryFormCannotCarryIsADeadLetter(t *testing.T) {
	r, url := newReceiver(t)
	b := setup(t, url)
	b.cfg.Mode = pump.Binary
	within := event("within", "k")
	within.Value = []byte(`{"specversion":"1.0","id":"outer","source":"s","type":"t","datacontenttype":"application/cloudevents+json",` +
		`"data":{"specversion":"1.0","id":"inner","source":"s","type":"t"}}`)
	b.produce(within, event("1", "k"))
	_, stop := b.run()
	b.untilCommitted(2)
	stop()
	if len(r.got) != 1 || r.got[0]["id"] != "1" {
		t.Errorf("the sink read %v, want event 1 alone", r.got)
	}
	if l := b.letters(); len(l) != 1 || l[0].Letter.Reason != deadletter.Malformed || !strings.Contains(l[0].Letter.Error, "binary form") {
		t.Errorf("dead letters %+v", l)
	}
}

// An event whose time is over is not posted; its key goes on. It is so wherever
// the time passes: before the first attempt and between two.
func TestAnExpiredEventIsADeadLetter(t *testing.T) {
	for _, block := range []bool{false, true} {
		s := newSink(t, func(id string, _ int) int {
			if id == "soon" { // for ever, as far as the sink is concerned
				return http.StatusServiceUnavailable
			}
			return http.StatusNoContent
		})
		b := setup(t, s.server.URL)
		b.cfg.Block, b.cfg.Attempts = block, 1_000_000
		expiring := func(id, at string) *kgo.Record {
			r := event(id, "k")
			r.Value = append(r.Value[:len(r.Value)-1], `,"expirytime":"`+at+`"}`...)
			return r
		}
		soon := time.Now().Add(time.Second) // it has to be posted before
		b.produce(expiring("past", "2020-01-01T00:00:00+02:00"), expiring("soon", soon.Format(time.RFC3339Nano)), expiring("later", "2999-01-01T00:00:00Z"),
			expiring("unreadable", "tomorrow"))
		_, stop := b.run()
		b.untilCommitted(4)
		stop()
		if diff := cmp.Diff([]string{"later", "unreadable"}, s.accepted()); diff != "" {
			t.Errorf("block %v: accepted (-want +got):\n%s", block, diff)
		}
		letters := b.letters()
		if len(letters) != 2 || s.count("past") != 0 || s.count("soon") == 0 {
			t.Fatalf("block %v: %d dead letters, %d and %d posts of what expired, want 2, 0 and some", block, len(letters), s.count("past"), s.count("soon"))
		}
		for i, l := range letters {
			if l.Letter.Reason != deadletter.Expired || l.Letter.Offset != int64(i) || !strings.Contains(l.Letter.Error, "has passed") {
				t.Errorf("block %v: letter %+v", block, l.Letter)
			}
		}
	}
}

// An event in a format that the bridge does not read is passed on where nothing
// takes reading it, and a dead letter with the reason elsewhere; its key goes on.
func TestFormatsThatTheBridgeDoesNotRead(t *testing.T) {
	const avro = "application/cloudevents+avro; v=1"
	types := []filter.Filter{filter.Types([]string{"t"})}
	for _, c := range []struct {
		name   string
		change func(*pump.Config)
		letter string // "" when it is delivered
	}{
		{"structured", func(*pump.Config) {}, ""},
		{"filters", func(cfg *pump.Config) { cfg.Filters = types }, "types and filters cannot be applied"},
		{"binary", func(cfg *pump.Config) { cfg.Mode = pump.Binary }, "in the modes structured and auto only"},
		{"batch", func(cfg *pump.Config) { cfg.Mode, cfg.Batch = pump.Batched, pump.Batch{Size: 10, Bytes: 1 << 20} }, "in the modes structured and auto only"},
		{"auto", func(cfg *pump.Config) { cfg.Mode, cfg.Batch = pump.Auto, pump.Batch{Size: 10, Bytes: 1 << 20} }, ""},
	} {
		type seen struct{ ContentType, Body string }
		var mu sync.Mutex
		var got []seen
		s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			mu.Lock()
			got = append(got, seen{r.Header.Get("Content-Type"), string(body)})
			mu.Unlock()
		}))
		b := setup(t, s.URL)
		b.cfg.Mode = pump.Structured
		c.change(&b.cfg)
		b.produce(&kgo.Record{Topic: "events", Key: []byte("k"), Headers: header("Content-Type", avro), Value: []byte("\x00\xffavro")},
			&kgo.Record{Topic: "events", Key: []byte("k"), Headers: header("Content-Type", "application/cloudevents-batch+avro"), Value: []byte("x")},
			&kgo.Record{Topic: "events", Key: []byte("k"), Headers: header("Content-Type", "application/cloudevents+a\r\nX: y"), Value: []byte("x")},
			event("1", "k"))
		_, stop := b.run()
		b.untilCommitted(4)
		stop()
		s.Close()
		letters := b.letters()
		posts := 1
		if c.letter == "" {
			posts = 2
			if diff := cmp.Diff(seen{avro, "\x00\xffavro"}, got[0]); diff != "" {
				t.Errorf("%s: posted (-want +got):\n%s", c.name, diff)
			}
		} else if l := letters[0].Letter; l.Reason != deadletter.Malformed || !strings.Contains(l.Error, c.letter) || l.Offset != 0 || l.Attempts != 0 {
			t.Errorf("%s: letter %+v", c.name, l)
		}
		if len(got) != posts || len(letters) != 4-posts {
			t.Errorf("%s: %d posts and %d dead letters, want %d and %d", c.name, len(got), len(letters), posts, 4-posts)
		}
	}
}
