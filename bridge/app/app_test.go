package app_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/bridge/app"
	"github.com/taskwire/taskwire/internal/env"
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
	usual := app.Subscription{
		Topic: "task-events", Records: "cloudevents", Mode: "auto", Data: "json", Batch: app.Batch{Size: 100, Bytes: 512 << 10}, Order: "key", Concurrency: 64, Timeout: 15 * time.Second,
		Retry:     app.Retry{Initial: 200 * time.Millisecond, Multiplier: 2, Max: 30 * time.Second, Attempts: 10, For: time.Hour},
		Exhausted: "deadletter", DeadLetter: "task-events-dlq",
	}
	notifications, audit := usual, usual
	notifications.Name, notifications.Group, notifications.Sink = "notifications", "notification-service", "http://n/"
	notifications.Types = []string{"task.created", "task.completed"}
	audit.Name, audit.Group, audit.Sink, audit.Exhausted = "audit", "audit-service", "http://localhost:8003/", "block"
	if diff := cmp.Diff([]app.Subscription{notifications, audit}, cfg.Subscriptions); diff != "" {
		t.Errorf("subscriptions (-want +got):\n%s", diff)
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

// run runs a subcommand and returns what it printed.
func run(ctx context.Context, t *testing.T, vars map[string]string, name string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	for _, sub := range app.Commands() {
		if sub.Name == name {
			err := sub.Run(ctx, env.Map(vars), args, &out, &errs)
			return out.String(), errs.String(), err
		}
	}
	t.Fatalf("no subcommand %s", name)
	return "", "", nil
}

// mistakes are the lines that an operator reads for a configuration file.
func mistakes(t *testing.T, path string) []string {
	t.Helper()
	_, err := app.FromEnv(env.Map(map[string]string{"BRIDGE_CONFIG": path}))
	var wrong *env.Error
	if !errors.As(err, &wrong) {
		t.Fatalf("FromEnv = %v, want an *env.Error", err)
	}
	return wrong.Mistakes
}

func TestCheckPrintsTheDefaultsAndReadsBackWhatItPrints(t *testing.T) {
	check := func(path string) string {
		out, _, err := run(t.Context(), t, map[string]string{"BRIDGE_CONFIG": path}, "check")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	first := check(write(t, example))
	if !strings.Contains(first, "timeout: 15s") || strings.Count(first, "order: key") != 2 {
		t.Errorf("check printed:\n%s", first)
	}
	if diff := cmp.Diff(first, check(write(t, first))); diff != "" {
		t.Errorf("check of its own output differs (-first +second):\n%s", diff)
	}
}

func TestAnUnknownKeyIsNamedWithItsPlace(t *testing.T) {
	path := write(t, strings.Replace(example, "exhausted: block", "exausted: block", 1))
	want := []string{"BRIDGE_CONFIG: " + path + ":18:5: subscriptions[1].exausted: unknown key"}
	if diff := cmp.Diff(want, mistakes(t, path)); diff != "" {
		t.Errorf("mistakes (-want +got):\n%s", diff)
	}
}

func TestAMissingFileIsNamedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.yaml")
	want := []string{"BRIDGE_CONFIG: open " + path + ": no such file or directory"}
	if diff := cmp.Diff(want, mistakes(t, path)); diff != "" {
		t.Errorf("mistakes (-want +got):\n%s", diff)
	}
}

// TestEveryWrongTypeIsNamed: a value of the wrong type hides no other mistake,
// of type or of content, and is not reported again as a missing one.
func TestEveryWrongTypeIsNamed(t *testing.T) {
	path := write(t, `
subscriptions:
  - name: a
    group: g
    sink: http://x/
    timeout: 15
    concurrency: many
    retry: {initial: soon, attempts: [1]}
    types: task.created
    sinc: http://y/
  - name: b
    group: h
    sink: ftp://x/
    retry: 5
    filters: [{prefix: {type: {a: b}}}, {nott: {}}]
    rate: fast
  - just text
`)
	want := []string{
		// First what cannot be read, then what is wrong with the rest.
		":6:14: subscriptions[0].timeout: want a duration such as 15s, have a number",
		":7:18: subscriptions[0].concurrency: want a whole number, have text",
		":8:22: subscriptions[0].retry.initial: want a duration such as 15s, have text",
		":8:38: subscriptions[0].retry.attempts: want a whole number, have a list",
		":9:12: subscriptions[0].types: want a list, have text",
		":10:5: subscriptions[0].sinc: unknown key",
		":14:12: subscriptions[1].retry: want keys and values, have a number",
		":15:31: subscriptions[1].filters[0].prefix.type: want text, have keys and values",
		":15:42: subscriptions[1].filters[1].nott: unknown key",
		":16:11: subscriptions[1].rate: want a number, have text",
		":17:5: subscriptions[2]: want keys and values, have text",
		": subscriptions[1] (b).sink: want an absolute http or https address such as http://localhost:8002/",
	}
	for i := range want {
		want[i] = "BRIDGE_CONFIG: " + path + want[i]
	}
	if diff := cmp.Diff(want, mistakes(t, path)); diff != "" {
		t.Errorf("mistakes (-want +got):\n%s", diff)
	}
}

func TestASyntaxErrorIsOneLine(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"unclosed list":  {"subscriptions: [", ":1:16: sequence end token ']' not found"},
		"key used twice": {"topic: a\ntopic: b\n", ":2:1: mapping key \"topic\" already defined at [1:1]"},
	} {
		path := write(t, c.text)
		if diff := cmp.Diff([]string{"BRIDGE_CONFIG: " + path + c.want}, mistakes(t, path)); diff != "" {
			t.Errorf("%s: mistakes (-want +got):\n%s", name, diff)
		}
	}
}

