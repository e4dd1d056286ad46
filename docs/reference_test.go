// Package docs_test writes the pages of docs/reference from the programs, and holds
// those in the repository equal: go test ./docs -update writes them.
package docs_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.uber.org/goleak"

	auditor "github.com/taskwire/taskwire/auditor/app"
	bridge "github.com/taskwire/taskwire/bridge/app"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/process"
	notifier "github.com/taskwire/taskwire/notifier/app"
	"github.com/taskwire/taskwire/schemas"
	taskapi "github.com/taskwire/taskwire/taskapi/app"
)

var update = flag.Bool("update", false, "write docs/reference")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// program is one of the four, as the reference looks at it.
type program struct {
	name string
	// open reads the settings of lookup and, unless the directory is "", opens the service there.
	open func(t *testing.T, lookup env.Lookup, dir string) *prometheus.Registry
}

type service interface {
	Registry() *prometheus.Registry
	Close() error
	Addr() net.Addr
}

func of[C any, S service](name string, fromEnv func(env.Lookup) (C, error), open func(context.Context, C, *slog.Logger) (S, error)) program {
	return program{name, func(t *testing.T, lookup env.Lookup, dir string) *prometheus.Registry {
		cfg, err := fromEnv(lookup)
		if dir == "" {
			return nil // only what was read counts
		}
		if err != nil {
			t.Fatal(err)
		}
		s, err := open(t.Context(), cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s.Registry()
	}}
}

func programs() []program {
	return []program{
		of("taskapi", taskapi.FromEnv, taskapi.New), of("bridge", bridge.FromEnv, bridge.New),
		of("notifier", notifier.FromEnv, notifier.New), of("auditor", auditor.FromEnv, auditor.New),
	}
}

func manual(t *testing.T, name string) string {
	t.Helper()
	source, err := os.ReadFile(filepath.Join("..", name, "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	return process.Manual(string(source))
}

// head begins a page.
func head(title, description, text string) string {
	return "---\ntitle: " + title + "\ndescription: " + description + "\n---\n<!-- Written by go test ./docs -update; do not edit. -->\n\n# " + title + "\n\n" + text + "\n\n"
}

// current holds a file equal to what the code says, or writes it.
func current(t *testing.T, name, want string) {
	t.Helper()
	path := filepath.Join("reference", name)
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if have, err := os.ReadFile(path); err != nil || string(have) != want {
		t.Errorf("docs/%s is not what the code says (%v); run go test ./docs -update", path, err)
	}
}

// setting is a row of the table in a program's manual.
type setting struct{ name, initial, meaning string }

var gap = regexp.MustCompile(`\s{2,}`)

// settings reads the table of a manual. Its columns are those of LISTEN_ADDR; the
// default is the second one at taskapi and the third one at the others.
func settings(t *testing.T, text string) (rows []setting) {
	t.Helper()
	lines := strings.Split(text, "\n")
	first := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, "\tLISTEN_ADDR ") })
	if first < 0 {
		t.Fatal("no table of settings in the manual")
	}
	line := lines[first][1:]
	second := gap.FindStringIndex(line)[1]
	third := second + gap.FindStringIndex(line[second:])[1]
	defaultFirst := line[second] == ':'
	for first > 0 && strings.HasPrefix(lines[first-1], "\t") {
		first--
	}
	for _, line := range lines[first:] {
		line, ok := strings.CutPrefix(strings.TrimRight(line, " "), "\t")
		if !ok {
			break // the table is over
		}
		at := 0
		if line[0] != ' ' {
			if at = len(line); gap.MatchString(line) {
				at = gap.FindStringIndex(line)[1]
			}
			rows = append(rows, setting{name: strings.TrimSpace(line[:at])})
		}
		row := &rows[len(rows)-1]
		for at < len(line) {
			at += len(line[at:]) - len(strings.TrimLeft(line[at:], " "))
			end := len(line)
			if next := gap.FindStringIndex(line[at:]); next != nil {
				end = at + next[0]
			}
			cell := &row.meaning
			if (at >= third) != defaultFirst {
				cell = &row.initial
			}
			if at > second && at < third && end == len(line) && line[0] != ' ' && !defaultFirst && row.meaning != "" {
				cell = &row.initial // after a meaning that was longer than its column
			}
			*cell = strings.TrimSpace(*cell + " " + line[at:end])
			at = end
		}
	}
	return rows
}

