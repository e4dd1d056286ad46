package rest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/token"
	"github.com/taskwire/taskwire/taskapi/internal/rest"
	"github.com/taskwire/taskwire/taskapi/internal/store"
	"github.com/taskwire/taskwire/taskapi/internal/store/storetest"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fixture struct {
	*testing.T
	api      *rest.API
	store    *store.Store
	log      *bytes.Buffer
	tokens   bool            // the API asks for tokens
	answered map[string]bool // "operation status" of every answer, if set
}

type settings struct {
	tokens      string
	outboxLimit int64
}

// setup starts an API with a real database.
func setup(t *testing.T, set settings) *fixture {
	t.Helper()
	f := &fixture{T: t, log: new(bytes.Buffer)}
	log := slog.New(slog.NewJSONHandler(f.log, nil))
	var err error
	f.store, err = store.Open(t.Context(), store.Config{Path: filepath.Join(t.TempDir(), "tasks.db"), OutboxLimit: set.outboxLimit})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.store.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
		f.store.Close()
	})
	cfg := rest.Config{Store: f.store, Log: log, Registry: prometheus.NewRegistry()}
	if set.tokens != "" {
		if cfg.Tokens, err = token.Open(set.tokens, log); err != nil {
			t.Fatal(err)
		}
	}
	f.tokens, f.api = set.tokens != "", rest.New(cfg)
	return f
}

// curlForm is the content type that curl -d sends by default.
const curlForm = "application/x-www-form-urlencoded"

// request makes one as curl would; headers are "Name: value" lines.
func request(method, path, body string, headers ...string) *http.Request {
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	r := httptest.NewRequest(method, path, reader)
	if body != "" {
		r.Header.Set("Content-Type", curlForm)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	return r
}

// do sends one request and holds it and its answer against the document.
func (f *fixture) do(method, path, body string, headers ...string) *httptest.ResponseRecorder {
	f.Helper()
	return f.serve(request(method, path, body, headers...), body)
}

func (f *fixture) serve(r *http.Request, body string) *httptest.ResponseRecorder {
	f.Helper()
	w := httptest.NewRecorder()
	f.api.ServeHTTP(w, r)
	f.conforms(r, body, w)
	return w
}

type answer struct {
	ID, Title, Status string
	OwnerID           *string `json:"owner_id"`
	Version           int64
	CreatedAt         time.Time `json:"created_at"`
	UpdatedAt         time.Time `json:"updated_at"`
}

func (f *fixture) task(w *httptest.ResponseRecorder, status int) answer {
	f.Helper()
	if w.Code != status {
		f.Fatalf("answer %d %s, want %d", w.Code, w.Body, status)
	}
	var a answer
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		f.Fatal(err)
	}
	return a
}

func TestTheLifeOfATask(t *testing.T) {
	f := setup(t, settings{})
	const owner = "6f1c2d9e-8a53-4d0a-9b61-0f2f5c3f8a11"
	w := f.do("POST", "/tasks", `{"title": "  Write capstone lesson ", "owner_id": "`+strings.ToUpper(owner)+`"}`)
	created := f.task(w, 201)
	path := "/tasks/" + created.ID
	f.wantTask("created", created, answer{Title: "Write capstone lesson", Status: "pending", OwnerID: new(owner), Version: 1})
	if !created.CreatedAt.Equal(created.UpdatedAt) {
		t.Errorf("created at %v, updated at %v", created.CreatedAt, created.UpdatedAt)
	}
	wantHeaders(t, w, map[string]string{"Location": path, "ETag": `"1"`, "Content-Type": "application/json"})

	w = f.do("GET", path, "")
	if diff := cmp.Diff(created, f.task(w, 200)); diff != "" {
		t.Errorf("created (-), read (+):\n%s", diff)
	}
	wantHeaders(t, w, map[string]string{"ETag": `"1"`, "Content-Type": "application/json"})
	// The headers of a 304 replace those of the answer that the caller kept.
	w = f.do("GET", path, "", `If-None-Match: "1"`)
	if w.Code != 304 || w.Body.Len() != 0 {
		t.Errorf("read again = %d %s, want 304", w.Code, w.Body)
	}
	wantHeaders(t, w, map[string]string{"ETag": `"1"`, "Content-Type": ""})

	want := answer{Title: "Write capstone lesson", Status: "in_progress", OwnerID: new(owner), Version: 2}
	f.wantTask("started", f.task(f.do("PATCH", path, `{"status": "in_progress"}`), 200), want)
	if w := f.do("HEAD", path, ""); w.Code != 200 || w.Header().Get("ETag") != `"2"` {
		t.Errorf("HEAD = %d %v", w.Code, w.Header())
	}
	f.wantTask("not changed", f.task(f.do("PATCH", path, `{}`), 200), want)
	want.Version, want.OwnerID = 3, nil
	f.wantTask("without its owner", f.task(f.do("PATCH", path, `{"owner_id": null}`), 200), want)
	want.Version, want.Status = 4, "completed"
	for range 2 {
		f.wantTask("completed", f.task(f.do("POST", path+"/complete", ""), 200), want)
	}
	var kinds []string
	for _, e := range storetest.Events(t, f.store) {
		kinds = append(kinds, e.Type())
	}
	if diff := cmp.Diff([]string{"task.created", "task.updated", "task.updated", "task.completed"}, kinds); diff != "" {
		t.Errorf("events:\n%s", diff)
	}
}

