package acceptance_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	auditor "github.com/taskwire/taskwire/auditor/app"
	bridge "github.com/taskwire/taskwire/bridge/app"
	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/child"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/freeport"
	"github.com/taskwire/taskwire/internal/kafkatest"
	"github.com/taskwire/taskwire/internal/registry"
	"github.com/taskwire/taskwire/internal/registrytest"
	"github.com/taskwire/taskwire/schemas"
	taskapi "github.com/taskwire/taskwire/taskapi/app"
)

// inAvro runs the scripts with events in Avro: make acceptance-avro.
func inAvro() bool { return os.Getenv("ACCEPTANCE_ENCODING") == "avro" }

// useRegistry has the services of a script publish in Avro.
func (w *world) useRegistry(e *testscript.Env) {
	url := os.Getenv("SCHEMA_REGISTRY_URL")
	if url == "" {
		fake := srfake.New()
		e.Defer(fake.Close)
		url = fake.URL()
	}
	w.env["EVENT_ENCODING"], w.env["SCHEMA_REGISTRY_URL"] = "avro", url
}

// TestScriptsInAvro runs the path of an event with a registry in memory. The whole
// specification in Avro is make acceptance-avro.
func TestScriptsInAvro(t *testing.T) {
	t.Setenv("ACCEPTANCE_ENCODING", "avro")
	var files []string
	for _, name := range []string{"sc1_members", "sc4_flow", "signatures"} {
		files = append(files, filepath.Join("testdata", "script", name+".txtar"))
	}
	m := mode{boot: newOneProcess}
	testscript.Run(t, testscript.Params{Files: files, Cmds: commands(), Setup: func(e *testscript.Env) error { return setup(e, m) }, Condition: m.condition})
}

// asJSON shows a record in Avro as the event that it has, so that the scripts say the
// same of both encodings. Any other stays as it is.
func asJSON(r *kgo.Record) *kgo.Record {
	rec := event.Record{Key: r.Key, Value: r.Value}
	for _, h := range r.Headers {
		rec.Headers = append(rec.Headers, event.Header{Key: h.Key, Value: h.Value})
	}
	e, _, err := event.FromRecord(rec)
	if err != nil || !event.IsAvro(e) {
		return r
	}
	schema, err := registry.ParseSchema(schemas.TaskEvent)
	if err != nil {
		return r
	}
	_, value, err := registry.CutHeader(e.DataEncoded)
	if err != nil {
		return r
	}
	data, err := schema.AppendJSON(nil, value)
	if err != nil {
		return r
	}
	if e, err = event.AsJSON(e, data, schema.JSONSchema); err != nil {
		return r
	}
	body, err := event.Append(nil, e)
	if err != nil {
		return r
	}
	return &kgo.Record{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Key: r.Key, Value: body, Headers: r.Headers}
}

// avroSystem is three services with events in Avro.
type avroSystem struct {
	*testing.T
	topic            string
	cluster          *kafkatest.Cluster
	settings         map[string]string
	api, bridge, log *apptest.App
}

func startAvro(t *testing.T, cluster *kafkatest.Cluster, registry string) *avroSystem {
	t.Helper()
	s := &avroSystem{T: t, cluster: cluster, topic: cluster.Topic(t, 1)}
	dir := t.TempDir()
	s.settings = map[string]string{
		"KAFKA_BOOTSTRAP_SERVERS": strings.Join(s.cluster.Brokers, ","), "KAFKA_TOPIC": s.topic, "KAFKA_CREATE_TOPICS": "true",
		"EVENT_ENCODING": "avro", "SCHEMA_REGISTRY_URL": registry,
		"DATABASE_URL": "sqlite:" + filepath.Join(dir, "tasks.db"), "AUDIT_LOG_PATH": filepath.Join(dir, "audit.log"),
	}
	s.log = apptest.Start(t, "auditor", auditor.FromEnv, auditor.New, s.settings)
	config := filepath.Join(dir, "bridge.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "subscriptions:\n  - {name: audit, group: %s, sink: %s/, exhausted: block}\n", s.topic, s.log.URL), 0o600); err != nil {
		t.Fatal(err)
	}
	s.settings["BRIDGE_CONFIG"] = config
	s.bridge = apptest.Start(t, "bridge", bridge.FromEnv, bridge.New, s.settings)
	s.api = apptest.Start(t, "taskapi", taskapi.FromEnv, taskapi.New, s.settings)
	return s
}

