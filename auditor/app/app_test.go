package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/taskwire/taskwire/auditor/app"
	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/auditor/internal/ledger/ledgertest"
	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/httpd"
)

// auditor is a running service and its log file.
type auditor struct {
	*apptest.App
	t    *testing.T
	path string
}

func start(t *testing.T, path string, wrap func(ledger.File) ledger.File) *auditor {
	t.Helper()
	open := func(ctx context.Context, cfg app.Config, log *slog.Logger) (*app.Service, error) {
		return app.Open(ctx, cfg, log, wrap)
	}
	a := apptest.Start(t, "auditor", app.FromEnv, open, map[string]string{"AUDIT_LOG_PATH": path, "SHUTDOWN_GRACE": "5s"})
	return &auditor{App: a, t: t, path: path}
}

type reply struct {
	Status     int
	Body       string
	RetryAfter string
	Type       string
}

func (a *auditor) do(req *http.Request) reply {
	a.t.Helper()
	resp, err := a.Client.Do(req)
	if err != nil {
		a.t.Error(err)
		return reply{}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Error(err)
	}
	return reply{resp.StatusCode, strings.TrimSuffix(string(body), "\n"), resp.Header.Get("Retry-After"), resp.Header.Get("Content-Type")}
}

func (a *auditor) post(body string) reply {
	a.t.Helper()
	req, _ := http.NewRequest("POST", a.URL+"/", strings.NewReader(body))
	req.Header.Set("Content-Type", "application/cloudevents+json")
	return a.do(req)
}

func (a *auditor) get(url string) reply {
	a.t.Helper()
	req, _ := http.NewRequest("GET", url, nil)
	return a.do(req)
}

func body(typ, task string, version int) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":"%s-%d","source":"task-api","type":"%s","subject":%q,"partitionkey":%q,"time":"2025-01-15T10:30:00Z",`+
		`"taskversion":%d,"correlationid":"req-789","datacontenttype":"application/json","data":{"task_id":%q,"title":"a <b> &  c","status":"pending","owner_id":null}}`,
		task, version, typ, task, task, version, task)
}

func (a *auditor) expect(got reply, status int, text string) {
	a.t.Helper()
	if got.Status != status || !strings.Contains(got.Body, text) {
		a.t.Fatalf("%d %s, want %d with %s", got.Status, got.Body, status, text)
	}
}

