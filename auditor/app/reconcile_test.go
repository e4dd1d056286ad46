package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/auditor/app"
	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/process"
)

// tasks is a Task API that gives two tasks a page.
type tasks struct {
	mu       sync.Mutex
	versions map[string]int64
	token    string
	fail     int // so many answers are 503

	afterList func() // runs after the last page was made
}

func (a *tasks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fail > 0 {
		a.fail--
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if a.token != "" && r.Header.Get("Authorization") != "Bearer "+a.token {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if id, one := strings.CutPrefix(r.URL.Path, "/tasks/"); one {
		if a.versions[id] == 0 {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"id": id, "version": a.versions[id]})
		return
	}
	var ids []string
	for id := range a.versions {
		if id > r.URL.Query().Get("cursor") {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	page := map[string]any{"next_cursor": nil}
	if len(ids) > 2 {
		ids = ids[:2]
		page["next_cursor"] = ids[1]
	}
	list := []any{}
	for _, id := range ids {
		list = append(list, map[string]any{"id": id, "version": a.versions[id], "title": "t"})
	}
	page["tasks"] = list
	if page["next_cursor"] == nil && a.afterList != nil {
		a.mu.Unlock()
		a.afterList()
		a.mu.Lock()
	}
	_ = json.NewEncoder(w).Encode(page)
}

func (a *tasks) change(id string) int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.versions[id]++
	return a.versions[id]
}

func entryFor(source, task string, version int64) ledger.Entry {
	return ledger.Entry{ID: fmt.Sprintf("%s-%d", task, version), Source: source, Type: "task.updated",
		Attributes: []ledger.Attribute{{Name: "subject", Value: task}, {Name: "taskversion", Value: version}}}
}

func logWith(t *testing.T) (l *ledger.Ledger, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "audit.log")
	l, err := ledger.Open(t.Context(), ledger.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l, path
}

func appendTo(t *testing.T, l *ledger.Ledger, source, task string, versions ...int64) {
	t.Helper()
	for _, v := range versions {
		if out := l.Append(entryFor(source, task, v))[0]; out.Err != nil {
			t.Error(out.Err)
		}
	}
}

func reconcile(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, progress bytes.Buffer
	err = app.Reconcile().Run(t.Context(), env.Map(nil), args, &out, &progress)
	return out.String(), progress.String(), err
}

func TestReconcileNamesWhatIsMissingOrAhead(t *testing.T) {
	api := &tasks{versions: map[string]int64{"a": 3, "b": 7, "c": 1, "d": 2, "e": 4}}
	server := httptest.NewServer(api)
	defer server.Close()
	l, path := logWith(t)
	appendTo(t, l, "task-api", "a", 1, 2)           // its last event was suppressed
	appendTo(t, l, "task-api", "b", 7, 1, 3, 4)     // holes, out of order
	appendTo(t, l, "task-api", "c", 1, 2, 5)        // forged
	appendTo(t, l, "task-api", "d", 2, 1)           // fine
	appendTo(t, l, "elsewhere", "d", 9)             // not the API's
	appendTo(t, l, "task-api", "e\x1b[2J/../\n", 1) // forged, for a terminal
	appendTo(t, l, "task-api", "x", 1)              // forged or lost by the API
	stdout, stderr, err := reconcile(t, "--tasks", server.URL, "--settle", "10ms", path)
	want := "task a: not in the log: version 3\n" +
		"task b: not in the log: version 2, 5-6\n" +
		"task c: version 5 is in the log, ahead of the API's 1\n" +
		"task e: not in the log: version 1-4\n" +
		`task "e\x1b[2J/../\n": version 1 is in the log, and the API does not know the task` + "\n" +
		"task x: version 1 is in the log, and the API does not know the task\n"
	if diff := cmp.Diff(want, stdout); diff != "" {
		t.Errorf("stdout (-want +got):\n%s", diff)
	}
	var usage *process.UsageError
	if err == nil || errors.As(err, &usage) || err.Error() != "6 of 7 tasks differ: 3 miss versions in the log, 3 are ahead of the API" {
		t.Errorf("err = %v", err)
	}
	if !strings.Contains(stderr, "reconcile: ") {
		t.Errorf("no progress: %q", stderr)
	}
}

func TestReconcileWhenAllIsWell(t *testing.T) {
	api := &tasks{versions: map[string]int64{"a": 2, "b": 1, "c": 1}, token: "sesame", fail: 2}
	server := httptest.NewServer(api)
	defer server.Close()
	l, path := logWith(t)
	for id, n := range api.versions {
		for v := int64(1); v <= n; v++ {
			appendTo(t, l, "task-api", id, v)
		}
	}
	f, err := os.OpenFile(path+".copy", os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	log, _ := os.ReadFile(path)
	if _, err := f.Write(append(log, `{"seq":5,"event_id`...)); err != nil { // the auditor is writing
		t.Fatal(err)
	}
	f.Close()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	stdout, _, err := reconcile(t, "--tasks", server.URL+"/", "--token-file", token, path+".copy")
	if err != nil || stdout != "ok: every version of 3 tasks is in the log\n" {
		t.Errorf("%q, %v", stdout, err)
	}
	if _, _, err := reconcile(t, "--tasks", server.URL, path); err == nil || !strings.Contains(err.Error(), "--token-file") {
		t.Errorf("without the token: %v", err)
	}
}

// While tasks are changed and their events arrive late, nothing is reported but
// what never arrives.
func TestReconcileWhileChangesGoOn(t *testing.T) {
	api := &tasks{versions: map[string]int64{}}
	server := httptest.NewServer(api)
	defer server.Close()
	l, path := logWith(t)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range 8 {
		id := fmt.Sprint("task-", w)
		wg.Go(func() {
			for ctx.Err() == nil {
				v := api.change(id)
				time.Sleep(20 * time.Millisecond) // outbox, Kafka and bridge
				appendTo(t, l, "task-api", id, v)
			}
		})
	}
	// Changes that are in the log before it is read, and not in the page that was made.
	api.afterList = func() { appendTo(t, l, "task-api", "quick", api.change("quick")) }
	for range 20 {
		if stdout, _, err := reconcile(t, "--tasks", server.URL, path); err != nil {
			t.Fatalf("%v\n%s", err, stdout)
		}
	}
	api.change("silent") // its event is suppressed
	if stdout, _, err := reconcile(t, "--tasks", server.URL, "--settle", "300ms", path); err == nil || stdout != "task silent: not in the log: version 1\n" {
		t.Errorf("%q, %v", stdout, err)
	}
	stop()
	wg.Wait()
}

func TestReconcileMistakes(t *testing.T) {
	server := httptest.NewServer(http.RedirectHandler("http://127.0.0.1:1/", http.StatusFound))
	defer server.Close()
	_, path := logWith(t)
	for want, args := range map[string][]string{
		"--tasks is missing":       {path},
		"at most one path":         {"--tasks", server.URL, path, path},
		"want an absolute http":    {"--tasks", "localhost:8000", path},
		"must not contain cred":    {"--tasks", "http://u:p@localhost:8000", path},
		"flag provided but not":    {"--task", server.URL},
		"--token-file: open /none": {"--tasks", server.URL, "--token-file", "/none", path},
		"answered 302 Found":       {"--tasks", server.URL, path},
		"open /none: no such file": {"--tasks", server.URL, "/none"},
	} {
		if stdout, _, err := reconcile(t, args...); err == nil || !strings.Contains(err.Error(), want) || stdout != "" {
			t.Errorf("%v: %q, %v, want %q", args, stdout, err, want)
		}
	}
	if err := os.WriteFile(path, []byte("{\"seq\":1,\"source\":\"task-api\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := httptest.NewServer(&tasks{})
	defer empty.Close()
	if _, _, err := reconcile(t, "--tasks", empty.URL, path); err == nil || !strings.Contains(err.Error(), "damaged in the line at byte 0") {
		t.Errorf("a damaged log: %v", err)
	}
}
