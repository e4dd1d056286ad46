package app_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/sink"
	"github.com/taskwire/taskwire/internal/webhook"
	"github.com/taskwire/taskwire/notifier/app"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// notifier is the real service on its own ports.
type notifier struct {
	*apptest.App
	t *testing.T
}

func start(t *testing.T, settings map[string]string) *notifier {
	t.Helper()
	vars := map[string]string{"LOG_LEVEL": "debug"}
	maps.Copy(vars, settings)
	return &notifier{apptest.Start(t, "notifier", app.FromEnv, app.New, vars), t}
}

// do sends a request with pairs of header names and values.
func (r *notifier) do(method, body string, header ...string) (status int, answer string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.URL+"/", strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := r.Client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func (r *notifier) post(body string) int {
	r.t.Helper()
	status, _ := r.do("POST", body, "Content-Type", "application/cloudevents+json")
	return status
}

// notifications are those in the log, each line of which must be one JSON object.
func (r *notifier) notifications() []string {
	r.t.Helper()
	var out []string
	for line := range strings.Lines(r.Log.String()) {
		var entry struct{ Msg, Level, Service string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			r.t.Fatalf("a log line is not JSON: %s", line)
		}
		if strings.HasPrefix(entry.Msg, "NOTIFICATION") {
			out = append(out, entry.Level+" "+entry.Service+" "+entry.Msg)
		}
	}
	return out
}

func body(typ, data string) string {
	return `{"specversion":"1.0","id":"1","source":"task-api","type":"` + typ + `","datacontenttype":"application/json","data":` + data + `}`
}

const groceries = `{"task_id":"task-123","title":"Buy groceries","status":"pending","owner_id":null}`

func TestOnlyCreatedAndCompletedTasksAreLogged(t *testing.T) {
	r := start(t, nil)
	for _, c := range []struct {
		body   string
		status int
	}{
		{body("task.created", `{"task_id":"abc123","title":"Write capstone lesson","status":"pending","owner_id":null}`), 204},
		{body("task.updated", `{"task_id":"abc123","title":"x","status":"in_progress","owner_id":null}`), 204},
		{body("task.completed", `{"task_id":"abc123","title":"line\nfeed","status":"completed","owner_id":null}`), 204},
		{body("invoice.paid", `"no task at all"`), 204},
		{body("task.created", `{"title":"no id"}`), 400},
		{body("task.created", `{"TASK_ID":"1","title":"other letters"}`), 400},
		{body("task.completed", `[]`), 400},
		{`{"specversion":"1.0","source":"s","type":"task.created"}`, 400},
	} {
		if got := r.post(c.body); got != c.status {
			t.Errorf("%s = %d, want %d", c.body, got, c.status)
		}
	}
	want := []string{
		"INFO notifier NOTIFICATION: New task created - 'Write capstone lesson' (ID: abc123)",
		"INFO notifier NOTIFICATION: Task completed - 'line\nfeed' (ID: abc123)",
	}
	if diff := cmp.Diff(want, r.notifications()); diff != "" {
		t.Errorf("notifications (-want +got):\n%s", diff)
	}
	_, metrics := r.Get(t, r.OpsURL+"/metrics")
	for _, line := range []string{
		`taskwire_notifications_total{type="task.created"} 1`, `taskwire_notifications_total{type="task.completed"} 1`,
		`taskwire_http_requests_total{code="204",route="/",service="notifier"} 4`, `taskwire_http_requests_total{code="400",route="/",service="notifier"} 4`,
	} {
		if !strings.Contains(metrics, line+"\n") {
			t.Errorf("metrics lack %s", line)
		}
	}
}

func TestBinaryAndBatchForms(t *testing.T) {
	r := start(t, nil)
	if status, answer := r.do("POST", groceries, "Content-Type", "application/json", "ce-specversion", "1.0", "ce-id", "1", "ce-source", "curl", "ce-type", "task.created"); status != 204 || answer != "" {
		t.Errorf("binary = %d %q, want 204 and no body", status, answer)
	}
	batch := "[" + body("task.completed", groceries) + "," + body("task.updated", groceries) + "," + body("task.created", `{}`) + "]"
	status, answer := r.do("POST", batch, "Content-Type", "application/cloudevents-batch+json")
	if status != 400 || !strings.HasPrefix(answer, `[{"status":204},{"status":204},{"status":400,"problem":{`) {
		t.Errorf("batch = %d %s", status, answer)
	}
	want := []string{
		"INFO notifier NOTIFICATION: New task created - 'Buy groceries' (ID: task-123)",
		"INFO notifier NOTIFICATION: Task completed - 'Buy groceries' (ID: task-123)",
	}
	if diff := cmp.Diff(want, r.notifications()); diff != "" {
		t.Errorf("notifications (-want +got):\n%s", diff)
	}
}

// TestATitleNeverMakesALine also in the text format.
func TestATitleNeverMakesALine(t *testing.T) {
	r := start(t, map[string]string{"LOG_FORMAT": "text"})
	if got := r.post(body("task.created", `{"task_id":"1","title":"a\nNOTIFICATION: forged\u001b[31m","status":"pending"}`)); got != 204 {
		t.Fatalf("POST = %d, want 204", got)
	}
	if text := r.Log.String(); strings.Contains(text, "\nNOTIFICATION") || strings.Contains(text, "\x1b") || !strings.Contains(text, "New task created - ") {
		t.Errorf("log = %q", text)
	}
}

func TestOtherMethodsAndTheHandshake(t *testing.T) {
	r := start(t, nil)
	if status, _ := r.do("GET", ""); status != 405 {
		t.Errorf("GET = %d, want 405", status)
	}
	if status, _ := r.do("OPTIONS", "", "WebHook-Request-Origin", "sender.example"); status != 200 {
		t.Errorf("OPTIONS = %d, want 200", status)
	}
	if status, _ := r.do("POST", "hello", "Content-Type", "text/plain"); status != 415 {
		t.Errorf("text/plain = %d, want 415", status)
	}
	if status, _ := r.do("POST", strings.Repeat(" ", sink.MaxBody+1), "Content-Type", "application/cloudevents+json"); status != 413 {
		t.Errorf("over 1 MiB = %d, want 413", status)
	}
	if !strings.Contains(r.Log.String(), "open sink") {
		t.Error("the log does not say that the sink is open")
	}
}

func TestWithSecretsOnlySignedPostsAreAccepted(t *testing.T) {
	key := bytes.Repeat([]byte{7}, 32)
	path := filepath.Join(t.TempDir(), "secrets")
	if err := os.WriteFile(path, []byte("whsec_"+base64.StdEncoding.EncodeToString(key)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, map[string]string{"WEBHOOK_SECRET_FILE": path})
	event := body("task.created", groceries)
	if got := r.post(event); got != 401 {
		t.Errorf("unsigned = %d, want 401", got)
	}
	secrets, err := webhook.Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{}
	if err := secrets.Sign(h, "m1", time.Now(), []byte(event)); err != nil {
		t.Fatal(err)
	}
	if got, answer := r.do("POST", event, "Content-Type", "application/cloudevents+json", "webhook-id", h.Get("Webhook-Id"),
		"webhook-timestamp", h.Get("Webhook-Timestamp"), "webhook-signature", h.Get("Webhook-Signature")); got != 204 {
		t.Errorf("signed = %d %s, want 204", got, answer)
	}
	if got := r.notifications(); len(got) != 1 {
		t.Errorf("notifications %q, want one", got)
	}
	if strings.Contains(r.Log.String(), base64.StdEncoding.EncodeToString(key)) {
		t.Error("the secret was logged")
	}
}

func TestEveryMistakeIsNamed(t *testing.T) {
	_, err := app.FromEnv(env.Map(map[string]string{"LISTEN_ADDR": "nowhere", "SHUTDOWN_GRACE": "soon", "WEBHOOK_SECRET_FILE": "/nonexistent", "SINK_TOKENS_FILE": "/nonexistent"}))
	if err == nil {
		t.Fatal("FromEnv accepted it")
	}
	for _, key := range []string{"LISTEN_ADDR: ", "SHUTDOWN_GRACE: ", "WEBHOOK_SECRET_FILE: ", "SINK_TOKENS_FILE: "} {
		if !strings.Contains(err.Error(), key) {
			t.Errorf("mistakes = %v, want %s", err, key)
		}
	}
}

func TestCloseFreesThePortsOfAServiceThatNeverRan(t *testing.T) {
	cfg, err := app.FromEnv(env.Map(map[string]string{"LISTEN_ADDR": "127.0.0.1:0", "OPS_ADDR": "127.0.0.1:0"}))
	if err != nil {
		t.Fatal(err)
	}
	first, err := app.New(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	cfg.HTTP.Addr = first.Addr().String()
	if _, err := app.New(t.Context(), cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "is taken") {
		t.Errorf("New on a taken port = %v, want an error with \"is taken\"", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := app.New(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("New after Close = %v, want nil", err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
}
