package httpd

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Check is one condition of health or readiness.
type Check struct {
	Name string
	Func func() error // nil, or what is missing and what to do; must not block
}

func (s *Server) probes(mux *http.ServeMux) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if s.unavailable.Load() != nil {
			answer(w, nil, nil) // waiting is healthy; a restart would not help
			return
		}
		answer(w, s.live, nil)
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		var missing []string
		if s.stopping.Load() {
			missing = append(missing, "shutdown: the service is stopping")
		}
		if reason := s.unavailable.Load(); reason != nil {
			answer(w, nil, append(missing, (*reason).Error()))
			return
		}
		checks := s.ready
		if s.each != nil {
			checks = slices.Concat(checks, s.each())
		}
		answer(w, checks, missing)
	})
}

// answer writes 200 "ok", or 503 with one line for each check that fails.
func answer(w http.ResponseWriter, checks []Check, missing []string) {
	for _, c := range checks {
		if err := c.Func(); err != nil {
			missing = append(missing, fmt.Sprintf("%s: %v", c.Name, err))
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if len(missing) > 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, strings.Join(missing, "\n"))
		return
	}
	fmt.Fprintln(w, "ok")
}
