package app_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/volume/volumetest"
	"github.com/taskwire/taskwire/taskapi/app"
)

// apiOn starts a process that keeps its tasks on the volume.
func apiOn(t *testing.T, path string, settings ...string) *apptest.Process {
	t.Helper()
	return volumetest.Start(t, append(settings, asProgram+"=1", "LISTEN_ADDR=127.0.0.1:0", "OPS_ADDR=127.0.0.1:0", "DATABASE_URL=sqlite:"+path,
		"SHUTDOWN_GRACE=20s", "KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:1", "LOG_FORMAT=json")...)
}

// An unavailable volume does not end the API: it reports why, accepts nothing,
// and recovers by itself once the volume is fixed.
func TestAVolumeThatCannotBeUsedYet(t *testing.T) {
	volumetest.Each(t, func(t *testing.T, v volumetest.Volume) {
		path := filepath.Join(v.Dir, "tasks.db")
		for before := range 2 { // without a database, then with one
			v.Break(t)
			p := apiOn(t, path)
			base, ops := p.URLs(t)
			checkHeld(t, base, ops, v.Reason)
			v.Fix(t)
			volumetest.AwaitReady(t, base)
			p.Await(t, "volume available, service ready") // said after it is so
			if p.Count(`"msg":"volume unavailable, retrying every second","service":"taskapi","err":"task store: `) != 1 || p.Count("volume available, service ready") != 1 {
				t.Errorf("want one line for the wait and one for its end:\n%s", p.Log())
			}
			if status, _, body := volumetest.Call(t, "POST", base+"/tasks", "application/json", `{"title": "late"}`); status != 201 {
				t.Errorf("a post after that: %d %s", status, body)
			}
			if _, _, body := volumetest.Call(t, "GET", base+"/tasks", "", ""); strings.Count(body, "late") != before+1 || strings.Contains(body, "early") {
				t.Errorf("tasks after that: %s, want %d", body, before+1)
			}
			if _, _, body := volumetest.Call(t, "GET", ops+"/metrics", "", ""); !strings.Contains(body, "\ntaskwire_outbox_pending ") {
				t.Error("the metrics of the outbox are missing")
			}
			if status := p.Terminate(); status != 0 {
				t.Errorf("SIGTERM: exit %d", status)
			}
		}
	})
}

func checkHeld(t *testing.T, base, ops, reason string) {
	t.Helper()
	for _, at := range []string{base, ops} {
		status, _, body := volumetest.Call(t, "GET", at+"/readyz", "", "")
		if status != 503 || !strings.HasPrefix(body, "task store: ") || !strings.Contains(body, reason) || strings.Count(body, "\n") != 1 {
			t.Errorf("readyz: %d %q, want 503 and one line with %s", status, body, reason)
		}
		if status, _, body := volumetest.Call(t, "GET", at+"/healthz", "", ""); status != 200 || body != "ok\n" {
			t.Errorf("healthz: %d %q; a restart would not help", status, body)
		}
	}
	for call, body := range map[string]string{"POST /tasks": `{"title": "early"}`, "GET /tasks": "", "POST /tasks/x/complete": ""} {
		method, path, _ := strings.Cut(call, " ")
		status, retryAfter, answer := volumetest.Call(t, method, base+path, "application/json", body)
		if status != 503 || retryAfter != "1" || !strings.Contains(answer, `"status":503`) || strings.Contains(answer, "tasks.db") {
			t.Errorf("%s while waiting: %d %s Retry-After %q, want a 503 problem", call, status, answer, retryAfter)
		}
	}
}

func TestAStopWhileWaitingForTheVolume(t *testing.T) {
	volumetest.Each(t, func(t *testing.T, v volumetest.Volume) {
		volumetest.StopWhileWaiting(t, v, func() *apptest.Process { return apiOn(t, filepath.Join(v.Dir, "tasks.db")) })
	})
}

// A replacement that starts while the old process stops waits for it, and goes on
// where it ended, whatever ended it.
func TestAReplacementWaitsForTheLock(t *testing.T) {
	path := filepath.Join(volumetest.Folder(t), "tasks.db")
	// Kafka is down: a short grace, for events that cannot be flushed.
	old := apiOn(t, path, "SHUTDOWN_GRACE=0s")
	base, _ := old.URLs(t)
	for round, end := range []os.Signal{os.Interrupt, os.Kill} {
		if status, _, body := volumetest.Call(t, "POST", base+"/tasks", "application/json", `{"title": "kept"}`); status != 201 {
			t.Fatalf("a post: %d %s", status, body)
		}
		next := apiOn(t, path, "SHUTDOWN_GRACE=0s", "WAIT_FOR_LOCK=true")
		nextBase, ops := next.URLs(t)
		checkHeld(t, nextBase, ops, "in use by another taskapi")
		old.Signal(end)
		volumetest.AwaitReady(t, nextBase)
		next.Await(t, "data taken over, service ready")
		if _, _, body := volumetest.Call(t, "GET", nextBase+"/tasks", "", ""); strings.Count(body, "kept") != round+1 || strings.Contains(body, "early") {
			t.Errorf("tasks after that: %s, want %d", body, round+1)
		}
		old, base = next, nextBase
	}
	stopped := apiOn(t, path, "WAIT_FOR_LOCK=true")
	stopped.Await(t, "data in use, waiting")
	if status := stopped.Terminate(); status != 0 {
		t.Errorf("SIGTERM while waiting: exit %d, want 0:\n%s", status, stopped.Log())
	}
}

// A mistyped path is an error at once: nobody will create the folder.
func TestAMissingFolderIsExit1(t *testing.T) {
	p := apiOn(t, filepath.Join(t.TempDir(), "none", "tasks.db"))
	if status := p.Exit(); status != 1 || p.Count("create it") != 1 || strings.Count(p.Log(), "\n") != 1 {
		t.Errorf("exit %d, want 1 and one line:\n%s", status, p.Log())
	}
}

// process takes this error for a stop before the start.
func TestNewStopsWithItsContext(t *testing.T) {
	f := newFixture(t, []string{"127.0.0.1:1"}, "task-events")
	cfg, err := app.FromEnv(env.Map(f.settings))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := app.New(ctx, cfg, slog.New(slog.DiscardHandler)); !errors.Is(err, context.Canceled) {
		t.Errorf("New = %v, want the end of its context", err)
	}
}
