package stack_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/process"
	"github.com/taskwire/taskwire/internal/stack"
)

// TestAnEventIsFoundInEveryLog: the lines of bridge, notifier and auditor about one
// event have the ids that its caller knows.
func TestAnEventIsFoundInEveryLog(t *testing.T) {
	var up atomic.Bool
	flaky := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !up.Swap(true) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(flaky.Close)
	config := filepath.Join(t.TempDir(), "bridge.yaml")
	logs := map[string]*apptest.Log{"taskapi": {}, "bridge": {}, "notifier": {}, "auditor": {}}
	s, err := stack.Open(stack.Options{DataDir: t.TempDir(),
		Env: env.Map(map[string]string{"BRIDGE_CONFIG": config, "LOG_LEVEL": "debug"}),
		Log: func(name string) *slog.Logger { return process.NewLogger(logs[name], "json", "debug", name) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Start(t.Context(), stack.Broker, "auditor", "notifier"); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("subscriptions:\n- {name: a, group: a, sink: %q}\n- {name: n, group: n, sink: %q}\n- {name: f, group: f, sink: %q}\n", s.URL("auditor"), s.URL("notifier"), flaky.URL+"/")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context(), "bridge", "taskapi"); err != nil {
		t.Fatal(err)
	}
	f := &traced{t, s, nil}
	f.create("one", "X-Correlation-ID", "order-66", "traceparent", caller)

	for _, c := range []struct{ service, message string }{
		{"auditor", "AUDIT: task.created - "},
		{"notifier", "NOTIFICATION: New task created - "},
		{"bridge", "delivery failed, retrying"},
		{"bridge", "delivered"},
	} {
		var line map[string]any
		apptest.Await(t, c.service+" has logged "+c.message, func() bool {
			line = find(t, logs[c.service], c.message)
			return line != nil
		})
		if id, _ := line["event_id"].(string); id == "" || line["correlation_id"] != "order-66" || line["trace_id"] != callerTrace {
			t.Errorf("%s: %v, want event_id, correlation_id order-66 and trace_id %s", c.service, line, callerTrace)
		}
	}
}

// find returns the first line whose message begins so.
func find(t *testing.T, log *apptest.Log, message string) map[string]any {
	t.Helper()
	for text := range strings.Lines(log.String()) {
		var line map[string]any
		if json.Unmarshal([]byte(text), &line) != nil {
			continue // still being written
		}
		if msg, _ := line["msg"].(string); strings.HasPrefix(msg, message) {
			return line
		}
	}
	return nil
}
