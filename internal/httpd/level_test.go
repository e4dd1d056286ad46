package httpd

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// adjustable is a logger as internal/process makes it.
type adjustable struct {
	slog.Handler
	level *slog.LevelVar
}

func (a adjustable) LogLevel() *slog.LevelVar { return a.level }

func TestLogLevel(t *testing.T) {
	var out bytes.Buffer
	level := new(slog.LevelVar)
	s := &Server{log: slog.New(adjustable{slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: level}), level})}
	mux := http.NewServeMux()
	s.logLevel(mux)
	ask := func(method, body, remote, host, origin string) (int, string) {
		r := httptest.NewRequest(method, "http://"+host+"/log/level", strings.NewReader(body))
		r.RemoteAddr = remote
		if origin != "" {
			r.Header.Set("Origin", origin)
			r.Header.Set("Sec-Fetch-Site", "cross-site")
		}
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	const here, there = "127.0.0.1:1234", "10.0.0.7:1234"
	for _, c := range []struct {
		method, body, remote, host, origin string
		code                               int
		level                              slog.Level
	}{
		{"GET", "", there, "bridge:9001", "", 200, slog.LevelInfo},
		{"PUT", "debug", there, "bridge:9001", "", 403, slog.LevelInfo},
		{"PUT", "debug", there, "localhost:9001", "", 403, slog.LevelInfo},   // a name proves nothing
		{"PUT", "debug", here, "evil.example:9001", "", 403, slog.LevelInfo}, // a name that was made to lead here
		{"PUT", "debug", here, "localhost:9001", "http://evil.example", 403, slog.LevelInfo},
		{"PUT", "loud", here, "localhost:9001", "", 400, slog.LevelInfo},
		{"PUT", "debug+4", here, "localhost:9001", "", 400, slog.LevelInfo},
		{"PUT", strings.Repeat("debug", 10), here, "localhost:9001", "", 400, slog.LevelInfo},
		{"PUT", "debug\n", here, "localhost:9001", "", 200, slog.LevelDebug},
		{"PUT", "error", "[::1]:1234", "[::1]:9001", "", 200, slog.LevelError},
	} {
		code, body := ask(c.method, c.body, c.remote, c.host, c.origin)
		if code != c.code || level.Level() != c.level {
			t.Errorf("%s %q from %s for %s: %d, level %v; want %d, %v", c.method, c.body, c.remote, c.host, code, level.Level(), c.code, c.level)
		}
		if code == 200 && body != strings.ToLower(c.level.String())+"\n" {
			t.Errorf("%s %q answers %q", c.method, c.body, body)
		}
	}
	if n := strings.Count(out.String(), `"msg":"log level set"`); n != 2 || !strings.Contains(out.String(), `"from":"debug","to":"error"`) {
		t.Errorf("%d lines about two changes, also of the one that silences the log:\n%s", n, out.String())
	}
}
