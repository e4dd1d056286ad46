// Package console is the bridge's web console: a set of pages that Go templates
// render, which work without JavaScript, and a few ES modules that keep them up to
// date and verify audit entries.
//
// Everything that an event carries, a sink answers and another service says is
// hostile here. Templates escape it, clean spells out what could reorder or hide
// text, and the content security policy runs no script and loads nothing but what
// this package embeds. No page is shown in a frame, no write is taken from a page of
// another site, and what only the bridge can reach is shown to operators only.
package console

import (
	"bytes"
	"embed"
	"html/template"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/admin"
	"github.com/taskwire/taskwire/bridge/internal/journal"
	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/internal/httpd"
)

// Config is what the console shows and lets operators do.
type Config struct {
	Admin         admin.Config // who may, the dead letters and their jobs; Session is the console's own
	Subscriptions func() []*pump.Subscription
	Journal       *journal.Journal
	Settings      func(subscription string) []Setting
	Explain       func(subscription string, event []byte) (Explanation, error)
	Fault         *pump.Fault // breaks sinks for a trial; nil but in go run ./dev
	ReadOnly      bool
	Base          string // path before all others, without a slash at its end; "" for none
	TaskAPI       string // URL; "" when it is not configured
	Auditor       string // likewise
	Log           *slog.Logger
}

// Setting is one of a subscription's, with defaults filled in.
type Setting struct {
	Name, Value string
	Default     bool
}

// Explanation is what a subscription does with an event, and why.
type Explanation struct {
	Match    bool
	Verdicts []string
}

// Console serves the pages. Use New.
type Console struct {
	cfg      Config
	pages    *template.Template
	assets   assets
	sessions *sessions
	streams  httpd.Streams
	auditor  *remote // nil when it is not configured
	tasks    *remote // likewise
}

//go:embed templates
var templates embed.FS

// New returns a console.
func New(cfg Config) *Console {
	c := &Console{cfg: cfg, assets: newAssets(), sessions: newSessions(cfg.Admin.Token)}
	c.cfg.Admin.Session = c.sessions.good
	c.pages = template.Must(template.New("").Funcs(words()).ParseFS(templates, "templates/*.html"))
	c.auditor, c.tasks = newRemote(cfg.Auditor), newRemote(cfg.TaskAPI)
	return c
}

// Close ends the streams, which nobody else ends; it is called before the server drains.
func (c *Console) Close() {
	c.streams.Stop()
	c.auditor.close()
	c.tasks.close()
}

// Handler serves the console and passes all other requests to next.
func (c *Console) Handler(next http.Handler) http.Handler {
	inner := http.NewServeMux()
	c.routes(inner)
	outer := http.NewServeMux()
	outer.HandleFunc("GET /_/{hash}/{name...}", c.assets.serve)
	outer.HandleFunc("GET /console/sign-in", c.signInPage)
	outer.HandleFunc("POST /console/sign-in", c.signIn)
	outer.HandleFunc("POST /console/sign-out", c.signOut)
	outer.HandleFunc("POST /console/theme", c.setTheme)
	outer.Handle("/", c.cfg.Admin.Authorized(c.readOnly(inner), c.refuse))
	guarded := c.cfg.Admin.FromHere(headers(outer))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, ok := strings.CutPrefix(r.URL.Path, c.cfg.Base) // a proxy may have cut it off already
		if ok && c.cfg.Base != "" && strings.HasPrefix(path, "/") {
			original := r
			r = r.Clone(r.Context())
			r.URL.Path, r.URL.RawPath = path, strings.TrimPrefix(r.URL.RawPath, c.cfg.Base) // which has no letter that is escaped
			defer func() { original.Pattern = r.Pattern }()
		}
		if p := r.URL.Path; p == "/" || p == "/events" || strings.HasPrefix(p, "/console/") || strings.HasPrefix(p, "/_/") {
			guarded.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (c *Console) routes(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", c.flow)
	mux.HandleFunc("GET /events", c.events)
	mux.HandleFunc("GET /console/event/{topic}/{partition}/{offset}", c.event)

	mux.HandleFunc("GET /console/subscriptions", c.subscriptions)
	mux.HandleFunc("GET /console/subscriptions/{name}", c.subscription)
	mux.HandleFunc("POST /console/subscriptions/{name}/pause", c.pause)
	mux.HandleFunc("POST /console/subscriptions/{name}/resume", c.pause)
	mux.HandleFunc("POST /console/subscriptions/{name}/explain", c.explain)
	mux.HandleFunc("POST /console/subscriptions/{name}/fault", c.fault)

	mux.HandleFunc("GET /console/deadletters", c.deadLetters)
	mux.HandleFunc("GET /console/deadletters/{name}/{partition}/{offset}", c.deadLetter)
	mux.HandleFunc("POST /console/deadletters/plan", c.plan)
	mux.HandleFunc("GET /console/jobs/{id}", c.job)
	mux.HandleFunc("POST /console/jobs/{id}/start", c.startJob)
	mux.HandleFunc("POST /console/jobs/{id}/cancel", c.cancelJob)

	audit := func(pattern string, h http.HandlerFunc) { mux.HandleFunc(pattern, c.operators(h)) }
	audit("GET /console/audit", c.audit)
	audit("GET /console/audit/tasks/{id}", c.auditTask)
	audit("GET /console/audit/entries/{seq}", c.auditEntry)
	audit("GET /console/audit/raw/{seq}", c.auditRaw)
	audit("GET /console/audit/proof/{seq}", c.auditProof)
	audit("GET /console/audit/key", c.auditKey)
	audit("GET /console/audit/tile/{path...}", c.auditTile)

	audit("GET /console/try", c.try)
	audit("POST /console/try", c.tryIt)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		c.fail(w, r, http.StatusNotFound, "There is no such page.")
	})
}

