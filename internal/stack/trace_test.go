package stack_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/stack"
	"github.com/taskwire/taskwire/internal/tracetest"
)

const (
	caller = "00-" + callerTrace + "-b7ad6b7169203331-01"

	callerTrace = "0af7651916cd43dd8448eb211c80319c"
)

// traced is a stack whose services export to a collector.
type traced struct {
	*testing.T
	stack     *stack.Stack
	collector *tracetest.Collector
}

func startTraced(t *testing.T, settings map[string]string) *traced {
	t.Helper()
	collector := tracetest.Start(t)
	vars := map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL, "OTEL_BSP_SCHEDULE_DELAY": "20", "OTEL_SERVICE_NAME": "ignored here"}
	for name, value := range settings {
		vars[name] = value
	}
	s, err := stack.Start(t.Context(), stack.Options{DataDir: t.TempDir(), Env: env.Map(vars)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &traced{t, s, collector}
}

// create makes a task with these headers.
func (f *traced) create(title string, headers ...string) {
	f.Helper()
	req, err := http.NewRequestWithContext(f.Context(), http.MethodPost, f.stack.URL("taskapi")+"tasks", strings.NewReader(`{"title":"`+title+`"}`))
	if err != nil {
		f.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		f.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusCreated {
		f.Fatalf("POST /tasks = %s, %v, want 201", resp.Status, err)
	}
}

// await returns the spans of a trace once there are n of them.
func (f *traced) await(trace string, n int) []tracetest.Span {
	f.Helper()
	var spans []tracetest.Span
	apptest.Await(f, fmt.Sprintf("%d spans of trace %s", n, trace), func() bool {
		spans = f.collector.Spans(func(s tracetest.Span) bool { return s.TraceID == trace })
		return len(spans) >= n
	})
	if len(spans) > n {
		f.Errorf("%d spans, want %d: %v", len(spans), n, spans)
	}
	return spans
}

// outline is the tree of the spans, each with its service, kind and name.
func outline(spans []tracetest.Span, parent, indent string) (lines []string) {
	for _, s := range spans {
		if s.Parent == parent {
			lines = append(lines, indent+s.Service+" "+s.Kind+" "+s.Name)
			lines = append(lines, outline(spans, s.ID, indent+"  ")...)
		}
	}
	return lines
}

// One call is one trace, from the caller to both sinks.
func TestOneTraceFromTheCallerToTheSinks(t *testing.T) {
	f := startTraced(t, nil)
	f.create("one", "traceparent", caller, "tracestate", "vendor=1")
	spans := f.await(callerTrace, 8)
	want := []string{
		"taskapi server POST /tasks",
		"  taskapi client send task-events",
		"  bridge consumer process task-events",
		"    bridge client POST",
		"      auditor server POST /",
		"  bridge consumer process task-events",
		"    bridge client POST",
		"      notifier server POST /",
	}
	sortedWant, sortedGot := slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(outline(spans, "b7ad6b7169203331", "")))
	if diff := cmp.Diff(sortedWant, sortedGot); diff != "" {
		t.Errorf("spans (-want +got):\n%s", diff)
	}
	api := spans[slices.IndexFunc(spans, func(s tracetest.Span) bool { return s.Service == "taskapi" && s.Kind == "server" })]
	line, err := os.ReadFile(f.stack.AuditLog())
	if parent := "00-" + callerTrace + "-" + api.ID + "-01"; err != nil || !strings.Contains(string(line), `"traceparent":"`+parent+`","tracestate":"vendor=1"`) {
		t.Errorf("the event has not the context of the API's span, %s: %s, %v", parent, line, err)
	}
	for _, s := range spans {
		f.hasAttributes(s, string(line))
		if s.Kind == "consumer" || s.Name == "send task-events" {
			if diff := cmp.Diff([]tracetest.Link{{TraceID: callerTrace, ID: api.ID}}, s.Links); diff != "" {
				t.Errorf("links of %s (-want +got):\n%s", s.Name, diff)
			}
		}
		if s.State != "vendor=1" || s.Error || s.End < s.Start || s.Resource["service.namespace"] != "taskwire" || s.Resource["service.version"] == "" {
			t.Errorf("%s: state %q, error %v, resource %v", s.Name, s.State, s.Error, s.Resource)
		}
	}
}

// hasAttributes checks a span against the semantic conventions of its kind.
func (f *traced) hasAttributes(s tracetest.Span, line string) {
	f.Helper()
	want := map[string][]string{
		"server":   {"http.request.method=POST", "url.scheme=http", "network.protocol.version=1.1"},
		"consumer": {"messaging.system=kafka", "messaging.operation.type=process", "messaging.destination.name=task-events", "messaging.destination.partition.id=0", "messaging.kafka.offset=0", "cloudevents.event_type=task.created", "taskwire.outcome=accepted"},
		"client":   {"http.request.method=POST", "server.address=127.0.0.1"},
	}[s.Kind]
	switch {
	case s.Service == "taskapi" && s.Kind == "server":
		want = append(want, "http.route=/tasks", "url.path=/tasks", "http.response.status_code=201")
	case s.Service == "taskapi":
		want = []string{"messaging.system=kafka", "messaging.operation.type=send", "messaging.operation.name=send", "messaging.destination.name=task-events", "messaging.destination.partition.id=0", "cloudevents.event_source=task-api"}
	case s.Service == "notifier":
		want = append(want, "http.route=/", "http.response.status_code=204", "cloudevents.event_type=task.created")
	}
	for _, w := range want {
		name, value, _ := strings.Cut(w, "=")
		if s.Attributes[name] != value {
			f.Errorf("%s %s: %s is %q, want %q", s.Service, s.Name, name, s.Attributes[name], value)
		}
	}
	if s.Kind == "consumer" || s.Name == "send task-events" {
		if id := s.Attributes["messaging.message.id"]; id == "" || !strings.Contains(line, `"event_id":"`+id+`"`) || s.Attributes["cloudevents.event_id"] != id {
			f.Errorf("%s: message id %q is not the event's", s.Name, id)
		}
	}
}

// What waits for its export when a service stops is sent within the drain.
func TestAStopSendsTheLastSpans(t *testing.T) {
	f := startTraced(t, map[string]string{"OTEL_BSP_SCHEDULE_DELAY": "3600000"})
	f.create("last", "traceparent", caller)
	awaitEntries(t, f.stack, 1)
	if err := f.stack.Stop("taskapi", "bridge", "notifier", "auditor"); err != nil {
		t.Fatal(err)
	}
	if spans := f.collector.Spans(func(s tracetest.Span) bool { return s.TraceID == callerTrace }); len(spans) != 8 {
		t.Errorf("%d spans after the stop, want 8: %v", len(spans), spans)
	}
}

// Hostile headers lose themselves, never the change; and a caller that is not sampled costs no span.
func TestHostileTraceHeaders(t *testing.T) {
	f := startTraced(t, nil)
	for i, h := range [][2]string{
		{"00-00000000000000000000000000000000-b7ad6b7169203331-01", ""},
		{"00-" + callerTrace + "-b7ad6b7169203331-01-more", "a=1"},
		{"ff-" + callerTrace + "-b7ad6b7169203331-01", "a=1"},
		{"00-" + strings.ToUpper(callerTrace) + "-b7ad6b7169203331-01", "a=1"},
		{strings.Repeat("0", 8000), strings.Repeat("x", 8000)},
		{"00-11111111111111111111111111111111-b7ad6b7169203331-01", strings.Repeat("k=v,", 4000)},
		{"00-22222222222222222222222222222222-b7ad6b7169203331-01", "not a list"},
		{"01-33333333333333333333333333333333-b7ad6b7169203331-01-later", "a=1"},
		{"00-44444444444444444444444444444444-b7ad6b7169203331-00", "a=1"},
	} {
		f.create(fmt.Sprint(i), "traceparent", h[0], "tracestate", h[1])
		awaitEntries(t, f.stack, i+1)
		if i < 8 { // else the next event may share a batch with this one
			apptest.Await(t, "the notifier's span", func() bool {
				return len(f.collector.Spans(func(s tracetest.Span) bool { return s.Service == "notifier" })) == i+1
			})
		}
	}
	for _, trace := range []string{"1", "2", "3"} {
		for _, s := range f.await(strings.Repeat(trace, 32), 8) {
			if want := map[string]string{"3": "a=1"}[trace]; s.State != want {
				t.Errorf("trace %s...: tracestate %q, want %q", trace, s.State, want)
			}
		}
	}
	if spans := f.collector.Spans(func(s tracetest.Span) bool { return s.TraceID == strings.Repeat("4", 32) || s.TraceID == callerTrace }); len(spans) > 0 {
		t.Errorf("spans that nobody asked for: %v", spans)
	}
	log, err := os.ReadFile(f.stack.AuditLog())
	if n := strings.Count(string(log), `"traceparent":"00-`); err != nil || n != 9 {
		t.Errorf("%d events with a good traceparent of their own, want 9: %s", n, log)
	}
	if !strings.Contains(string(log), `"traceparent":"00-44444444444444444444444444444444-`) || strings.Contains(string(log), "k=v,k=v") {
		t.Errorf("log = %s", log)
	}
}

// A batch is a trace of its own with a link to the trace of each event, and so is
// the request at the sink.
func TestABatchLinksToEachEvent(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "bridge.yaml")
	sink := "http://127.0.0.1:1/"
	write := func() {
		text := "subscriptions:\n  - {name: audit, group: audit-service, mode: batch, exhausted: block, retry: {initial: 1s, max: 1s}, sink: '" + sink + "'}\n"
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write()
	f := startTraced(t, map[string]string{"BRIDGE_CONFIG": config, "KAFKA_TOPIC_PARTITIONS": "1"})
	if err := f.stack.Stop("bridge"); err != nil {
		t.Fatal(err)
	}
	var traces []string
	for i := range 20 {
		traces = append(traces, fmt.Sprintf("%032x", i+1))
		f.create("batched", "traceparent", "00-"+traces[i]+"-b7ad6b7169203331-01")
	}
	f.await(traces[19], 2) // published
	sink = f.stack.URL("auditor")
	write()
	if err := f.stack.Start(t.Context(), "bridge"); err != nil {
		t.Fatal(err)
	}
	awaitEntries(t, f.stack, 20)
	kinds := map[string]map[string]bool{} // the traces that spans of a kind are linked to, or part of
	apptest.Await(t, "spans of the batches", func() bool {
		for _, s := range f.collector.Spans(func(s tracetest.Span) bool { return s.Kind == "consumer" || s.Service == "auditor" }) {
			if kinds[s.Kind] == nil {
				kinds[s.Kind] = map[string]bool{}
			}
			for _, l := range s.Links {
				kinds[s.Kind][l.TraceID] = true
			}
		}
		return len(kinds["consumer"]) == 20 && len(kinds["server"]) >= 19
	})
	batches := f.collector.Spans(func(s tracetest.Span) bool { return s.Kind == "consumer" && len(s.Links) > 1 })
	if len(batches) == 0 {
		t.Fatal("no batch")
	}
	for _, s := range batches {
		if s.Parent != "" || s.Attributes["messaging.batch.message_count"] != fmt.Sprint(len(s.Links)) || slices.Contains(traces, s.TraceID) {
			t.Errorf("batch: parent %q, %s events, %d links, trace %s", s.Parent, s.Attributes["messaging.batch.message_count"], len(s.Links), s.TraceID)
		}
	}
}