func TestSettings(t *testing.T) {
	var page strings.Builder
	page.WriteString(head("Settings", "every environment variable of the four programs", "Settings come from the environment. These are the tables of each program's `--help`; what they refer to, such as Tokens, are sections of its [manual](commands.md). Traces have [variables of their own](#traces)."))
	for _, p := range programs() {
		text := manual(t, p.name)
		fmt.Fprintf(&page, "## %s\n\n| variable | default | what it is |\n|---|---|---|\n", p.name)
		listed := []string{"PORT", "KUBERNETES_SERVICE_HOST"} // set by platforms, not by people
		for _, row := range settings(t, text) {
			names := strings.Split(row.name, ", ")
			if listed = append(listed, names...); row.name == "OTEL_..." {
				continue // below
			}
			initial := row.initial
			if initial != "" && !strings.Contains(initial, " ") && initial != "none" && initial != "off" {
				initial = "`" + initial + "`"
			}
			fmt.Fprintf(&page, "| `%s` | %s | %s |\n", strings.Join(names, "`, `"), initial, cell(row.meaning))
		}
		page.WriteString("\n")
		for _, name := range readBy(t, p) {
			if !slices.Contains(listed, name) && !strings.HasPrefix(name, "OTEL_") {
				t.Errorf("%s reads %s, which its --help does not list", p.name, name)
			}
		}
	}
	page.WriteString("## Traces\n\nThe same for all programs, as OpenTelemetry defines them; see [Traces](../traces.md).\n\n| variable |\n|---|\n")
	for _, name := range readBy(t, programs()[2]) {
		if strings.HasPrefix(name, "OTEL_") {
			fmt.Fprintf(&page, "| `%s` |\n", name)
		}
	}
	current(t, "settings.md", page.String())
}

