package acceptance_test

import (
	"archive/tar"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskwire/taskwire/internal/process"
)

// TestUpgradeUnderLoad replaces the previous commit's programs with today's, one
// after the other and under load, on the same data, ports and broker. Then it
// goes back. Every change acknowledged on the way must be in the audit log
// exactly once.
//
// A shallow clone has no previous commit. There today's programs replace
// themselves, and the test logs it; `git fetch --deepen=1` gets the commit.
func TestUpgradeUnderLoad(t *testing.T) {
	old := previousPrograms(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	w := startWorld(t)
	p := w.system.(*processes)
	p.bin = old
	if err := start(ctx, w, nil, nil); err != nil {
		t.Fatal(err)
	}
	clients := startClients(ctx, w, nil)
	defer func() { cancel(); clients.stop() }() // after a failure nothing answers them
	if err := replaceAll(ctx, w, "", clients); err != nil {
		t.Fatalf("to the programs of today: %v", err)
	}
	if err := clients.progress(ctx, 100); err != nil {
		t.Fatal(err)
	}
	// A downgrade need not work, but a program that refuses must say so.
	switch err := replaceAll(ctx, w, old, clients); {
	case err == nil:
		t.Log("the previous programs open what today's have written")
	case w.refused(t):
		t.Log("the previous programs refuse what today's have written")
		p.bin = ""
		if err := start(ctx, w, nil, p.missing()); err != nil {
			t.Fatal(err)
		}
	default:
		t.Fatalf("back to the previous programs: %v", err)
	}
	if err := clients.progress(ctx, 50); err != nil {
		t.Fatal(err)
	}
	clients.stop()
	n := 0
	for _, version := range clients.acknowledged {
		n += version
	}
	t.Logf("%d tasks, %d changes acknowledged", len(clients.acknowledged), n)
	if err := poll(ctx, func() error { return w.auditLines(n) }); err != nil {
		t.Fatal(err)
	}
	w.checkAudited(ctx, t, clients.acknowledged)
}

// previousPrograms builds the four programs of the commit before this one.
func previousPrograms(t *testing.T) (bin string) {
	t.Helper()
	dir := t.TempDir()
	source, bin := root(), filepath.Join(dir, "bin")
	if err := exec.Command("git", "-C", root(), "rev-parse", "--quiet", "--verify", "HEAD~1^{commit}").Run(); err != nil {
		t.Log("no previous commit in this clone (git fetch --deepen=1): today's programs replace themselves")
	} else {
		source = dir
		unpack(t, dir, run(t, root(), "git", "archive", "--format=tar", "HEAD~1"))
	}
	// The coverage and race settings of the tests do not apply to the old programs.
	run(t, source, "go", "build", "-buildvcs=false", "-o", bin+string(filepath.Separator), "./taskapi", "./bridge", "./notifier", "./auditor")
	return bin
}

func unpack(t *testing.T, dir string, archive []byte) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err == nil && h.Typeflag == tar.TypeReg {
			path := filepath.Join(dir, filepath.FromSlash(h.Name))
			if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
				var content []byte
				if content, err = io.ReadAll(r); err == nil {
					err = os.WriteFile(path, content, 0o600)
				}
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func run(t *testing.T, dir, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	var stderr bytes.Buffer
	cmd.Dir, cmd.Stderr = dir, &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("build the previous programs: %s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return out
}

// startWorld starts a broker and no service.
func startWorld(t *testing.T) *world {
	t.Helper()
	w, err := newWorld(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if w.system, err = processMode(t).boot(w); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.system.close(); err != nil {
			t.Errorf("stop everything: %v", err)
		}
		if t.Failed() {
			t.Log(w.logs())
		}
	})
	return w
}

// replaceAll stops each service with SIGTERM and starts it again from another
// folder, while changes go on.
func replaceAll(ctx context.Context, w *world, bin string, c *clients) error {
	w.system.(*processes).bin = bin
	for _, name := range services() {
		if err := c.progress(ctx, 30); err != nil {
			return err
		}
		if err := w.system.stop(name); err != nil {
			return fmt.Errorf("stop %s: %w", name, err)
		}
		if err := start(ctx, w, nil, []string{name}); err != nil {
			return err
		}
		if err := poll(ctx, func() error { _, err := w.probe(ctx, name, "readyz"); return err }); err != nil {
			return fmt.Errorf("%s is not ready: %w", name, err)
		}
	}
	return nil
}

// missing returns the services that have ended.
func (p *processes) missing() (names []string) {
	for _, name := range services() {
		if _, ended := p.ended(name); ended {
			names = append(names, name)
		}
	}
	return names
}

// refused reports whether one service has ended, with exit status 1 and a last
// log line with the reason.
func (w *world) refused(t *testing.T) bool {
	p := w.system.(*processes)
	names := p.missing()
	if len(names) != 1 || p.running[names[0]] == nil || p.running[names[0]].State().ExitCode() != process.ExitFault {
		return false // it did not start at all, or ended in another way
	}
	text, err := os.ReadFile(w.logFile(names[0]))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	last := lines[len(lines)-1]
	t.Log(last)
	return strings.Contains(last, `"level":"ERROR"`) && strings.Contains(last, `"msg":"cannot start"`)
}

// clients change tasks; each repeats a call with the same key until the answer is
// 2xx.
type clients struct {
	w      *world
	stop   func()
	silent func()

	mu           sync.Mutex
	acknowledged map[string]int // highest version of each task; guarded by mu until stop has returned
	count        int            // guarded by mu
	again        int            // repeated calls; guarded by mu
	unheard      int            // those after 10 s without an answer; guarded by mu
	err          error          // an answer that a repeat would not change; guarded by mu
}

// startClients calls silent, unless nil, after 10 s without an answer.
func startClients(ctx context.Context, w *world, silent func()) *clients {
	c := &clients{w: w, silent: silent, acknowledged: map[string]int{}}
	ending := make(chan struct{})
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-ending:
					return // between two tasks, so that every change has its answer
				default:
				}
				if err := c.lifetime(ctx, fmt.Sprintf("%d-%d", worker, n)); err != nil {
					c.mu.Lock()
					c.err = err
					c.mu.Unlock()
					return
				}
			}
		})
	}
	c.stop = sync.OnceFunc(func() { close(ending); wg.Wait() })
	return c
}

