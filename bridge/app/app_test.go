package app_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/taskwire/taskwire/bridge/app"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/process"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bridge.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWithoutAFileThereAreTheTwoSubscriptions(t *testing.T) {
	cfg, err := app.FromEnv(env.Map(map[string]string{"NOTIFIER_URL": "http://n/"}))
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Subscriptions) != 2 {
		t.Fatalf("%d subscriptions", len(cfg.Subscriptions))
	}
	n, a := cfg.Subscriptions[0], cfg.Subscriptions[1]
	if n.Group != "notification-service" || n.Sink != "http://n/" || strings.Join(n.Types, " ") != "task.created task.completed" || n.Exhausted != "deadletter" || n.DeadLetter != "task-events-dlq" {
		t.Errorf("notifications = %+v", n)
	}
	if a.Group != "audit-service" || a.Sink != "http://localhost:8003/" || len(a.Types) != 0 || a.Exhausted != "block" || a.Concurrency != 64 || a.Timeout != 15*time.Second {
		t.Errorf("audit = %+v", a)
	}
	if r := a.Retry; r.Initial != 200*time.Millisecond || r.Multiplier != 2 || r.Max != 30*time.Second || r.Attempts != 10 || r.For != time.Hour {
		t.Errorf("retry = %+v", r)
	}
}

const example = `
topic: task-events
subscriptions:
  - name: notifications
    group: notification-service
    sink: http://localhost:8002/
    types: [task.created, task.completed]
    filters: [{prefix: {subject: "a"}}]
    order: key
    concurrency: 64
    timeout: 15s
    retry: {initial: 200ms, multiplier: 2, max: 30s, attempts: 10, for: 1h}
    exhausted: deadletter
    deadletter: task-events-dlq
  - name: audit
    group: audit-service
    sink: http://localhost:8003/
    exhausted: block
`

func TestCheckPrintsTheDefaultsAndReadsBackWhatItPrints(t *testing.T) {
	print := func(path string) string {
		var out bytes.Buffer
		for _, sub := range app.Commands() {
			if sub.Name != "check" {
				continue
			}
			if err := sub.Run(context.Background(), env.Map(map[string]string{"BRIDGE_CONFIG": path}), nil, &out, &out); err != nil {
				t.Fatal(err)
			}
		}
		return out.String()
	}
	first := print(write(t, example))
	if !strings.Contains(first, "timeout: 15s") || strings.Count(first, "order: key") != 2 {
		t.Errorf("check printed:\n%s", first)
	}
	if second := print(write(t, first)); second != first {
		t.Errorf("not stable:\n%s\nthen\n%s", first, second)
	}
}

func TestAnUnknownKeyIsNamedWithItsPlace(t *testing.T) {
	_, err := app.FromEnv(env.Map(map[string]string{"BRIDGE_CONFIG": write(t, strings.Replace(example, "exhausted: block", "exausted: block", 1))}))
	if err == nil || !strings.Contains(err.Error(), `[18:5]`) || !strings.Contains(err.Error(), "exausted") {
		t.Errorf("FromEnv = %v, want the key with line and column", err)
	}
}

func TestEveryMistakeOfTheFileIsNamed(t *testing.T) {
	_, err := app.FromEnv(env.Map(map[string]string{"KAFKA_TOPIC": "bad topic", "BRIDGE_CONFIG": write(t, `
topic: "also bad"
subscriptions:
  - {name: a, group: g, sink: "ftp://x", order: random, concurrency: -1, timeout: 1ns, mode: batch, exhausted: drop}
  - {name: a, group: g, sink: "http://x/", retry: {multiplier: 0.5}, filters: [{sql: "TRUE"}, {}], rate: -1, deadletter: "!"}
  - {}
`)}))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"KAFKA_TOPIC:", "topic:", "(a).sink:", "order:", "concurrency:", "timeout:", "mode:", "exhausted:", "(a).name: is used twice", "(a).group: is used twice",
		"retry.multiplier:", "filters[0].sql:", "filters[1]:", "rate:", "deadletter:", "subscriptions[2].name: is missing", "subscriptions[2].sink:"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not named: %s\nin\n%v", want, err)
		}
	}
}

func TestExplain(t *testing.T) {
	eventFile := write(t, `{"specversion":"1.0","id":"1","source":"task-api","type":"task.updated"}`)
	var out bytes.Buffer
	for _, sub := range app.Commands() {
		if sub.Name == "explain" {
			if err := sub.Run(context.Background(), env.Map(nil), []string{"--event", eventFile}, &out, &out); err != nil {
				t.Fatal(err)
			}
			if err := sub.Run(context.Background(), env.Map(nil), nil, &out, &out); err == nil {
				t.Error("explain without a file was accepted")
			} else if _, ok := err.(*process.UsageError); !ok { //nolint:errorlint // the very type decides the exit status
				t.Errorf("%T, want a usage error", err)
			}
		}
	}
	if got := out.String(); !strings.Contains(got, "notifications: no, it does not pass any of") || !strings.Contains(got, "audit: yes, to http://localhost:8003/") {
		t.Errorf("explain printed %q", got)
	}
}
