// Package admin is the bridge's HTTP API for operators: the state of each
// subscription, and pause and resume.
package admin

import (
	"crypto/subtle"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/internal/httpd"
)

// Token is the path of a file with the bearer token that writes require. When it
// is empty, writes are accepted from this machine only.
type Token string

// Handler serves the admin API for subs.
func Handler(subs []*pump.Subscription, token Token) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /subscriptions", func(w http.ResponseWriter, _ *http.Request) {
		views := make([]pump.View, len(subs))
		for i, s := range subs {
			views[i] = s.View()
		}
		write(w, map[string]any{"subscriptions": views})
	})
	mux.HandleFunc("GET /subscriptions/{name}", named(subs, func(w http.ResponseWriter, s *pump.Subscription) { write(w, s.View()) }))
	mux.HandleFunc("POST /subscriptions/{name}/pause", token.guard(named(subs, func(w http.ResponseWriter, s *pump.Subscription) {
		s.Pause("paused by an operator")
		write(w, s.View())
	})))
	mux.HandleFunc("POST /subscriptions/{name}/resume", token.guard(named(subs, func(w http.ResponseWriter, s *pump.Subscription) {
		s.Resume()
		write(w, s.View())
	})))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		httpd.WriteProblem(w, httpd.Problem{Status: http.StatusNotFound, Detail: "try GET /subscriptions"})
	})
	return mux
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

// guard accepts a write with the token, or from loopback when no token is configured.
func (t Token) guard(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if t == "" {
			host, _, _ := net.SplitHostPort(r.RemoteAddr)
			if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
				httpd.WriteProblem(w, httpd.Problem{Status: http.StatusForbidden, Detail: "without ADMIN_TOKEN_FILE this is allowed only from the machine of the bridge"})
				return
			}
			next(w, r)
			return
		}
		// Read for each write, so that a new token needs no restart.
		want, err := os.ReadFile(string(t))
		have := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		secret := strings.TrimSpace(string(want))
		if err != nil || secret == "" || subtle.ConstantTimeCompare([]byte(have), []byte(secret)) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="bridge"`)
			httpd.WriteProblem(w, httpd.Problem{Status: http.StatusUnauthorized, Detail: "want Authorization: Bearer with the token of ADMIN_TOKEN_FILE"})
			return
		}
		next(w, r)
	}
}

func write(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // it fails only when the client is gone
}
