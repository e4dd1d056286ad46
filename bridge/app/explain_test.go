package app_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/internal/process"
)

const updated = `{"specversion":"1.0","id":"1","source":"task-api","type":"task.updated","subject":"t-1"}`

const filtered = `
subscriptions:
  - name: everything
    group: a
    sink: http://x/?token=hunter2
  - name: failing
    group: b
    sink: http://x/
    types: [task.updated]
    filters:
      - exact: {id: "1"}
      - sql: taskversion > 2 AND EXISTS actor
  - name: despite
    group: c
    sink: http://x/
    filters:
      - any: [{sql: actor = 'ann'}, {not: {sql: "type LIKE '%.created'"}}]
  - name: neither
    group: d
    sink: http://x/
    types: [task.created, task.completed]
    filters:
      - any: [{suffix: {subject: "-2"}}, {prefix: {actor: a}}]
`

func TestExplain(t *testing.T) {
	out, _, err := run(t.Context(), t, map[string]string{"BRIDGE_CONFIG": write(t, filtered)}, "explain", "--event", write(t, updated))
	if err != nil {
		t.Fatal(err)
	}
	want := `everything: yes, to http://x/
failing: no
  filters[1].sql: false, character 1: the event has no attribute taskversion
despite: yes, to http://x/
  filters[0].any[0].sql: false, character 1: the event has no attribute actor
neither: no
  types: false, type "task.updated" is none of task.created, task.completed
  filters[0].any: false, none of 2 filters matches
    filters[0].any[0].suffix: false, subject "t-1" does not end with "-2"
    filters[0].any[1].prefix: false, the event has no attribute actor
`
	if diff := cmp.Diff(want, out); diff != "" {
		t.Errorf("explain printed (-want +got):\n%s", diff)
	}
}

// What a subscription wraps need not be an event, and is never read as one.
func TestExplainWrapsWhatTheBridgeWraps(t *testing.T) {
	config := "topic: orders\nsubscriptions: [{name: s, group: g, sink: 'http://x/', records: wrap, filters: [{exact: {type: kafka.record, source: 'kafka:orders'}}]}]\n"
	for _, value := range []string{`{"total": 5}`, "text", updated} {
		out, _, err := run(t.Context(), t, map[string]string{"BRIDGE_CONFIG": write(t, config)}, "explain", "--event", write(t, value))
		if err != nil || out != "s: yes, to http://x/\n" {
			t.Errorf("explain of %q printed %q, %v", value, out, err)
		}
	}
}

func TestExplainInJSON(t *testing.T) {
	out, _, err := run(t.Context(), t, map[string]string{"BRIDGE_CONFIG": write(t, filtered)}, "explain", "--json", "--event", write(t, updated))
	if err != nil {
		t.Fatal(err)
	}
	type verdict struct {
		Filter, Reason, Error string
		Match                 bool
		Filters               []verdict
	}
	var got []struct {
		Subscription, Sink string
		Match              bool
		Filters            []verdict
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || len(got) != 4 {
		t.Fatalf("%v:\n%s", err, out)
	}
	if strings.Contains(out, "hunter2") || strings.Contains(out, "null") {
		t.Errorf("printed\n%s", out)
	}
	const missing = "character 1: the event has no attribute taskversion"
	want := []verdict{
		{Filter: "types", Match: true, Reason: `type "task.updated" is one of them`},
		{Filter: "filters[0].exact", Match: true, Reason: `id "1" is "1"`},
		{Filter: "filters[1].sql", Reason: missing, Error: missing},
	}
	if diff := cmp.Diff(want, got[1].Filters); diff != "" || got[1].Match || got[1].Subscription != "failing" || got[1].Sink != "http://x/" {
		t.Errorf("%+v (-want +got):\n%s", got[1], diff)
	}
}

func TestExplainRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no file":      {nil, "usage: bridge explain --event FILE"},
		"an argument":  {[]string{"--event", "-", "x"}, "usage: bridge explain --event FILE"},
		"no such file": {[]string{"--event", "/nowhere/event.json"}, "no such file"},
		"not JSON":     {[]string{"--event", write(t, "hello")}, "malformed"},
		"no id":        {[]string{"--event", write(t, `{"specversion":"1.0","source":"task-api","type":"task.updated"}`)}, "id is missing"},
		"a batch":      {[]string{"--event", write(t, "["+updated+"]")}, "malformed"},
		"too large":    {[]string{"--event", write(t, updated+strings.Repeat(" ", 1<<20))}, "longer than 1048576 bytes"},
	} {
		out, _, err := run(t.Context(), t, nil, "explain", c.args...)
		var usage *process.UsageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), c.want) || out != "" {
			t.Errorf("%s: explain = %v, printed %q, want a usage error with %q", name, err, out, c.want)
		}
	}
}

// TestMistakesInFilters have a place in the file, and sql one in the expression.
func TestMistakesInFilters(t *testing.T) {
	path := write(t, `
subscriptions:
  - name: a
    group: g
    sink: http://x/
    filters:
      - sql: type LIKE 'task.%' AND
      - {exact: {}}
      - prefix: {Type: x}
        suffix: {type: x}
      - any: []
      - not:
          all:
            - sql: |
                type = 'x'
                OR hunter2 hunter3
            - {exact: {type: ''}}
            - null
      - not:
      - sql: 5
      - sql:
      - nott: {exact: {type: x}}
      - exact: {data: x}
`)
	const one = "want exactly one of exact, prefix, suffix, all, any, not, sql; have "
	want := []string{
		":7:14: subscriptions[0].filters[0].sql: character 23: want a value, have the end",
		":8:17: subscriptions[0].filters[1].exact: want at least one attribute with its value",
		":9:17: subscriptions[0].filters[2].prefix: attribute names are made of lower-case letters and digits",
		":9:15: subscriptions[0].filters[2]: " + one + "prefix and suffix",
		":11:14: subscriptions[0].filters[3].any: want at least one filter",
		":14:20: subscriptions[0].filters[4].not.all[0].sql: line 2, character 12: want an operator or the end, have a name",
		":17:23: subscriptions[0].filters[4].not.all[1].exact: an attribute and its value must not be empty",
		":18:15: subscriptions[0].filters[4].not.all[2]: " + one + "none",
		":19:12: subscriptions[0].filters[5]: " + one + "none",
		":21:12: subscriptions[0].filters[7]: " + one + "none",
		":22:9: subscriptions[0].filters[8].nott: unknown key",
		":23:16: subscriptions[0].filters[9].exact: filters see the attributes of an event, not its data",
	}
	for i := range want {
		want[i] = "BRIDGE_CONFIG: " + path + want[i]
	}
	if diff := cmp.Diff(want, mistakes(t, path)); diff != "" {
		t.Errorf("mistakes (-want +got):\n%s", diff)
	}
}
