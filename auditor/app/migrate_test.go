package app_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/taskwire/taskwire/auditor/app"
	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/pgtest"
)

func migrate(t *testing.T, ctx context.Context, path, url string) (out string, err error) {
	t.Helper()
	var stdout bytes.Buffer
	err = app.Migrate().Run(ctx, env.Map(map[string]string{"AUDIT_LOG_PATH": path, "AUDIT_DATABASE_URL": url}), nil, &stdout, io.Discard)
	return stdout.String(), err
}

// fileLog makes a log of n entries by the service, with a checkpoint and a key.
func fileLog(t *testing.T, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.log")
	a := start(t, path, nil)
	for v := 1; v <= n; v += 50 {
		var events []string
		for w := v; w < v+50 && w <= n; w++ {
			events = append(events, body("task.updated", fmt.Sprint("t", w%7), w))
		}
		a.expect(a.postBatch("["+strings.Join(events, ",")+"]"), 200, "")
	}
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMigrate(t *testing.T) {
	path, db := fileLog(t, 2600), pgtest.Start(t)
	// Interrupted, it goes on.
	ctx, cancel := context.WithCancel(t.Context())
	conn := db.Connect(t)
	go func() {
		defer cancel()
		for n := 0; n < 1000; {
			_ = conn.QueryRow(t.Context(), "SELECT entries FROM audit.head").Scan(&n) // there is no schema yet
			if t.Context().Err() != nil {
				return
			}
		}
	}()
	_, first := migrate(t, ctx, path, db.URL)
	out, err := migrate(t, t.Context(), path, db.URL)
	if err != nil || !strings.HasPrefix(out, "ok: 2600 entries, root ") {
		t.Fatalf("migrate: %q, %v; interrupted with %v", out, err, first)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(catText(t, db.URL), ""); got != string(text) {
		t.Error("the database prints other lines than the file has")
	}
	// The auditor goes on with the same key, and holds the log to its old checkpoint.
	a := &auditor{App: apptest.Start(t, "auditor", app.FromEnv, app.New, map[string]string{"AUDIT_DATABASE_URL": db.URL, "AUDIT_SIGNING_KEY_FILE": path + ".key"}), t: t}
	a.expect(a.post(body("task.updated", "t1", 1)), 200, `{"seq":1,"duplicate":true}`)
	a.expect(a.post(body("task.created", "new", 1)), 201, `{"seq":2601,"duplicate":false}`)
	a.expect(a.get(a.URL+"/proof/2601"), 200, "")
	if out, err := migrate(t, t.Context(), path, db.URL); err == nil || !strings.Contains(err.Error(), "the database has 2601 entries and the file 2600") {
		t.Errorf("a database that was used since: %q, %v", out, err)
	}
}

func TestMigrateRefusesAnotherLog(t *testing.T) {
	path, other, db := fileLog(t, 60), fileLog(t, 30), pgtest.Start(t)
	text, err := os.ReadFile(other)
	if err == nil {
		err = os.WriteFile(other, bytes.Replace(text, []byte("pending"), []byte("PENDING"), 1), 0o600)
	}
	if err == nil {
		err = os.RemoveAll(other + ".index")
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := migrate(t, t.Context(), other, db.URL); err == nil || !strings.Contains(err.Error(), "not those that were signed") {
		t.Errorf("an altered log: %v", err)
	}
	if err := os.Remove(filepath.Join(filepath.Dir(other), "checkpoint")); err != nil {
		t.Fatal(err)
	}
	if _, err := migrate(t, t.Context(), other, db.URL); err != nil {
		t.Fatal(err)
	}
	if _, err := migrate(t, t.Context(), path, db.URL); err == nil || !strings.Contains(err.Error(), "two logs") {
		t.Errorf("another log in the database: %v", err)
	}
	running := start(t, path, nil)
	if _, err := migrate(t, t.Context(), path, pgtest.Start(t).URL); err == nil || !strings.Contains(err.Error(), "another auditor has the log open") {
		t.Errorf("while the auditor runs: %v", err)
	}
	running.expect(running.post(body("task.created", "z", 1)), 201, "")
}
