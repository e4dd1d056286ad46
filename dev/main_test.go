package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	auditor "github.com/taskwire/taskwire/auditor/app"
	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/freeport"
	"github.com/taskwire/taskwire/internal/pgtest"
	"github.com/taskwire/taskwire/internal/process"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// program is a running dev: a program with flags and an exit status, so that it
// does not start as its services do in apptest.
type program struct {
	out, log apptest.Log
	stop     func() int
}

func start(t *testing.T, data string, base int) *program {
	t.Helper()
	return startWith(t, data, base, nil)
}

func startWith(t *testing.T, data string, base int, settings map[string]string) *program {
	t.Helper()
	p := &program{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"-data", data, "-port-base", strconv.Itoa(base)}, env.Map(settings), &p.out, &p.log)
	}()
	p.stop = sync.OnceValue(func() int { cancel(); return <-done })
	t.Cleanup(func() {
		if status := p.stop(); status != process.ExitOK {
			t.Errorf("exit status = %d, want 0:\n%s", status, p.log.String())
		}
	})
	apptest.Await(t, "dev has started", func() bool { return p.out.Count("Try:") > 0 })
	return p
}

func create(t *testing.T, base int, title string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	body, err := json.Marshal(map[string]string{"title": title})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Post(fmt.Sprintf("http://localhost:%d/tasks", base), "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("POST /tasks = %s, want 201", resp.Status)
	}
}