// readBy are the variables that a program asks for.
func readBy(t *testing.T, p program) []string {
	t.Helper()
	read := map[string]bool{}
	given := map[string]string{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_TRACES_SAMPLER": "traceidratio"}
	p.open(t, func(key string) (string, bool) {
		read[key] = true
		v, ok := given[key]
		return v, ok
	}, "")
	return slices.Sorted(maps.Keys(read))
}

// cell is text as a table in Markdown has it.
func cell(s string) string {
	return strings.NewReplacer("|", "\\|", "<", "&lt;", "{", "\\{", "*", "\\*", "_", "\\_").Replace(s)
}

func TestCommands(t *testing.T) {
	var page strings.Builder
	page.WriteString(head("Commands", "what --help of each program prints", "What `--help` of each program prints. In a clone, run `go run ./bridge` in place of `bridge`; in an image the programs are `/ko-app/NAME`."))
	for _, name := range []string{"taskapi", "bridge", "notifier", "auditor", "dev"} {
		fmt.Fprintf(&page, "## %s\n\n```text\n%s```\n\n", name, strings.ReplaceAll(manual(t, name), "\t", "    "))
	}
	current(t, "commands.md", page.String())
}

func TestHTTP(t *testing.T) {
	var page strings.Builder
	page.WriteString(head("HTTP APIs", "every operation of the OpenAPI documents", "From the OpenAPI documents, which each service serves as `/openapi.json`. The Task API shows its own at `/docs`. The admin API of the bridge is in [its manual](commands.md#bridge)."))
	documents, err := filepath.Glob("../*/openapi.yaml")
	if err != nil || len(documents) < 2 {
		t.Fatalf("documents %v, %v", documents, err)
	}
	for _, path := range documents {
		loader := openapi3.NewLoader()
		d, err := loader.LoadFromFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(filepath.Dir(path))
		fmt.Fprintf(&page, "## %s\n\n[%s/openapi.yaml](../../%s/openapi.yaml)\n\n| call | what it does | answers |\n|---|---|---|\n", d.Info.Title, name, name)
		for _, path := range d.Paths.InMatchingOrder() {
			operations := d.Paths.Value(path).Operations()
			for _, method := range slices.Sorted(maps.Keys(operations)) {
				op := operations[method]
				fmt.Fprintf(&page, "| `%s %s` | %s | %s |\n", method, path, cell(op.Summary), strings.Join(slices.Sorted(maps.Keys(op.Responses.Map())), ", "))
			}
		}
		page.WriteString("\n")
	}
	current(t, "http.md", page.String())
}

var described = regexp.MustCompile(`fqName: "(\w+)", help: "(.*?)", (?:unit: "\w*", )?constLabels: \{.*\}, variableLabels: \{(.*)\}\}`)

func TestMetrics(t *testing.T) {
	type metric struct {
		help, labels string
		of           []string
	}
	found := map[string]metric{}
	for _, p := range programs() {
		dir := t.TempDir()
		reg := p.open(t, env.Map(map[string]string{
			"LISTEN_ADDR": "127.0.0.1:0", "OPS_ADDR": "127.0.0.1:0", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
			"DATABASE_URL": "sqlite:" + filepath.Join(dir, "tasks.db"), "AUDIT_LOG_PATH": filepath.Join(dir, "audit.log"),
			"EVENT_ENCODING": "avro", "SCHEMA_REGISTRY_URL": "http://127.0.0.1:1",
		}), dir)
		descs := make(chan *prometheus.Desc)
		go func() { defer close(descs); reg.Describe(descs) }()
		for d := range descs {
			m := described.FindStringSubmatch(d.String())
			if m == nil {
				t.Fatalf("cannot read %s", d)
			}
			if strings.HasPrefix(m[1], "taskwire_") {
				one := found[m[1]]
				found[m[1]] = metric{m[2], m[3], append(slices.DeleteFunc(one.of, func(s string) bool { return s == p.name }), p.name)}
			}
		}
	}
	if len(found) < 30 {
		t.Fatalf("only %d metrics", len(found))
	}
	var page strings.Builder
	page.WriteString(head("Metrics", "every metric with its labels", "Served as `/metrics` on the operator ports, in the format of Prometheus, beside `go_` and `process_`. What ends in `_total` is a counter."))
	page.WriteString("| metric | labels | | of |\n|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(found)) {
		m := found[name]
		labels := ""
		if m.labels != "" {
			labels = "`" + strings.ReplaceAll(m.labels, ",", "`, `") + "`"
		}
		fmt.Fprintf(&page, "| `%s` | %s | %s | %s |\n", name, labels, cell(m.help), strings.Join(m.of, ", "))
	}
	current(t, "metrics.md", page.String())
}

// object is JSON.
type object = map[string]any

// asyncAPI describes the topics.
func asyncAPI(t *testing.T) object {
	t.Helper()
	source, err := os.ReadFile("../bridge/internal/deadletter/deadletter.go")
	if err != nil {
		t.Fatal(err)
	}
	text := object{"type": "string"}
	letter := object{}
	for _, m := range regexp.MustCompile(`\tadd\("([a-z-]+)"`).FindAllSubmatch(source, -1) {
		letter["dlq-"+string(m[1])] = text
	}
	if len(letter) < 14 {
		t.Fatalf("headers of a dead letter: %v", letter)
	}
	kafka := object{"kafka": object{"key": object{"type": "string", "description": "the id of the task"}, "bindingVersion": "0.5.0"}}
	payload := object{"schemaFormat": "application/schema+json;version=draft-07", "schema": object{"$ref": "task-event.schema.json"}}
	messages := object{}
	for _, kind := range []string{event.TypeCreated, event.TypeUpdated, event.TypeCompleted} {
		messages[kind] = object{
			"name": kind, "contentType": event.HTTPContentType, "payload": payload, "bindings": kafka,
			"headers":       object{"type": "object", "properties": object{"content-type": text}},
			"correlationId": object{"location": "$message.payload#/correlationid"},
		}
	}
	maps.Copy(messages, inAvro(t, text))
	refs := object{}
	for kind := range messages {
		refs[kind] = object{"$ref": "#/components/messages/" + kind}
	}
	messages["deadletter"] = object{
		"name": "deadletter", "summary": "A record of another topic, with its key, value and headers unchanged, and why it could not be delivered.",
		"headers": object{"type": "object", "required": []string{"dlq-topic", "dlq-partition", "dlq-offset", "dlq-subscription", "dlq-reason"}, "properties": letter}, "payload": object{"description": "what the record held"},
	}
	messages["pause"] = object{
		"name": "pause", "summary": "Whether a subscription is paused; the key is its name, and the last record counts.", "contentType": "application/json",
		"bindings": object{"kafka": object{"key": object{"type": "string", "description": "the name of the subscription"}, "bindingVersion": "0.5.0"}},
		"payload": object{"type": "object", "required": []string{"paused"}, "properties": object{
			"paused": object{"type": "boolean"}, "reason": text, "by": text, "at": object{"type": "string", "format": "date-time"},
		}},
	}
	one := func(name string) object { return object{name: object{"$ref": "#/components/messages/" + name}} }
	return object{
		"asyncapi": "3.0.0",
		"info":     object{"title": "taskwire", "version": "1.0.0", "description": "The topics of taskwire. Names are the defaults.", "license": object{"name": "Apache-2.0"}},
		"servers":  object{"kafka": object{"host": "localhost:9092", "protocol": "kafka"}},
		"channels": object{
			"events":      object{"address": "task-events", "description": "Every change of a task, in order per task.", "messages": refs},
			"deadletters": object{"address": "task-events-dlq", "description": "What could not be delivered.", "messages": one("deadletter")},
			"control":     object{"address": "taskwire-control", "description": "Pauses of subscriptions. One partition, compacted.", "messages": one("pause")},
		},
		"operations": object{
			"publish":     object{"action": "send", "summary": "The Task API publishes each change once or, after a crash, again.", "channel": object{"$ref": "#/channels/events"}},
			"deliver":     object{"action": "receive", "summary": "The bridge delivers each event to the sinks of its subscriptions.", "channel": object{"$ref": "#/channels/events"}},
			"setAside":    object{"action": "send", "summary": "The bridge sets aside what it cannot deliver.", "channel": object{"$ref": "#/channels/deadletters"}},
			"redrive":     object{"action": "receive", "summary": "bridge dlq redrive delivers dead letters again.", "channel": object{"$ref": "#/channels/deadletters"}},
			"pause":       object{"action": "send", "summary": "A bridge that is asked for a pause writes it.", "channel": object{"$ref": "#/channels/control"}},
			"followPause": object{"action": "receive", "summary": "Every bridge follows the pauses.", "channel": object{"$ref": "#/channels/control"}},
		},
		"components": object{"messages": messages},
	}
}

// inAvro are the messages with EVENT_ENCODING=avro.
func inAvro(t *testing.T, text object) object {
	t.Helper()
	var schema object
	if err := json.Unmarshal([]byte(schemas.TaskEvent), &schema); err != nil {
		t.Fatal(err)
	}
	headers := object{"content-type": text}
	for _, name := range []string{"specversion", "id", "source", "type", "subject", "time", "dataschema", "partitionkey", "correlationid", "taskversion",
		"actor", "traceparent", "tracestate", "producersignature"} {
		headers["ce_"+name] = text
	}
	messages := object{}
	for _, kind := range []string{event.TypeCreated, event.TypeUpdated, event.TypeCompleted} {
		messages[kind+".avro"] = object{
			"name": kind, "summary": "With EVENT_ENCODING=avro. In front of the value are a byte 0 and the id of its schema, 4 bytes.", "contentType": event.MediaAvro,
			"payload": object{"schemaFormat": "application/vnd.apache.avro+json;version=1.9.0", "schema": schema},
			"bindings": object{"kafka": object{"key": object{"type": "string", "description": "the id of the task"},
				"schemaIdLocation": "payload", "schemaIdPayloadEncoding": "confluent", "bindingVersion": "0.5.0"}},
			"headers":       object{"type": "object", "properties": headers},
			"correlationId": object{"location": "$message.header#/ce_correlationid"},
		}
	}
	return messages
}

func TestAsyncAPI(t *testing.T) {
	raw, err := json.MarshalIndent(asyncAPI(t), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	current(t, "asyncapi.json", string(raw)+"\n")
	packed, err := os.ReadFile("testdata/asyncapi-3.0.0.json.gz") // of @asyncapi/specs 6.11.1, Apache-2.0
	if err != nil {
		t.Fatal(err)
	}
	zip, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	definition, err := jsonschema.UnmarshalJSON(zip)
	if err != nil {
		t.Fatal(err)
	}
	schema := compile(t, "asyncapi.json", definition)
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(document); err != nil {
		t.Errorf("%#v", err)
	}
	delete(document.(object)["info"].(object), "version")
	if schema.Validate(document) == nil {
		t.Error("the schema of AsyncAPI takes a document without a version")
	}
}

func compile(t *testing.T, name string, definition any) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource(name, definition); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile(name)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// The schema of the events takes what the Task API makes, and has no attribute
// that it does not make.
func TestTheSchemaOfEvents(t *testing.T) {
	raw, err := os.ReadFile("reference/task-event.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	definition, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	schema := compile(t, "event.json", definition)
	const id = "0198f3f7-3a2b-7c4d-8e5f-0123456789ab"
	owner := id
	full := event.Change{
		ID: id, Type: event.TypeCreated, Time: time.Now(), TaskVersion: 1, CorrelationID: "c", Actor: "alice",
		TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", TraceState: "a=1",
		Data: event.Data{TaskID: id, Title: "A title", Status: "pending", OwnerID: &owner},
	}
	bare := full
	bare.Actor, bare.TraceParent, bare.TraceState, bare.Data.OwnerID, bare.Type = "", "", "", nil, event.TypeCompleted
	made := object{"producersignature": true}
	for _, c := range []event.Change{full, bare} {
		text, err := event.AppendChange(nil, c)
		if err != nil {
			t.Fatal(err)
		}
		instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(instance); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		maps.Copy(made, instance.(object))
		for _, wrong := range []object{{"type": "task.deleted"}, {"taskversion": 0}, {"data": nil}, {"source": "other"}, {"time": "yesterday"}} {
			broken := maps.Clone(instance.(object))
			maps.Copy(broken, wrong)
			if schema.Validate(broken) == nil {
				t.Errorf("the schema takes an event with %v", wrong)
			}
		}
	}
	properties := definition.(object)["properties"].(object)
	if a, b := slices.Sorted(maps.Keys(properties)), slices.Sorted(maps.Keys(made)); !slices.Equal(a, b) {
		t.Errorf("the schema has %v, events have %v", a, b)
	}
	var page strings.Builder
	page.WriteString(head("Topics and events", "the topics, the events with their JSON Schema, and the headers of a post",
		"[asyncapi.json](asyncapi.json) (AsyncAPI 3) describes the topics, [task-event.schema.json](task-event.schema.json) (JSON Schema) the events."))
	page.WriteString("## Topics\n\n| topic | | records |\n|---|---|---|\n")
	channels := asyncAPI(t)["channels"].(object)
	for _, name := range []string{"events", "deadletters", "control"} {
		c := channels[name].(object)
		fmt.Fprintf(&page, "| `%s` | %s | %s |\n", c["address"], c["description"], strings.Join(slices.Sorted(maps.Keys(c["messages"].(object))), ", "))
	}
	page.WriteString("\n## An event\n\nA CloudEvent 1.0. `EVENT_MODE` says how it becomes a record: [SPEC.md](../../SPEC.md#events).\n\n| attribute | always there | |\n|---|---|---|\n")
	required := definition.(object)["required"].([]any)
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		always := ""
		if slices.Contains(required, any(name)) {
			always = "yes"
		}
		about := properties[name].(object)
		text, _ := about["description"].(string)
		if fixed, ok := about["const"]; ok {
			text = fmt.Sprintf("`%v`", fixed)
		}
		if list, ok := about["enum"].([]any); ok {
			text = strings.Trim(fmt.Sprintf("`%v`", list), "`[]")
			text = "`" + strings.ReplaceAll(text, " ", "`, `") + "`"
		}
		fmt.Fprintf(&page, "| `%s` | %s | %s |\n", name, always, text)
	}
	page.WriteString("\nThe data is an object with `task_id`, `title`, `status` (`pending`, `in_progress`, `completed`) and `owner_id` (a uuid or null).\n" + posts)
	current(t, "topics.md", page.String())
}

const posts = `
## A post to a sink

| header | |
|---|---|
| ` + "`Content-Type`" + ` | ` + "`application/cloudevents+json`" + `; for a batch ` + "`application/cloudevents-batch+json`" + `; in the binary mode that of the data, with the attributes as ` + "`ce-`" + ` headers |
| ` + "`Taskwire-Attempt`" + ` | 1, 2, 3 and so on |
| ` + "`Taskwire-Topic`, `Taskwire-Partition`, `Taskwire-Offset`" + ` | where the record is; of a batch all offsets, with commas |
| ` + "`traceparent`, `tracestate`" + ` | the trace context, if there is one: see [Traces](../traces.md) |
| ` + "`webhook-id`, `webhook-timestamp`, `webhook-signature`" + ` | Standard Webhooks, when the subscription signs |
| ` + "`Authorization`" + ` | with ` + "`auth`" + ` |

What answers mean is in [SPEC.md](../../SPEC.md#delivery).
`
