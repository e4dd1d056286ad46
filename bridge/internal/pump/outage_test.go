package pump_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/internal/embedkafka"
)

// However long the events back off: a probe finds out that the sink is back, one of
// the subscription at a time, and then all partitions go on.
func TestASinkThatIsBackIsNoticedByAProbe(t *testing.T) {
	const partitions, each = 6, 20
	var up atomic.Bool
	var delivered atomic.Int32
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !up.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		delivered.Add(1)
	}))
	t.Cleanup(sink.Close)
	b := setupOn(t, sink.URL, embedkafka.Config{Topics: map[string]int{"events": partitions, "dlq": 1}})
	b.cfg.Backoff = deliver.Backoff{Initial: time.Hour, Multiplier: 1, Max: time.Hour}
	b.cfg.Concurrency = each
	var all []*kgo.Record
	for id := range int32(partitions) {
		for _, e := range events(each, each) {
			e.Partition = id
			all = append(all, e)
		}
	}
	b.produce(all...)
	sub, _ := b.run()
	until(t, "every partition waits for the sink", func() bool {
		blocked := 0
		for _, s := range sub.Status() {
			if s.Blocking != nil && s.InFlight == 0 {
				blocked++
			}
		}
		return blocked == partitions
	})
	up.Store(true)
	until(t, "everything is delivered", func() bool { return int(delivered.Load()) == len(all) })
	b.untilCommitted(each)
}

// A refused connection is the sink's fault, were it for a single event.
func TestASinkThatListensAgainIsNoticedByAProbe(t *testing.T) {
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := gone.Addr().String()
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	b := setup(t, "http://"+address)
	b.cfg.Backoff = deliver.Backoff{Initial: time.Hour, Multiplier: 1, Max: time.Hour}
	b.produce(events(1, 1)...)
	sub, _ := b.run()
	until(t, "the event waits for the sink", func() bool { s := sub.Status(); return len(s) == 1 && s[0].Blocking != nil })
	back, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	sink := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	_ = sink.Listener.Close()
	sink.Listener = back
	sink.Start()
	t.Cleanup(sink.Close)
	b.untilCommitted(1)
}
