package sink_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/sink"
)

const (
	structured = "application/cloudevents+json"
	batch      = "application/cloudevents-batch+json"
	one        = `{"specversion":"1.0","id":"1","source":"s","type":"t"}`
	two        = `{"specversion":"1.0","id":"2","source":"s","type":"t"}`
)

// take accepts every event except those with id 2, which it cannot store now.
func take(_ context.Context, events []event.Event) []sink.Result {
	var out []sink.Result
	for _, e := range events {
		if e.ID() == "2" {
			out = append(out, sink.Result{RetryAfter: 1500 * time.Millisecond, Problem: &httpd.Problem{Status: 503}})
			continue
		}
		out = append(out, sink.Result{Status: 201, Body: map[string]string{"id": e.ID()}})
	}
	return out
}

func do(method, path, contentType, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	sink.Handler(take).ServeHTTP(w, r)
	return w
}

func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		got    *httptest.ResponseRecorder
		status int
		body   string
	}{
		"structured":        {do("POST", "/", structured, one), 201, `{"id":"1"}`},
		"binary":            {do("POST", "/", "application/json", `{}`, "Ce-Id", "7", "Ce-Source", "s", "Ce-Type", "t", "Ce-Specversion", "1.0"), 201, `{"id":"7"}`},
		"binary no data":    {do("POST", "/", "", ``, "Ce-Id", "7", "Ce-Source", "s", "Ce-Type", "t", "Ce-Specversion", "1.0"), 201, `{"id":"7"}`},
		"batch":             {do("POST", "/", batch, "["+one+"]"), 200, `[{"status":201,"result":{"id":"1"}}]`},
		"empty batch":       {do("POST", "/", batch, "[]"), 200, `[]`},
		"batch with one no": {do("POST", "/", batch, "["+one+","+two+"]"), 503, `"status":503`},
		"cannot store":      {do("POST", "/", structured, two), 503, `"status":503`},
		"missing id":        {do("POST", "/", structured, `{"specversion":"1.0","source":"s","type":"t"}`), 400, `"pointer":"#/id"`},
		"header twice":      {do("POST", "/", "", ``, "Ce-Id", "7", "Ce-Id", "8", "Ce-Source", "s", "Ce-Type", "t", "Ce-Specversion", "1.0"), 400, `"pointer":"#/id"`},
		"not an event":      {do("POST", "/", "application/json", `{"a":1}`), 400, `specversion`},
		"unknown type":      {do("POST", "/", "text/plain", `x`), 415, `application/cloudevents+json`},
		"too large":         {do("POST", "/", structured, strings.Repeat(" ", sink.MaxBody)+one), 413, `1 MiB`},
		"no attribute":      {do("POST", "/", structured, `[]`), 400, `"pointer":"#"`},
		"bad in a batch":    {do("POST", "/", batch, "["+one+`,{"specversion":"1.0"}]`), 400, `"pointer":"#/1/id"`},
		"encoded":           {do("POST", "/", structured, one, "Content-Encoding", "gzip"), 415, `encoding`},
		"wrong method":      {do("GET", "/", "", ""), 405, `POST one CloudEvent`},
		"wrong path":        {do("POST", "/x", structured, one), 404, `accepted at /`},
	} {
		if c.got.Code != c.status || !strings.Contains(c.got.Body.String(), c.body) {
			t.Errorf("%s: %d %s, want %d with %s", name, c.got.Code, c.got.Body, c.status, c.body)
		}
		if c.status >= 400 && !strings.HasPrefix(name, "batch") && c.got.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: content type %s, want a problem", name, c.got.Header().Get("Content-Type"))
		}
	}
	if got := do("POST", "/", structured, two).Header().Get("Retry-After"); got != "2" {
		t.Errorf("Retry-After = %q, want 1.5 s rounded up to 2", got)
	}
	if got := do("GET", "/", "", "").Header().Get("Allow"); got != "POST, OPTIONS" {
		t.Errorf("Allow = %q", got)
	}
}

func TestWebhookHandshake(t *testing.T) {
	w := do("OPTIONS", "/", "", "", "WebHook-Request-Origin", "bridge.example")
	want := http.Header{"Allow": {"POST, OPTIONS"}, "Webhook-Allowed-Origin": {"bridge.example"}, "Webhook-Allowed-Rate": {"*"}}
	if diff := cmp.Diff(want, w.Header()); diff != "" || w.Code != http.StatusOK {
		t.Errorf("handshake = %d, headers (-want +got):\n%s", w.Code, diff)
	}
}

// TestACutBodyIsNotTheEventsFault: after a 400 its sender would give the event up.
func TestACutBodyIsNotTheEventsFault(t *testing.T) {
	r := httptest.NewRequest("POST", "/", io.MultiReader(strings.NewReader(one), iotest.ErrReader(io.ErrUnexpectedEOF)))
	r.Header.Set("Content-Type", structured)
	w := httptest.NewRecorder()
	sink.Handler(take).ServeHTTP(w, r)
	if w.Code != http.StatusRequestTimeout {
		t.Errorf("a cut body = %d, want 408", w.Code)
	}
}

func TestAReceiverThatLosesCountIsNotTrusted(t *testing.T) {
	lose := func(context.Context, []event.Event) []sink.Result { return []sink.Result{{Status: 200}} }
	r := httptest.NewRequest("POST", "/", strings.NewReader("["+one+","+two+"]"))
	r.Header.Set("Content-Type", batch)
	w := httptest.NewRecorder()
	sink.Handler(lose).ServeHTTP(w, r)
	if w.Code != http.StatusInternalServerError {
		t.Errorf("one result for two events = %d, want 500", w.Code)
	}
}

// Without it a bridge in mode auto would post one event at a time.
func TestEachAnswerSaysThatBatchesAreTaken(t *testing.T) {
	for _, body := range []string{one, two, "{}"} {
		w := do("POST", "/", structured, body)
		if got := w.Header().Get("Accept-Post"); !strings.Contains(got, batch) {
			t.Errorf("answer %d to %s: Accept-Post = %q, want it to name %s", w.Code, body, got, batch)
		}
	}
}