// policy allows what this package embeds, and nothing else. With trusted types no
// script can make markup of a text, even by mistake.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; " +
	"frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

func headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Frame-Options", "DENY")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin") // a search in the audit log is nobody's business
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

func (c *Console) readOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c.cfg.ReadOnly && r.Method != http.MethodGet && r.Method != http.MethodHead {
			c.fail(w, r, http.StatusForbidden, "The console is read-only: CONSOLE=readonly is set.")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// operators keeps from others what they could not reach without the bridge: the
// auditor and the Task API may take requests from the bridge alone.
func (c *Console) operators(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !c.cfg.Admin.Operator(r) {
			c.fail(w, r, http.StatusForbidden, "This page is for operators: set ADMIN_TOKEN_FILE and sign in. Without a token it is there only when the bridge listens on a loopback address.")
			return
		}
		next(w, r)
	}
}

// page is what every template has.
type page struct {
	Title, Page      string
	Base, Assets     string
	Theme, Path      string
	Boot             string
	Last             int64
	Tokens           bool // signing out makes sense
	MayWrite         bool
	ReadOnly, Faults bool
	Now              time.Time
	Data             any
}

func (c *Console) page(r *http.Request, name, title string, data any) page {
	p := page{
		Title: title, Page: name, Base: c.cfg.Base, Assets: c.cfg.Base + "/_/" + c.assets.hash, Theme: theme(r), Path: c.cfg.Base + r.URL.RequestURI(),
		Tokens: c.cfg.Admin.Token != nil, ReadOnly: c.cfg.ReadOnly, Faults: c.cfg.Fault != nil, Now: time.Now(), Data: data,
	}
	p.MayWrite = !c.cfg.ReadOnly && c.cfg.Admin.Operator(r)
	p.Boot, p.Last = c.cfg.Journal.Boot, c.cfg.Journal.Last()
	return p
}

// show renders a page. Its data was read before: an error must not come after half a page.
func (c *Console) show(w http.ResponseWriter, r *http.Request, status int, name, title string, data any) {
	var out bytes.Buffer
	if err := c.pages.ExecuteTemplate(&out, name+".html", c.page(r, name, title, data)); err != nil {
		c.cfg.Log.Error("page of the console not rendered", "page", name, "err", err)
		httpd.WriteProblem(w, httpd.Problem{Status: http.StatusInternalServerError, Detail: "the page could not be rendered; the log of the bridge says why"})
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = out.WriteTo(w) // a client that disconnected needs no page
}

// fail shows a sentence that says what is wrong.
func (c *Console) fail(w http.ResponseWriter, r *http.Request, status int, sentence string) {
	if !strings.Contains(r.Header.Get("Accept"), "text/html") {
		httpd.WriteProblem(w, httpd.Problem{Status: status, Detail: sentence})
		return
	}
	c.show(w, r, status, "message", title(status), sentence)
}

// title is what a status means to somebody who does not know their numbers.
func title(status int) string {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return "Not allowed"
	case http.StatusNotFound:
		return "Not found"
	case http.StatusConflict:
		return "Not now"
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return "Something is missing"
	}
	return "Not available"
}

// hidden says why no payload is shown.
const hidden = "CONSOLE_PAYLOADS=hide: the console shows no payloads."

// shown is a step as it is shown.
func (c *Console) shown(s *journal.Step) {
	s.Error = c.cfg.Admin.Said(s.Error)
}

// find is the subscription of the path or, with a name of none, nil.
func (c *Console) find(name string) *pump.Subscription {
	for _, s := range c.cfg.Subscriptions() {
		if s.Name() == name {
			return s
		}
	}
	return nil
}

// back is where a form came from, if that is a page of the console.
func (c *Console) back(r *http.Request, field string) string {
	path := r.PostFormValue(field)
	if !strings.HasPrefix(path, c.cfg.Base+"/console/") && !strings.HasPrefix(path, c.cfg.Base+"/?") || strings.ContainsAny(path, "\\\r\n") {
		return c.cfg.Base + "/"
	}
	return path
}