func (c *clients) lifetime(ctx context.Context, name string) error {
	id, err := c.change(ctx, http.MethodPost, "/tasks", name+"-create", `{"title": "Upgrade `+name+`"}`)
	for i, call := range [][3]string{{"PATCH", "", `{"status": "in_progress"}`}, {"POST", "/complete", ""}, {"PATCH", "", `{"status": "pending"}`}} {
		if err != nil {
			return err
		}
		_, err = c.change(ctx, call[0], "/tasks/"+id+call[1], fmt.Sprint(name, "-", i), call[2])
	}
	return err
}

func (c *clients) change(ctx context.Context, method, path, key, body string) (id string, err error) {
	var task struct {
		ID      string
		Version int
	}
	err = poll(ctx, func() error {
		code, answer, err := c.w.call(ctx, method, path, key, body)
		switch {
		case err != nil || code >= 500:
			c.repeat(ctx, err)
			return fmt.Errorf("%s %s: %d %w", method, path, code, err)
		case code/100 != 2:
			return fatal(fmt.Errorf("%s %s: %d %s", method, path, code, answer))
		}
		return json.Unmarshal(answer, &task)
	})
	if err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count++
	c.acknowledged[task.ID] = max(c.acknowledged[task.ID], task.Version)
	return task.ID, nil
}

// repeat counts a call that will be repeated.
func (c *clients) repeat(ctx context.Context, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.again++
	if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
		return
	}
	c.unheard++
	if c.silent != nil {
		c.silent()
	}
}

