package app_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/kafkatest"
	"github.com/taskwire/taskwire/internal/pgtest"
	"github.com/taskwire/taskwire/taskapi/app"
)

var discard = slog.New(slog.DiscardHandler)

func mustConfig(t *testing.T, settings map[string]string) app.Config {
	t.Helper()
	cfg, err := app.FromEnv(env.Map(settings))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func migrate(ctx context.Context, settings map[string]string, args ...string) (string, error) {
	var out bytes.Buffer
	err := app.Migrate().Run(ctx, env.Map(settings), args, &out, &out)
	return out.String(), err
}

// keyed posts a task under a key.
func keyed(t *testing.T, base, key, body string) string {
	t.Helper()
	req, err := http.NewRequest("POST", base+"/tasks", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Idempotency-Key", key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil || resp.StatusCode != 201 {
		t.Fatalf("POST: %d %s, %v", resp.StatusCode, b.String(), err)
	}
	return b.String()
}

// Tasks move with their versions, the events that wait, their order and the keys.
// What was acknowledged before comes out of the new database once and in order.
func TestMigrate(t *testing.T) {
	cluster := kafkatest.StartOwn(t)
	topic := cluster.Topic(t, 2)
	f := newFixture(t, cluster.Brokers, topic)
	f.settings["SHUTDOWN_GRACE"] = "1s"
	file := f.settings["DATABASE_URL"]
	var k acknowledged
	a := f.start()
	for range 20 {
		if err := k.lifetime(a.URL); err != nil {
			t.Fatal(err)
		}
	}
	to := map[string]string{"DATABASE_URL": pgtest.Start(t).URL}
	if _, err := migrate(t.Context(), to, file); err == nil || !strings.Contains(err.Error(), "in use by another taskapi") {
		t.Errorf("while it is in use: %v", err)
	}
	if err := cluster.Stop(); err != nil { // from now on events wait
		t.Fatal(err)
	}
	for range 20 {
		if err := k.lifetime(a.URL); err != nil {
			t.Fatal(err)
		}
	}
	first := keyed(t, a.URL, "k", `{"title": "once"}`)
	_, listed := a.Get(t, a.URL+"/tasks?limit=1000")
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}

	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if out, err := migrate(canceled, to, file); err == nil {
		t.Errorf("an interrupted run: %s", out)
	}
	out, err := migrate(t.Context(), to, file)
	if err != nil || !strings.HasPrefix(out, "copied 41 tasks, ") || !strings.Contains(out, ", 1 idempotency keys\n") || !strings.Contains(out, "\nnext: ") {
		t.Fatalf("migrate: %s, %v", out, err)
	}
	if _, err := app.New(t.Context(), mustConfig(t, f.settings), discard); err == nil || !strings.Contains(err.Error(), "was moved by taskapi migrate; set DATABASE_URL") {
		t.Errorf("the file after that: %v", err)
	}
	f.settings["DATABASE_URL"], f.settings["SHUTDOWN_GRACE"] = to["DATABASE_URL"], "20s"
	if err := cluster.Restart(); err != nil {
		t.Fatal(err)
	}
	a = f.start()
	if again := keyed(t, a.URL, "k", `{"title": "once"}`); again != first {
		t.Errorf("the key's answer: %s, want %s", again, first)
	}
	if _, now := a.Get(t, a.URL+"/tasks?limit=1000"); now != listed {
		t.Errorf("tasks after the move:\n%s\nwant\n%s", now, listed)
	}
	for id := range k.versions {
		again, err := send(a.URL, "PATCH", "/tasks/"+id, `{"status": "pending"}`)
		if err != nil || again.Version != 4 {
			t.Fatalf("reopened: %+v, %v; want version 4", again, err)
		}
		k.add(again)
	}
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	f.check(&k, f.inTopic(cluster.Client(t), topic, 2))
}

func TestMigrateRefuses(t *testing.T) {
	db := pgtest.Start(t)
	to := map[string]string{"DATABASE_URL": db.URL}
	fresh := func() string {
		t.Helper()
		f := newFixture(t, []string{"127.0.0.1:1"}, "task-events")
		f.settings["SHUTDOWN_GRACE"] = "1s"
		a := f.start()
		if _, err := send(a.URL, "POST", "/tasks", `{"title": "x"}`); err != nil {
			t.Fatal(err)
		}
		if err := a.Stop(); err != nil {
			t.Fatal(err)
		}
		return f.settings["DATABASE_URL"]
	}
	one, two := fresh(), fresh()
	for _, tt := range []struct {
		settings map[string]string
		args     []string
		want     string
	}{
		{to, nil, "want taskapi migrate sqlite:PATH"},
		{to, []string{"tasks.db"}, "want sqlite:PATH"},
		{map[string]string{"DATABASE_URL": "sqlite:x.db"}, []string{one}, "DATABASE_URL: want postgres://"},
		{to, []string{"sqlite:" + t.TempDir() + "/none.db"}, "no such file"},
	} {
		if out, err := migrate(t.Context(), tt.settings, tt.args...); err == nil || !strings.Contains(fmt.Sprint(err), tt.want) {
			t.Errorf("migrate %v = %s, %v; want %s", tt.args, out, err, tt.want)
		}
	}
	if out, err := migrate(t.Context(), to, one); err != nil {
		t.Fatal(out, err)
	}
	unmark(t, one) // as if it had died right before the mark
	if out, err := migrate(t.Context(), to, one); err != nil || !strings.HasPrefix(out, "the contents of ") || !strings.Contains(out, "were copied before\n") {
		t.Errorf("run again: %s, %v", out, err)
	}
	unmark(t, one)
	f := newFixture(t, []string{"127.0.0.1:1"}, "task-events")
	f.settings["SHUTDOWN_GRACE"], f.settings["DATABASE_URL"] = "1s", one
	a := f.start()
	if _, err := send(a.URL, "POST", "/tasks", `{"title": "y"}`); err != nil {
		t.Fatal(err)
	}
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	if out, err := migrate(t.Context(), to, one); err == nil || !strings.Contains(err.Error(), "already holds tasks") {
		t.Errorf("a file that was changed since: %s, %v", out, err)
	}
	if out, err := migrate(t.Context(), to, two); err == nil || !strings.Contains(err.Error(), "already holds tasks; copy into an empty one") {
		t.Errorf("into a database in use: %s, %v", out, err)
	}
}

// unmark takes back the last step of a migration.
func unmark(t *testing.T, file string) {
	t.Helper()
	db, err := sql.Open("sqlite", strings.TrimPrefix(file, "sqlite:"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("PRAGMA application_id = 0x7461736b"); err != nil {
		t.Fatal(err)
	}
}