// wantTask compares all but the id and the times, which the API makes.
func (f *fixture) wantTask(when string, got, want answer) {
	f.Helper()
	want.ID, want.CreatedAt, want.UpdatedAt = got.ID, got.CreatedAt, got.UpdatedAt
	if diff := cmp.Diff(want, got); diff != "" {
		f.Errorf("task %s, want (-), got (+):\n%s", when, diff)
	}
}

func wantHeaders(t *testing.T, w *httptest.ResponseRecorder, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	for name := range want {
		got[name] = w.Header().Get(name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("headers, want (-), got (+):\n%s", diff)
	}
}

func TestTheBodyOfATask(t *testing.T) {
	f := setup(t, settings{})
	w := f.do("POST", "/tasks", `{"title": "<a> & \"b\""}`)
	want := regexp.MustCompile(`^\{"id":"[0-9a-f-]{36}","title":"<a> & \\"b\\"","status":"pending","owner_id":null,"version":1,"created_at":"[^"]+Z","updated_at":"[^"]+Z"\}\n$`)
	if !want.MatchString(w.Body.String()) {
		t.Errorf("body = %s", w.Body)
	}
}

func TestOriginIsInTheEvent(t *testing.T) {
	f := setup(t, settings{})
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	w := f.do("POST", "/tasks", `{"title": "x"}`, "X-Correlation-ID: order 66", "Traceparent: "+parent, "Tracestate: a=1,b=2")
	if w.Code != 201 || w.Header().Get("X-Correlation-ID") != "order 66" {
		t.Fatalf("answer %d %v", w.Code, w.Header())
	}
	made := f.do("POST", "/tasks", `{"title": "y"}`, "Traceparent: 00-00000000000000000000000000000000-b7ad6b7169203331-01", "Tracestate: a=1")
	events := storetest.Events(t, f.store)
	for i, want := range []map[string]string{
		{"correlationid": "order 66", "traceparent": parent, "tracestate": "a=1,b=2", "actor": ""},
		{"correlationid": made.Header().Get("X-Correlation-ID"), "traceparent": "", "tracestate": "", "actor": ""},
	} {
		for name, value := range want {
			if got, _ := event.Attribute(events[i], name); got != value {
				t.Errorf("event %d: %s = %q, want %q", i, name, got, value)
			}
		}
	}
	if _, err := task.ParseUUID(made.Header().Get("X-Correlation-ID")); err != nil {
		t.Errorf("new correlation id: %v", err)
	}
}

// Bad input gets a 4xx problem that says what is wrong and does not repeat it,
// and emits no event.
func TestBadInput(t *testing.T) {
	f := setup(t, settings{})
	known := f.task(f.do("POST", "/tasks", `{"title": "known"}`), 201)
	path := "/tasks/" + known.ID
	nested := strings.Repeat("[", 20_000)
	const secret = "SECRET-6e1f"
	tests := []struct {
		name, method, path, body string
		headers                  []string
		status                   int
		says                     string // in the body
	}{
		{"no body", "POST", "/tasks", "", nil, 400, "empty"},
		{"blank body", "POST", "/tasks", "  \n", nil, 400, "empty"},
		{"a form", "POST", "/tasks", "title=" + secret, nil, 400, "not valid JSON at byte"},
		{"cut JSON", "POST", "/tasks", `{"title": "SECRET-6e1f`, nil, 400, "not valid JSON"},
		{"text after the object", "POST", "/tasks", `{"title": "x"} {}`, nil, 400, "goes on"},
		{"text after the object", "POST", "/tasks", `{"title": "x"}SECRET-6e1f`, nil, 400, ""},
		{"a member twice", "POST", "/tasks", `{"title": "x", "title": "SECRET-6e1f"}`, nil, 400, `"#/title"`},
		{"the same member in other letters", "POST", "/tasks", `{"Title": "x"}`, nil, 422, `"#/Title"`},
		{"invalid UTF-8", "POST", "/tasks", "{\"title\": \"a\xff\"}", nil, 400, "byte"},
		{"lone surrogate", "POST", "/tasks", `{"title": "\ud800"}`, nil, 400, "byte"},
		{"deep nesting", "POST", "/tasks", `{"title": ` + nested, nil, 400, "nested deeper than 10000 levels at byte"},
		{"deep nesting at the top", "POST", "/tasks", nested, nil, 400, "nested deeper than 10000 levels at byte"},
		{"an array", "POST", "/tasks", `[{"title": "x"}]`, nil, 422, "must be an object"},
		{"a string", "POST", "/tasks", `"SECRET-6e1f"`, nil, 422, "must be an object"},
		{"null", "POST", "/tasks", `null`, nil, 422, "must be an object"},
		{"no title", "POST", "/tasks", `{}`, nil, 422, `{"pointer":"#/title","detail":"is required"}`},
		{"null title", "POST", "/tasks", `{"title": null}`, nil, 422, `{"pointer":"#/title","detail":"must be a string"}`},
		{"a number for a title", "POST", "/tasks", `{"title": 7}`, nil, 422, "must be a string"},
		{"blank title", "POST", "/tasks", `{"title": " \u2003 "}`, nil, 422, "must not be empty"},
		{"long title", "POST", "/tasks", `{"title": "` + strings.Repeat("é", 501) + `"}`, nil, 422, "at most 500"},
		{"line feed in the title", "POST", "/tasks", `{"title": "SECRET-6e1f\nINFO: forged"}`, nil, 422, "control characters"},
		{"NUL in the title", "POST", "/tasks", `{"title": "a\u0000b"}`, nil, 422, "control characters"},
		{"a line separator in the title", "POST", "/tasks", `{"title": "SECRET-6e1f\u2028x"}`, nil, 422, "line or paragraph separators"},
		{"an override in the title", "POST", "/tasks", `{"title": "SECRET-6e1f\u202etxt.exe"}`, nil, 422, "reorder text"},
		{"a title that shows nothing", "POST", "/tasks", `{"title": "\u200b\u2060"}`, nil, 422, "visible character"},
		{"a title that shows nothing, in a change", "PATCH", path, `{"title": "\ufeff"}`, nil, 422, "must"},
		{"a bad owner", "POST", "/tasks", `{"title": "x", "owner_id": "SECRET-6e1f"}`, nil, 422, `"#/owner_id"`},
		{"an owner of another type", "POST", "/tasks", `{"title": "x", "owner_id": {"a": ["b"]}}`, nil, 422, `"#/owner_id"`},
		{"an unknown member", "POST", "/tasks", `{"title": "x", "priority": "SECRET-6e1f"}`, nil, 422, `{"pointer":"#/priority","detail":"is unknown; known members are title, owner_id"}`},
		{"a member that only PATCH knows", "POST", "/tasks", `{"title": "x", "status": "completed"}`, nil, 422, `"#/status"`},
		{"an odd member name", "POST", "/tasks", `{"title": "x", "a/b~c\n": 1}`, nil, 422, `"#/a~1b~0c%0A"`},
		{"all mistakes at once", "POST", "/tasks", `{"title": "", "owner_id": 1, "x": 2}`, nil, 422, `"#/x"`},
		{"too large", "POST", "/tasks", `{"title": "` + strings.Repeat("x", 64<<10) + `"}`, nil, 413, "65536"},
		{"XML", "POST", "/tasks", `<title/>`, []string{"Content-Type: application/xml"}, 415, "application/json"},
		{"a multipart form", "POST", "/tasks", `x`, []string{"Content-Type: multipart/form-data; boundary=x"}, 415, ""},
		{"text", "POST", "/tasks", `{"title": "x"}`, []string{"Content-Type: text/plain"}, 415, ""},
		{"a broken content type", "POST", "/tasks", `{"title": "x"}`, []string{"Content-Type: ;;"}, 415, ""},
		{"a compressed body", "POST", "/tasks", `{"title": "x"}`, []string{"Content-Encoding: gzip"}, 415, ""},
		{"another site's form", "POST", "/tasks", `{"title": "x"}`, []string{"Sec-Fetch-Site: cross-site"}, 403, "another site"},
		{"another site's origin", "POST", "/tasks", `{"title": "x"}`, []string{"Origin: https://evil.example"}, 403, "another site"},
		{"a correlation id that is too long", "POST", "/tasks", `{"title": "x"}`, []string{"X-Correlation-ID: " + strings.Repeat("x", 129)}, 400, "X-Correlation-ID"},
		{"a correlation id beyond ASCII", "POST", "/tasks", `{"title": "x"}`, []string{"X-Correlation-ID: é"}, 400, "X-Correlation-ID"},
		{"an empty correlation id", "GET", path, "", []string{"X-Correlation-ID: "}, 400, "X-Correlation-ID"},
		{"an empty idempotency key", "POST", "/tasks", `{"title": "x"}`, []string{"Idempotency-Key: "}, 400, "Idempotency-Key"},
		{"a long idempotency key", "POST", "/tasks", `{"title": "x"}`, []string{"Idempotency-Key: " + strings.Repeat("k", 256)}, 400, "Idempotency-Key"},

		{"no such task", "GET", "/tasks/xyz789", "", nil, 404, "no task"},
		{"no such uuid", "GET", "/tasks/0198f3c2-0000-7000-8000-000000000000", "", nil, 404, "no task"},
		{"an id with escapes", "GET", "/tasks/%00%ff%2f..", "", nil, 404, ""},
		{"a very long id", "GET", "/tasks/" + strings.Repeat("x", 8000), "", nil, 404, ""},
		{"no such task to change", "PATCH", "/tasks/xyz789", `{"title": "x"}`, nil, 404, "no task"},
		{"no such task to complete", "POST", "/tasks/xyz789/complete", "", nil, 404, "no task"},
		{"no body to change to", "PATCH", path, "", nil, 400, "empty"},
		{"null status", "PATCH", path, `{"status": null}`, nil, 422, `"#/status"`},
		{"unknown status", "PATCH", path, `{"status": "SECRET-6e1f"}`, nil, 422, "pending, in_progress or completed"},
		{"null title", "PATCH", path, `{"title": null}`, nil, 422, `"#/title"`},
		{"a version in the body", "PATCH", path, `{"version": 9}`, nil, 422, `"#/version"`},
		{"an old version", "PATCH", path, `{"title": "x"}`, []string{`If-Match: "7"`}, 412, "If-Match"},
		{"a weak version", "PATCH", path, `{"title": "x"}`, []string{`If-Match: W/"1"`}, 412, ""},
		{"a foreign ETag", "PATCH", path, `{"title": "x"}`, []string{`If-Match: "abc"`}, 412, ""},
		{"an unquoted version", "PATCH", path, `{"title": "x"}`, []string{`If-Match: 1`}, 400, "quoted"},
		{"a star among versions", "PATCH", path, `{"title": "x"}`, []string{`If-Match: "1", *`}, 400, "If-Match"},
		{"a quote within a version", "PATCH", path, `{"title": "x"}`, []string{`If-Match: "1"2"`}, 400, "If-Match"},
		{"an unquoted version to read", "GET", path, "", []string{`If-None-Match: 1`}, 400, "If-None-Match"},
		{"no version to read", "GET", path, "", []string{`If-None-Match: `}, 400, "If-None-Match"},
		{"completing an old version", "POST", path + "/complete", "", []string{`If-Match: "7"`}, 412, ""},
		{"a body where none is taken", "POST", path + "/complete", `{"by": "me"}`, nil, 422, `"#/by"`},
		{"nonsense where no body is taken", "POST", path + "/complete", `SECRET-6e1f`, nil, 400, ""},

		{"unknown status in the query", "GET", "/tasks?status=SECRET-6e1f", "", nil, 422, "status"},
		{"a bad owner in the query", "GET", "/tasks?owner_id=1", "", nil, 422, "owner_id"},
		{"limit 0", "GET", "/tasks?limit=0", "", nil, 422, "limit"},
		{"limit too high", "GET", "/tasks?limit=1001", "", nil, 422, "limit"},
		{"limit that overflows", "GET", "/tasks?limit=99999999999999999999", "", nil, 422, "limit"},
		{"limit that is no number", "GET", "/tasks?limit=SECRET-6e1f", "", nil, 422, "limit"},
		{"a made-up cursor", "GET", "/tasks?cursor=SECRET-6e1f", "", nil, 422, "cursor"},
		{"limit with a sign", "GET", "/tasks?limit=%2B7", "", nil, 422, "limit"},
		{"an empty status", "GET", "/tasks?status=", "", nil, 422, "parameter status is empty"},
		{"an empty owner", "GET", "/tasks?owner_id=", "", nil, 422, "parameter owner_id is empty"},
		{"an empty limit", "GET", "/tasks?limit=", "", nil, 422, "parameter limit is empty"},
		{"an empty cursor", "GET", "/tasks?cursor", "", nil, 422, "parameter cursor is empty"},
		{"an owner twice", "GET", "/tasks?owner_id=6f1c2d9e-8a53-4d0a-9b61-0f2f5c3f8a11&owner_id=SECRET-6e1f", "", nil, 422, "parameter owner_id is given more than once"},
		{"the same limit twice", "GET", "/tasks?limit=7&limit=7", "", nil, 422, "parameter limit is given more than once"},
		{"an unknown parameter", "GET", "/tasks?owner=SECRET-6e1f", "", nil, 422, "parameter owner is unknown; known are cursor, limit, owner_id, status."},
		{"a parameter in other letters", "GET", "/tasks?Owner_ID=6f1c2d9e-8a53-4d0a-9b61-0f2f5c3f8a11", "", nil, 422, "parameter Owner_ID is unknown"},
		{"an odd parameter name", "GET", "/tasks?%0Aa%22%E2%80%AE=1", "", nil, 422, "parameter %0Aa%22%E2%80%AE is unknown"},
		{"a parameter without a name", "GET", "/tasks?=1", "", nil, 422, "is unknown"},
		{"a parameter of a task", "GET", path + "?status=pending", "", nil, 422, "parameter status is unknown; this call takes none"},
		{"a parameter of a new task", "POST", "/tasks?title=SECRET-6e1f", `{"title": "x"}`, nil, 422, "parameter title is unknown"},
		{"a parameter of a change", "PATCH", path + "?if_version=1", `{"title": "x"}`, nil, 422, "parameter if_version is unknown"},
		{"a parameter of a completion", "POST", path + "/complete?by=me", "", nil, 422, "parameter by is unknown"},
		{"a broken query", "GET", "/tasks?limit=%zz", "", nil, 400, "query"},
		{"a semicolon in the query", "GET", "/tasks?a;b", "", nil, 400, "query"},

		{"an unknown path", "GET", "/nothing/SECRET-6e1f", "", nil, 404, ""},
		{"the root", "GET", "/", "", nil, 404, ""},
		{"deleting", "DELETE", path, "", nil, 405, ""},
		{"putting", "PUT", "/tasks", `{}`, nil, 405, ""},
		{"getting a completion", "GET", path + "/complete", "", nil, 405, ""},
		{"an unheard-of method", "BREW", "/tasks", "", nil, 405, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := f.do(tt.method, tt.path, tt.body, tt.headers...)
			if w.Code != tt.status {
				t.Fatalf("answer %d %s, want %d", w.Code, w.Body, tt.status)
			}
			body := w.Body.String()
			if !strings.Contains(body, tt.says) || strings.Contains(body, secret) {
				t.Errorf("body = %s, want one with %q and without %q", body, tt.says, secret)
			}
			if ct := w.Header().Get("Content-Type"); ct != "application/problem+json" {
				t.Errorf("content type %q", ct)
			}
			if w.Header().Get("X-Correlation-ID") == "" {
				t.Error("no correlation id")
			}
			var p httpd.Problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Detail == "" {
				t.Errorf("problem = %s (%v), want one with a detail", body, err)
			}
			want := httpd.Problem{Type: "about:blank", Title: http.StatusText(tt.status), Status: tt.status, Detail: p.Detail, Errors: p.Errors}
			if diff := cmp.Diff(want, p); diff != "" {
				t.Errorf("problem, want (-), got (+):\n%s", diff)
			}
			if allow := w.Header().Values("Allow"); (w.Code == 405) != (len(allow) > 0) {
				t.Errorf("Allow = %q", allow)
			}
		})
	}
	if events := storetest.Events(t, f.store); len(events) != 1 {
		t.Errorf("%d events, want the one of the known task", len(events))
	}
	if strings.Contains(f.log.String(), "ERROR") {
		t.Errorf("bad input was logged as a fault:\n%s", f.log)
	}
}

