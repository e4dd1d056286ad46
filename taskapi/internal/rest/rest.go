// Package rest is the HTTP face of the Task API: routes, the shapes of
// requests and answers, and the one table from a reason to a status.
//
// No request can make it answer with a 5xx by its content. Bodies are read
// strictly: a duplicate or unknown member, text after the object or invalid
// UTF-8 is refused and named. An error is a problem (RFC 9457) that never
// repeats a value of the caller's.
package rest

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/swaggest/swgui/v5emb"

	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// Config is what the API is made of.
type Config struct {
	Store    task.Store
	Tokens   *Tokens // nil: the API is open
	Log      *slog.Logger
	Registry prometheus.Registerer // nil for none
}

// API serves the routes; it is an http.Handler.
type API struct {
	store  task.Store
	tokens *Tokens
	log    *slog.Logger
	origin *http.CrossOriginProtection
	mux    *chi.Mux
	spec   *huma.OpenAPI
}

// New builds the routes.
func New(cfg Config) (*API, error) {
	a := &API{store: cfg.Store, tokens: cfg.Tokens, log: cfg.Log, origin: http.NewCrossOriginProtection(), mux: chi.NewMux()}
	if cfg.Registry != nil {
		a.mux.Use(httpd.Instrument(cfg.Registry, "taskapi", pattern))
	}
	a.mux.Use(a.guard, middleware.GetHead)
	a.mux.NotFound(func(w http.ResponseWriter, _ *http.Request) { write(w, notFound("There is nothing at this path.")) })
	a.mux.MethodNotAllowed(a.methodNotAllowed)
	a.operations()
	return a, a.documents()
}

// ServeHTTP answers r.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.mux.ServeHTTP(w, r) }

// YAML is the OpenAPI document as it is checked in.
func (a *API) YAML() ([]byte, error) { return a.spec.YAML() }

// pattern names the route for metrics. What matches none shares one label, so
// that callers cannot make new ones.
func pattern(r *http.Request) string {
	c := chi.RouteContext(r.Context())
	if c == nil || c.RoutePattern() == "" || !slices.Contains(methods(), r.Method) {
		return "none"
	}
	return r.Method + " " + c.RoutePattern()
}

func methods() []string {
	return []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPatch}
}

// methodNotAllowed lists what the path takes, as RFC 9110 asks.
func (a *API) methodNotAllowed(w http.ResponseWriter, r *http.Request) {
	for _, method := range methods() {
		asked := method
		if method == http.MethodHead {
			asked = http.MethodGet // which answers it
		}
		if a.mux.Match(chi.NewRouteContext(), asked, r.URL.Path) {
			w.Header().Add("Allow", method)
		}
	}
	write(w, refuse(http.StatusMethodNotAllowed, "This path does not take this method; the header Allow lists those it takes."))
}

// operations registers the five calls. Parameters, bodies and refusals are
// described by hand and checked by hand: what the framework would answer by
// itself comes from a function that is global to the process and repeats the
// caller's values.
func (a *API) operations() {
	config := huma.DefaultConfig("Task API", "1.0.0")
	config.CreateHooks = nil // they add a $schema member to every body
	config.OpenAPIPath, config.DocsPath, config.SchemasPath = "", "", ""
	api := humachi.New(a.mux, config)
	a.spec = api.OpenAPI()
	describe(a.spec)

	huma.Register(api, a.operation("create-task", http.MethodPost, "/tasks", "Create a task", http.StatusCreated), a.create)
	huma.Register(api, a.operation("list-tasks", http.MethodGet, "/tasks", "List tasks, oldest first", http.StatusOK), a.list)
	huma.Register(api, a.operation("get-task", http.MethodGet, "/tasks/{id}", "Read a task", http.StatusOK), a.get)
	huma.Register(api, a.operation("update-task", http.MethodPatch, "/tasks/{id}", "Change a task", http.StatusOK), a.update)
	huma.Register(api, a.operation("complete-task", http.MethodPost, "/tasks/{id}/complete", "Complete a task", http.StatusOK), a.complete)
	finish(a.spec)
}

// documents mounts the specification and its page, whose assets are inside
// this program.
func (a *API) documents() error {
	spec, err := json.Marshal(a.spec)
	if err != nil {
		return fmt.Errorf("encode the OpenAPI document: %w", err)
	}
	a.mux.Get("/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(spec) // a client that went away needs no answer
	})
	page := v5emb.New("Task API", "/openapi.json", "/docs")
	docs := func(w http.ResponseWriter, r *http.Request) {
		// The page has inline scripts; everything it loads is ours.
		w.Header().Set("Content-Security-Policy",
			"default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'")
		page.ServeHTTP(w, r)
	}
	a.mux.Get("/docs", docs)
	a.mux.Get("/docs/*", docs)
	return nil
}