func TestAnswersOfTheContract(t *testing.T) {
	a := start(t, filepath.Join(t.TempDir(), "audit.log"), nil)
	a.expect(a.post(body("task.created", "abc123", 1)), 201, `{"seq":1,"duplicate":false}`)
	a.expect(a.post(body("task.updated", "abc123", 2)), 201, `{"seq":2,"duplicate":false}`)
	a.expect(a.post(body("task.created", "abc123", 1)), 200, `{"seq":1,"duplicate":true}`)
	a.expect(a.post(strings.Replace(body("task.created", "abc123", 1), "pending", "completed", 1)), 409, `"detail":"entry 1 has`)
	a.expect(a.post(`{"specversion":"1.0","source":"s","type":"t"}`), 400, `"pointer":"#/id"`)
	a.expect(a.post(body("task.completed", "abc123", 5)), 201, `{"seq":3,"duplicate":false}`)

	lines := ledgertest.Check(t, a.path, 3)
	occurredAt := "2025-01-15T10:30:00Z"
	want := ledgertest.Line{
		Seq: 1, ID: "abc123-1", Type: "task.created", OccurredAt: &occurredAt,
		Data: json.RawMessage(`{"task_id":"abc123","title":"a <b> &  c","status":"pending","owner_id":null}`),
		Attributes: map[string]any{"datacontenttype": "application/json", "partitionkey": "abc123", "specversion": "1.0",
			"subject": "abc123", "taskversion": json.Number("1")},
	}
	want.Metadata.CorrelationID, want.Metadata.Source = "req-789", "task-api"
	if diff := cmp.Diff(want, lines[0], cmpopts.IgnoreFields(ledgertest.Line{}, "AuditedAt")); diff != "" {
		t.Errorf("line 1 (-want +got):\n%s", diff)
	}
	a.checkLog([]string{"Loaded 0 previously seen events", "AUDIT: task.created - task_id=abc123", "AUDIT: task.updated - task_id=abc123",
		"ALARM: event refused: the log has the same source and id with other content", "AUDIT: task.completed - task_id=abc123", "task version gap"})
	metrics := a.get(a.OpsURL + "/metrics").Body
	for _, want := range []string{"taskwire_audit_entries_total 3", "taskwire_audit_duplicates_total 1", "taskwire_audit_conflicts_total 1",
		"taskwire_audit_version_gaps_total 1", "taskwire_audit_fsync_seconds_count 3", `taskwire_http_requests_total{code="201",route="/",service="auditor"} 3`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	a = start(t, a.path, nil)
	a.checkLog([]string{"Loaded 3 previously seen events"})
	a.expect(a.post(body("task.completed", "abc123", 5)), 200, `{"seq":3,"duplicate":true}`)
	ledgertest.Check(t, a.path, 3)
}

// checkLog compares the messages that matter, in order.
func (a *auditor) checkLog(want []string) {
	a.t.Helper()
	var got []string
	for line := range strings.Lines(a.Log.String()) {
		var entry struct{ Msg string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			a.t.Fatalf("log line %q: %v", line, err)
		}
		if entry.Msg != "listening" && !strings.HasPrefix(entry.Msg, "open sink") {
			got = append(got, entry.Msg)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		a.t.Errorf("log messages (-want +got):\n%s", diff)
	}
}

func TestOneEventInEveryForm(t *testing.T) {
	a := start(t, filepath.Join(t.TempDir(), "audit.log"), nil)
	a.expect(a.post(body("task.created", "t", 1)), 201, `"seq":1`)

	req, _ := http.NewRequest("POST", a.URL+"/", strings.NewReader(`{"task_id":"t","title":"a <b> &  c","status":"pending","owner_id":null}`))
	for name, value := range map[string]string{"specversion": "1.0", "id": "t-1", "source": "task-api", "type": "task.created", "subject": "t",
		"partitionkey": "t", "time": "2025-01-15T10:30:00Z", "taskversion": "1", "correlationid": "req-789"} {
		req.Header.Set("ce-"+name, value)
	}
	req.Header.Set("Content-Type", "application/json")
	a.expect(a.do(req), 200, `{"seq":1,"duplicate":true}`)

	req, _ = http.NewRequest("POST", a.URL+"/", strings.NewReader("["+body("task.created", "t", 1)+","+body("task.updated", "t", 2)+","+body("task.updated", "t", 2)+"]"))
	req.Header.Set("Content-Type", "application/cloudevents-batch+json")
	got := a.do(req)
	a.expect(got, 200, `{"status":201,"result":{"seq":2,"duplicate":false}}`)
	if strings.Count(got.Body, `"duplicate":true`) != 2 {
		t.Errorf("batch: %s", got.Body)
	}
	ledgertest.Check(t, a.path, 2)
}

func TestQueries(t *testing.T) {
	a := start(t, filepath.Join(t.TempDir(), "audit.log"), nil)
	for v := 1; v <= 5; v++ {
		for _, task := range []string{"a", "b"} {
			a.expect(a.post(body("task.updated", task, v)), 201, "")
		}
	}
	a.expect(a.post(body("task.completed", "a", 9)), 201, "")
	a.expect(a.post(body("task.updated", "a", 7)), 201, "")
	noSubject := `{"specversion":"1.0","id":"x","source":"elsewhere","type":"task.updated","actor":"bob","data":{"task_id":"a"}}`
	a.expect(a.post(noSubject), 201, "")

	for query, want := range map[string]string{
		"":                           "1 2 3 4 5 6 7 8 9 10 11 12 13 <nil>",
		"?limit=3":                   "1 2 3 3",
		"?after=3&limit=3":           "4 5 6 6",
		"?after=10":                  "11 12 13 <nil>",
		"?after=13":                  "<nil>",
		"?after=1000":                "<nil>",
		"?limit=13":                  "1 2 3 4 5 6 7 8 9 10 11 12 13 <nil>",
		"?task_id=a&limit=2&after=1": "3 5 5",
		"?task_id=a&after=9":         "11 12 13 <nil>",
		"?type=task.completed":       "11 <nil>",
		"?task_id=b&type=task.none":  "<nil>",
		"?task_id=%22":               "<nil>",
		"?actor=bob":                 "13 <nil>",
		"?actor=bob&task_id=b":       "<nil>",
		"?actor=bo":                  "<nil>",
	} {
		var page struct {
			Entries []struct{ Seq int64 }
			Next    *int64 `json:"next_after"`
		}
		got := a.get(a.URL + "/entries" + query)
		if err := json.Unmarshal([]byte(got.Body), &page); err != nil {
			t.Fatalf("%s: %v in %s", query, err, got.Body)
		}
		var b strings.Builder
		for _, e := range page.Entries {
			fmt.Fprint(&b, e.Seq, " ")
		}
		if page.Next != nil {
			fmt.Fprint(&b, *page.Next)
		} else {
			b.WriteString("<nil>")
		}
		if b.String() != want {
			t.Errorf("%s: %s, want %s", query, b.String(), want)
		}
	}
	log, _ := os.ReadFile(a.path)
	first, _, _ := bytes.Cut(log, []byte("\n"))
	if diff := cmp.Diff(reply{Status: 200, Body: string(first), Type: "application/json"}, a.get(a.URL+"/entries/1")); diff != "" {
		t.Errorf("entry 1 is not its line (-want +got):\n%s", diff)
	}
	for path, status := range map[string]int{"/entries/14": 404, "/entries/0": 404, "/entries/x": 404, "/entries?limit=0": 400, "/entries?limit=x": 400,
		"/entries?after=-1": 400, "/tasks/none/history": 404, "/none": 404, "/": 405} {
		if got := a.get(a.URL + path); got.Status != status || got.Type != "application/problem+json" {
			t.Errorf("%s: %+v, want %d", path, got, status)
		}
	}
	var h struct {
		Versions []struct {
			Version int64
			Flag    string
		}
		Irregular int
	}
	if err := json.Unmarshal([]byte(a.get(a.URL+"/tasks/a/history").Body), &h); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(h); got != "{[{1 } {2 } {3 } {4 } {5 } {9 gap} {7 step_back} {0 }] 2}" {
		t.Errorf("history %s", got)
	}
}

// brokenDisk fails when a test sets full or dead.
type brokenDisk struct {
	ledger.File
	full, dead atomic.Bool
}

func (d *brokenDisk) Write(p []byte) (int, error) {
	if d.full.Load() {
		n, err := d.File.Write(p[:len(p)/2])
		return n, errors.Join(err, syscall.ENOSPC)
	}
	return d.File.Write(p)
}

func (d *brokenDisk) Sync() error {
	if d.dead.Load() {
		return syscall.EIO
	}
	return d.File.Sync()
}

func startBroken(t *testing.T) (*auditor, *brokenDisk) {
	disk := new(brokenDisk)
	return start(t, filepath.Join(t.TempDir(), "audit.log"), func(f ledger.File) ledger.File { disk.File = f; return disk }), disk
}

func TestFullDiskIs503UntilThereIsRoom(t *testing.T) {
	a, disk := startBroken(t)
	a.expect(a.post(body("task.created", "a", 1)), 201, "")
	disk.full.Store(true)
	for range 3 {
		got := a.post(body("task.updated", "a", 2))
		if got.Status != 503 || got.RetryAfter != "5" || strings.Contains(got.Body, "space") {
			t.Fatalf("full disk: %+v", got)
		}
	}
	a.expect(a.post(body("task.created", "a", 1)), 200, `"duplicate":true`)
	disk.full.Store(false)
	a.expect(a.post(body("task.updated", "a", 2)), 201, `{"seq":2,`)
	ledgertest.Check(t, a.path, 2)
	if n := strings.Count(a.Log.String(), "cannot store events"); n != 1 {
		t.Errorf("%d log lines for one full disk", n)
	}
}

func TestFailedFsyncEndsTheService(t *testing.T) {
	a, disk := startBroken(t)
	a.expect(a.post(body("task.created", "a", 1)), 201, "")
	disk.dead.Store(true)
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			req, _ := http.NewRequest("POST", a.URL+"/", strings.NewReader(body("task.updated", fmt.Sprint("b", w), 1)))
			req.Header.Set("Content-Type", "application/cloudevents+json")
			resp, err := a.Client.Do(req)
			if err != nil {
				return // the auditor is stopping
			}
			resp.Body.Close()
			if resp.StatusCode != 503 {
				t.Errorf("answered %d after a failed fsync", resp.StatusCode)
			}
		})
	}
	wg.Wait()
	err := a.Wait()
	var fault *ledger.FaultError
	if !errors.As(err, &fault) || !strings.Contains(err.Error(), "fsync audit log") {
		t.Fatalf("Run: %v", err)
	}
}

