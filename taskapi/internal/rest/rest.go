// Package rest serves the Task API over HTTP.
//
// What the API promises is written in taskapi/openapi.yaml, by hand; the tests
// hold every request and answer against it. Here are the routes, the shapes of
// requests and answers, and one table from errors to statuses.
//
// No request can cause a 5xx by its content. Bodies are read strictly: a
// duplicate or unknown member, text after the object and invalid UTF-8 are
// refused by name. Errors are problems (RFC 9457) and never repeat a value the
// caller sent.
package rest

import (
	"cmp"
	_ "embed"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/swaggest/swgui/v5emb"
	"golang.org/x/time/rate"

	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/token"
	"github.com/taskwire/taskwire/internal/trace"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// document is taskapi/openapi.yaml as JSON; a test holds the two equal.
//
//go:embed openapi.json
var document []byte

// Config is what an API needs.
type Config struct {
	Store    task.Store
	Tokens   *token.List // nil: the API is open
	Log      *slog.Logger
	Registry prometheus.Registerer // nil for none
	Tracer   *trace.Tracer         // nil for no spans
}

// API is the http.Handler of the Task API.
type API struct {
	store    task.Store
	tokens   *token.List
	refusals *token.Refusals
	log      *slog.Logger
	origin   *http.CrossOriginProtection
	mux      *chi.Mux
	names    map[route]string
	answers  *httpd.Answers
	storeLog rate.Sometimes // one log line for many requests to a store that is unavailable
}

// maxLists is how many lists are answered at a time.
const maxLists = 128

// New makes an API.
func New(cfg Config) *API {
	a := &API{store: cfg.Store, tokens: cfg.Tokens, log: cfg.Log, origin: http.NewCrossOriginProtection(), mux: chi.NewMux(), answers: httpd.NewAnswers(maxLists), storeLog: rate.Sometimes{Interval: 10 * time.Second}}
	a.refusals = token.NewRefusals(cfg.Registry, cfg.Log)
	if cfg.Registry != nil {
		a.mux.Use(httpd.Instrument(cfg.Registry, cfg.Tracer, "taskapi", a.pattern))
	}
	a.mux.Use(a.guard, middleware.GetHead)
	a.mux.NotFound(a.handle(noSuchPath))
	a.mux.MethodNotAllowed(a.handle(a.methodNotAllowed))

	a.mux.Post("/tasks", a.handle(withoutQuery(a.create)))
	a.mux.Get("/tasks", a.handle(a.list))
	a.mux.Get("/tasks/{id}", a.handle(withoutQuery(a.get)))
	a.mux.Patch("/tasks/{id}", a.handle(withoutQuery(a.update)))
	a.mux.Post("/tasks/{id}/complete", a.handle(withoutQuery(a.complete)))

	a.mux.Get("/openapi.json", openAPI)
	page := docs()
	a.mux.Get("/docs", page)
	a.mux.Get("/docs/*", page)
	a.nameRoutes()
	return a
}

// ServeHTTP answers r.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.mux.ServeHTTP(w, r) }

// handler answers r, or returns an error and has not written anything.
type handler func(w http.ResponseWriter, r *http.Request) error

// handle is the one place where an error becomes an answer.
func (a *API) handle(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			a.refusal(r.Context(), err).write(w)
		}
	}
}

// route is a method and the pattern of a path.
type route struct{ method, path string }

// nameRoutes makes the names of the routes for metrics once.
func (a *API) nameRoutes() {
	a.names = map[route]string{}
	_ = chi.Walk(a.mux, func(method, path string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		a.names[route{method, path}] = method + " " + path
		if method == http.MethodGet { // see middleware.GetHead
			a.names[route{http.MethodHead, path}] = http.MethodHead + " " + path
		}
		return nil
	})
}

// pattern names the route for metrics. Requests that match no route share one
// label, so that callers cannot create new ones.
func (a *API) pattern(r *http.Request) string {
	c := chi.RouteContext(r.Context())
	if c == nil || len(c.RoutePatterns) != 1 {
		return "none"
	}
	return cmp.Or(a.names[route{r.Method, c.RoutePatterns[0]}], "none")
}

func methods() []string {
	return []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPatch}
}

func noSuchPath(http.ResponseWriter, *http.Request) error {
	return refuse(http.StatusNotFound, "There is nothing at this path.")
}

// methodNotAllowed lists the methods of the path, as RFC 9110 asks.
func (a *API) methodNotAllowed(w http.ResponseWriter, r *http.Request) error {
	for _, method := range methods() {
		route := method
		if method == http.MethodHead {
			route = http.MethodGet // middleware.GetHead
		}
		if a.mux.Match(chi.NewRouteContext(), route, r.URL.Path) {
			w.Header().Add("Allow", method)
		}
	}
	return refuse(http.StatusMethodNotAllowed, "This path does not take this method; the header Allow lists those it takes.")
}

func openAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(document) // a client that went away needs no answer
}

// docs serves Swagger UI, whose assets are inside this program.
func docs() http.HandlerFunc {
	page := v5emb.New("Task API", "/openapi.json", "/docs")
	return func(w http.ResponseWriter, r *http.Request) {
		// The page has inline scripts; everything it loads is ours.
		w.Header().Set("Content-Security-Policy",
			"default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'")
		page.ServeHTTP(w, r)
	}
}
