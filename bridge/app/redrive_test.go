package app_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/taskwire/taskwire/bridge/app"
	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/kafkatest"
)

// mendable is a sink that refuses events with "bad" in their id until it is mended.
type mendable struct {
	*httptest.Server
	mu      sync.Mutex
	mended  bool
	hold    chan struct{} // posts wait for it; nil for none
	got     []string      // bodies that were accepted
	waiting int
}

func newMendable(t *testing.T) *mendable {
	m := &mendable{}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		m.mu.Lock()
		hold := m.hold
		m.waiting++
		m.mu.Unlock()
		if hold != nil {
			<-hold
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if strings.Contains(string(body), "bad") && !m.mended {
			w.WriteHeader(http.StatusUnprocessableEntity)
			return
		}
		m.got = append(m.got, string(body))
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(m.Close)
	return m
}

func (m *mendable) set(mended bool, hold chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mended, m.hold, m.waiting = mended, hold, 0
}

func (m *mendable) posts() (accepted, begun int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.got), m.waiting
}

// TestDeadLettersAreRedriven is an operator's day with dead letters.
func TestDeadLettersAreRedriven(t *testing.T) {
	sink := newMendable(t)
	cluster := kafkatest.Start(t)
	topic, letters := cluster.Topic(t, 1), cluster.Topic(t, 2)
	produce := func(id, key string) {
		t.Helper()
		resp, err := cluster.Client(t).Produce(t.Context(), &kafkago.ProduceRequest{Topic: topic, RequiredAcks: kafkago.RequireAll,
			Records: kafkago.NewRecordReader(kafkago.Record{Key: kafkago.NewBytes([]byte(key)),
				Headers: []kafkago.Header{{Key: "content-type", Value: []byte("application/cloudevents+json")}},
				Value:   kafkago.NewBytes(fmt.Appendf(nil, `{"specversion":"1.0","id":%q,"source":"s","type":"task.created"}`, id))})})
		if err != nil || resp.Error != nil {
			t.Fatalf("produce: %v, %+v", err, resp)
		}
	}
	for i := range 20 {
		produce(fmt.Sprintf("bad-%02d", i), fmt.Sprintf("k%d", i%5))
	}
	for i := range 2 {
		produce(fmt.Sprintf("good-%d", i), fmt.Sprintf("k%d", i)) // newer than 8 letters
	}
	settings := map[string]string{
		"KAFKA_BOOTSTRAP_SERVERS": strings.Join(cluster.Brokers, ","),
		"BRIDGE_STATE_KEY_FILE":   secretFile(t, stateKey),
		"KAFKA_CREATE_TOPICS":     "true", // of pauses
		"BRIDGE_CONFIG":           write(t, "topic: "+topic+"\nsubscriptions: [{name: audit, group: "+topic+"-group, sink: '"+sink.URL+"', deadletter: "+letters+"}]\n"),
	}
	a := apptest.Start(t, "bridge", app.FromEnv, app.New, settings)
	settings["ADMIN_URL"], settings["USER"] = a.URL, "alice"
	call := func(args ...string) (string, error) {
		out, errs, err := run(t.Context(), t, settings, "dlq", args...)
		t.Logf("bridge dlq %s\n%s%serr %v", strings.Join(args, " "), out, errs, err)
		return out, err
	}
	want := func(args, line string) {
		t.Helper()
		if out, err := call(strings.Fields(args)...); err != nil || !strings.Contains(out, line) {
			t.Errorf("dlq %s = %v, %s; want %q", args, err, out, line)
		}
	}
	refused := func(args, why string) {
		t.Helper()
		if out, err := call(strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("dlq %s = %v, %s; want an error with %q", args, err, out, why)
		}
	}
	lines := func(args string) int {
		t.Helper()
		out, err := call(strings.Fields(args)...)
		if err != nil {
			t.Error(err)
		}
		return strings.Count(out, "\n")
	}
	metric := func(line string) func() bool {
		return func() bool { _, body := a.Get(t, a.OpsURL+"/metrics"); return strings.Contains(body, line+"\n") }
	}
	apptest.Await(t, "20 letters", metric(`taskwire_bridge_dead_letters_total{reason="rejected",subscription="audit"} 20`))
	apptest.Await(t, "the good events are delivered", func() bool { n, _ := sink.posts(); return n == 2 })
	if n := lines("list"); n != 20 {
		t.Errorf("%d letters are listed, want 20", n)
	}
	apptest.Await(t, "the commit is stored", func() bool {
		out, err := call("redrive", "--subscription", "audit", "--all", "--dry-run")
		return err == nil && strings.Contains(out, "would redrive 20 letters of 5 keys; 8 of them have newer events of their key delivered already")
	})
	refused("redrive --subscription audit", "want a selection, or --all")
	refused("redrive --subscription other --all", "no subscription with this name")
	refused("redrive --subscription audit --reason nonsense", "want one of")

	want("redrive --subscription audit --id bad-03", "done: 0 delivered, 1 failed again")
	if n := lines("list"); n != 20 {
		t.Errorf("%d letters are open, want 20: one is done, and a new one there", n)
	}
	want("list --id bad-03", "redrives 1")
	want("ignore --subscription audit --key k3 --reason obsolete", "done: 0 delivered, 0 failed again, 4 ignored")
	if a.Log.Count(`"by":"alice from 127.0.0.1","reason":"obsolete"`) < 4 {
		t.Error("what was ignored is not in the log")
	}

	a.Client.CloseIdleConnections()
	post := func(path string) {
		t.Helper()
		resp, err := a.Client.Post(a.URL+path, "application/json", nil)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %v, %v", path, resp, err)
		}
		resp.Body.Close()
	}
	post("/subscriptions/audit/pause")
	refused("redrive --subscription audit --all", "the subscription is paused")
	post("/subscriptions/audit/resume")

	// Ctrl-C while one post of each key is in flight.
	hold := make(chan struct{})
	sink.set(true, hold)
	ctx, interrupt := context.WithCancel(t.Context())
	interrupted := make(chan error, 1)
	go func() {
		_, _, err := run(ctx, t, settings, "dlq", "redrive", "--subscription", "audit", "--all")
		interrupted <- err
	}()
	apptest.Await(t, "posts are in flight", func() bool { _, begun := sink.posts(); return begun == 4 })
	refused("redrive --subscription audit --all", "works on the letters of this subscription")
	interrupt()
	apptest.Await(t, "the job is cancelled", func() bool { return a.Log.Count("job on dead letters cancelled") == 1 })
	sink.set(true, nil)
	close(hold)
	if err := <-interrupted; err == nil || !strings.Contains(err.Error(), "job cancelled") {
		t.Errorf("an interrupted redrive = %v", err)
	}
	if accepted, _ := sink.posts(); accepted != 6 || lines("list") != 12 {
		t.Errorf("%d accepted, want the 4 in flight and the 2 before, and 12 open", accepted)
	}
	want("redrive --subscription audit --all --rate 200", "done: 12 delivered, 0 failed again, 0 ignored, 0 filtered, 0 left open")
	if n := lines("list"); n != 0 {
		t.Errorf("%d letters are open, want none", n)
	}
	if n := lines("list --done"); n != 21 {
		t.Errorf("%d letters in all, want 21", n)
	}
	apptest.Await(t, "the metrics tell", func() bool {
		return metric(`taskwire_bridge_redriven_total{outcome="delivered",subscription="audit"} 16`)() &&
			metric(`taskwire_bridge_redriven_total{outcome="deadletter",subscription="audit"} 1`)() &&
			metric(`taskwire_bridge_redriven_total{outcome="ignored",subscription="audit"} 4`)() &&
			metric(`taskwire_bridge_dead_letters_open{subscription="audit"} 0`)()
	})
	seen := map[string]int{}
	for _, body := range sink.got {
		seen[body]++
	}
	for body, n := range seen {
		if n > 1 {
			t.Errorf("delivered %d times: %s", n, body)
		}
	}
	want("list --done --key k0", "done")
	pages(t, a)
}

