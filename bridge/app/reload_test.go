package app_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/taskwire/taskwire/bridge/app"
	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/kafkatest"
)

// live is a bridge whose configuration changes.
type live struct {
	*apptest.App
	t       *testing.T
	cluster *kafkatest.Cluster
	service *app.Service
	path    string

	sink  *httptest.Server
	mu    sync.Mutex
	posts map[string]int // by path of the sink and id
	gate  chan struct{}  // posts to /slow wait until it is closed
}

func newLive(t *testing.T) *live {
	l := &live{t: t, cluster: kafkatest.Start(t), posts: map[string]int{}, gate: make(chan struct{})}
	l.sink = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var e struct{ ID string }
		if body, err := io.ReadAll(r.Body); err != nil || json.Unmarshal(body, &e) != nil {
			return // a post that was cut off
		}
		l.mu.Lock()
		l.posts[r.URL.Path+" "+e.ID]++
		l.mu.Unlock()
		if r.URL.Path == "/slow" {
			select {
			case <-l.gate:
			case <-r.Context().Done():
				return
			}
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(l.sink.Close)
	return l
}

func (l *live) count(path, id string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.posts[path+" "+id]
}

// subscription is a line of the file; the group has the topic's name in it, so that
// tests do not meet on a shared cluster.
func (l *live) subscription(name, group, topic, path, more string) string {
	return fmt.Sprintf("  - {name: %s, group: %s, topic: %s, sink: '%s%s'%s}\n", name, group, topic, l.sink.URL, path, more)
}

func (l *live) start(lines ...string) {
	l.t.Helper()
	l.path = write(l.t, "subscriptions:\n"+strings.Join(lines, ""))
	open := func(ctx context.Context, cfg app.Config, log *slog.Logger) (*app.Service, error) {
		var err error
		l.service, err = app.New(ctx, cfg, log)
		return l.service, err
	}
	l.App = apptest.Start(l.t, "bridge", app.FromEnv, open, map[string]string{
		"KAFKA_BOOTSTRAP_SERVERS": l.cluster.Brokers[0], "BRIDGE_CONFIG": l.path, "KAFKA_GROUP_INSTANCE_ID": "one", "KAFKA_CREATE_TOPICS": "true"})
}

// rewrite changes the file and has it read as SIGHUP does.
func (l *live) rewrite(lines ...string) {
	l.t.Helper()
	before := l.Log.Count(`"configuration read again"`) + l.Log.Count(`"configuration refused`)
	if err := os.WriteFile(l.path, []byte("subscriptions:\n"+strings.Join(lines, "")), 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.service.Reload()
	apptest.Await(l.t, "the file is read", func() bool {
		return l.Log.Count(`"configuration read again"`)+l.Log.Count(`"configuration refused`) > before
	})
}

func (l *live) produce(topic, id string) {
	l.t.Helper()
	resp, err := l.cluster.Client(l.t).Produce(l.t.Context(), &kafkago.ProduceRequest{Topic: topic, RequiredAcks: kafkago.RequireAll,
		Records: kafkago.NewRecordReader(kafkago.Record{
			Headers: []kafkago.Header{{Key: "content-type", Value: []byte("application/cloudevents+json")}},
			Value:   kafkago.NewBytes([]byte(`{"specversion":"1.0","id":"` + id + `","source":"s","type":"t"}`)),
		})})
	if err != nil || resp.Error != nil {
		l.t.Fatalf("produce: %v, %+v", err, resp)
	}
}

func (l *live) ready() {
	l.t.Helper()
	apptest.Await(l.t, "the service is ready", func() bool { status, _ := l.Get(l.t, l.URL+"/readyz"); return status == http.StatusOK })
}

func (l *live) delivered(path, id string) {
	l.t.Helper()
	apptest.Await(l.t, id+" is posted to "+path, func() bool { return l.count(path, id) > 0 })
}

// lines counts the joins of group in the log.
func (l *live) lines(group string) (n int) {
	for line := range strings.Lines(l.Log.String()) {
		if strings.Contains(line, `"consumer group joined"`) && strings.Contains(line, `"group":"`+group+`"`) {
			n++
		}
	}
	return n
}

// shown is what GET /subscriptions says.
func (l *live) shown() (names []string, config struct{ Path, Error string }) {
	l.t.Helper()
	_, body := l.Get(l.t, l.URL+"/subscriptions")
	var answer struct {
		Subscriptions []struct{ Name string }
		Config        struct{ Path, Error string }
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		l.t.Fatal(err)
	}
	for _, s := range answer.Subscriptions {
		names = append(names, s.Name)
	}
	return names, answer.Config
}

func (l *live) metrics() string {
	l.t.Helper()
	_, body := l.Get(l.t, l.OpsURL+"/metrics")
	return body
}

// TestReload: what did not change is not disturbed, not even a post in flight; what
// changed goes on with its new settings, what is gone leaves and takes its metrics
// along, what is new joins.
func TestReload(t *testing.T) {
	l := newLive(t)
	a, b, c := l.cluster.Topic(t, 1), l.cluster.Topic(t, 1), l.cluster.Topic(t, 1)
	kept := l.subscription("kept", a+"-g", a, "/slow", ", exhausted: block")
	l.start(kept, l.subscription("changed", b+"-g", b, "/old", ""), l.subscription("gone", c+"-g", c, "/gone", ""))
	l.produce(a, "1")
	l.produce(b, "1")
	l.delivered("/slow", "1") // and not answered
	l.delivered("/old", "1")

	l.rewrite(kept, l.subscription("changed", b+"-g", b, "/new", ""), l.subscription("added", c+"-h", c, "/added", ", records: wrap"))
	l.ready()
	l.produce(b, "2")
	l.produce(c, "1")
	l.delivered("/new", "2")
	l.delivered("/added", c+"/0/0")
	close(l.gate)
	l.produce(a, "2")
	l.delivered("/slow", "2")
	if l.count("/slow", "1") != 1 || l.lines(a+"-g") != 1 || l.Log.Count(`"delivery failed`) > 0 {
		t.Errorf("what did not change was disturbed: event 1 posted %d times, group joined %d times", l.count("/slow", "1"), l.lines(a+"-g"))
	}
	if l.count("/new", "1") != 0 || l.count("/old", "2") != 0 || l.count("/gone", "1") != 0 {
		t.Error("an event was posted again, to an old address or for a subscription that is gone")
	}
	if names, config := l.shown(); strings.Join(names, " ") != "kept changed added" || config.Path != l.path || config.Error != "" {
		t.Errorf("GET /subscriptions shows %v and %+v", names, config)
	}
	apptest.Await(t, "the metrics of what is gone have gone", func() bool { return !strings.Contains(l.metrics(), `subscription="gone"`) })
	for _, want := range []string{
		`taskwire_bridge_attempts_total{outcome="accepted",subscription="changed"} 2`, `taskwire_bridge_in_flight{subscription="added"} 0`,
		`taskwire_bridge_rebalances_total{subscription="kept"} 0`, `taskwire_bridge_config_reloads_total{result="success"} 1`, `taskwire_bridge_config_ok 1`,
	} {
		if !strings.Contains(l.metrics(), want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}

// TestABadFileChangesNothing, and is reported until a good one is there. Both are
// found without a signal, the good one as Kubernetes replaces a mounted ConfigMap.
func TestABadFileChangesNothing(t *testing.T) {
	l := newLive(t)
	topic := l.cluster.Topic(t, 1)
	line := l.subscription("s", topic+"-g", topic, "/s", "")
	l.start(line)
	if err := os.WriteFile(l.path, []byte("subscriptions: [{name: s, sinc: x}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	apptest.Await(t, "the mistake is shown", func() bool { _, config := l.shown(); return config.Error != "" })
	_, config := l.shown()
	for _, want := range []string{"sinc: unknown key", "(s).group: is missing", "(s).sink: want"} {
		if !strings.Contains(config.Error, want) || !strings.Contains(l.Log.String(), want) {
			t.Errorf("%s is not in /subscriptions or not in the log: %s", want, config.Error)
		}
	}
	if m := l.metrics(); !strings.Contains(m, "taskwire_bridge_config_ok 0") || !strings.Contains(m, `taskwire_bridge_config_reloads_total{result="failure"} 1`) {
		t.Error("the metrics do not say so")
	}
	l.produce(topic, "1")
	l.delivered("/s", "1")
	l.ready()

	// FILE -> data/FILE, data -> v1, then data -> v2.
	dir := filepath.Dir(l.path)
	for version, text := range map[string]string{"v1": "subscriptions: []\n", "v2": "subscriptions:\n" + line} {
		if err := os.MkdirAll(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, version, "bridge.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, name string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(dir, "new")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("v1", "data")
	link(filepath.Join("data", "bridge.yaml"), "bridge.yaml")
	apptest.Await(t, "the other mistake is shown", func() bool { _, config := l.shown(); return strings.Contains(config.Error, "want at least one") })
	link("v2", "data")
	apptest.Await(t, "the good file is in force", func() bool { _, config := l.shown(); return config.Error == "" })
	if l.lines(topic+"-g") != 1 || !strings.Contains(l.metrics(), "taskwire_bridge_config_ok 1") {
		t.Errorf("joined %d times, want 1", l.lines(topic+"-g"))
	}
}

// TestNamesAndGroupsChangeHands: each group goes on from its commit, and no member
// takes another for itself.
func TestNamesAndGroupsChangeHands(t *testing.T) {
	l := newLive(t)
	topic, other := l.cluster.Topic(t, 1), l.cluster.Topic(t, 1)
	g, h := topic+"-g", topic+"-h"
	l.start(l.subscription("a", g, topic, "/a", ""), l.subscription("b", h, other, "/b", ""))
	l.produce(topic, "1")
	l.produce(other, "1")
	l.delivered("/a", "1")
	l.delivered("/b", "1")

	l.rewrite(l.subscription("a", h, other, "/b", ""), l.subscription("b", g, topic, "/a", "")) // the names are swapped
	l.ready()
	l.rewrite(l.subscription("c", h, other, "/b", ""), l.subscription("b", g, topic, "/a", "")) // a is c
	l.ready()
	l.rewrite(l.subscription("c", topic+"-i", other, "/i", ""), l.subscription("b", g, topic, "/a", "")) // in a new group
	l.ready()
	l.delivered("/i", "1") // a new group begins with the oldest record
	l.produce(topic, "2")
	l.produce(other, "2")
	l.delivered("/a", "2")
	l.delivered("/i", "2")
	if l.count("/a", "1") != 1 || l.count("/b", "1") != 1 || l.count("/b", "2") != 0 {
		t.Errorf("posts %v: a group began again, or was not left", l.posts)
	}
}

// TestReloadsFollowEachOther: while a subscription drains, and while one waits for
// Kafka, the file may change again; the last one is in force, and a pause stays.
func TestReloadsFollowEachOther(t *testing.T) {
	l := newLive(t)
	topic := l.cluster.Topic(t, 1)
	g := topic + "-g"
	l.start(l.subscription("s", g, topic, "/slow", ""))
	l.produce(topic, "1")
	l.delivered("/slow", "1")
	l.rewrite(l.subscription("s", g, topic, "/second", "")) // waits for the drain
	status, body := l.Get(t, l.URL+"/readyz")
	if status != http.StatusServiceUnavailable || !strings.Contains(body, "subscription s: waits until") {
		t.Errorf("while it drains /readyz says %d %s", status, body)
	}
	l.rewrite(l.subscription("t", topic+"-missing", topic+"-missing", "/third", "")) // waits for its topic; s is gone before it began
	l.rewrite(l.subscription("t", g, topic, "/fourth", ""))
	close(l.gate)
	l.ready()
	l.produce(topic, "2")
	l.delivered("/fourth", "2")
	if l.count("/slow", "1") != 1 || l.count("/second", "2")+l.count("/fourth", "1")+l.count("/third", "1") != 0 {
		t.Errorf("posts %v", l.posts)
	}

	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, l.URL+"/subscriptions/t/pause", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := l.Client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	l.rewrite(l.subscription("t", g, topic, "/fifth", ""))
	l.ready()
	if _, body := l.Get(t, l.URL+"/subscriptions/t"); !strings.Contains(body, `"state": "paused"`) {
		t.Errorf("a change ended the pause: %s", body)
	}
}
