// Package apptest starts and stops services in tests: in the test's own process
// with the FromEnv, New and Run of the program (App), or as a process (Process).
package apptest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/process"
)

// patience bounds every wait. It decides only how long a failure takes.
const patience = time.Minute

// Service is what New of every service returns.
type Service interface {
	process.Service
	OpsAddr() net.Addr
}

// App is a running service.
type App struct {
	URL, OpsURL string // of the public and the operator port, without a slash at the end
	Client      *http.Client
	Log         Log

	cancel  context.CancelFunc
	done    chan struct{} // closed after err is set
	err     error
	checked bool // the test has seen err
}

// Start runs a service on free ports and returns when it is ready. Settings are
// its environment; it logs JSON unless they say otherwise. The end of the test
// stops it, and an error of Run that the test has not asked for fails the test.
func Start[C any, S Service](t testing.TB, name string, fromEnv func(env.Lookup) (C, error),
	open func(context.Context, C, *slog.Logger) (S, error), settings map[string]string) *App {
	t.Helper()
	vars := map[string]string{"LISTEN_ADDR": "127.0.0.1:0", "OPS_ADDR": "127.0.0.1:0", "LOG_FORMAT": "json"}
	maps.Copy(vars, settings)
	cfg, err := fromEnv(env.Map(vars))
	if err != nil {
		t.Fatal(err)
	}
	a := &App{done: make(chan struct{}), Client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: patience}}
	format, level := process.LogSettings(env.Map(vars))
	service, err := open(t.Context(), cfg, process.NewLogger(&a.Log, format, level, name))
	if err != nil {
		t.Fatal(err)
	}
	a.URL, a.OpsURL = "http://"+service.Addr().String(), "http://"+service.OpsAddr().String()
	// The context of the test ends before its cleanups run.
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	a.cancel = cancel
	go func() { defer close(a.done); a.err = service.Run(ctx) }()
	t.Cleanup(func() {
		known := a.checked
		if err := a.Stop(); err != nil && !known {
			t.Errorf("Run = %v, want nil", err)
		}
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, a.Log.String())
		}
	})
	a.awaitReady(t)
	return a
}

// Stop ends the service as SIGTERM does and returns what Run returned.
func (a *App) Stop() error {
	a.Client.CloseIdleConnections()
	a.cancel()
	return a.Wait()
}

// Wait returns what Run returned, for a service that ends by itself.
func (a *App) Wait() error {
	select {
	case <-a.done:
		a.checked = true
		return a.err
	case <-time.After(patience):
		return fmt.Errorf("no return from Run within %v", patience)
	}
}

func (a *App) awaitReady(t testing.TB) {
	t.Helper()
	Await(t, "the service is ready", func() bool {
		select {
		case <-a.done:
			t.Fatalf("Run = %v before the service was ready", a.err)
		default:
		}
		status, _ := a.Get(t, a.OpsURL+"/readyz")
		return status == http.StatusOK
	})
}

// Get returns the status and the body of a GET.
func (a *App) Get(t testing.TB, url string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := a.Client.Do(req)
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

// Await returns as soon as holds does with true, and fails the test when that
// takes too long.
func Await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline, tick := time.After(patience), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-deadline:
			t.Fatalf("waited %v until %s", patience, what)
		case <-tick.C:
		}
	}
}