func (s *avroSystem) create(title string) {
	s.Helper()
	req, err := http.NewRequestWithContext(context.WithoutCancel(s.Context()), http.MethodPost, s.api.URL+"/tasks", strings.NewReader(`{"title": "`+title+`"}`))
	if err != nil {
		s.Fatal(err)
	}
	resp, err := s.api.Client.Do(req)
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		s.Fatalf("create: %s", resp.Status)
	}
}

type auditLine struct {
	ID         string          `json:"event_id"`
	Data       json.RawMessage `json:"data"`
	Attributes map[string]any  `json:"attributes"`
}

// audited waits for n lines and returns them.
func (s *avroSystem) audited(n int) (lines []auditLine) {
	s.Helper()
	apptest.Await(s, fmt.Sprintf("%d lines are in the log", n), func() bool {
		text, err := os.ReadFile(s.settings["AUDIT_LOG_PATH"])
		return err == nil && bytes.Count(text, []byte("\n")) >= n
	})
	for _, line := range s.lines() {
		var l auditLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			s.Fatal(err)
		}
		lines = append(lines, l)
	}
	return lines
}

// lines are those of the log as they stand there.
func (s *avroSystem) lines() []string {
	s.Helper()
	text, err := os.ReadFile(s.settings["AUDIT_LOG_PATH"])
	if err != nil {
		s.Fatal(err)
	}
	return slices.Collect(strings.Lines(string(text)))
}

// stored are the events that the Task API has committed, as JSON.
func (s *avroSystem) stored() (events [][]byte) {
	s.Helper()
	db, err := sql.Open("sqlite", "file:"+strings.TrimPrefix(s.settings["DATABASE_URL"], "sqlite:"))
	if err != nil {
		s.Fatal(err)
	}
	defer db.Close()
	rows, err := db.QueryContext(s.Context(), "SELECT event FROM outbox ORDER BY id")
	if err != nil {
		s.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var e []byte
		if err := rows.Scan(&e); err != nil {
			s.Fatal(err)
		}
		events = append(events, e)
	}
	if err := rows.Err(); err != nil {
		s.Fatal(err)
	}
	return events
}

var auditedAt = regexp.MustCompile(`"audited_at":"[^"]+"`)