func signingKey(t *testing.T) (path string) {
	t.Helper()
	var key bytes.Buffer
	if err := auditor.Key().Run(t.Context(), env.Map(nil), []string{"--new"}, &key, &key); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "audit.key")
	if err := os.WriteFile(path, key.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func auditLines(data string) int {
	text, err := os.ReadFile(filepath.Join(data, "audit.log"))
	if err != nil {
		return 0
	}
	return bytes.Count(text, []byte("\n"))
}

func TestTheWholeSystemSurvivesARestart(t *testing.T) {
	data, base := filepath.Join(t.TempDir(), "data"), freeport.Base()
	p := start(t, data, base)
	for _, want := range []string{
		fmt.Sprintf(`task API +http://localhost:%d/`, base), fmt.Sprintf(`auditor +http://localhost:%d/`, base+3),
		fmt.Sprintf(`metrics http://localhost:%d/metrics`, base+1001), fmt.Sprintf(`Kafka +127.0.0.1:%d `, base+1092),
		regexp.QuoteMeta(filepath.Join(data, "audit.log")), fmt.Sprintf(`curl -X POST http://localhost:%d/tasks -d '`, base),
	} {
		if !regexp.MustCompile(want).MatchString(p.out.String()) {
			t.Errorf("output lacks %s:\n%s", want, p.out.String())
		}
	}
	create(t, base, "First")
	apptest.Await(t, "the audit log has a line", func() bool { return auditLines(data) == 1 })
	apptest.Await(t, "the notifier has logged it", func() bool { return p.log.Count("NOTIFICATION: New task created - 'First'") > 0 })
	if status := p.stop(); status != process.ExitOK {
		t.Fatalf("exit status = %d, want 0:\n%s", status, p.log.String())
	}

	p = start(t, data, base)
	apptest.Await(t, "the auditor has loaded its log", func() bool { return p.log.Count("Loaded 1 previously seen events") > 0 })
	create(t, base, "Second")
	apptest.Await(t, "the audit log has two lines", func() bool { return auditLines(data) == 2 })
}

// Each database takes the place of its file alone, and a restart finds what is in it.
func TestStateInPostgreSQL(t *testing.T) {
	keyFile := signingKey(t)
	tasks, log := pgtest.Start(t), pgtest.Start(t)
	settings := map[string]string{"DATABASE_URL": tasks.URL, "AUDIT_DATABASE_URL": log.URL, "AUDIT_SIGNING_KEY_FILE": keyFile}
	data, base := filepath.Join(t.TempDir(), "data"), freeport.Base()
	p := startWith(t, data, base, settings)
	create(t, base, "First")
	apptest.Await(t, "the notifier has logged it", func() bool { return p.log.Count("NOTIFICATION: New task created - 'First'") > 0 })
	apptest.Await(t, "the auditor has logged it", func() bool { return p.log.Count("AUDIT: task.created") == 1 })
	if status := p.stop(); status != process.ExitOK {
		t.Fatalf("exit status = %d, want 0:\n%s", status, p.log.String())
	}
	for _, want := range []string{"tasks +PostgreSQL, from DATABASE_URL\n", "audit log +PostgreSQL, from AUDIT_DATABASE_URL;", "state is in .*data and the database of DATABASE_URL and the database of AUDIT"} {
		if !regexp.MustCompile(want).MatchString(p.out.String()) {
			t.Errorf("output lacks %s:\n%s", want, p.out.String())
		}
	}
	if strings.Contains(p.out.String()+p.log.String(), tasks.Server.Password()) {
		t.Error("the password is in the output")
	}
	for _, name := range []string{"tasks.db", "audit.log"} {
		if _, err := os.Stat(filepath.Join(data, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v, want no such file", name, err)
		}
	}

	startWith(t, data, base, settings)
	create(t, base, "Second")
	var entries int
	conn := log.Connect(t)
	apptest.Await(t, "both are in the audit log", func() bool {
		err := conn.QueryRow(t.Context(), "SELECT count(*) FROM audit.entries").Scan(&entries)
		return err == nil && entries == 2
	})
}

// A dump that is taken while tasks change is one state of tasks and log: the log
// verifies, and a system goes on with both.
func TestARestoredDump(t *testing.T) {
	key := signingKey(t)
	db, restored := pgtest.Start(t), pgtest.Start(t)
	settings := map[string]string{"DATABASE_URL": db.URL, "AUDIT_DATABASE_URL": db.URL, "AUDIT_SIGNING_KEY_FILE": key}
	data, base := filepath.Join(t.TempDir(), "data"), freeport.Base()
	p := startWith(t, data, base, settings)
	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	load.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			create(t, base, fmt.Sprint("Task ", i))
		}
	})
	apptest.Await(t, "the log grows", func() bool { return p.log.Count("AUDIT: task.created") > 20 })
	dump := "tasks-" + filepath.Base(t.TempDir()) + ".dump" // in the server's folder: another account writes it
	if err := db.Server.Run(t.Context(), "pg_dump", "--format=custom", "--file="+dump, db.URL); err != nil {
		t.Error(err)
	}
	stop()
	load.Wait()
	if status := p.stop(); status != process.ExitOK {
		t.Fatalf("exit status = %d, want 0", status)
	}
	if err := db.Server.Run(t.Context(), "pg_restore", "--exit-on-error", "--dbname="+restored.URL, dump); err != nil {
		t.Fatal(err)
	}
	settings["DATABASE_URL"], settings["AUDIT_DATABASE_URL"] = restored.URL, restored.URL
	var out, log apptest.Log
	if err := auditor.Verify().Run(t.Context(), env.Map(settings), nil, &out, &log); err != nil || out.Count("ok") == 0 {
		t.Errorf("verify the restored log: %v\n%s%s", err, out.String(), log.String())
	}
	conn := restored.Connect(t)
	var tasks, entries, before int
	read := func() bool {
		err := conn.QueryRow(t.Context(), "SELECT (SELECT count(*) FROM taskapi.task), (SELECT count(*) FROM audit.entries)").Scan(&tasks, &entries)
		return err == nil
	}
	if !read() || entries < 20 || tasks < entries {
		t.Errorf("%d tasks and %d entries in the dump", tasks, entries)
	}
	before = entries
	startWith(t, data, base, settings)
	create(t, base, "After")
	apptest.Await(t, "the log goes on", func() bool { return read() && entries > before })
}

func TestWrongDatabases(t *testing.T) {
	for name, settings := range map[string]map[string]string{
		"DATABASE_URL":           {"DATABASE_URL": "sqlite:elsewhere.db"},
		"DATABASE_URL: want":     {"DATABASE_URL": "mysql://root@localhost/tasks"},
		"AUDIT_DATABASE_URL":     {"AUDIT_DATABASE_URL": "audit.log"},
		"AUDIT_SIGNING_KEY_FILE": {"AUDIT_DATABASE_URL": "postgres://postgres@localhost/audit"},
	} {
		var out, log apptest.Log
		args := []string{"-data", filepath.Join(t.TempDir(), "data"), "-port-base", strconv.Itoa(freeport.Base())}
		if got := run(t.Context(), args, env.Map(settings), &out, &log); got != process.ExitUsage || !strings.Contains(log.String(), name) {
			t.Errorf("%v: exit status %d, want %d and %s:\n%s", settings, got, process.ExitUsage, name, log.String())
		}
	}
}

