package httpd

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// leveled is the handler of a logger whose level can be changed.
type leveled interface{ LogLevel() *slog.LevelVar }

// logLevel serves /log/level: GET answers the level, PUT sets it until the process
// ends. The operator port has no tokens, and a silent log hides an attack, so only
// this machine may set it, which in a pod is who may forward its ports; and no web
// page may, also not by a name of its own that leads here.
func (s *Server) logLevel(mux *http.ServeMux) {
	h, ok := s.log.Handler().(leveled)
	if !ok {
		return
	}
	level := h.LogLevel()
	mux.HandleFunc("GET /log/level", func(w http.ResponseWriter, _ *http.Request) { answerLevel(w, level) })
	set := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.setLevel(w, r, level) })
	mux.Handle("PUT /log/level", http.NewCrossOriginProtection().Handler(set))
}

func (s *Server) setLevel(w http.ResponseWriter, r *http.Request, level *slog.LevelVar) {
	if !fromLoopback(r) {
		WriteProblem(w, Problem{Status: http.StatusForbidden, Detail: "the log level is set from this machine only; forward the port: kubectl port-forward"})
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 16))
	var to slog.Level
	switch word := strings.TrimSpace(string(body)); {
	case err == nil && (word == "debug" || word == "info" || word == "warn" || word == "error"):
		_ = to.UnmarshalText([]byte(word)) // one of its words
	default:
		WriteProblem(w, Problem{Status: http.StatusBadRequest, Detail: "want debug, info, warn or error as the body"})
		return
	}
	from := level.Level()
	level.Set(to)
	// At a level that is always shown: a log that becomes silent says so.
	s.log.Log(r.Context(), max(slog.LevelWarn, to), "log level set", "from", strings.ToLower(from.String()), "to", strings.ToLower(to.String()), "remote", r.RemoteAddr)
	answerLevel(w, level)
}

func fromLoopback(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback() && loopbackHost(hostname(r.Host))
}

func answerLevel(w http.ResponseWriter, level *slog.LevelVar) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = io.WriteString(w, strings.ToLower(level.Level().String())+"\n") // the caller is gone
}