func TestEveryMistakeOfTheFileIsNamed(t *testing.T) {
	_, err := app.FromEnv(env.Map(map[string]string{"KAFKA_TOPIC": "bad topic", "BRIDGE_CONFIG": write(t, `
topic: "also bad"
subscriptions:
  - {name: a, group: g, sink: "ftp://x", order: random, concurrency: -1, timeout: 1ns, mode: both, exhausted: drop}
  - {name: a, group: g, sink: "http://x/", retry: {multiplier: 0.5}, filters: [{sql: "TRUE OR"}, {}], rate: -1, deadletter: "!"}
  - {}
`)}))
	if err == nil {
		t.Fatal("the file was accepted")
	}
	for _, want := range []string{"KAFKA_TOPIC:", "topic:", "(a).sink:", "order:", "concurrency:", "timeout:", "mode:", "exhausted:", "(a).name: used twice", "(a).group: used twice",
		"retry.multiplier:", "filters[0].sql:", "filters[1]:", "rate:", "deadletter:", "subscriptions[2].name: is missing", "subscriptions[2].sink:"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not named in\n%v", want, err)
		}
	}
}

// TestADeadLetterTopicThatIsReadIsRefused: each dead letter would be delivered,
// fail again and become another.
func TestADeadLetterTopicThatIsReadIsRefused(t *testing.T) {
	refused := func(topic, reader string) string {
		return ".deadletter: " + topic + " is a topic that the bridge reads, for subscriptions" + reader + ", so each dead letter would become another; choose a topic that nobody delivers from"
	}
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"its own": {"topic: orders\nsubscriptions: [{name: a, group: g, sink: 'http://x/', deadletter: orders}, {name: b, group: h, sink: 'http://x/', topic: other}]\n",
			[]string{": subscriptions[0] (a)" + refused("orders", "[0] (a)")}},
		"of another subscription": {"topic: orders\nsubscriptions: [{name: a, group: g, sink: 'http://x/', deadletter: other}, {name: b, group: h, sink: 'http://x/', topic: other}]\n",
			[]string{": subscriptions[0] (a)" + refused("other", "[1] (b)")}},
		"by default": {"subscriptions: [{name: a, group: g, sink: 'http://x/'}, {name: b, group: h, sink: 'http://x/', topic: task-events-dlq}]\n",
			[]string{": subscriptions[0] (a)" + refused("task-events-dlq", "[1] (b)")}},
	} {
		path := write(t, c.text)
		vars := map[string]string{"BRIDGE_CONFIG": path}
		for command, err := range map[string]error{"start": fromEnv(vars), "check": commandError(run(t.Context(), t, vars, "check"))} {
			var wrong *env.Error
			if !errors.As(err, &wrong) {
				t.Errorf("%s: %s = %v, want a mistake", name, command, err)
				continue
			}
			for i := range c.want {
				c.want[i] = "BRIDGE_CONFIG: " + path + strings.TrimPrefix(c.want[i], "BRIDGE_CONFIG: "+path)
			}
			if diff := cmp.Diff(c.want, wrong.Mistakes); diff != "" {
				t.Errorf("%s: %s (-want +got):\n%s", name, command, diff)
			}
		}
	}
}

