package app_test

import (
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/taskwire/taskwire/auditor/app"
	"github.com/taskwire/taskwire/auditor/internal/ledger/ledgertest"
	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/webhook"
)

// TestForgedEvents is the attack of somebody who reaches the port: an event that
// nobody published, and other content under the id of a real event that has not
// arrived yet. In an open auditor both stay for ever, and the real event is refused.
func TestForgedEvents(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), 0o600); err != nil {
		t.Fatal(err)
	}
	secrets, err := webhook.Open(secret, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	real := body("task.created", "real", 1)
	altered := strings.Replace(real, "pending", "completed", 1)
	for name, c := range map[string]struct {
		settings              map[string]string
		forged, altered, real int
		lines                 int
	}{
		"open":   {nil, 201, 201, 409, 2},
		"signed": {map[string]string{"WEBHOOK_SECRET_FILE": secret}, 401, 401, 201, 1},
	} {
		t.Run(name, func(t *testing.T) {
			settings := map[string]string{"AUDIT_LOG_PATH": filepath.Join(t.TempDir(), "audit.log")}
			for k, v := range c.settings {
				settings[k] = v
			}
			a := &auditor{App: apptest.Start(t, "auditor", app.FromEnv, app.New, settings), t: t, path: settings["AUDIT_LOG_PATH"]}
			a.expect(a.post(body("task.completed", "forged", 1)), c.forged, "")
			a.expect(a.post(altered), c.altered, "")
			req, _ := http.NewRequest("POST", a.URL+"/", strings.NewReader(real))
			req.Header.Set("Content-Type", "application/cloudevents+json")
			if err := secrets.Sign(req.Header, webhook.ID("task-api", "real-1"), time.Now(), []byte(real)); err != nil {
				t.Fatal(err)
			}
			a.expect(a.do(req), c.real, "")
			ledgertest.Check(t, a.path, c.lines)
		})
	}
}

// A secret that is taken away is no longer accepted, and readiness says why.
func TestARemovedSecretFile(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := apptest.Start(t, "auditor", app.FromEnv, app.New, map[string]string{
		"AUDIT_LOG_PATH": filepath.Join(t.TempDir(), "audit.log"), "WEBHOOK_SECRET_FILE": secret})
	if err := os.Remove(secret); err != nil {
		t.Fatal(err)
	}
	apptest.Await(t, "the auditor is not ready", func() bool {
		status, text := a.Get(t, a.OpsURL+"/readyz")
		return status == 503 && strings.Contains(text, "WEBHOOK_SECRET_FILE: "+secret+": no such file")
	})
}
