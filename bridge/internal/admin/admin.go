// Package admin is the bridge's HTTP API for operators: the state of each
// subscription, pause and resume, and the repairs that need an operator.
package admin

import (
	"encoding/json"
	"net/http"

	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/token"
)

// Config is who may use the API.
type Config struct {
	Token    *token.List     // nil: everybody may read, and Loopback decides about writes
	Refusals *token.Refusals // of requests without the token; not nil with one
	Hosts    httpd.Hosts     // ADMIN_HOSTS: names of the bridge, beside localhost and any address
	Loopback bool            // only this machine reaches the listener
}

// Handler serves the admin API for subs.
func Handler(subs []*pump.Subscription, cfg Config) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /subscriptions", func(w http.ResponseWriter, _ *http.Request) {
		views := make([]pump.View, len(subs))
		for i, s := range subs {
			views[i] = s.View()
		}
		write(w, map[string]any{"subscriptions": views})
	})
	mux.HandleFunc("GET /subscriptions/{name}", named(subs, func(w http.ResponseWriter, s *pump.Subscription) { write(w, s.View()) }))
	cfg.pauses(mux, subs)
	repairs(mux, subs)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		httpd.WriteProblem(w, httpd.Problem{Status: http.StatusNotFound, Detail: "try GET /subscriptions"})
	})
	return cfg.guard(mux)
}

func named(subs []*pump.Subscription, f func(http.ResponseWriter, *pump.Subscription)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for _, s := range subs {
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
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // it fails only when the client is gone
}
