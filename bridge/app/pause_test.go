package app_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	kafkago "github.com/segmentio/kafka-go"

	"github.com/taskwire/taskwire/bridge/app"
	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/kafkatest"
)

// shown is what GET /subscriptions/{name} tells.
type shown struct {
	State  string `json:"state"`
	Reason string `json:"reason"`
	Paused *struct {
		Reason string `json:"reason"`
		By     string `json:"by"`
		At     string `json:"at"`
	} `json:"paused"`
	Partitions []struct {
		Partition int              `json:"partition"`
		Committed int64            `json:"committed"`
		End       int64            `json:"end"`
		Lag       int64            `json:"lag"`
		InFlight  *int             `json:"in_flight"`
		Owner     *json.RawMessage `json:"owner"`
		Blocking  *struct {
			Offset int64  `json:"offset"`
			Key    string `json:"key"`
			Reason string `json:"reason"`
		} `json:"blocking"`
	} `json:"partitions"`
}

// call asks the admin API and returns its status and answer.
func call(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func look(t *testing.T, base, name string) shown {
	t.Helper()
	status, text := call(t, http.MethodGet, base+"/subscriptions/"+name, "")
	var v shown
	if err := json.Unmarshal([]byte(text), &v); status != http.StatusOK || err != nil {
		t.Fatalf("GET /subscriptions/%s = %d, %v: %s", name, status, err, text)
	}
	return v
}

func produceTo(t *testing.T, client *kafkago.Client, topic string, partition int, key, id string) {
	t.Helper()
	resp, err := client.Produce(t.Context(), &kafkago.ProduceRequest{Topic: topic, Partition: partition, RequiredAcks: kafkago.RequireAll,
		Records: kafkago.NewRecordReader(kafkago.Record{Key: kafkago.NewBytes([]byte(key)),
			Headers: []kafkago.Header{{Key: "content-type", Value: []byte("application/cloudevents+json")}},
			Value:   kafkago.NewBytes(fmt.Appendf(nil, `{"specversion":"1.0","id":%q,"source":"s","type":"t"}`, id))})})
	if err != nil || resp.Error != nil {
		t.Fatalf("produce: %v, %+v", err, resp)
	}
}

// TestAPauseOutlivesTwoKilledBridges: two processes, a pause through the one, both
// killed and started again: still paused, with who and why, and nothing was posted
// meanwhile. It is resumed through the other.
func TestAPauseOutlivesTwoKilledBridges(t *testing.T) {
	var posts atomic.Int32
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		posts.Add(1)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer sink.Close()
	cluster := kafkatest.Start(t)
	topic := cluster.Topic(t, 2)
	name := topic // the topic of the pauses may be shared with other tests
	config := write(t, "topic: "+topic+"\nsubscriptions: [{name: "+name+", group: "+topic+"-group, sink: '"+sink.URL+"'}]\n")
	bridges := func() (urls []string, processes []*apptest.Process) {
		for i := range 2 {
			p := apptest.Self(t, "BRIDGE_PROCESS=1", "LISTEN_ADDR=127.0.0.1:0", "OPS_ADDR=127.0.0.1:0", "LOG_FORMAT=json",
				"KAFKA_BOOTSTRAP_SERVERS="+cluster.Brokers[0], "KAFKA_CREATE_TOPICS=true", "BRIDGE_CONFIG="+config, fmt.Sprintf("KAFKA_GROUP_INSTANCE_ID=bridge-%d", i))
			url, _ := p.URLs(t)
			urls, processes = append(urls, url), append(processes, p)
		}
		for _, url := range urls {
			apptest.Await(t, "the bridge is ready", func() bool { status, _ := call(t, http.MethodGet, url+"/readyz", ""); return status == http.StatusOK })
		}
		return urls, processes
	}
	urls, processes := bridges()
	client := cluster.Client(t)
	for p := range 2 {
		produceTo(t, client, topic, p, "k", fmt.Sprint(p))
	}
	apptest.Await(t, "both partitions are delivered", func() bool { return posts.Load() == 2 })
	if status, text := call(t, http.MethodPost, urls[0]+"/subscriptions/"+name+"/pause", `{"reason":"the sink moves","by":"alice"}`); status != http.StatusOK {
		t.Fatalf("pause = %d: %s", status, text)
	}
	paused := look(t, urls[0], name)
	if paused.State != "paused" || paused.Paused == nil || paused.Paused.Reason != "the sink moves" || paused.Paused.By != "alice from 127.0.0.1" || paused.Paused.At == "" {
		t.Fatalf("after the pause: %+v", paused)
	}
	apptest.Await(t, "the other bridge follows", func() bool { return look(t, urls[1], name).State == "paused" })
	for p := range 2 {
		produceTo(t, client, topic, p, "k", fmt.Sprint("later", p))
	}
	refusedElsewhere(t, urls, name)
	for _, p := range processes {
		p.Signal(os.Kill)
		p.Exit()
	}
	urls, _ = bridges()
	for _, url := range urls {
		if diff := cmp.Diff(paused.Paused, look(t, url, name).Paused); diff != "" {
			t.Fatalf("after the restart a ready bridge does not know of the pause (-want +got):\n%s", diff)
		}
	}
	if n := posts.Load(); n != 2 {
		t.Errorf("%d posts to a paused sink, want none", n-2)
	}
	if out, _, err := run(t.Context(), t, map[string]string{"ADMIN_URL": urls[1], "USER": "bob"}, "resume", "--subscription", name); err != nil || out != name+" is resumed, on all bridges\n" {
		t.Fatalf("bridge resume = %v: %s", err, out)
	}
	apptest.Await(t, "the rest is delivered", func() bool { return posts.Load() == 4 })
	apptest.Await(t, "both bridges say so", func() bool {
		return look(t, urls[0], name).Paused == nil && look(t, urls[1], name).Paused == nil
	})
}

// TestASinkThatIsGonePausesForGood: 410 pauses as an operator does.
func TestASinkThatIsGonePausesForGood(t *testing.T) {
	var status atomic.Int32
	status.Store(http.StatusGone)
	var posts atomic.Int32
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		posts.Add(1)
		w.WriteHeader(int(status.Load()))
	}))
	defer sink.Close()
	cluster := kafkatest.Start(t)
	topic := cluster.Topic(t, 1)
	settings := map[string]string{"KAFKA_BOOTSTRAP_SERVERS": cluster.Brokers[0], "KAFKA_CREATE_TOPICS": "true",
		"BRIDGE_CONFIG": write(t, "topic: "+topic+"\nsubscriptions: [{name: "+topic+", group: "+topic+"-group, sink: '"+sink.URL+"'}]\n")}
	a := startBridge(t, settings)
	produceTo(t, cluster.Client(t), topic, 0, "k", "1")
	stored := func() bool { v := look(t, a.URL, topic); return v.Paused != nil && v.Paused.By == "sink" }
	apptest.Await(t, "the subscription is paused", stored)
	apptest.Await(t, "that is stored", func() bool {
		_, text := call(t, http.MethodGet, a.URL+"/subscriptions", "")
		return !strings.Contains(text, "unstored")
	})
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	status.Store(http.StatusNoContent)
	a = startBridge(t, settings)
	if v := look(t, a.URL, topic); v.State != "paused" || !strings.Contains(v.Reason, "410") || posts.Load() != 1 {
		t.Errorf("after a restart: %+v, %d posts", v, posts.Load())
	}
	if code, text := call(t, http.MethodPost, a.URL+"/subscriptions/"+topic+"/resume", ""); code != http.StatusOK {
		t.Fatalf("resume = %d: %s", code, text)
	}
	apptest.Await(t, "the event is delivered", func() bool { return posts.Load() == 2 })
}

func startBridge(t *testing.T, settings map[string]string) *apptest.App {
	t.Helper()
	return apptest.Start(t, "bridge", app.FromEnv, app.New, settings)
}

// refusedElsewhere: a repair is for the bridge that has the partition, and the
// other one says which that is.
func refusedElsewhere(t *testing.T, urls []string, name string) {
	t.Helper()
	var owners []string
	for _, url := range urls {
		for p := range 2 {
			body := fmt.Sprintf(`{"by":"alice","reason":"r","partition":%d,"offset":0}`, p)
			status, text := call(t, http.MethodPost, url+"/subscriptions/"+name+"/skip", body)
			if status == http.StatusMisdirectedRequest {
				_, owner, _ := strings.Cut(text, "belongs to the bridge ")
				owner, _, _ = strings.Cut(owner, " at ")
				owners = append(owners, owner)
			}
		}
	}
	if diff := cmp.Diff([]string{"bridge-1", "bridge-0"}, owners); diff != "" {
		t.Errorf("bridges to ask instead (-want +got):\n%s", diff)
	}
}
