package acceptance_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	bridge "github.com/taskwire/taskwire/bridge/app"
	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/kafkatest"
	taskapi "github.com/taskwire/taskwire/taskapi/app"
)

// replicas of each partition; the first leads. Each node leads two, follows in
// two and has nothing to do with two.
var replicas = [][]int{{1, 2}, {2, 3}, {3, 1}, {1, 3}, {2, 1}, {3, 2}}

// TestBrokerLoss loses one of three brokers, killed or hung, as a leader and as
// the coordinator of the group. Partitions without a replica on it go on; what it
// led, and the group's commits, go on within two seconds after Kafka has moved them.
func TestBrokerLoss(t *testing.T) {
	if !kafkatest.IsReal() {
		t.Skip("only with a real Kafka")
	}
	f := startFlow(t)
	restart := func(r *kafkatest.Real) error { return f.quorum.Start(t.Context(), r) }
	for _, c := range []struct {
		name        string
		victim      func() int
		fault, heal func(*kafkatest.Real) error
	}{
		{"leader killed", f.leader, (*kafkatest.Real).Kill, restart},
		{"leader hangs", f.leader, signal(syscall.SIGSTOP), signal(syscall.SIGCONT)},
		{"coordinator hangs", f.coordinator, signal(syscall.SIGSTOP), signal(syscall.SIGCONT)},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.t = t
			id := c.victim()
			victim := f.quorum.Nodes[id-1]
			f.forget()
			began := time.Now()
			if err := c.fault(victim); err != nil {
				t.Fatal(err)
			}
			f.awaitMoved(id)
			moved := time.Now()
			f.awaitDeliveries(moved)
			delivered := time.Since(moved)
			f.awaitCommit(id)
			committed := time.Since(moved)
			pause := f.longestPause(id)
			t.Logf("Kafka moved leaders and coordinator after %v, all partitions delivered %v later, the group committed %v later; the others paused for %v",
				round(moved.Sub(began)), round(delivered), round(committed), round(pause))
			if delivered > 2*time.Second || committed > 2*time.Second {
				t.Error("want deliveries and commits at most 2 s later")
			}
			if pause > time.Second {
				t.Error("want partitions without a replica on the lost broker to pause for at most 1 s")
			}
			if err := c.heal(victim); err != nil {
				t.Fatal(err)
			}
			f.awaitComplete()
		})
	}
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

func signal(sig syscall.Signal) func(*kafkatest.Real) error {
	return func(r *kafkatest.Real) error { return r.Signal(sig) }
}

// flow is a steady stream of tasks through three brokers to a sink.
type flow struct {
	t      *testing.T
	quorum *kafkatest.Quorum

	mu    sync.Mutex // guards the fields below
	last  []time.Time
	pause []time.Duration // the longest since forget
}

func startFlow(t *testing.T) *flow {
	t.Helper()
	f := &flow{t: t, quorum: kafkatest.StartQuorum(t), last: make([]time.Time, len(replicas)), pause: make([]time.Duration, len(replicas))}
	f.createTopic()
	sink := httptest.NewServer(f)
	t.Cleanup(sink.Close)
	config := filepath.Join(t.TempDir(), "bridge.yaml")
	text := "subscriptions:\n  - {name: audit, group: audit-service, sink: " + sink.URL + "/, exhausted: block}\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	settings := map[string]string{"KAFKA_BOOTSTRAP_SERVERS": strings.Join(f.quorum.Brokers, ","), "KAFKA_CREATE_TOPICS": "true", "LOG_LEVEL": "debug",
		"DATABASE_URL": "sqlite:" + filepath.Join(t.TempDir(), "tasks.db"), "BRIDGE_CONFIG": config, "KAFKA_GROUP_INSTANCE_ID": "bridge-1"}
	apptest.Start(t, "bridge", bridge.FromEnv, bridge.New, settings)
	api := apptest.Start(t, "taskapi", taskapi.FromEnv, taskapi.New, settings)
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	load.Go(func() { f.load(ctx, api) })
	t.Cleanup(func() { cancel(); load.Wait() })
	f.awaitDeliveries(time.Now())
	return f
}

