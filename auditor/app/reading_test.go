package app_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/taskwire/taskwire/auditor/app"
	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/env"
)

// An open that takes longer than New waits is not over when the ports are served.
func TestALogThatIsStillReadServesNothing(t *testing.T) {
	cfg, err := app.FromEnv(env.Map(map[string]string{"LISTEN_ADDR": "127.0.0.1:0", "OPS_ADDR": "127.0.0.1:0", "AUDIT_LOG_PATH": filepath.Join(t.TempDir(), "audit.log")}))
	if err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	service, err := app.Open(t.Context(), cfg, slog.New(slog.DiscardHandler), func(f ledger.File) ledger.File {
		<-release
		return f
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(path string) (status int, body string) {
		resp, err := client.Get("http://" + service.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	for path, want := range map[string]string{"/readyz": "being read", "/tasks/t/history": "cannot use its files yet"} {
		if status, body := get(path); status != http.StatusServiceUnavailable || !strings.Contains(body, want) {
			t.Errorf("GET %s = %d %s, want 503 with %q", path, status, body, want)
		}
	}
	if status, body := get("/healthz"); status != http.StatusOK {
		t.Errorf("GET /healthz = %d %s: waiting is healthy", status, body)
	}
	close(release)
	apptest.Await(t, "the auditor is ready", func() bool { status, _ := get("/readyz"); return status == http.StatusOK })
	stop()
	if err := <-ended; err != nil {
		t.Errorf("Run = %v", err)
	}
}