func FuzzBodies(f *testing.F) {
	for _, seed := range []string{`{"title": "x"}`, `{"title": "x", "owner_id": null}`, `{"status": "completed"}`, `{`, `[]`, `{"a": {"b": [1, 2.5e9, true, null]}}`, "\xff", `{"title":"\ud83c\udf89"}`} {
		f.Add(seed)
	}
	api := rest.New(rest.Config{Store: accepting{}, Log: slog.New(slog.DiscardHandler)})
	f.Fuzz(func(t *testing.T, body string) {
		for _, call := range [][2]string{{"POST", "/tasks"}, {"PATCH", "/tasks/x"}, {"POST", "/tasks/x/complete"}} {
			w := httptest.NewRecorder()
			api.ServeHTTP(w, httptest.NewRequest(call[0], call[1], strings.NewReader(body)))
			if w.Code >= 500 {
				t.Errorf("%v with %q = %d %s", call, body, w.Code, w.Body)
			}
			if !json.Valid(w.Body.Bytes()) {
				t.Errorf("%v with %q answers %q", call, body, w.Body)
			}
		}
	})
}

// accepting is a store that keeps nothing and checks its arguments.
type accepting struct{ task.Store }

func (accepting) Create(_ context.Context, c task.Create) (task.Answer, error) {
	if title, err := task.ParseTitle(c.Title); err != nil || title != c.Title {
		return task.Answer{}, fmt.Errorf("an unchecked title reached the store: %q", c.Title)
	}
	return task.Answer{Task: task.New("id", c.Title, c.OwnerID, time.Unix(0, 0))}, nil
}

