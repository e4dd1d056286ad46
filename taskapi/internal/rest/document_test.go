package rest_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/taskwire/taskwire/internal/openapitest"
	"github.com/taskwire/taskwire/taskapi/internal/rest"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

const documentFile = "../../openapi.yaml"

var updateDocument = flag.Bool("update", false, "write openapi.json from taskapi/openapi.yaml")

// taskapi/openapi.yaml is the source; what the program serves is the same
// document as JSON, in the same order.
func TestDocumentIsServedAsItIs(t *testing.T) {
	want := openapitest.Served(t, documentFile, *updateDocument)
	if w := setup(t, settings{}).do("GET", "/openapi.json", ""); w.Body.String() != want {
		t.Error("/openapi.json is not taskapi/openapi.yaml; run go test ./taskapi/internal/rest -run TestDocument -update")
	}
}

// openDocument reads the document and checks it against OpenAPI 3.1, its
// examples against its schemas.
var openDocument = sync.OnceValues(func() (d struct {
	*openapi3.T
	routers.Router
}, err error) {
	if d.T, err = openapi3.NewLoader().LoadFromFile(documentFile); err != nil {
		return d, err
	}
	if !d.IsOpenAPI31OrLater() {
		return d, fmt.Errorf("openapi %s, want 3.1", d.OpenAPI)
	}
	d.Router, err = legacy.NewRouter(d.T)
	return d, err
})

// operation is the part of the document that is about r; nil if there is none.
func (f *fixture) operation(r *http.Request, body string) *openapi3filter.RequestValidationInput {
	f.Helper()
	document, err := openDocument()
	if err != nil {
		f.Fatalf("%s: %v", documentFile, err)
	}
	route, params, err := document.FindRoute(r)
	if err != nil {
		return nil
	}
	clone := r.Clone(context.Background())
	clone.Body = io.NopCloser(strings.NewReader(body))
	if r.Header.Get("Content-Type") == curlForm {
		clone.Header.Set("Content-Type", "application/json") // a courtesy to curl, not a media type of the document
	}
	return &openapi3filter.RequestValidationInput{Request: clone, PathParams: params, Route: route, Options: &openapi3filter.Options{
		IncludeResponseStatus: true,
		SchemaValidationOptions: []openapi3.SchemaValidationOption{
			openapi3.WithStringFormatValidator("uuid", openapi3.NewRegexpFormatValidator(openapi3.FormatOfStringForUUIDOfRFC9562)),
		},
		AuthenticationFunc: func(_ context.Context, in *openapi3filter.AuthenticationInput) error {
			scheme, _, _ := strings.Cut(in.RequestValidationInput.Request.Header.Get("Authorization"), " ")
			if f.tokens && !strings.EqualFold(scheme, in.SecurityScheme.Scheme) {
				return errors.New("no token")
			}
			return nil // an open API ignores tokens
		},
	}}
}

// conforms holds an answer against the document, and the request too when it
// was accepted: the document must allow all that the API does.
func (f *fixture) conforms(r *http.Request, body string, w *httptest.ResponseRecorder) {
	f.Helper()
	in := f.operation(r, body)
	if in == nil {
		return
	}
	if answer := openapitest.Conforms(f.T, in, w.Code, w.Header(), w.Body.Bytes()); f.answered != nil {
		f.answered[answer] = true
	}
}