func TestFromEnv(t *testing.T) {
	_, err := app.FromEnv(env.Map(map[string]string{"LISTEN_ADDR": "nonsense", "SHUTDOWN_GRACE": "soon", "WEBHOOK_SECRET_FILE": "/secret", "SINK_TOKENS_FILE": "/tokens"}))
	for _, key := range []string{"LISTEN_ADDR", "SHUTDOWN_GRACE", "WEBHOOK_SECRET_FILE", "SINK_TOKENS_FILE"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s not named: %v", key, err)
		}
	}
	cfg, err := app.FromEnv(env.Map(nil))
	want := app.Config{Path: "audit.log", SegmentBytes: 1 << 30, HTTP: httpd.Config{Service: "auditor", Addr: ":8003", OpsAddr: ":9003", Grace: 25 * time.Second, Connections: 512}}
	if diff := cmp.Diff(want, cfg); err != nil || diff != "" {
		t.Errorf("defaults (-want +got): %v\n%s", err, diff)
	}
}

func TestTakenLogReleasesThePorts(t *testing.T) {
	a := start(t, filepath.Join(t.TempDir(), "audit.log"), nil)
	cfg, _ := app.FromEnv(env.Map(map[string]string{"LISTEN_ADDR": "127.0.0.1:0", "OPS_ADDR": "127.0.0.1:0", "AUDIT_LOG_PATH": a.path}))
	if _, err := app.New(t.Context(), cfg, slog.New(slog.DiscardHandler)); !errors.Is(err, ledger.ErrLocked) {
		t.Fatalf("second auditor: %v", err)
	}
	a.expect(a.post(body("task.created", "a", 1)), 201, "")
}