func fromEnv(vars map[string]string) error {
	_, err := app.FromEnv(env.Map(vars))
	return err
}

func commandError(_, _ string, err error) error { return err }

func TestASinkAtAMetadataAddressIsRefused(t *testing.T) {
	path := write(t, "subscriptions: [{name: a, group: g, sink: 'http://169.254.169.254/latest'}, {name: b, group: h, sink: 'http://[fe80::1]/'}]\n")
	const why = " is a link-local or metadata address; if a sink is meant to be there, list it in SINK_ALLOW"
	want := []string{
		"BRIDGE_CONFIG: " + path + ": subscriptions[0] (a).sink: 169.254.169.254" + why,
		"BRIDGE_CONFIG: " + path + ": subscriptions[1] (b).sink: fe80::1" + why,
	}
	if diff := cmp.Diff(want, mistakes(t, path)); diff != "" {
		t.Errorf("mistakes (-want +got):\n%s", diff)
	}
	if err := fromEnv(map[string]string{"BRIDGE_CONFIG": path, "SINK_ALLOW": "169.254.169.254, fe80::/10"}); err != nil {
		t.Errorf("with SINK_ALLOW: %v", err)
	}
}

func TestMistakesInTheAdminSettings(t *testing.T) {
	short := write(t, "hunter2")
	var wrong *env.Error
	if err := fromEnv(map[string]string{"ADMIN_TOKEN_FILE": short, "ADMIN_HOSTS": "bridge, http://bridge", "SINK_ALLOW": "metadata"}); !errors.As(err, &wrong) {
		t.Fatalf("FromEnv = %v, want mistakes", err)
	}
	want := []string{
		"ADMIN_TOKEN_FILE: " + short + ": line 1: the token has less than 16 characters; openssl rand -hex 32 makes a good one",
		`ADMIN_HOSTS: want names such as bridge.example.com, without scheme, port and wildcard, separated by commas; have "http://bridge"`,
		`SINK_ALLOW: want addresses or prefixes such as 169.254.1.2 or fe80::/10, separated by commas; have "metadata"`,
	}
	if diff := cmp.Diff(want, wrong.Mistakes); diff != "" {
		t.Errorf("mistakes (-want +got):\n%s", diff)
	}
}

func TestCheckAndExplainShowNoQuery(t *testing.T) {
	vars := map[string]string{"BRIDGE_CONFIG": write(t, "subscriptions: [{name: a, group: g, sink: 'http://x/in?token=hunter2'}]\n")}
	out, _, err := run(t.Context(), t, vars, "check")
	if err != nil || strings.Contains(out, "hunter2") || !strings.Contains(out, "sink: http://x/in # its query is in force, and not shown\n") {
		t.Errorf("check = %v:\n%s", err, out)
	}
	event := write(t, `{"specversion":"1.0","id":"1","source":"task-api","type":"task.updated"}`)
	out, _, err = run(t.Context(), t, vars, "explain", "--event", event)
	if err != nil || out != "a: yes, to http://x/in\n" {
		t.Errorf("explain = %v:\n%s", err, out)
	}
}