func (accepting) Update(_ context.Context, u task.Update) (task.Answer, error) {
	next, kind := task.New("id", "title", "", time.Unix(0, 0)).Apply(u.Patch, time.Unix(1, 0))
	return task.Answer{Task: next, Kind: kind}, nil
}

func TestARepeatGivesTheFirstAnswer(t *testing.T) {
	f := setup(t, settings{})
	first := f.do("POST", "/tasks", `{"title": "x"}`, "Idempotency-Key: k1")
	a := f.task(first, 201)
	f.task(f.do("PATCH", "/tasks/"+a.ID, `{"title": "y"}`, "Idempotency-Key: k2", `If-Match: "1"`), 200)
	again := f.do("POST", "/tasks", `{"title": "x"}`, "Idempotency-Key: k1")
	if again.Code != 201 || again.Body.String() != first.Body.String() {
		t.Errorf("again = %d %s, want %s", again.Code, again.Body, first.Body)
	}
	wantHeaders(t, again, map[string]string{"ETag": `"1"`, "Location": first.Header().Get("Location")})
	if got := f.task(f.do("PATCH", "/tasks/"+a.ID, `{"title": "y"}`, "Idempotency-Key: k2", `If-Match: "1"`), 200); got.Version != 2 {
		t.Errorf("patched again: %+v", got)
	}
	for _, other := range [][3]string{
		{"POST", "/tasks", `{"title": "z"}`},
		{"PATCH", "/tasks/" + a.ID, `{"title": "x"}`},
		{"POST", "/tasks/" + a.ID + "/complete", ""},
	} {
		if w := f.do(other[0], other[1], other[2], "Idempotency-Key: k1"); w.Code != 422 || !strings.Contains(w.Body.String(), "Idempotency-Key") {
			t.Errorf("%v under the key = %d %s, want 422", other, w.Code, w.Body)
		}
	}
	if n := len(storetest.Events(t, f.store)); n != 2 {
		t.Errorf("%d events, want 2", n)
	}
}