func TestCat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	whole := "{\"seq\":1}\n{\"seq\":2}\n"
	if err := os.WriteFile(path, []byte(whole+`{"seq":3`), 0o600); err != nil {
		t.Fatal(err)
	}
	lookup := env.Map(map[string]string{"AUDIT_LOG_PATH": path})
	for _, args := range [][]string{nil, {path}} {
		var out bytes.Buffer
		if err := app.Cat().Run(t.Context(), lookup, args, &out, io.Discard); err != nil || out.String() != whole {
			t.Errorf("cat %v: %q: %v", args, out.String(), err)
		}
	}
	if err := app.Cat().Run(t.Context(), lookup, []string{"a", "b"}, io.Discard, io.Discard); err == nil {
		t.Error("two paths accepted")
	}
	if err := app.Cat().Run(t.Context(), lookup, []string{path + "x"}, io.Discard, io.Discard); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing log: %v", err)
	}
	if got := string(app.Visible([]byte("{\"a\":\"\u009b31m\x7f é\x1b\xff\"}\n"))); got != `{"a":"\u009b31m\u007f é\u001b\xff"}`+"\n" {
		t.Errorf("on a terminal: %s", got)
	}
}

func TestDevNullIsNoTerminal(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if app.IsTerminal(null) {
		t.Error("cat escapes for /dev/null as for a terminal")
	}
}
