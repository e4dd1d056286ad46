package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	kafkago "github.com/segmentio/kafka-go"
	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/freeport"
	"github.com/taskwire/taskwire/internal/kafkatest"
	"github.com/taskwire/taskwire/internal/process"
	"github.com/taskwire/taskwire/taskapi/app"
)

// asProgram turns this test binary into the program, for tests that kill it.
const asProgram = "TASKAPI_TEST_PROCESS"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		process.Main("taskapi", "", app.FromEnv, app.New)
	}
	goleak.VerifyTestMain(m)
}

type fixture struct {
	*testing.T
	settings map[string]string
}

func newFixture(t *testing.T, brokers []string, topic string) *fixture {
	return &fixture{T: t, settings: map[string]string{
		"LISTEN_ADDR": "127.0.0.1:0", "OPS_ADDR": "127.0.0.1:0", "SHUTDOWN_GRACE": "20s",
		"DATABASE_URL":            "sqlite:" + filepath.Join(t.TempDir(), "tasks.db"),
		"KAFKA_BOOTSTRAP_SERVERS": strings.Join(brokers, ","),
		"KAFKA_TOPIC":             topic,
	}}
}

// start runs the service in this process.
func (f *fixture) start() *apptest.App {
	f.Helper()
	return apptest.Start(f, "taskapi", app.FromEnv, app.New, f.settings)
}

// program runs the service as a process and waits until it listens.
func (f *fixture) program() (p *apptest.Process, base string) {
	f.Helper()
	vars := []string{asProgram + "=1", "LOG_FORMAT=json"}
	for name, value := range f.settings {
		vars = append(vars, name+"="+value)
	}
	p = apptest.Self(f, vars...)
	base, _ = p.URLs(f)
	return p, base
}

type answer struct {
	ID      string
	Version int64
	Status  string
}

// send returns an error unless the answer is a 2xx; then nothing is acknowledged.
func send(base, method, path, body string) (a answer, err error) {
	req, err := http.NewRequest(method, base+path, strings.NewReader(body))
	if err != nil {
		return a, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		return a, err
	}
	if resp.StatusCode/100 != 2 {
		return a, fmt.Errorf("%s %s: %d %s", method, path, resp.StatusCode, content)
	}
	return a, json.Unmarshal(content, &a)
}

// acknowledged is the highest version of each task that was answered with 2xx.
type acknowledged struct {
	mu       sync.Mutex
	versions map[string]int64
}

func (k *acknowledged) add(a answer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.versions == nil {
		k.versions = map[string]int64{}
	}
	k.versions[a.ID] = max(k.versions[a.ID], a.Version)
}

func (k *acknowledged) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.versions)
}

// lifetime makes a task, starts it and completes it, and notes each answer.
func (k *acknowledged) lifetime(base string) error {
	a, err := send(base, "POST", "/tasks", `{"title": "load"}`)
	if err != nil {
		return err
	}
	k.add(a)
	for _, call := range [][3]string{{"PATCH", "", `{"status": "in_progress"}`}, {"POST", "/complete", ""}} {
		if a, err = send(base, call[0], "/tasks/"+a.ID+call[1], call[2]); err != nil {
			return err
		}
		k.add(a)
	}
	return nil
}

// inTopic reads the topic to its end: the versions of each task in the order
// of their first sighting.
func (f *fixture) inTopic(client *kafkago.Client, topic string, partitions int) map[string][]int64 {
	f.Helper()
	versions := map[string][]int64{}
	seen := map[string]bool{}
	for p := range partitions {
		for _, value := range f.partition(client, topic, p) {
			e, err := event.Parse(value)
			if err != nil {
				f.Fatalf("partition %d: %v", p, err)
			}
			if !seen[e.ID()] {
				seen[e.ID()] = true
				v, _ := event.TaskVersion(e)
				versions[e.Subject()] = append(versions[e.Subject()], v)
			}
		}
	}
	return versions
}

func (f *fixture) partition(client *kafkago.Client, topic string, p int) (values [][]byte) {
	f.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for offset := int64(0); ; {
		resp, err := client.Fetch(ctx, &kafkago.FetchRequest{
			Topic: topic, Partition: p, Offset: offset, MinBytes: 1, MaxBytes: 8 << 20, MaxWait: 100 * time.Millisecond,
		})
		if err == nil {
			err = resp.Error
		}
		if err != nil {
			f.Fatalf("fetch partition %d at %d: %v", p, offset, err)
		}
		for {
			rec, err := resp.Records.ReadRecord()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				f.Fatal(err)
			}
			if rec.Offset < offset {
				continue // batches begin before the offset asked for
			}
			value, err := kafkago.ReadAll(rec.Value)
			if err != nil {
				f.Fatal(err)
			}
			values, offset = append(values, value), rec.Offset+1
		}
		if offset >= resp.HighWatermark {
			return values
		}
	}
}