// TestTheLogSaysTheSameOfAvro: the line of an event that came in Avro is, but for the
// time at which it was written, the line of the same event in JSON.
func TestTheLogSaysTheSameOfAvro(t *testing.T) {
	cluster, fake := kafkatest.Start(t), registrytest.Start(t)
	inAvro, inJSON := startAvro(t, cluster, fake.URL()), startAvro(t, cluster, fake.URL())
	for i, title := range []string{"Buy milk", "Grüße 😀", `\"<b>&amp;\u00fc</b>\" \\ /`} { // as JSON has them
		inAvro.create(title)
		inAvro.audited(i + 1) // so that both logs have one order
	}
	producer, err := kgo.NewClient(kgo.SeedBrokers(cluster.Brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	for i, e := range inAvro.stored() {
		r := &kgo.Record{Topic: inJSON.topic, Value: e, Headers: []kgo.RecordHeader{{Key: "content-type", Value: []byte(event.KafkaContentType)}}}
		if err := producer.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
		inJSON.audited(i + 1)
	}
	for i, line := range inAvro.lines() {
		got, want := auditedAt.ReplaceAllString(line, ""), auditedAt.ReplaceAllString(inJSON.lines()[i], "")
		if got != want || got == line {
			t.Errorf("in Avro: %sin JSON: %s", got, want)
		}
	}
}

// TestAvroWithARealRegistry: Confluent's client reads what we write, also with the
// schema of a later version, and we read what it writes, also with a field that this
// version does not know. The registry may be down for what is known.
func TestAvroWithARealRegistry(t *testing.T) {
	if !kafkatest.IsReal() {
		t.Skip("only with a real Kafka")
	}
	cluster := kafkatest.Start(t)
	real := registrytest.StartReal(t, cluster.Brokers) // keeps its schemas in that Kafka
	s := startAvro(t, cluster, real.URL)
	s.create("Grüße 😀")
	line := s.audited(1)[0]
	if line.Attributes["datacontenttype"] != "application/json" || line.Attributes["dataschema"] != schemas.TaskEventJSON {
		t.Errorf("attributes in the log = %v", line.Attributes)
	}

	got := registrytest.PythonRead(t, s.cluster.Brokers, real.URL, s.topic, 1, "")[0]
	var ours, theirs any
	if err := json.Unmarshal(line.Data, &ours); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(got.Value, &theirs); err != nil || fmt.Sprint(theirs) != fmt.Sprint(ours) {
		t.Errorf("the Python client reads %s, %v; the log has %s", got.Value, err, line.Data)
	}
	schema, err := registry.ParseSchema(schemas.TaskEvent)
	if err != nil {
		t.Fatal(err)
	}
	if want := real.URL + "/subjects/" + s.topic + "-value/versions/1?sha256=" + schema.Fingerprint; got.Headers["ce_dataschema"] != want || got.Headers["content-type"] != "application/avro" || got.Headers["ce_id"] != line.ID {
		t.Errorf("headers = %v, want dataschema %s", got.Headers, want)
	}

	// An old event in the eyes of a reader whose schema has another name for a field.
	renamed := filepath.Join(t.TempDir(), "renamed.avsc")
	text := strings.Replace(schemas.TaskEvent, `"name": "owner_id"`, `"name": "assignee_id", "aliases": ["owner_id"]`, 1)
	text = strings.Replace(text, `{"name": "task_id"`, `{"name": "priority", "type": ["null", "int"], "default": null}, {"name": "task_id"`, 1)
	if err := os.WriteFile(renamed, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var newer map[string]any
	value := registrytest.PythonRead(t, s.cluster.Brokers, real.URL, s.topic, 1, renamed)[0].Value
	if err := json.Unmarshal(value, &newer); err != nil {
		t.Fatal(err)
	}
	_, hasAssignee := newer["assignee_id"]
	_, hasOwner := newer["owner_id"]
	if !hasAssignee || hasOwner || newer["title"] != "Grüße 😀" || newer["priority"] != nil {
		t.Errorf("a newer reader finds %s", value)
	}

	// A newer producer: one optional field more, which the registry accepts.
	next := strings.Replace(schemas.TaskEvent, `{"name": "owner_id"`, `{"name": "priority", "type": ["null", "int"], "default": null}, {"name": "owner_id"`, 1)
	registrytest.PythonWrite(t, s.cluster.Brokers, real.URL, s.topic, registrytest.PythonRecord{
		Key: "t9", Schema: next, Value: json.RawMessage(`{"task_id": "t9", "title": "From Python", "status": "pending", "priority": 3, "owner_id": null}`),
		Headers: map[string]string{"ce_specversion": "1.0", "ce_id": "py-1", "ce_source": "python", "ce_type": "task.created", "ce_partitionkey": "t9", "content-type": "application/avro"},
	})
	if got, want := string(s.audited(2)[1].Data), `{"task_id":"t9","title":"From Python","status":"pending","priority":3,"owner_id":null}`; got != want {
		t.Errorf("the log has %s, want %s", got, want)
	}

	// A registry that is down holds up nothing whose schema is known; a bridge that
	// starts meanwhile waits for it, and goes on by itself.
	if err := real.Stop(); err != nil {
		t.Fatal(err)
	}
	s.create("known")
	s.audited(3)
	if err := s.bridge.Stop(); err != nil {
		t.Fatal(err)
	}
	s.bridge = apptest.Start(t, "bridge", bridge.FromEnv, bridge.New, s.settings)
	s.create("unknown")
	apptest.Await(t, "the bridge says what it waits for", func() bool {
		_, text := s.bridge.Get(t, s.bridge.OpsURL+"/metrics")
		return strings.Contains(text, `taskwire_bridge_blocked{reason="schema",subscription="audit"} 1`)
	})
	if err := real.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.audited(4)
	// The registry refuses what could not read the events of before.
	c, err := registry.New(registry.Config{URL: real.URL}, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var all sync.WaitGroup
	for range 4 { // replicas that start at once
		all.Go(func() {
			var err error
			apptest.Await(t, "a replica has registered", func() bool {
				var r registry.Registered
				r, err = c.Register(t.Context(), s.topic+"-again-value", schemas.TaskEvent)
				return err == nil && r.Version == 1
			})
		})
	}
	all.Wait()
	if _, err := c.Register(t.Context(), s.topic+"-value", strings.Replace(schemas.TaskEvent, `"name": "title"`, `"name": "summary"`, 1)); err == nil || !strings.Contains(err.Error(), "refuses") {
		t.Errorf("Register of an incompatible schema = %v, want it refused", err)
	}
}

// TestARealRegistryWithoutItsData sets a registry up again with an empty folder, where
// another schema then has the id that the Task API knows. The Task API notices, and a
// bridge that starts reads the events of before and after, in order. Then the subject is
// deleted, first softly, which changes nothing for anybody, then for good.
func TestARealRegistryWithoutItsData(t *testing.T) {
	if !kafkatest.IsReal() {
		t.Skip("only where a real Kafka is asked for: the registry needs Java, too")
	}
	real := registrytest.StartReal(t, nil)
	to, err := url.Parse(real.URL)
	if err != nil {
		t.Fatal(err)
	}
	var down atomic.Bool
	proxy := httputil.NewSingleHostReverseProxy(to)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			http.Error(w, "starting", http.StatusServiceUnavailable)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s := startAvro(t, kafkatest.Start(t), server.URL)
	s.create("before")
	s.audited(1)

	down.Store(true)
	if err := errors.Join(real.Stop(), real.Forget(), real.Restart(t.Context())); err != nil {
		t.Fatal(err)
	}
	api, err := sr.NewClient(sr.URLs(real.URL))
	if err != nil {
		t.Fatal(err)
	}
	lookalike := strings.Replace(schemas.TaskEvent, `"name": "title"`, `"name": "summary"`, 1)
	if _, err := api.RegisterSchema(t.Context(), "other-value", sr.Schema{Schema: lookalike}, -1, -1); err != nil {
		t.Fatal(err)
	}
	s.create("known") // the registry is down: the id is still good
	s.audited(2)
	if err := s.bridge.Stop(); err != nil {
		t.Fatal(err)
	}
	s.create("old id")
	down.Store(false)
	s.bridge = apptest.Start(t, "bridge", bridge.FromEnv, bridge.New, s.settings)
	s.audited(3)
	s.lost(1)
	s.create("new id")
	s.audited(4)

	subject := s.topic + "-value"
	if _, err := api.DeleteSubject(t.Context(), subject, sr.SoftDelete); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.bridge.Stop(), s.api.Stop()); err != nil {
		t.Fatal(err)
	}
	s.bridge = apptest.Start(t, "bridge", bridge.FromEnv, bridge.New, s.settings)
	s.api = apptest.Start(t, "taskapi", taskapi.FromEnv, taskapi.New, s.settings)
	s.create("softly deleted")
	s.audited(5)
	if _, err := api.DeleteSubject(t.Context(), subject, sr.SoftDelete); err != nil {
		t.Fatal(err)
	}
	if _, err := api.DeleteSubject(t.Context(), subject, sr.HardDelete); err != nil {
		t.Fatal(err)
	}
	s.lost(1) // of the Task API that was started again
	s.create("deleted for good")
	var titles []string
	for _, line := range s.audited(6) {
		var data struct{ Title string }
		if err := json.Unmarshal(line.Data, &data); err != nil {
			t.Fatal(err)
		}
		titles = append(titles, data.Title)
	}
	if diff := cmp.Diff([]string{"before", "known", "old id", "new id", "softly deleted", "deleted for good"}, titles); diff != "" {
		t.Errorf("the log (-want +got):\n%s", diff)
	}
	ids := map[int]bool{}
	for _, id := range s.ids(6) {
		ids[id] = true
	}
	if len(ids) != 3 {
		t.Errorf("ids of the records = %v, want three, as the schema was lost twice", ids)
	}
}

// lost waits until the Task API has missed its schema n times.
func (s *avroSystem) lost(n int) {
	s.Helper()
	apptest.Await(s, "the Task API notices", func() bool {
		_, metrics := s.api.Get(s, s.api.OpsURL+"/metrics")
		return strings.Contains(metrics, fmt.Sprintf("\ntaskwire_schema_lost_total %d\n", n))
	})
}

// ids are those of the schemas of the first n records.
func (s *avroSystem) ids(n int) (ids []int) {
	s.Helper()
	consumer, err := kgo.NewClient(kgo.SeedBrokers(s.cluster.Brokers...), kgo.ConsumeTopics(s.topic))
	if err != nil {
		s.Fatal(err)
	}
	defer consumer.Close()
	for len(ids) < n {
		for _, r := range consumer.PollFetches(s.Context()).Records() {
			id, _, err := registry.CutHeader(r.Value)
			if err != nil {
				s.Errorf("offset %d: %v", r.Offset, err)
			}
			ids = append(ids, id)
		}
	}
	return ids
}

// TestDevInAvro runs dev in a process of its own with a registry in another, which keeps
// its schemas in a file: after both were killed, what waited in Avro is read.
func TestDevInAvro(t *testing.T) {
	if !kafkatest.IsReal() {
		t.Skip("only where a real Kafka is asked for: the registry needs Java, too")
	}
	dir, base := t.TempDir(), freeport.Base()
	real := registrytest.StartReal(t, nil)
	dev := filepath.Join(dir, "dev")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", dev, "./dev")
	build.Dir = root()
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build dev: %v\n%s", err, out)
	}
	start := func() *child.Process {
		cmd := exec.CommandContext(t.Context(), dev, "-data", filepath.Join(dir, "data"), "-port-base", strconv.Itoa(base))
		cmd.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "EVENT_ENCODING=avro", "SCHEMA_REGISTRY_URL=" + real.URL}
		p, err := child.Start(cmd, filepath.Join(dir, "dev.log"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.End(syscall.SIGKILL, 10*time.Second) }) // it may have ended
		if err := p.AwaitReady(t.Context(), fmt.Sprintf("http://127.0.0.1:%d/readyz", base)); err != nil {
			t.Fatal(err)
		}
		return p
	}
	s := &avroSystem{T: t, settings: map[string]string{"AUDIT_LOG_PATH": filepath.Join(dir, "data", "audit.log")}}
	s.api = &apptest.App{URL: fmt.Sprintf("http://127.0.0.1:%d", base), Client: http.DefaultClient}
	p := start()
	s.create("before")
	s.audited(1)
	if err := errors.Join(p.End(syscall.SIGKILL, 10*time.Second), real.Stop(), real.Restart(t.Context())); err != nil {
		t.Fatal(err)
	}
	start()
	s.create("after")
	s.audited(2)

	consumer, err := kgo.NewClient(kgo.SeedBrokers(fmt.Sprintf("127.0.0.1:%d", base+1092)), kgo.ConsumeTopics("task-events"))
	if err != nil {
		t.Fatal(err)
	}
	defer consumer.Close()
	ids := map[string]int{}
	for n := 0; n < 2; {
		for _, r := range consumer.PollFetches(t.Context()).Records() {
			id, _, err := registry.CutHeader(r.Value)
			if err != nil {
				t.Errorf("offset %d: %v", r.Offset, err)
			}
			ids[fmt.Sprint(id)]++
			n++
		}
	}
	if len(ids) != 1 {
		t.Errorf("schema ids of the records = %v, want one", ids)
	}
}
