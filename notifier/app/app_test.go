package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/notifier/app"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve posts each body, stops the service, and returns the statuses and the log.
func serve(t *testing.T, bodies ...string) (statuses []int, log, metrics string) {
	t.Helper()
	var out bytes.Buffer
	cfg, err := app.FromEnv(env.Map(map[string]string{"LISTEN_ADDR": "127.0.0.1:0", "OPS_ADDR": "127.0.0.1:0"}))
	if err != nil {
		t.Fatal(err)
	}
	s, err := app.New(t.Context(), cfg, slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	client := &http.Client{Transport: &http.Transport{}}
	for _, body := range bodies {
		resp, err := client.Post("http://"+s.Addr().String()+"/", "application/cloudevents+json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		statuses = append(statuses, resp.StatusCode)
	}
	resp, err := client.Get("http://" + s.OpsAddr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	client.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return statuses, out.String(), string(text)
}

func body(typ, data string) string {
	return `{"specversion":"1.0","id":"1","source":"task-api","type":"` + typ + `","data":` + data + `}`
}

func TestItTellsOfCreatedAndCompletedTasksOnly(t *testing.T) {
	statuses, log, metrics := serve(t,
		body("task.created", `{"task_id":"abc123","title":"Write capstone lesson","status":"pending","owner_id":null}`),
		body("task.updated", `{"task_id":"abc123","title":"x","status":"in_progress","owner_id":null}`),
		body("task.completed", `{"task_id":"abc123","title":"line\nfeed","status":"completed","owner_id":null}`),
		body("task.created", `{"title":"no id"}`),
	)
	for i, want := range []int{204, 204, 204, 400} {
		if statuses[i] != want {
			t.Errorf("answer %d = %d, want %d", i, statuses[i], want)
		}
	}
	var told []string
	for line := range strings.Lines(log) {
		var entry struct{ Msg, Level string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("a log line is not JSON: %s", line)
		}
		if strings.HasPrefix(entry.Msg, "NOTIFICATION") {
			told = append(told, entry.Msg)
		}
	}
	want := []string{"NOTIFICATION: New task created - 'Write capstone lesson' (ID: abc123)", "NOTIFICATION: Task completed - 'line\nfeed' (ID: abc123)"}
	if strings.Join(told, "|") != strings.Join(want, "|") {
		t.Errorf("told %q, want %q", told, want)
	}
	if !strings.Contains(metrics, `taskwire_notifications_total{type="task.created"} 1`) {
		t.Error("the created task is not counted")
	}
}