// check fails unless every acknowledged version is in the topic, and the events
// of each task are complete and in order from 1.
func (f *fixture) check(k *acknowledged, topic map[string][]int64) {
	f.Helper()
	for id, version := range k.versions {
		if int64(len(topic[id])) < version {
			f.Errorf("task %s was acknowledged at version %d, the topic has %v", id, version, topic[id])
		}
	}
	for id, versions := range topic {
		for i, v := range versions {
			if v != int64(i+1) {
				f.Errorf("task %s: versions in the topic %v", id, versions)
				break
			}
		}
	}
}

// A stop publishes what waits before Run returns: the topic is complete
// without another start.
func TestADrainPublishesWhatWasAcknowledged(t *testing.T) {
	cluster := kafkatest.Start(t)
	topic := cluster.Topic(t, 3)
	f := newFixture(t, cluster.Brokers, topic)
	a := f.start()
	var k acknowledged
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 25 {
				if err := k.lifetime(a.URL); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := a.Stop(); err != nil {
		t.Fatalf("Run = %v, want nil", err)
	}
	versions := f.inTopic(cluster.Client(t), topic, 3)
	if len(versions) != 200 {
		t.Errorf("%d tasks in the topic, want 200", len(versions))
	}
	f.check(&k, versions)
}

func TestKafkaMayBeDown(t *testing.T) {
	cluster := kafkatest.StartOwn(t)
	topic := cluster.Topic(t, 1)
	if err := cluster.Stop(); err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, cluster.Brokers, topic)
	a := f.start()
	var k acknowledged
	for range 10 {
		if err := k.lifetime(a.URL); err != nil {
			t.Fatal(err)
		}
	}
	if code, body := a.Get(t, a.URL+"/readyz"); code != 200 {
		t.Errorf("readyz = %d %s, want 200: changes are still accepted", code, body)
	}
	if _, body := a.Get(t, a.OpsURL+"/metrics"); !strings.Contains(body, "\ntaskwire_outbox_pending 30\n") {
		t.Errorf("metrics lack taskwire_outbox_pending 30:\n%s", body)
	}
	if err := cluster.Restart(); err != nil {
		t.Fatal(err)
	}
	apptest.Await(t, "the outbox is empty", func() bool {
		_, body := a.Get(t, a.OpsURL+"/metrics")
		return strings.Contains(body, "\ntaskwire_outbox_pending 0\n")
	})
	f.check(&k, f.inTopic(cluster.Client(t), topic, 1))
}

func TestAMissingTopicIsCreatedOnRequest(t *testing.T) {
	cluster := kafkatest.Start(t)
	topic := cluster.Topic(t, 1) + "-missing"
	f := newFixture(t, cluster.Brokers, topic)
	f.settings["KAFKA_CREATE_TOPICS"] = "true"
	f.settings["EVENT_MODE"] = "binary"
	a := f.start()
	task, err := send(a.URL, "POST", "/tasks", `{"title": "x"}`)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	values := f.partition(cluster.Client(t), topic, 0)
	if want := `{"task_id":"` + task.ID + `","title":"x","status":"pending","owner_id":null}`; len(values) != 1 || string(values[0]) != want {
		t.Errorf("topic has %q, want %s", values, want)
	}
}

// The program is killed again and again while clients change tasks and the
// relay publishes. After the last start every acknowledged change is in the
// topic, in order, and the topic has nothing else.
func TestNothingAcknowledgedIsLostWhenKilled(t *testing.T) {
	cluster := kafkatest.Start(t)
	topic := cluster.Topic(t, 2)
	f := newFixture(t, cluster.Brokers, topic)
	var k acknowledged
	for round := range 4 {
		program, base := f.program()
		before := k.count()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for k.lifetime(base) == nil { // until the program is gone
				}
			})
		}
		apptest.Await(t, "tasks are made", func() bool { return k.count() >= before+100+70*round })
		program.Signal(os.Kill)
		wg.Wait()
		program.Exit()
	}
	program, base := f.program()
	for id, version := range k.versions {
		if a, err := send(base, "GET", "/tasks/"+id, ""); err != nil || a.Version < version {
			t.Errorf("task %s was acknowledged at version %d and is %+v, %v", id, version, a, err)
		}
	}
	if status := program.Terminate(); status != 0 {
		t.Errorf("exit status after SIGTERM = %d, want 0", status)
	}
	f.check(&k, f.inTopic(cluster.Client(t), topic, 2))
}

