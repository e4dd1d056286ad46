package app_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/taskwire/taskwire/auditor/app"
	"github.com/taskwire/taskwire/internal/apptest"
)

func TestReadingNeedsAToken(t *testing.T) {
	tokens := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(tokens, []byte("alice token-a-0123456789\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	settings := map[string]string{"AUDIT_LOG_PATH": filepath.Join(t.TempDir(), "audit.log"), "AUDIT_READ_TOKENS_FILE": tokens}
	a := &auditor{App: apptest.Start(t, "auditor", app.FromEnv, app.New, settings), t: t}
	a.expect(a.post(body("task.created", "a", 1)), 201, "") // posts are another matter
	for _, path := range []string{"/entries", "/entries/1", "/entries/tail", "/tasks/a/history"} {
		for token, want := range map[string]int{"": 401, "Bearer wrong-0123456789abc": 401, "Bearer token-a-0123456789": 200} {
			req, _ := http.NewRequestWithContext(t.Context(), "GET", a.URL+path, nil)
			if token != "" {
				req.Header.Set("Authorization", token)
			}
			resp, err := a.Client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close() // a tail has no end
			if resp.StatusCode != want || want == 401 && resp.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s with %q: %s, want %d", path, token, resp.Status, want)
			}
		}
	}
}
