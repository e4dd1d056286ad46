package httpd

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Check is one condition of health or readiness.
type Check struct {
	Name string
	Func func() error // nil when it holds; else what is missing and what to do; must not block
}

func (s *Server) probes(mux *http.ServeMux) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.live, nil) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		var stopping error
		if s.stopping.Load() {
			stopping = errors.New("shutdown: the service is stopping")
		}
		answer(w, s.ready, stopping)
	})
}

// answer is 200 "ok", or 503 with one line for each check that does not hold.
func answer(w http.ResponseWriter, checks []Check, first error) {
	var missing []string
	if first != nil {
		missing = append(missing, first.Error())
	}
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
