//go:build alerts && linux

package alerts_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// condition is what makes an alert true.
type condition struct {
	name   string
	labels map[string]string         // that the alert has among others
	value  func(float64) bool        // tells apart the two halves of an expression with or; nil for any
	begin  func(*testing.T, *system) // nil: true since the start
	end    func(*testing.T, *system) // nil: the next one ends it, or it passes
}

func app(name string) map[string]string { return map[string]string{"app_kubernetes_io_name": name} }

func subscription(name string) map[string]string { return map[string]string{"subscription": name} }

// conditions are made true in this order. Those that take long to pass come first.
var conditions = []condition{
	{name: "TaskwireVolumeFilling", labels: app("auditor"), value: func(free float64) bool { return free >= 0 && free < 0.15 },
		begin: func(t *testing.T, s *system) {
			var st syscall.Statfs_t
			must(t, syscall.Statfs(s.volume, &st))
			must(t, os.WriteFile(filepath.Join(s.volume, "filler"), make([]byte, int(st.Bavail)*int(st.Bsize)-int(st.Blocks)*int(st.Bsize)/10), 0o600))
		},
		end: func(t *testing.T, s *system) { must(t, os.Remove(filepath.Join(s.volume, "filler"))) },
	},
	{name: "TaskwireBridgeGone", begin: stop("bridge"), end: start("bridge")},
	{name: "TaskwireUnsealedOffset", labels: subscription("audit"),
		begin: func(t *testing.T, s *system) {
			s.stop(t, "bridge", syscall.SIGTERM)
			s.commit(t, "audit-service", 0)
			s.launch(t, "bridge")
		},
		end: func(t *testing.T, s *system) {
			s.bridge(t, "offsets", "accept", "--subscription", "audit", "--by", "make alerts")
		},
	},
	{name: "TaskwireOutboxOld",
		begin: func(t *testing.T, s *system) {
			must(t, s.broker.Close())
			s.create(t, http.StatusCreated)
		},
	},
	{name: "TaskwireAPIErrors",
		begin: func(t *testing.T, s *system) {
			for range outboxLimit {
				s.change(t)
			}
			s.create(t, http.StatusServiceUnavailable)
			s.loop(t, func() { s.change(t) })
		},
		end: func(t *testing.T, s *system) {
			s.openBroker(t)
			s.await(t, patience, "the Task API accepts changes", func() bool { return s.change(t) == http.StatusCreated })
		},
	},
	{name: "TaskwireBridgeBlocked", labels: map[string]string{"subscription": "audit", "reason": "paused"}, begin: pause, end: resume},
	{name: "TaskwireBridgeLag", labels: subscription("audit"),
		begin: func(t *testing.T, s *system) {
			pause(t, s)
			for range 110 {
				s.create(t, http.StatusCreated)
			}
		},
		end: resume,
	},
	{name: "TaskwireDeadLetters", labels: map[string]string{"subscription": "crm", "reason": "rejected"},
		begin: func(t *testing.T, s *system) {
			s.crm.answer(http.StatusBadRequest)
			s.create(t, http.StatusCreated)
		},
		end: func(_ *testing.T, s *system) { s.crm.answer(http.StatusNoContent) },
	},
	{name: "TaskwireBridgeConfig",
		begin: func(t *testing.T, s *system) { s.write(t, "bridge.yaml", "subscriptions: 1\n") },
		end:   func(t *testing.T, s *system) { s.write(t, "bridge.yaml", s.subscriptions()) },
	},
	{name: "TaskwireSinkOpen", labels: app("notifier"),
		begin: func(t *testing.T, s *system) {
			s.stop(t, "notifier", syscall.SIGTERM)
			s.start(t, "notifier", "LISTEN_ADDR=0.0.0.0"+port(s.services["notifier"].addr), "WEBHOOK_SECRET_FILE=")
		},
		end: restart("notifier"),
	},
	{name: "TaskwireForgedPosts", labels: app("notifier"), begin: func(t *testing.T, s *system) {
		s.post(t, "notifier", http.StatusUnauthorized, event("forged", "elsewhere", 1))
	}},
	{name: "TaskwireAuthFailures", labels: app("taskapi"), begin: func(t *testing.T, s *system) {
		var callers sync.WaitGroup
		for range 30 {
			callers.Go(func() {
				if status := s.send(t, http.MethodGet, "taskapi", "/tasks", "application/json", "Bearer guessed-guessed-guessed", nil); status != http.StatusUnauthorized {
					t.Errorf("a request with a wrong token was answered %d, want 401", status)
				}
			})
		}
		callers.Wait()
	}},
	{name: "TaskwireAuditConflicts", begin: func(t *testing.T, s *system) {
		s.post(t, "auditor", http.StatusCreated, event("twice", "elsewhere", 1))
		s.post(t, "auditor", http.StatusConflict, bytes.Replace(event("twice", "elsewhere", 1), []byte("a title"), []byte("another"), 1))
	}},
	{name: "TaskwireUnsignedEvents", begin: func(t *testing.T, s *system) {
		s.post(t, "auditor", http.StatusForbidden, event("unsigned", "task-api", 1))
	}},
	{name: "TaskwireAuditVersionGaps", begin: func(t *testing.T, s *system) {
		s.post(t, "auditor", http.StatusCreated, event("first", "gaps", 1))
		s.post(t, "auditor", http.StatusCreated, event("third", "gaps", 3))
	}},
	{name: "TaskwireSchemaLost", begin: func(_ *testing.T, s *system) { s.registry.Reset() }},
	{name: "TaskwireTaskAPIGone", begin: kill("taskapi"), end: start("taskapi")},
	{name: "TaskwireAuditorGone", begin: kill("auditor"), end: start("auditor")},
	{name: "TaskwireNotifierGone", begin: kill("notifier"), end: start("notifier")},
	{name: "TaskwireRestarts", labels: app("notifier"), begin: func(t *testing.T, s *system) {
		for range 3 {
			restart("notifier")(t, s)
			s.awaitScrape(t, "notifier")
		}
	}},
	{name: "TaskwireCheckpointOld",
		begin: func(t *testing.T, s *system) {
			s.key = s.read(t, "audit-key")
			s.write(t, "audit-key", "")
			s.create(t, http.StatusCreated)
		},
		end: func(t *testing.T, s *system) { s.write(t, "audit-key", s.key) },
	},
	{name: "TaskwireRetention", labels: subscription("archive"), value: func(records float64) bool { return records > 0 }},
	{name: "TaskwireBridgeOldestUnacked", labels: subscription("archive"), end: func(_ *testing.T, s *system) { s.archive.answer(http.StatusNoContent) }},
}

