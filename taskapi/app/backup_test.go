package app_test

import (
	"bytes"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/kafkatest"
	"github.com/taskwire/taskwire/taskapi/app"
)

// A backup that was taken while clients change tasks has every change that was
// acknowledged before it began, and a taskapi starts with it.
func TestBackupUnderLoad(t *testing.T) {
	cluster := kafkatest.Start(t)
	topic := cluster.Topic(t, 1)
	f := newFixture(t, cluster.Brokers, topic)
	p, base := f.program()
	var k acknowledged
	var wg sync.WaitGroup
	const rounds = 3
	for range 4 {
		wg.Go(func() {
			for k.lifetime(base) == nil {
			}
		})
	}
	var backups []string
	var before []map[string]int64
	for i := range rounds {
		apptest.Await(t, "tasks are made", func() bool { return k.count() >= 50*(i+1) })
		k.mu.Lock()
		before = append(before, maps.Clone(k.versions))
		k.mu.Unlock()
		backups = append(backups, filepath.Join(t.TempDir(), "backup.db"))
		var out bytes.Buffer
		into := backups[i]
		if i == rounds-1 {
			into = "-"
		}
		if err := app.Backup().Run(t.Context(), env.Map(f.settings), []string{into}, &out, &out); err != nil {
			t.Fatal(err)
		}
		if into == "-" {
			if err := os.WriteFile(backups[i], out.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	p.Signal(os.Kill)
	p.Exit()
	wg.Wait()
	left, err := fs.Glob(os.DirFS(filepath.Dir(strings.TrimPrefix(f.settings["DATABASE_URL"], "sqlite:"))), "backup-*")
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	for i, restored := range backups {
		f.settings["DATABASE_URL"] = "sqlite:" + restored
		p, base := f.program()
		for id, version := range before[i] {
			if a, err := send(base, http.MethodGet, "/tasks/"+id, ""); err != nil || a.Version < version {
				t.Errorf("backup %d: task %s has version %d (%v), acknowledged was %d", i, id, a.Version, err, version)
			}
		}
		if status := p.Terminate(); status != 0 {
			t.Errorf("backup %d: exit status %d", i, status)
		}
	}
	// Each of them published what waited in it: the same events, in the same order.
	f.check(&acknowledged{versions: before[0]}, f.inTopic(cluster.Client(t), topic, 1))
}

func TestBackupRefuses(t *testing.T) {
	f := newFixture(t, []string{"127.0.0.1:1"}, "task-events")
	path := strings.TrimPrefix(f.settings["DATABASE_URL"], "sqlite:")
	try := func(want string, args ...string) {
		t.Helper()
		var out bytes.Buffer
		if err := app.Backup().Run(t.Context(), env.Map(f.settings), args, &out, &out); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("backup %v: %v, want %q", args, err, want)
		}
	}
	try("no such file", "new.db")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	try("not the database of a taskapi", filepath.Join(t.TempDir(), "new.db"))
	try("name a new file", path)
	try("want taskapi backup FILE")
	f.settings["DATABASE_URL"] = "postgres://u@localhost/tasks"
	try("pg_dump", "new.db")
}