// createTopic places the replicas. One of two is enough for an acknowledgement;
// with all three needed, no partition could do without the lost broker at first.
func (f *flow) createTopic() {
	f.t.Helper()
	topic := kafkago.TopicConfig{Topic: "task-events", NumPartitions: -1, ReplicationFactor: -1,
		ConfigEntries: []kafkago.ConfigEntry{{ConfigName: "min.insync.replicas", ConfigValue: "1"}}}
	for p, nodes := range replicas {
		topic.ReplicaAssignments = append(topic.ReplicaAssignments, kafkago.ReplicaAssignment{Partition: p, Replicas: nodes})
	}
	resp, err := f.quorum.Cluster().Client(f.t).CreateTopics(f.t.Context(), &kafkago.CreateTopicsRequest{Topics: []kafkago.TopicConfig{topic}})
	if err == nil {
		err = resp.Errors[topic.Topic]
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *flow) load(ctx context.Context, api *apptest.App) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		resp, err := api.Client.Post(api.URL+"/tasks", "application/json", strings.NewReader(fmt.Sprintf(`{"title": "task %d"}`, n)))
		if err != nil {
			f.t.Errorf("create a task: %v", err)
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
}

// ServeHTTP is the sink.
func (f *flow) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.WriteHeader(http.StatusNoContent)
	p, err := strconv.Atoi(r.Header.Get("Taskwire-Partition"))
	if err != nil {
		return // not from a bridge
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	f.pause[p] = max(f.pause[p], now.Sub(f.last[p]))
	f.last[p] = now
}

func (f *flow) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.pause)
}

// longestPause is that of the partitions without a replica on a node.
func (f *flow) longestPause(id int) (longest time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for p, nodes := range replicas {
		if !slices.Contains(nodes, id) {
			longest = max(longest, f.pause[p])
		}
	}
	return longest
}

// survivor is a node other than this one.
func (f *flow) survivor(id int) *kafkatest.Real { return f.quorum.Nodes[id%len(f.quorum.Nodes)] }

func (f *flow) leader() int {
	f.t.Helper()
	topic, err := f.quorum.Nodes[0].Topic(f.t.Context(), "task-events")
	if err != nil {
		f.t.Fatal(err)
	}
	return topic.Leaders[0]
}

func (f *flow) coordinator() int {
	f.t.Helper()
	id, err := f.quorum.Nodes[0].Coordinator(f.t.Context(), "audit-service")
	if err != nil {
		f.t.Fatal(err)
	}
	return id
}

// awaitMoved returns when another node leads all that this one did.
func (f *flow) awaitMoved(id int) {
	f.t.Helper()
	apptest.Await(f.t, "Kafka has moved leaders and coordinator", func() bool {
		topic, err := f.survivor(id).Topic(f.t.Context(), "task-events")
		if err != nil || slices.Contains(topic.Leaders, id) || slices.Contains(topic.Leaders, -1) {
			return false
		}
		c, err := f.survivor(id).Coordinator(f.t.Context(), "audit-service")
		return err == nil && c != id
	})
}

func (f *flow) awaitDeliveries(since time.Time) {
	f.t.Helper()
	apptest.Await(f.t, "every partition delivers", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return !slices.ContainsFunc(f.last, func(at time.Time) bool { return !at.After(since) })
	})
}

// awaitCommit returns when the group has committed something new.
func (f *flow) awaitCommit(id int) {
	f.t.Helper()
	first := int64(-1)
	apptest.Await(f.t, "the group commits", func() bool {
		sum, err := f.survivor(id).Committed(f.t.Context(), "audit-service", "task-events", len(replicas))
		if err == nil && first < 0 {
			first = sum
		}
		return err == nil && sum > first
	})
}

// awaitComplete returns when every node agrees that nothing is missing.
func (f *flow) awaitComplete() {
	f.t.Helper()
	apptest.Await(f.t, "all replicas are in sync", func() bool {
		coordinators := map[int]bool{}
		for _, node := range f.quorum.Nodes {
			topic, err := node.Topic(f.t.Context(), "task-events")
			if err != nil || !topic.Complete || slices.Contains(topic.Leaders, -1) {
				return false
			}
			c, err := node.Coordinator(f.t.Context(), "audit-service")
			if err != nil {
				return false
			}
			coordinators[c] = true
		}
		return len(coordinators) == 1
	})
}
