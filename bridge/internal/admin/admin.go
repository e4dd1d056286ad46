// Package admin is the bridge's HTTP API for operators: the state of each
// subscription, pause and resume, the repairs that need an operator, and what becomes
// of dead letters.
package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/bridge/internal/redrive"
	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/token"
)

// Config is who may use the API.
type Config struct {
	Token    *token.List              // nil: everybody may read, and Loopback decides about writes
	Refusals *token.Refusals          // of requests without the token; not nil with one
	Session  func(*http.Request) bool // the console: the caller has signed in with a good token; nil for none
	Hosts    httpd.Hosts              // ADMIN_HOSTS: names of the bridge, beside localhost and any address
	Loopback bool                     // only this machine reaches the listener
	File     func() File              // the configuration; nil shows none
	Letters  Reader                   // of them
	Jobs     *redrive.Jobs            // on the dead letters of the subscriptions; nil: no routes for them

	HidePayloads bool // no answer has the value of a record, or what a sink said about it
}

// File is what became of the configuration file.
type File struct {
	Path     string    `json:"path,omitempty"`  // "" without a file
	LoadedAt time.Time `json:"loaded_at"`       // what is in force
	Error    string    `json:"error,omitempty"` // why a later one is not in force
}

// Handler serves the admin API for the subscriptions that subs returns at each request.
func Handler(subs func() []*pump.Subscription, cfg Config) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /subscriptions", func(w http.ResponseWriter, r *http.Request) {
		answer := map[string]any{"subscriptions": cfg.views(r.Context(), subs())}
		if cfg.File != nil {
			answer["config"] = cfg.File()
		}
		write(w, answer)
	})
	mux.HandleFunc("GET /subscriptions/{name}", func(w http.ResponseWriter, r *http.Request) {
		named(subs, func(w http.ResponseWriter, s *pump.Subscription) { write(w, cfg.View(r.Context(), s)) })(w, r)
	})
	cfg.pauses(mux, subs)
	repairs(mux, subs)
	if cfg.Jobs != nil {
		cfg.deadLetters(mux, subs)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		httpd.WriteProblem(w, httpd.Problem{Status: http.StatusNotFound, Detail: "try GET /subscriptions"})
	})
	return cfg.guard(mux)
}

// views asks for a few subscriptions at a time: each of them asks the brokers.
func (c Config) views(ctx context.Context, subs []*pump.Subscription) []pump.View {
	all := make([]pump.View, len(subs))
	var group errgroup.Group
	group.SetLimit(8)
	for i, s := range subs {
		group.Go(func() error { all[i] = c.View(ctx, s); return nil })
	}
	_ = group.Wait() // there are no errors
	return all
}

// View is that of a subscription, as far as it is shown.
func (c Config) View(ctx context.Context, s *pump.Subscription) pump.View {
	v := s.View(ctx)
	if !c.HidePayloads {
		return v
	}
	for i := range v.Partitions {
		if p := &v.Partitions[i]; p.Blocking != nil {
			block := *p.Blocking // others have it, too
			block.Reason = c.Said(block.Reason)
			p.Blocking = &block
		}
	}
	return v
}

// Said is what is shown of an error: not the sink's words, when payloads are hidden.
func (c Config) Said(text string) string {
	if c.HidePayloads {
		return deliver.WithoutAnswer(text)
	}
	return text
}

func named(subs func() []*pump.Subscription, f func(http.ResponseWriter, *pump.Subscription)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for _, s := range subs() {
			if s.Name() == r.PathValue("name") {
				f(w, s)
				return
			}
		}
		httpd.WriteProblem(w, httpd.Problem{Status: http.StatusNotFound, Detail: "no subscription with this name; see GET /subscriptions"})
	}
}

func write(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // it fails only when the client is gone
}
