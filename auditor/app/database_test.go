package app_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/taskwire/taskwire/auditor/app"
	"github.com/taskwire/taskwire/auditor/internal/ledger/ledgertest"
	"github.com/taskwire/taskwire/auditor/internal/tree"
	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/pgtest"
)

// onDatabase is an auditor in this process with its log in PostgreSQL.
func onDatabase(t *testing.T, url string) *auditor {
	t.Helper()
	return &auditor{App: apptest.Start(t, "auditor", app.FromEnv, app.New, map[string]string{
		"AUDIT_DATABASE_URL": url, "AUDIT_SIGNING_KEY_FILE": signingKey(t), "SHUTDOWN_GRACE": "5s",
	}), t: t}
}

// signingKey is the file of a key, the same for all auditors of a test.
func signingKey(t *testing.T) string {
	t.Helper()
	path := filepath.Join(os.TempDir(), "taskwire-test-key-"+strings.ReplaceAll(t.Name(), "/", "-")+strconv.Itoa(os.Getpid()))
	if _, err := os.Stat(path); err == nil {
		return path
	}
	key, err := tree.NewKey("")
	if err == nil {
		err = os.WriteFile(path, []byte(key+"\n"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
	return path
}

// catDatabase is what auditor cat prints, checked like a file.
func catDatabase(t *testing.T, url string, n int) []ledgertest.Line {
	t.Helper()
	var out bytes.Buffer
	if err := app.Cat().Run(t.Context(), env.Map(map[string]string{"AUDIT_DATABASE_URL": url}), nil, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	lines, err := ledgertest.Parse(out.Bytes())
	if err != nil || n >= 0 && len(lines) != n {
		t.Fatalf("%d lines, want %d: %v", len(lines), n, err)
	}
	return lines
}

// The answers are those of the file, from either of two auditors.
func TestAnswersFromADatabase(t *testing.T) {
	db := pgtest.Start(t)
	a, b := onDatabase(t, db.URL), onDatabase(t, db.URL)
	tail := b.follow("?after=0", "")
	a.expect(a.post(body("task.created", "abc123", 1)), 201, `{"seq":1,"duplicate":false}`)
	b.expect(b.post(body("task.updated", "abc123", 2)), 201, `{"seq":2,"duplicate":false}`)
	b.expect(b.post(body("task.created", "abc123", 1)), 200, `{"seq":1,"duplicate":true}`)
	a.expect(a.post(strings.Replace(body("task.created", "abc123", 1), "pending", "completed", 1)), 409, `"detail":"entry 1 has`)
	b.expect(b.post(body("task.completed", "abc123", 5)), 201, `{"seq":3,"duplicate":false}`)
	tail.expect(b, 1, 2, 3)
	catDatabase(t, db.URL, 3)
	for _, x := range []*auditor{a, b} {
		x.expect(x.get(x.URL+"/entries?task_id=abc123&after=1&limit=1"), 200, `],"next_after":2}`)
		x.expect(x.get(x.URL+"/entries?type=task.completed"), 200, `{"entries":[{"seq":3,`)
		x.expect(x.get(x.URL+"/entries/2"), 200, `{"seq":2,"event_id":"abc123-2"`)
		x.expect(x.get(x.URL+"/entries/4"), 404, "")
		x.expect(x.get(x.URL+"/tasks/abc123/history"), 200, `"flag":"gap"`)
		apptest.Await(t, "the metrics know all entries", func() bool {
			return strings.Contains(x.get(x.OpsURL+"/metrics").Body, "taskwire_audit_entries_total 3")
		})
		if err := x.Stop(); err != nil {
			t.Error(err)
		}
		for _, log := range []string{x.Log.String()} {
			if strings.Contains(log, db.Server.Password()) {
				t.Error("the log holds the password")
			}
		}
	}
}

// The tree is that of a file with the same lines: whichever auditor leads, and
// after it is gone the other one. Both serve it.
func TestTheTreeInADatabase(t *testing.T) {
	db := pgtest.Start(t)
	a := onDatabase(t, db.URL)
	b := onDatabase(t, db.URL)
	v := 0
	post := func(to *auditor, n int) {
		for range n {
			v++
			to.expect(to.post(body("task.updated", "a", v)), 201, "")
		}
	}
	post(a, 150)
	post(b, 150)
	check := func(x *auditor) {
		t.Helper()
		x.expect(x.get(fmt.Sprintf("%s/proof/%d", x.URL, v)), 200, "c2sp.org/tlog-proof") // waits for the checkpoint
		edge := tree.Edge{}
		for _, line := range catText(t, db.URL) {
			edge.Append(tree.Leaf([]byte(line)))
		}
		signed := x.get(x.URL + "/checkpoint").Body
		want := edge.Tree()
		if !strings.Contains(signed, fmt.Sprintf("\n%d\n%s\n", want.N, want.Hash)) {
			t.Errorf("checkpoint %q, want %d %s", signed, want.N, want.Hash)
		}
		x.expect(x.get(x.URL+"/tile/0/000"), 200, "")
		x.expect(x.get(x.URL+"/tile/entries/000"), 200, "")
	}
	check(a)
	check(b)
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	post(b, 10)
	check(b)
	db.Terminate(t) // the session that holds the lock, too
	post(b, 10)
	check(b)
	if err := b.Stop(); err != nil {
		t.Fatal(err)
	}
	// What was signed and is gone, or altered, is noticed.
	conn := db.Connect(t)
	if _, err := conn.Exec(t.Context(), "ALTER TABLE audit.entries DISABLE TRIGGER append_only; DELETE FROM audit.entries WHERE seq > 300; UPDATE audit.head SET entries = 300"); err != nil {
		t.Fatal(err)
	}
	cfg, err := app.FromEnv(env.Map(map[string]string{"LISTEN_ADDR": "127.0.0.1:0", "OPS_ADDR": "127.0.0.1:0", "AUDIT_DATABASE_URL": db.URL, "AUDIT_SIGNING_KEY_FILE": signingKey(t)}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := app.New(t.Context(), cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "20 are cut off") {
		t.Errorf("a log that was cut: %v", err)
	}
}

func TestAnAlteredLineInADatabaseIsNoticed(t *testing.T) {
	db := pgtest.Start(t)
	a := onDatabase(t, db.URL)
	for v := 1; v <= 20; v++ {
		a.expect(a.post(body("task.updated", "a", v)), 201, "")
	}
	a.expect(a.get(a.URL+"/proof/20"), 200, "")
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	conn := db.Connect(t)
	if _, err := conn.Exec(t.Context(), `ALTER TABLE audit.entries DISABLE TRIGGER append_only; UPDATE audit.entries SET line = replace(convert_from(line, 'UTF8'), 'pending', 'PENDING')::bytea WHERE seq = 7;
UPDATE audit.entries SET leaf = sha256(line || '\x0a') WHERE seq = 7`); err != nil {
		t.Fatal(err)
	}
	a = onDatabase(t, db.URL)
	if err := a.Wait(); err == nil || !strings.Contains(err.Error(), "line 7") {
		t.Errorf("Run: %v, want line 7", err)
	}
}

// catText is what auditor cat prints, line by line.
func catText(t *testing.T, url string) (lines []string) {
	t.Helper()
	var out bytes.Buffer
	if err := app.Cat().Run(t.Context(), env.Map(map[string]string{"AUDIT_DATABASE_URL": url}), nil, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		lines = append(lines, line)
	}
	return lines
}

// A database that is not up, or goes away, is waited for.
func TestADatabaseThatIsDown(t *testing.T) {
	server := pgtest.StartOwn(t)
	db := server.Database(t)
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	p := apptest.Self(t, "AUDITOR_TEST_PROCESS=1", "LISTEN_ADDR=127.0.0.1:0", "OPS_ADDR=127.0.0.1:0", "AUDIT_DATABASE_URL="+db.URL, "AUDIT_SIGNING_KEY_FILE="+signingKey(t), "LOG_FORMAT=json")
	url, ops := p.URLs(t)
	ready := func(want int) func() bool {
		return func() bool { status, _, _ := call(t, "GET", ops+"/readyz", ""); return status == want }
	}
	apptest.Await(t, "the auditor says that it waits", ready(503))
	for range 2 {
		if err := server.Restart(); err != nil {
			t.Fatal(err)
		}
		apptest.Await(t, "the auditor is ready", ready(200))
		if status, _, answer := call(t, "POST", url+"/", body("task.created", "a", 1)); status != 201 && status != 200 {
			t.Errorf("a post: %d %s", status, answer)
		}
		if err := server.Immediate(); err != nil {
			t.Fatal(err)
		}
		if status, retryAfter, _ := call(t, "POST", url+"/", body("task.created", "b", 1)); status != 503 || retryAfter != "1" {
			t.Errorf("without a database: %d, Retry-After %q", status, retryAfter)
		}
		apptest.Await(t, "readiness is off", ready(503))
	}
	if status := p.Terminate(); status != 0 {
		t.Errorf("SIGTERM without a database: exit %d", status)
	}
	if strings.Contains(p.Log(), server.Password()) {
		t.Error("the log holds the password")
	}
}

func call(t *testing.T, method, url, body string) (status int, retryAfter, text string) {
	t.Helper()
	req, _ := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	req.Header.Set("Content-Type", cloudEvent)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	http.DefaultClient.CloseIdleConnections()
	return resp.StatusCode, resp.Header.Get("Retry-After"), string(answer)
}

// Two auditors are killed, stopped and continued under load. Every event that was
// answered is in the log once.
func TestKillAndStopTwoAuditorsUnderLoad(t *testing.T) {
	db := pgtest.Start(t)
	processes, urls := make([]*apptest.Process, 2), make([]string, 2)
	begin := func(i int) {
		processes[i] = apptest.Self(t, "AUDITOR_TEST_PROCESS=1", "LISTEN_ADDR=127.0.0.1:0", "OPS_ADDR=127.0.0.1:0", "AUDIT_DATABASE_URL="+db.URL, "AUDIT_SIGNING_KEY_FILE="+signingKey(t), "LOG_FORMAT=json")
		urls[i], _ = processes[i].URLs(t)
	}
	begin(0)
	begin(1)
	var mu sync.Mutex // guards acked and urls
	acked := map[string]int64{}
	done := make(chan struct{})
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	client := &http.Client{Transport: transport, Timeout: 2 * time.Second}
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for v := 1; ; v++ {
				id := fmt.Sprintf("%d-%d", w, v)
				for attempt := w; ; attempt++ {
					select {
					case <-done:
						return
					default:
					}
					mu.Lock()
					url := urls[attempt%2]
					mu.Unlock()
					status, seq, err := postOne(client, url, id)
					if err != nil || status == 503 {
						continue // the other auditor takes it
					}
					mu.Lock()
					acked[id] = seq
					mu.Unlock()
					if status != 200 && status != 201 {
						t.Errorf("%s: %d", id, status)
					}
					break
				}
			}
		})
	}
	progress := func() {
		mu.Lock()
		from := len(acked)
		mu.Unlock()
		apptest.Await(t, "a hundred more events are answered", func() bool { mu.Lock(); defer mu.Unlock(); return len(acked) >= from+100 })
	}
	for round := range 6 {
		i := round % 2
		progress()
		if round%3 == 2 {
			processes[i].Signal(syscall.SIGSTOP)
			progress() // it may hold the head: for five seconds at most
			processes[i].Signal(syscall.SIGCONT)
			continue
		}
		processes[i].Signal(syscall.SIGKILL)
		if status := processes[i].Exit(); status != -1 {
			t.Fatalf("exit %d of a killed auditor:\n%s", status, processes[i].Log())
		}
		next := apptest.Self(t, "AUDITOR_TEST_PROCESS=1", "LISTEN_ADDR=127.0.0.1:0", "OPS_ADDR=127.0.0.1:0", "AUDIT_DATABASE_URL="+db.URL, "AUDIT_SIGNING_KEY_FILE="+signingKey(t), "LOG_FORMAT=json")
		url, _ := next.URLs(t)
		mu.Lock()
		processes[i], urls[i] = next, url
		mu.Unlock()
	}
	progress()
	close(done)
	writers.Wait()
	transport.CloseIdleConnections()
	for _, p := range processes {
		if status := p.Terminate(); status != 0 {
			t.Errorf("SIGTERM: exit %d\n%s", status, p.Log())
		}
	}
	at := map[string]int64{}
	for _, line := range catDatabase(t, db.URL, -1) {
		at[line.ID] = line.Seq
	}
	for id, seq := range acked {
		if at[id] != seq {
			t.Errorf("%s was answered with %d and stands at %d", id, seq, at[id])
		}
	}
}

func TestADatabaseOrAFile(t *testing.T) {
	for settings, want := range map[[2]string]string{
		{"postgres://u:secret-pw@h/d", "audit.log"}: "AUDIT_LOG_PATH: is set",
		{"mysql://u:secret-pw@h/d", ""}:             "AUDIT_DATABASE_URL: want postgres://",
	} {
		_, err := app.FromEnv(env.Map(map[string]string{"AUDIT_DATABASE_URL": settings[0], "AUDIT_LOG_PATH": settings[1]}))
		var mistakes *env.Error
		if !errors.As(err, &mistakes) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret-pw") {
			t.Errorf("%v: %v", settings, err)
		}
	}
}