func stop(name string) func(*testing.T, *system) {
	return func(t *testing.T, s *system) { s.stop(t, name, syscall.SIGTERM) }
}

func kill(name string) func(*testing.T, *system) {
	return func(t *testing.T, s *system) { s.stop(t, name, syscall.SIGKILL) }
}

func start(name string) func(*testing.T, *system) {
	return func(t *testing.T, s *system) { s.start(t, name) }
}

func restart(name string) func(*testing.T, *system) {
	return func(t *testing.T, s *system) {
		s.stop(t, name, syscall.SIGTERM)
		s.start(t, name)
	}
}

func pause(t *testing.T, s *system) {
	s.bridge(t, "pause", "--subscription", "audit", "--reason", "a test", "--by", "make alerts")
}

func resume(t *testing.T, s *system) {
	s.bridge(t, "resume", "--subscription", "audit", "--by", "make alerts")
}

// event is one that source has not signed.
func event(id, source string, version int) []byte {
	return fmt.Appendf(nil, `{"specversion":"1.0","id":%q,"source":%q,"type":"task.created","subject":%[2]q,"partitionkey":%[2]q,"time":"2026-01-01T00:00:00Z",`+
		`"datacontenttype":"application/json","taskversion":%d,"data":{"task_id":%[2]q,"title":"a title","status":"pending","owner_id":null}}`, id, source, version)
}

// commit stores an offset that no bridge has sealed. The group must be empty.
func (s *system) commit(t *testing.T, name string, offset int64) {
	t.Helper()
	client := s.client(t, s.broker.Addr())
	defer client.Close()
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group = name
	topic, partition := kmsg.NewOffsetCommitRequestTopic(), kmsg.NewOffsetCommitRequestTopicPartition()
	topic.Topic, partition.Offset = "task-events", offset
	topic.Partitions = append(topic.Partitions, partition)
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(t.Context(), client)
	must(t, err)
	must(t, kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode))
}

// old writes an event that Kafka deletes in an hour, after a day.
func (s *system) old(t *testing.T) {
	t.Helper()
	client := s.client(t, s.archived.Addr())
	defer client.Close()
	must(t, client.ProduceSync(t.Context(), &kgo.Record{
		Topic: "archive", Key: []byte("old"), Value: event("old", "archive", 1), Timestamp: time.Now().Add(-23 * time.Hour),
		Headers: []kgo.RecordHeader{{Key: "content-type", Value: []byte("application/cloudevents+json")}},
	}).FirstErr())
}

func (s *system) client(t *testing.T, addr string) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.MaxVersions(kversion.V3_9_0())) // its commits name topics
	must(t, err)
	return client
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