func TestIfMatchTakesListsAndStars(t *testing.T) {
	f := setup(t, settings{})
	a := f.task(f.do("POST", "/tasks", `{"title": "x"}`), 201)
	for _, match := range []string{`"1"`, `"9", "1"`, `*`, `W/"9", "1"`} {
		if w := f.do("PATCH", "/tasks/"+a.ID, `{}`, "If-Match: "+match); w.Code != 200 {
			t.Errorf("If-Match %s = %d %s", match, w.Code, w.Body)
		}
	}
}

func TestAList(t *testing.T) {
	f := setup(t, settings{})
	if w := f.do("GET", "/tasks", ""); w.Code != 200 || w.Body.String() != `{"tasks":[],"next_cursor":null}`+"\n" {
		t.Errorf("empty list = %d %s", w.Code, w.Body)
	}
	var want []string
	for i := range 7 {
		want = append(want, f.task(f.do("POST", "/tasks", fmt.Sprintf(`{"title": "%d"}`, i)), 201).ID)
	}
	var got []string
	query := "/tasks?limit=3"
	for query != "" {
		w := f.do("GET", query, "")
		var page struct {
			Tasks      []answer
			NextCursor *string `json:"next_cursor"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil || w.Code != 200 {
			t.Fatalf("list = %d %s", w.Code, w.Body)
		}
		for _, a := range page.Tasks {
			got = append(got, a.ID)
		}
		if query = ""; page.NextCursor != nil {
			query = "/tasks?limit=3&status=pending&cursor=" + *page.NextCursor
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("created (-), listed (+):\n%s", diff)
	}
}

func TestAFullOutboxAsksForARepeatLater(t *testing.T) {
	f := setup(t, settings{outboxLimit: 1})
	f.task(f.do("POST", "/tasks", `{"title": "x"}`), 201)
	w := f.do("POST", "/tasks", `{"title": "y"}`)
	if w.Code != 503 || w.Header().Get("Retry-After") != "10" || !strings.Contains(w.Body.String(), "wait for Kafka") {
		t.Errorf("answer %d %v %s", w.Code, w.Header(), w.Body)
	}
}

type broken struct{ task.Store }

func (broken) Get(context.Context, string) (task.Task, error) {
	panic("the store has a secret")
}

func (broken) List(context.Context, task.Filter) (task.Page, error) {
	return task.Page{}, fmt.Errorf("disk secret: %w", task.ErrUnavailable)
}

func (broken) Create(context.Context, task.Create) (task.Answer, error) {
	return task.Answer{}, fmt.Errorf("an unforeseen secret")
}

func TestOurOwnFaultsRevealNothing(t *testing.T) {
	log := new(bytes.Buffer)
	f := &fixture{T: t, api: rest.New(rest.Config{Store: broken{}, Log: slog.New(slog.NewJSONHandler(log, nil))})}
	for _, tt := range []struct {
		method, path, body string
		status             int
	}{{"GET", "/tasks/x", "", 500}, {"GET", "/tasks", "", 503}, {"POST", "/tasks", `{"title": "x"}`, 500}} {
		w := f.do(tt.method, tt.path, tt.body)
		if w.Code != tt.status || strings.Contains(w.Body.String(), "secret") || w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s = %d %s", tt.method, tt.path, w.Code, w.Body)
		}
	}
	for range 100 {
		f.do("GET", "/tasks", "")
	}
	if n := strings.Count(log.String(), `"msg":"task store unavailable"`); n != 1 {
		t.Errorf("%d lines for one store that is unavailable, want 1", n)
	}
	if n := strings.Count(log.String(), "secret"); n < 3 {
		t.Errorf("the log has %d of the 3 causes:\n%s", n, log)
	}
}

func TestTokens(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	write := func(content string) {
		t.Helper()
		// Renamed into place, as Kubernetes does with a mounted secret.
		if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	write("# who may change tasks\nalice token-a-0123456789\n\nbob token-b-0123456789\nalice token-a2-0123456789\n")
	f := setup(t, settings{tokens: file})
	post := func(headers ...string) int { return f.do("POST", "/tasks", `{"title": "x"}`, headers...).Code }
	for header, want := range map[string]int{
		"Authorization: Bearer token-a-0123456789": 201, "Authorization: bearer token-b-0123456789": 201, "Authorization: Bearer token-a2-0123456789": 201,
		"Authorization: Bearer token-c-0123456789": 401, "Authorization: Bearer ": 401, "Authorization: Basic token-a-0123456789": 401,
		"Authorization: token-a-0123456789": 401, "Authorization: Bearer alice": 401, "X-Other: 1": 401,
	} {
		if got := post(header); got != want {
			t.Errorf("%s = %d, want %d", header, got, want)
		}
	}
	actors := map[string]int{}
	for _, e := range storetest.Events(t, f.store) {
		actor, _ := event.Attribute(e, "actor")
		actors[actor]++
	}
	if diff := cmp.Diff(map[string]int{"alice": 2, "bob": 1}, actors); diff != "" {
		t.Errorf("actors, want (-), got (+):\n%s", diff)
	}
	if w := f.do("GET", "/tasks", ""); w.Code != 401 || w.Header().Get("WWW-Authenticate") == "" {
		t.Errorf("a list without a token = %d %v", w.Code, w.Header())
	}
	for _, path := range []string{"/openapi.json", "/docs"} {
		if w := f.do("GET", path, ""); w.Code != 200 {
			t.Errorf("%s without a token = %d", path, w.Code)
		}
	}
	// Two callers using the same key do not collide.
	for _, token := range []string{"token-a-0123456789", "token-b-0123456789"} {
		if code := post("Authorization: Bearer "+token, "Idempotency-Key: k"); code != 201 {
			t.Errorf("%s with the key = %d", token, code)
		}
	}

	write("alice token-new-0123456789\n")
	await(t, func() bool { return post("Authorization: Bearer token-new-0123456789") == 201 })
	if got := post("Authorization: Bearer token-a-0123456789"); got != 401 {
		t.Errorf("a token that was taken out = %d", got)
	}
	write("") // revokes what it held
	await(t, func() bool { return post("Authorization: Bearer token-new-0123456789") == 401 })
	if !strings.Contains(f.log.String(), "secret file cannot be used") {
		t.Errorf("nothing says why no token is good:\n%s", f.log)
	}
	if strings.Contains(f.log.String(), "token-") {
		t.Errorf("a token was logged:\n%s", f.log)
	}
}

func await(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); {
		if time.Now().After(deadline) {
			t.Fatal("did not happen within 20 s")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestTheDocsPageLoadsNothingFromElsewhere(t *testing.T) {
	f := setup(t, settings{})
	page := f.do("GET", "/docs", "")
	if page.Code != 200 || !strings.Contains(page.Body.String(), "/openapi.json") {
		t.Fatalf("page = %d", page.Code)
	}
	links := regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(page.Body.String(), -1)
	if len(links) == 0 {
		t.Fatal("the page loads nothing")
	}
	for _, link := range links {
		if !strings.HasPrefix(link[1], "/docs/") {
			t.Errorf("the page loads %s", link[1])
			continue
		}
		if w := f.do("GET", link[1], ""); w.Code != 200 {
			t.Errorf("%s = %d", link[1], w.Code)
		}
	}
}