// withTokens is an API that asks for the token "token-a-0123456789", as the document says.
func withTokens(t *testing.T) *fixture {
	t.Helper()
	file := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(file, []byte("alice token-a-0123456789\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return setup(t, settings{tokens: file})
}

const (
	bearer = "Authorization: Bearer token-a-0123456789"
	asks   = "Content-Type: application/json"
)

// Every answer that the document lists can be had, and no other.
func TestDocumentListsTheAnswers(t *testing.T) {
	answered := map[string]bool{}
	f := withTokens(t)
	f.answered = answered
	path := "/tasks/" + f.task(f.do("POST", "/tasks", `{"title": "x"}`, bearer, asks), 201).ID
	unforeseen := &fixture{T: t, answered: answered, api: rest.New(rest.Config{Store: faulty{errors.New("unforeseen")}, Log: slog.New(slog.DiscardHandler)})}
	unavailable := &fixture{T: t, answered: answered, api: rest.New(rest.Config{Store: faulty{task.ErrUnavailable}, Log: slog.New(slog.DiscardHandler)})}

	f.do("GET", path, "", bearer, `If-None-Match: "1"`)
	f.do("PATCH", path, `{"title": "x"}`, bearer, asks, `If-Match: "7"`)
	f.do("POST", path+"/complete", "", bearer, `If-Match: "7"`)
	for _, call := range [][3]string{
		{"GET", "/tasks"}, {"GET", path}, {"POST", "/tasks", `{"title": "x"}`}, {"PATCH", path, `{"status": "in_progress"}`}, {"POST", path + "/complete", `{}`},
	} {
		method, at, body := call[0], call[1], call[2]
		f.do(method, at, body, bearer, asks)
		f.do(method, at, body, asks)
		f.do(method, at, body, bearer, asks, "X-Correlation-ID: ")
		f.do(method, strings.Replace(at, path, "/tasks/nobody", 1), body, bearer, asks)
		f.do(method, at+"?unknown=1", body, bearer, asks)
		unforeseen.do(method, at, body, asks)
		unavailable.do(method, at, body, asks)
		if method == "GET" {
			continue
		}
		f.do(method, at, body, bearer, asks, "Sec-Fetch-Site: cross-site")
		f.do(method, at, body, bearer, "Content-Type: text/plain")
		f.do(method, at, strings.Repeat(" ", 64<<10)+body, bearer, asks)
		f.do(method, at, `{"unknown": 1}`, bearer, asks)
		late := httptest.NewRequest(method, at, tooLate{})
		late.Header.Set("Authorization", "Bearer token-a-0123456789")
		f.serve(late, body)
	}

	document, err := openDocument()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(openapitest.Answers(document.T), slices.Sorted(maps.Keys(answered))); diff != "" {
		t.Errorf("listed in the document (-), answered (+):\n%s", diff)
	}
}

// faulty is a store that fails every call.
type faulty struct{ err error }

func (s faulty) Create(context.Context, task.Create) (task.Answer, error) {
	return task.Answer{}, s.err
}
func (s faulty) Update(context.Context, task.Update) (task.Answer, error) {
	return task.Answer{}, s.err
}
func (s faulty) Get(context.Context, string) (task.Task, error)       { return task.Task{}, s.err }
func (s faulty) List(context.Context, task.Filter) (task.Page, error) { return task.Page{}, s.err }

// tooLate is a body whose sender stalls.
type tooLate struct{}

func (tooLate) Read([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }

// What the document forbids is refused by the API as well.
func TestDocumentForbids(t *testing.T) {
	f := withTokens(t)
	path := "/tasks/" + f.task(f.do("POST", "/tasks", `{"title": "x"}`, bearer, asks), 201).ID
	for _, tt := range []struct {
		name, method, path, body string
		headers                  []string
		status                   int
	}{
		{"no token", "GET", "/tasks", "", nil, 401},
		{"no body", "POST", "/tasks", "", nil, 400},
		{"no title", "POST", "/tasks", `{}`, nil, 422},
		{"a null title", "POST", "/tasks", `{"title": null}`, nil, 422},
		{"an empty title", "POST", "/tasks", `{"title": ""}`, nil, 422},
		{"a long title", "POST", "/tasks", `{"title": "` + strings.Repeat("é", 501) + `"}`, nil, 422},
		{"an override in the title", "POST", "/tasks", `{"title": "a\u202eb"}`, nil, 422},
		{"a line separator in the title", "POST", "/tasks", `{"title": "a\u2028b"}`, nil, 422},
		{"a title that shows nothing", "POST", "/tasks", `{"title": "\u200b \u3164"}`, nil, 422},
		{"a line feed in the title", "POST", "/tasks", `{"title": "a\nb"}`, nil, 422},
		{"an owner that is no uuid", "POST", "/tasks", `{"title": "x", "owner_id": "me"}`, nil, 422},
		{"an unknown member", "POST", "/tasks", `{"title": "x", "priority": 1}`, nil, 422},
		{"an array", "POST", "/tasks", `[]`, nil, 422},
		{"an unknown status", "PATCH", path, `{"status": "done"}`, nil, 422},
		{"a null status", "PATCH", path, `{"status": null}`, nil, 422},
		{"a body for complete", "POST", path + "/complete", `{"by": "me"}`, nil, 422},
		{"another media type", "POST", "/tasks", `{"title": "x"}`, []string{"Content-Type: text/plain"}, 415},
		{"a limit of 0", "GET", "/tasks?limit=0", "", nil, 422},
		{"a limit of 1001", "GET", "/tasks?limit=1001", "", nil, 422},
		{"an unknown status in the query", "GET", "/tasks?status=done", "", nil, 422},
		{"an owner in the query that is no uuid", "GET", "/tasks?owner_id=me", "", nil, 422},
		{"a made-up cursor", "GET", "/tasks?cursor=MDE5", "", nil, 422},
		{"a long correlation id", "GET", path, "", []string{"X-Correlation-ID: " + strings.Repeat("x", 129)}, 400},
		{"a correlation id beyond ASCII", "GET", path, "", []string{"X-Correlation-ID: é"}, 400},
		{"a long idempotency key", "POST", "/tasks", `{"title": "x"}`, []string{"Idempotency-Key: " + strings.Repeat("k", 256)}, 400},
		{"an unquoted version", "PATCH", path, `{}`, []string{"If-Match: 1"}, 400},
		{"half a quoted version", "POST", path + "/complete", "", []string{`If-Match: "1`}, 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			headers := append([]string{asks}, tt.headers...)
			if tt.status != 401 {
				headers = append(headers, bearer)
			}
			r := request(tt.method, tt.path, tt.body, headers...)
			if err := openapi3filter.ValidateRequest(t.Context(), f.operation(r, tt.body)); err == nil {
				t.Error("the document allows it")
			}
			if w := f.serve(r, tt.body); w.Code != tt.status {
				t.Errorf("the API answers %d %s, want %d", w.Code, w.Body, tt.status)
			}
		})
	}
}

// The document's patterns for a title and the API's rules are the same rules.
func TestDocumentKnowsWhatATitleIs(t *testing.T) {
	document, err := openDocument()
	if err != nil {
		t.Fatal(err)
	}
	schema := document.Components.Schemas["Title"].Value
	rapid.Check(t, func(t *rapid.T) {
		title := rapid.StringOfN(rapid.OneOf(
			rapid.RuneFrom([]rune("a😀é\u200c\u200e")),
			rapid.RuneFrom([]rune(" \t\n\u0085\u00a0\u2003\u2028\u2029\u202e\u2066\u2069\u200b\u2060\ufeff\u00ad\u3164\u2800\ufe0f\x00\x1f\x7f")),
			rapid.RuneFrom(nil, unicode.White_Space, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector, unicode.L, unicode.Cf).
				Filter(func(r rune) bool { return r <= 0xffff }), // as the document says
		), 0, 6, -1).Draw(t, "title")
		if rapid.Bool().Draw(t, "long") {
			title += strings.Repeat("é", rapid.IntRange(494, 503).Draw(t, "more")) + rapid.SampledFrom([]string{"", " ", "\n", "x"}).Draw(t, "end")
		}
		_, refused := task.ParseTitle(title)
		if forbidden := schema.VisitJSON(title); (refused == nil) != (forbidden == nil) {
			t.Fatalf("%q: the API says %v, the document %v", title, refused, forbidden)
		}
	})
}

// Each operation has examples, and the requests among them work.
func TestDocumentExamples(t *testing.T) {
	f := withTokens(t)
	document, err := openDocument()
	if err != nil {
		t.Fatal(err)
	}
	for path, item := range document.Paths.Map() {
		for method, op := range item.Operations() {
			if op.RequestBody != nil {
				for media, content := range op.RequestBody.Value.Content {
					if len(content.Examples) == 0 {
						t.Errorf("%s: no example of a request as %s", op.OperationID, media)
					}
					for name, example := range content.Examples {
						body, err := json.Marshal(example.Value.Value)
						if err != nil {
							t.Fatal(err)
						}
						id := f.task(f.do("POST", "/tasks", `{"title": "x"}`, bearer, asks), 201).ID
						w := f.do(method, strings.Replace(path, "{id}", id, 1), string(body), bearer, "Content-Type: "+media)
						if w.Code/100 != 2 {
							t.Errorf("%s, example %s as %s: %d %s", op.OperationID, name, media, w.Code, w.Body)
						}
					}
				}
			}
			for status, response := range op.Responses.Map() {
				for media, content := range response.Value.Content {
					if content.Example == nil && len(content.Examples) == 0 {
						t.Errorf("%s: no example of answer %s as %s", op.OperationID, status, media)
					}
				}
			}
			for _, p := range slices.Concat(op.Parameters, item.Parameters) {
				if p.Value.Example == nil {
					t.Errorf("%s: no example of %s", op.OperationID, p.Value.Name)
				}
			}
		}
	}
}