// pages reads the letters page by page from the admin API.
func pages(t *testing.T, a *apptest.App) {
	t.Helper()
	n, next := 0, ""
	for {
		status, body := a.Get(t, a.URL+"/deadletters?subscription=audit&done=true&limit=5&after="+next)
		n += strings.Count(body, `"place"`)
		_, rest, _ := strings.Cut(body, `"next": "`)
		if next, _, _ = strings.Cut(rest, `"`); status != http.StatusOK || next == "" {
			break
		}
	}
	if n != 21 {
		t.Errorf("%d letters on all pages, want 21", n)
	}
}

// TestTheGroupOfDeadLettersExists before anybody asks for a redrive, so that
// Kafka's tools show open letters as lag.
func TestTheGroupOfDeadLettersExists(t *testing.T) {
	cluster := kafkatest.Start(t)
	topic, letters := cluster.Topic(t, 1), cluster.Topic(t, 1)
	store(t, cluster, letters, 3) // of notifications
	apptest.Start(t, "bridge", app.FromEnv, app.New, map[string]string{
		"KAFKA_BOOTSTRAP_SERVERS": strings.Join(cluster.Brokers, ","),
		"BRIDGE_CONFIG": write(t, "topic: "+topic+"\nsubscriptions: [{name: audit, group: "+topic+"-a, sink: 'http://localhost:1/', deadletter: "+letters+
			"}, {name: notifications, group: "+topic+"-n, sink: 'http://localhost:1/', deadletter: "+letters+"}]\n"),
	})
	client := cluster.Client(t)
	for group, want := range map[string]int64{topic + "-a.dlq": 3, topic + "-n.dlq": 0} {
		apptest.Await(t, "the offset of "+group, func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			resp, err := client.OffsetFetch(ctx, &kafkago.OffsetFetchRequest{GroupID: group, Topics: map[string][]int{letters: {0}}})
			return err == nil && len(resp.Topics[letters]) == 1 && resp.Topics[letters][0].CommittedOffset == want
		})
	}
}