// A server that is not there may come; the log says which setting names it.
func TestADatabaseThatIsDown(t *testing.T) {
	p := startWith(t, filepath.Join(t.TempDir(), "data"), freeport.Base(), map[string]string{"DATABASE_URL": "postgres://u@" + freeport.Addr() + "/tasks"})
	apptest.Await(t, "the log names the setting", func() bool {
		return p.log.Count("database unavailable") > 0 && p.log.Count("DATABASE_URL: connect to PostgreSQL") > 0
	})
}

func TestASecondInstanceIsRefusedInOneLine(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	start(t, data, freeport.Base())
	refused(t, []string{"-data", data, "-port-base", strconv.Itoa(freeport.Base())}, process.ExitFault, "is in use by another instance")
}

func TestATakenPortIsNamed(t *testing.T) {
	for _, offset := range []int{0, 1003, 1092} {
		base := freeport.Base()
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", base+offset))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		line := refused(t, []string{"-data", t.TempDir(), "-port-base", strconv.Itoa(base)}, process.ExitFault, strconv.Itoa(base+offset))
		if strings.Contains(line, "_ADDR") || !strings.Contains(line, "-port-base") {
			t.Errorf("log = %q, want the flag -port-base and no variable: dev reads none", line)
		}
	}
}

func TestAStopWhileStarting(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, log apptest.Log
	if got := run(ctx, []string{"-data", t.TempDir(), "-port-base", strconv.Itoa(freeport.Base())}, env.Map(nil), &out, &log); got != process.ExitOK {
		t.Errorf("exit status = %d, want 0:\n%s", got, log.String())
	}
}

func TestWrongFlags(t *testing.T) {
	refused(t, []string{"-port-base", "70000"}, process.ExitUsage, "-port-base")
	refused(t, []string{"-colour"}, process.ExitUsage, "-colour")
	refused(t, []string{"up"}, process.ExitUsage, `"up"`)
}

func TestHelpIsTheManual(t *testing.T) {
	var out, log apptest.Log
	if status := run(t.Context(), []string{"-help"}, env.Map(nil), &out, &log); status != process.ExitOK || !strings.Contains(out.String(), "-port-base N") {
		t.Errorf("-help = %d with %q, want 0 with the manual", status, out.String())
	}
}

func TestVersion(t *testing.T) {
	var out, log apptest.Log
	status := run(t.Context(), []string{"--version"}, env.Map(nil), &out, &log)
	if want := ", " + runtime.Version() + " "; status != process.ExitOK || !strings.HasPrefix(out.String(), "dev ") || !strings.Contains(out.String(), want) {
		t.Errorf("exit status %d with %q", status, out.String())
	}
}

// An audit log of the original system is not this program's to continue.
func TestTheLogOfTheOriginalSystemIsRefused(t *testing.T) {
	data := t.TempDir()
	line := `{"event_id": "evt-001", "event_type": "task.created", "occurred_at": "2025-01-15T10:30:00+00:00", "data": {"task_id": "abc123"}, "metadata": {"source": "task-api"}, "audited_at": "2025-01-15T10:30:01.000000"}` + "\n"
	if err := os.WriteFile(filepath.Join(data, "audit.log"), []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, []string{"-data", data, "-port-base", strconv.Itoa(freeport.Base())}, process.ExitFault, "rename it or choose another folder with -data")
}

// refused runs dev, which must exit by itself with one line that contains want.
func refused(t *testing.T, args []string, status int, want string) string {
	t.Helper()
	var out, log apptest.Log
	got := run(t.Context(), args, env.Map(map[string]string{"LOG_LEVEL": "error"}), &out, &log)
	if lines := strings.Count(log.String(), "\n"); got != status || lines != 1 || !strings.Contains(log.String(), want) {
		t.Errorf("dev %v: exit status %d and %d lines, want %d and 1 line with %q:\n%s", args, got, lines, status, want, log.String())
	}
	return log.String()
}
