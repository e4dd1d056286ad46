package app_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/sr"

	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/eventsign"
	"github.com/taskwire/taskwire/internal/kafkatest"
	"github.com/taskwire/taskwire/internal/registry"
	"github.com/taskwire/taskwire/internal/registrytest"
	"github.com/taskwire/taskwire/schemas"
	"github.com/taskwire/taskwire/taskapi/app"
)

// With a registry that is down changes are accepted and wait. When it is back they
// are published in Avro, and what a reader makes of them is what was signed.
func TestEventsInAvro(t *testing.T) {
	cluster := kafkatest.Start(t)
	topic := cluster.Topic(t, 1)
	fake := registrytest.Start(t)
	var down atomic.Bool
	down.Store(true)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			http.Error(w, "starting", http.StatusServiceUnavailable)
			return
		}
		fake.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	f := newFixture(t, cluster.Brokers, topic)
	path := filepath.Join(t.TempDir(), "key.pem")
	line, err := key(t, "--new", path)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := eventsign.ParseKeys([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	f.settings["EVENT_ENCODING"], f.settings["SCHEMA_REGISTRY_URL"], f.settings["EVENT_SIGNING_KEY_FILE"] = "avro", server.URL, path
	a := f.start()
	var k acknowledged
	if err := k.lifetime(a.URL); err != nil {
		t.Fatalf("without a registry: %v", err)
	}
	if status, text := a.Get(t, a.OpsURL+"/readyz"); status != 200 {
		t.Errorf("/readyz without a registry = %d %s", status, text)
	}
	if recs := records(t, cluster.Client(t), topic); len(recs) != 0 {
		t.Errorf("%d records without a registry", len(recs))
	}
	down.Store(false)
	apptest.Await(t, "the events are published", func() bool { return len(records(t, cluster.Client(t), topic)) == 3 })
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	schema, err := registry.ParseSchema(schemas.TaskEvent)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range records(t, cluster.Client(t), topic) {
		e, _, err := event.FromRecord(r)
		if err != nil || !event.IsAvro(e) {
			t.Fatalf("record %d is not Avro: %v, %v", i, e, err)
		}
		if got, _ := event.Attribute(e, "dataschema"); got != server.URL+"/subjects/"+topic+"-value/versions/1?sha256="+schema.Fingerprint {
			t.Errorf("dataschema = %s", got)
		}
		_, value, err := registry.CutHeader(e.DataEncoded)
		if err != nil {
			t.Fatal(err)
		}
		data, err := schema.AppendJSON(nil, value)
		if err != nil {
			t.Fatal(err)
		}
		read, err := event.AsJSON(e, data, schema.JSONSchema)
		if err != nil {
			t.Fatal(err)
		}
		if err := keys.Verify(read); err != nil {
			t.Errorf("record %d: %v", i, err)
		}
	}
}

// A registry that is set up again without its data is noticed by a Task API that runs:
// it registers its schema again and publishes under the id that it now has.
func TestARegistryWithoutItsData(t *testing.T) {
	cluster := kafkatest.Start(t)
	topic := cluster.Topic(t, 1)
	fake := registrytest.Start(t)
	f := newFixture(t, cluster.Brokers, topic)
	f.settings["EVENT_ENCODING"], f.settings["SCHEMA_REGISTRY_URL"] = "avro", fake.URL()
	a := f.start()
	var k acknowledged
	ids := func() (ids []int) {
		for _, r := range records(t, cluster.Client(t), topic) {
			id, _, err := registry.CutHeader(r.Value)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
		}
		return ids
	}
	if err := k.lifetime(a.URL); err != nil {
		t.Fatal(err)
	}
	apptest.Await(t, "the events are published", func() bool { return len(ids()) == 3 })
	fake.Reset()
	fake.SeedSchema("other-value", 1, 1, sr.Schema{Schema: `"string"`})
	apptest.Await(t, "the schema is registered again", func() bool {
		_, metrics := a.Get(t, a.OpsURL+"/metrics")
		return fake.SubjectExists(topic+"-value") && strings.Contains(metrics, "\ntaskwire_schema_lost_total 1\n")
	})
	if err := k.lifetime(a.URL); err != nil {
		t.Fatal(err)
	}
	apptest.Await(t, "the events are published", func() bool { return len(ids()) == 6 })
	if diff := cmp.Diff([]int{1, 1, 1, 2, 2, 2}, ids()); diff != "" {
		t.Errorf("ids of the records (-want +got):\n%s", diff)
	}
}

// A registry that says no ends the start, with its reason.
func TestARefusedSchemaEndsTheStart(t *testing.T) {
	cluster := kafkatest.Start(t)
	fake := registrytest.Start(t)
	topic := cluster.Topic(t, 1)
	// Records of this version have no title, and the schema has no default for it.
	fake.SeedSchema(topic+"-value", 1, 1, sr.Schema{Schema: `{"type":"record","name":"TaskEvent","namespace":"taskwire","fields":[{"name":"task_id","type":"string"}]}`})
	f := newFixture(t, cluster.Brokers, topic)
	f.settings["EVENT_ENCODING"], f.settings["SCHEMA_REGISTRY_URL"] = "avro", fake.URL()
	cfg, err := app.FromEnv(env.Map(f.settings))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := app.New(context.Background(), cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "incompatible") || !strings.Contains(err.Error(), topic+"-value") {
		t.Errorf("New = %v, want the registry's reason", err)
	}
}

func TestAvroHasOneForm(t *testing.T) {
	for mode, ok := range map[string]bool{"": true, "binary": true, "structured": false, "envelope": false} {
		_, err := app.FromEnv(env.Map(map[string]string{"EVENT_ENCODING": "avro", "SCHEMA_REGISTRY_URL": "http://localhost:8081", "EVENT_MODE": mode}))
		if (err == nil) != ok {
			t.Errorf("EVENT_MODE=%s with EVENT_ENCODING=avro: %v", mode, err)
		}
	}
}
