package app_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"testing"

	kafkago "github.com/segmentio/kafka-go"
	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/bridge/app"
	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/kafkatest"
	"github.com/taskwire/taskwire/internal/process"
)

func TestMain(m *testing.M) {
	if os.Getenv("BRIDGE_PROCESS") != "" { // see apptest.Self
		process.Main("bridge", "", app.FromEnv, app.New)
		return
	}
	goleak.VerifyTestMain(m)
}

// A stop leaves the groups and no goroutine; the next start delivers what came
// in between.
func TestAStopBetweenTwoDeliveries(t *testing.T) {
	var posts atomic.Int32
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		posts.Add(1)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer sink.Close()
	cluster := kafkatest.Start(t)
	topic, letters := cluster.Topic(t, 1), cluster.Topic(t, 1)
	settings := map[string]string{
		"KAFKA_BOOTSTRAP_SERVERS": cluster.Brokers[0],
		"BRIDGE_CONFIG":           write(t, "topic: "+topic+"\nsubscriptions: [{name: s, group: "+topic+"-group, sink: '"+sink.URL+"', deadletter: "+letters+"}]\n"),
	}
	for n := range int32(2) {
		resp, err := cluster.Client(t).Produce(t.Context(), &kafkago.ProduceRequest{Topic: topic, RequiredAcks: kafkago.RequireAll,
			Records: kafkago.NewRecordReader(kafkago.Record{
				Headers: []kafkago.Header{{Key: "content-type", Value: []byte("application/cloudevents+json")}},
				Value:   kafkago.NewBytes([]byte(`{"specversion":"1.0","id":"1","source":"s","type":"t"}`)),
			})})
		if err != nil || resp.Error != nil {
			t.Fatalf("produce: %v, %+v", err, resp)
		}
		a := apptest.Start(t, "bridge", app.FromEnv, app.New, settings)
		apptest.Await(t, "the event is delivered", func() bool { return posts.Load() > n })
		if err := a.Stop(); err != nil {
			t.Fatalf("Run = %v, want nil", err)
		}
		if got := posts.Load(); got != n+1 {
			t.Fatalf("%d posts after delivery %d, want %d", got, n+1, n+1)
		}
	}
}
