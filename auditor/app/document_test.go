package app_test

import (
	"context"
	"flag"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/auditor/app"
	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/openapitest"
)

const documentFile = "../openapi.yaml"

var updateDocument = flag.Bool("update", false, "write openapi.json from auditor/openapi.yaml")

// auditor/openapi.yaml is the source; what the program serves is the same
// document as JSON, in the same order.
func TestDocumentIsServedAsItIs(t *testing.T) {
	want := openapitest.Served(t, documentFile, *updateDocument)
	a := start(t, filepath.Join(t.TempDir(), "audit.log"), nil)
	if got := a.get(a.URL + "/openapi.json"); got.Body+"\n" != want && got.Body != want {
		t.Error("/openapi.json is not auditor/openapi.yaml; run go test ./auditor/app -run TestDocument -update")
	}
}

// described holds requests and answers against the document.
type described struct {
	t        *testing.T
	document *openapi3.T
	router   routers.Router
	answered map[string]bool // "operation status"
}

func openDocument(t *testing.T) *described {
	t.Helper()
	document, err := openapi3.NewLoader().LoadFromFile(documentFile)
	if err != nil {
		t.Fatal(err)
	}
	router, err := legacy.NewRouter(document)
	if err != nil {
		t.Fatal(err)
	}
	return &described{t, document, router, map[string]bool{}}
}

func (d *described) do(a *auditor, method, path, body string, headers ...string) {
	d.t.Helper()
	ctx, cancel := context.WithCancel(d.t.Context())
	defer cancel()
	r, _ := http.NewRequestWithContext(ctx, method, a.URL+path, strings.NewReader(body))
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	resp, err := a.Client.Do(r)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	var text []byte
	if resp.Header.Get("Content-Type") != "text/event-stream" { // which has no end
		if text, err = io.ReadAll(resp.Body); err != nil {
			d.t.Fatal(err)
		}
	}
	named := r.Clone(ctx)
	named.URL.Scheme, named.URL.Host, named.Host = "http", "localhost:8003", "localhost:8003"
	named.Body = io.NopCloser(strings.NewReader(body))
	route, params, err := d.router.FindRoute(named)
	if err != nil {
		d.t.Errorf("%s %s: %v", method, path, err)
		return
	}
	in := &openapi3filter.RequestValidationInput{Request: named, PathParams: params, Route: route, Options: &openapi3filter.Options{
		IncludeResponseStatus: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, ExcludeResponseBody: text == nil,
	}}
	d.answered[openapitest.Conforms(d.t, in, resp.StatusCode, resp.Header, text)] = true
}

// Every answer that the document lists can be had, but those of a log that cannot
// be read or written, and no other.
func TestDocumentListsTheAnswers(t *testing.T) {
	d := openDocument(t)
	tokens := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(tokens, []byte("alice token-a-0123456789\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := start(t, filepath.Join(t.TempDir(), "audit.log"), nil)
	locked := &auditor{App: apptest.Start(t, "auditor", app.FromEnv, app.New, map[string]string{
		"AUDIT_LOG_PATH": filepath.Join(t.TempDir(), "audit.log"), "AUDIT_READ_TOKENS_FILE": tokens, "SINK_TOKENS_FILE": tokens,
	}), t: t}
	one, batch := "Content-Type: application/cloudevents+json", "Content-Type: application/cloudevents-batch+json"
	event := body("task.created", "a", 1)
	d.do(a, "POST", "/", event, one)
	d.do(a, "POST", "/", event, one)
	d.do(a, "POST", "/", strings.Replace(event, "pending", "completed", 1), one)
	d.do(a, "POST", "/", "["+event+","+body("task.updated", "a", 4)+"]", batch)
	d.do(a, "POST", "/", `{"specversion":"1.0","id":"x","source":"s","type":"t","actor":"bob","data_base64":"AAE="}`, one)
	d.do(a, "POST", "/", `{"specversion":"1.0"}`, one)
	d.do(a, "POST", "/", strings.Repeat(" ", 1<<20)+event, one)
	d.do(a, "POST", "/", event, "Content-Type: text/plain")
	d.do(locked, "POST", "/", event, one)
	var many []string
	for v := range 256 {
		many = append(many, body("task.updated", "many", v+1))
	}
	a.expect(a.postBatch("["+strings.Join(many, ",")+"]"), 200, "")
	d.do(a, "GET", "/proof/256", "") // by then there is a full tile
	for _, path := range []string{"/entries", "/entries?limit=1&after=1&task_id=a&type=task.updated&actor=", "/entries?limit=0", "/entries/1", "/entries/9999",
		"/entries/tail", "/entries/tail?after=x", "/tasks/a/history", "/tasks/none/history", "/proof/1", "/proof/9999", "/checkpoint", "/key",
		"/tile/0/000", "/tile/0/007", "/tile/entries/000"} {
		d.do(a, "GET", path, "")
		if !strings.HasPrefix(path, "/proof") && !strings.HasPrefix(path, "/tile") && path != "/checkpoint" && path != "/key" {
			d.do(locked, "GET", path, "")
			d.do(locked, "GET", path, "", "Authorization: Bearer token-a-0123456789")
		}
	}
	full, disk := startBroken(t)
	disk.full.Store(true)
	d.do(full, "POST", "/", event, one)

	listed := slices.DeleteFunc(openapitest.Answers(d.document), func(id string) bool {
		status := id[strings.LastIndexByte(id, ' ')+1:]
		return status == "500" || status == "503" && id != "append 503" || id == "read-checkpoint 404"
	})
	if diff := cmp.Diff(listed, slices.Sorted(maps.Keys(d.answered))); diff != "" {
		t.Errorf("listed in the document (-), answered (+):\n%s", diff)
	}
}
