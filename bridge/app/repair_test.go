package app_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/taskwire/taskwire/bridge/app"
	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/kafkatest"
	"github.com/taskwire/taskwire/internal/process"
)

const stateKey = "0123456789abcdef0123456789abcdef\n"

// forge commits for group while it has no member.
func forge(t *testing.T, client *kafkago.Client, group, topic string, offset int64) {
	t.Helper()
	apptest.Await(t, "the forged commit is stored", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		resp, err := client.OffsetCommit(ctx, &kafkago.OffsetCommitRequest{GroupID: group, GenerationID: -1,
			Topics: map[string][]kafkago.OffsetCommit{topic: {{Offset: offset}}}})
		return err == nil && resp.Topics[topic][0].Error == nil
	})
}

// TestRepairs is a whole incident: somebody commits for the audit group, the
// bridge holds the partition, an operator accepts an earlier offset, then an event
// that the sink refuses blocks its key, and he sets it aside.
func TestRepairs(t *testing.T) {
	var posts, notices atomic.Int32
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch {
		case strings.Contains(string(body), `"id":"bad"`):
			w.WriteHeader(http.StatusBadRequest)
			return
		case strings.Contains(string(body), "taskwire.bridge.skipped"):
			notices.Add(1)
		default:
			posts.Add(1)
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(sink.Close)
	cluster := kafkatest.Start(t)
	topic, letters := cluster.Topic(t, 1), cluster.Topic(t, 1)
	client := cluster.Client(t)
	for _, id := range []string{"0", "1", "bad", "3"} {
		resp, err := client.Produce(t.Context(), &kafkago.ProduceRequest{Topic: topic, RequiredAcks: kafkago.RequireAll,
			Records: kafkago.NewRecordReader(kafkago.Record{Key: kafkago.NewBytes([]byte("k")),
				Headers: []kafkago.Header{{Key: "content-type", Value: []byte("application/cloudevents+json")}},
				Value:   kafkago.NewBytes(fmt.Appendf(nil, `{"specversion":"1.0","id":%q,"source":"s","type":"t","subject":"task-1"}`, id))})})
		if err != nil || resp.Error != nil {
			t.Fatalf("produce: %v, %+v", err, resp)
		}
	}
	forge(t, client, topic+"-group", topic, 4) // past everything
	token := "0123456789abcdef"
	settings := map[string]string{
		"KAFKA_BOOTSTRAP_SERVERS": strings.Join(cluster.Brokers, ","),
		"BRIDGE_STATE_KEY_FILE":   secretFile(t, stateKey),
		"ADMIN_TOKEN_FILE":        secretFile(t, token),
		"BRIDGE_CONFIG": write(t, "topic: "+topic+"\nsubscriptions: [{name: audit, group: "+topic+"-group, sink: '"+sink.URL+"', deadletter: "+letters+
			", exhausted: block, retry: {initial: 5ms, max: 20ms}}]\n"),
	}
	a := apptest.Start(t, "bridge", app.FromEnv, app.New, settings)
	metric := func(line string) func() bool {
		return func() bool { _, body := a.Get(t, a.OpsURL+"/metrics"); return strings.Contains(body, line+"\n") }
	}
	apptest.Await(t, "the partition is held", metric(`taskwire_bridge_blocked{reason="unsealed",subscription="audit"} 1`))
	if !metric(`taskwire_bridge_unsealed_offsets_total{subscription="audit"} 1`)() || a.Log.Count("ALARM: stored offset is not sealed") != 1 {
		t.Error("no alarm")
	}
	vars := map[string]string{"ADMIN_URL": a.URL, "USER": "alice", "ADMIN_TOKEN_FILE": settings["ADMIN_TOKEN_FILE"]}
	call := func(name string, args ...string) (string, error) {
		out, _, err := run(t.Context(), t, vars, name, args...)
		return out, err
	}
	if _, err := call("skip", "--subscription", "audit", "--partition", "0", "--offset", "2", "--reason", "r"); err == nil || !strings.Contains(err.Error(), "409") {
		t.Errorf("skip while held = %v, want a refusal", err)
	}
	// The operator sets the group back and accepts that.
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	if got := posts.Load(); got != 0 {
		t.Errorf("%d posts before the offset was accepted, want none", got)
	}
	forge(t, client, topic+"-group", topic, 1)
	a = apptest.Start(t, "bridge", app.FromEnv, app.New, settings)
	vars["ADMIN_URL"] = a.URL
	apptest.Await(t, "the partition is held again", metric(`taskwire_bridge_blocked{reason="unsealed",subscription="audit"} 1`))
	if out, err := call("offsets", "accept", "--subscription", "audit"); err != nil || out != "partition 0 goes on from offset 1\n" {
		t.Fatalf("offsets accept = %v, %q", err, out)
	}
	apptest.Await(t, "the bad event blocks", metric(`taskwire_bridge_blocked{reason="event",subscription="audit"} 1`))
	if out, err := call("skip", "--subscription", "audit", "--partition", "0", "--offset", "2", "--reason", "the sink never takes it"); err != nil || !strings.Contains(out, "is a dead letter now") {
		t.Fatalf("skip = %v, %q", err, out)
	}
	apptest.Await(t, "the rest is delivered", func() bool { return posts.Load() == 2 })
	if notices.Load() != 1 {
		t.Errorf("%d notices at the sink, want 1", notices.Load())
	}
	for _, line := range []string{"unsealed offset accepted by an operator", "event skipped by an operator", `"by":"alice from 127.0.0.1"`} {
		if a.Log.Count(line) == 0 {
			t.Errorf("not logged: %s", line)
		}
	}
	shown, _, err := run(t.Context(), t, settings, "dlq", "show", "-topic", letters, "0/0")
	if err != nil || !strings.Contains(shown, `"dlq-skipped-by": "alice from 127.0.0.1"`) || !strings.Contains(shown, `"dlq-reason": "skipped"`) {
		t.Errorf("dlq show = %v, %s", err, shown)
	}
	// Started again with the key it trusts what it has sealed itself.
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	a = apptest.Start(t, "bridge", app.FromEnv, app.New, settings)
	if !metric(`taskwire_bridge_unsealed_offsets_total{subscription="audit"} 0`)() {
		t.Error("the bridge does not know its own seal")
	}
}

func TestRepairCommandsNeedToKnowWhatAndWho(t *testing.T) {
	refused := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
	t.Cleanup(refused.Close)
	vars := map[string]string{"ADMIN_URL": refused.URL, "USER": "alice"}
	for _, c := range []struct{ name, args string }{
		{"offsets", ""}, {"offsets", "list"}, {"offsets", "accept"}, {"offsets", "accept --subscription a b"},
		{"pause", ""}, {"pause", "--subscription a"}, {"pause", "--subscription a --reason r b"}, {"resume", ""}, {"resume", "--subscription a --partition 1"},
		{"skip", ""}, {"skip", "--subscription a --partition 0 --offset 0"}, {"skip", "--subscription a --offset 0 --reason r"}, {"skip", "--subscription a --partition 0 --reason r"},
		{"skip", "--subscription a --partition 0 --offset 0 --reason r --by="}, {"offsets", "accept --subscription a --admin nowhere"},
	} {
		var usage *process.UsageError
		if _, _, err := run(t.Context(), t, vars, c.name, strings.Fields(c.args)...); !errors.As(err, &usage) {
			t.Errorf("%s %s = %v, want a usage error", c.name, c.args, err)
		}
	}
	if _, _, err := run(t.Context(), t, vars, "offsets", "accept", "--subscription", "a"); err == nil || !strings.Contains(err.Error(), "the bridge answered 401") {
		t.Errorf("offsets accept = %v, want the bridge's answer", err)
	}
	refused.Close()
	if _, _, err := run(t.Context(), t, vars, "offsets", "accept", "--subscription", "a"); err == nil || !strings.Contains(err.Error(), "set ADMIN_URL") {
		t.Errorf("offsets accept without a bridge = %v", err)
	}
}

func TestAWrongStateKeyFileIsNamed(t *testing.T) {
	short := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(short, []byte("hunter2"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := app.FromEnv(env.Map(map[string]string{"BRIDGE_STATE_KEY_FILE": short}))
	if err == nil || !strings.Contains(err.Error(), "BRIDGE_STATE_KEY_FILE: "+short+": line 1: want a key of at least 32") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("FromEnv = %v, want the mistake without the key", err)
	}
}