// call waits up to 10 s for an answer.
func (w *world) call(ctx context.Context, method, path, key, body string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+w.address(8000)+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Close = true // the next call goes to another process
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

// progress waits for n more acknowledged changes.
func (c *clients) progress(ctx context.Context, n int) error {
	before, _ := c.look()
	return poll(ctx, func() error {
		count, err := c.look()
		if err != nil {
			return fatal(err)
		}
		if count < before+n {
			return fmt.Errorf("%d changes acknowledged, want %d", count, before+n)
		}
		return nil
	})
}

func (c *clients) look() (count int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count, c.err
}

// checkAudited compares the audit log with what was acknowledged: every version
// of each task once, in order, and nothing else.
func (w *world) checkAudited(ctx context.Context, t *testing.T, acknowledged map[string]int) {
	t.Helper()
	if err := auditlog(ctx, w, nil, []string{"check"}); err != nil {
		t.Error(err)
	}
	text, err := w.auditText()
	if err != nil {
		t.Fatal(err)
	}
	audited := map[string]int{}
	for line := range bytes.Lines(text) {
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
		audited[e.Attributes.Subject]++
	}
	for id, version := range acknowledged {
		if audited[id] != version {
			t.Errorf("task %s has %d entries, want %d as acknowledged", id, audited[id], version)
		}
	}
	if len(audited) != len(acknowledged) {
		t.Errorf("%d tasks in the audit log, want %d as acknowledged", len(audited), len(acknowledged))
	}
}

// TestTheFirstFormat opens the data of the first programs; see testdata/v1.
func TestTheFirstFormat(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w := startWorld(t)
	golden := filepath.Join(root(), "acceptance", "testdata", "v1")
	for _, name := range []string{"tasks.db", "audit.log"} {
		content, err := os.ReadFile(filepath.Join(golden, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(w.data, name), content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	renewKeys(t, filepath.Join(w.data, "tasks.db"))
	if err := start(ctx, w, nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := poll(ctx, mustLog(t, w, "auditor", "^Loaded 5 previously seen events$")); err != nil {
		t.Error(err)
	}
	want, err := os.ReadFile(filepath.Join(golden, "tasks.json"))
	if err != nil {
		t.Fatal(err)
	}
	if code, body, err := w.call(ctx, "GET", "/tasks", "", ""); err != nil || code != 200 || !bytes.Equal(bytes.TrimSpace(body), bytes.TrimSpace(want)) {
		t.Errorf("GET /tasks = %d %s, %v\nwant 200 %s", code, body, err, want)
	}
	const one, two = "01a20d9f-e1f2-78c0-918d-b76dc833132c", "01a20d9f-e34b-7200-9491-98e0cc571b80"
	for _, c := range []struct{ method, path, key, body, want string }{
		// Repeats of calls to the first programs: the same answer, and no event.
		{"POST", "/tasks", "golden-waiting", `{"title": "Waits for Kafka"}`, `"id":"01a20da0-3a9d-76c8-a467-a95cdd8093cc"`},
		{"POST", "/tasks/" + one + "/complete", "golden-completed", "", `"status":"completed"`},
		// New changes continue the versions of the first programs.
		{"PATCH", "/tasks/" + one, "", `{"title": "Rewritten"}`, `"version":5`},
		{"PATCH", "/tasks/" + two, "", `{"status": "pending"}`, `"version":3`},
	} {
		if code, body, err := w.call(ctx, c.method, c.path, c.key, c.body); err != nil || code/100 != 2 || !strings.Contains(string(body), c.want) {
			t.Errorf("%s %s = %d %s, %v; want 2xx with %s", c.method, c.path, code, body, err, c.want)
		}
	}
	if err := poll(ctx, func() error { return w.auditLines(5 + 3 + 2) }); err != nil {
		t.Error(err)
	}
	if err := auditlog(ctx, w, nil, []string{"check"}); err != nil {
		t.Error(err)
	}
	w.checkPrefix(t, filepath.Join(golden, "audit.log"))
}

// renewKeys makes the idempotency keys new: they are valid for a day.
func renewKeys(t *testing.T, path string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	res, err := db.Exec("UPDATE idempotency SET created_at = ?", time.Now().UnixMicro())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := res.RowsAffected(); err != nil || n != 3 {
		t.Fatalf("%d keys, want 3: %v", n, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func mustLog(t *testing.T, w *world, name, pattern string) func() error {
	t.Helper()
	try, err := w.logHas(name, pattern, []string{"1"})
	if err != nil {
		t.Fatal(err)
	}
	return try
}

// checkPrefix checks that the old entries are unchanged.
func (w *world) checkPrefix(t *testing.T, golden string) {
	t.Helper()
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(w.data, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(got, want) {
		t.Errorf("audit.log =\n%s\nwant it to begin with\n%s", got, want)
	}
}