func TestASecondInstanceIsRefusedAndReleasesItsPorts(t *testing.T) {
	f := newFixture(t, []string{"127.0.0.1:1"}, "task-events")
	f.settings["SHUTDOWN_GRACE"] = "0s"
	f.start()
	f.settings["LISTEN_ADDR"] = freeport.Addr()
	cfg, err := app.FromEnv(env.Map(f.settings))
	if err != nil {
		t.Fatal(err)
	}
	_, err = app.New(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "in use by another taskapi") || strings.Contains(err.Error(), "\n") {
		t.Errorf("New = %v, want one line that contains in use by another taskapi", err)
	}
	l, err := net.Listen("tcp", f.settings["LISTEN_ADDR"])
	if err != nil {
		t.Fatalf("the refused instance still has its port: %v", err)
	}
	l.Close()
}

func TestSettings(t *testing.T) {
	cfg, err := app.FromEnv(env.Map(nil))
	if err != nil {
		t.Fatal(err)
	}
	want := app.Config{HTTP: cfg.HTTP, Kafka: cfg.Kafka, Database: "tasks.db", EventMode: event.ModeStructured, OutboxLimit: 1_000_000, OutboxRetention: time.Hour}
	want.HTTP.Addr, want.HTTP.OpsAddr, want.Kafka.Topic = ":8000", ":9000", "task-events"
	if diff := cmp.Diff(want, cfg); diff != "" {
		t.Errorf("defaults, want (-), got (+):\n%s", diff)
	}
	for value, want := range map[string]string{
		"sqlite:/var/lib/t.db": "/var/lib/t.db", "sqlite:///var/lib/t.db": "/var/lib/t.db", "sqlite:a/b.db": "a/b.db",
		"postgres://u:hidden@h:port/d": "", "postgres://u:hidden@h/": "", "tasks.db": "", "sqlite:": "", "sqlite::memory:": "", "sqlite://h/t.db": "", "mysql:x": "", "sqlite:dir/": "",
	} {
		cfg, err := app.FromEnv(env.Map(map[string]string{"DATABASE_URL": value}))
		if (err == nil) != (want != "") || (err == nil && cfg.Database != want) {
			t.Errorf("%s = %q, %v; want %q", value, cfg.Database, err, want)
		}
		if err != nil && (strings.Contains(err.Error(), "hidden") || !strings.HasPrefix(err.Error(), "DATABASE_URL: ")) {
			t.Errorf("%s: error %v", value, err)
		}
	}
	_, err = app.FromEnv(env.Map(map[string]string{
		"EVENT_MODE": "avro", "API_TOKENS_FILE": "/nowhere", "OUTBOX_LIMIT": "0", "OUTBOX_RETENTION": "soon", "KAFKA_BOOTSTRAP_SERVERS": "x", "LISTEN_ADDR": "y",
	}))
	for _, name := range []string{"EVENT_MODE", "API_TOKENS_FILE", "OUTBOX_LIMIT", "OUTBOX_RETENTION", "KAFKA_BOOTSTRAP_SERVERS", "LISTEN_ADDR"} {
		if err == nil || !strings.Contains("\n"+err.Error(), "\n"+name+": ") {
			t.Errorf("%s is not among the mistakes:\n%v", name, err)
		}
	}
}

// The manual names every variable that is read, and no other.
func TestTheManualListsEveryVariable(t *testing.T) {
	source, err := os.ReadFile("../main.go")
	if err != nil {
		t.Fatal(err)
	}
	manual := process.Manual(string(source))
	read := map[string]bool{}
	if _, err := app.FromEnv(func(key string) (string, bool) { read[key] = true; return "", false }); err != nil {
		t.Fatal(err)
	}
	for key := range read {
		if !strings.Contains(manual, key) && !strings.HasPrefix(key, "OTEL_") { // those are one line, OTEL_...
			t.Errorf("the manual does not name %s", key)
		}
	}
	var section bool
	for line := range bytes.Lines([]byte(manual)) {
		if bytes.HasPrefix(line, []byte("# ")) {
			section = bytes.HasPrefix(line, []byte("# Environment"))
		}
		if name, _, _ := strings.Cut(strings.TrimSpace(string(line)), " "); section && name != "" && name == strings.ToUpper(name) && name != "#" && name != "OTEL_..." && !read[name] {
			t.Errorf("the manual names %s, which is not read", name)
		}
	}
}
